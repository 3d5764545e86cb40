/* An input of the tcp target: records. A record is a byte, number of a connection + 8 × what happens, and what the kind
 * of record has behind it. */
#ifndef CMO_TESTS_FUZZ_TCP_SCRIPT_H
#define CMO_TESTS_FUZZ_TCP_SCRIPT_H

/* X(enumerator, what happens) */
#define SCRIPT_RECORDS(X)                                                                              \
    X(CONNECT, "somebody connects")                                                                    \
    X(DIAL, "the net connects to a peer: rank (1 byte)")                                               \
    X(SAY, "bytes come: how many (1), and they")                                                       \
    X(HELLO, "a HELLO comes, right but for the rank (1) that it is said to be from")                   \
    X(ANSWER, "an ANSWER with this status (1) comes, and a right code for the HELLO that was heard")   \
    X(PROOF, "the right code for the ANSWER that was heard")                                           \
    X(WELCOME, "a WELCOME comes")                                                                      \
    X(HANG_UP, "the other side closes the connection")

typedef enum {
#define SCRIPT_X(e, text) SCRIPT_##e,
    SCRIPT_RECORDS(SCRIPT_X)
#undef SCRIPT_X
    SCRIPT_NRECORDS
} script_record;

enum { SCRIPT_CONNECTIONS = 8, SCRIPT_RANKS = 4, SCRIPT_SELF = 1 };

#endif
