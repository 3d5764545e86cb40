/* An input of the channel target: one byte of settings, then records. A record is a byte that says what happens, one
 * more with its argument, and what the kind of record has behind them. */
#ifndef CMO_TESTS_FUZZ_CHANNEL_H
#define CMO_TESTS_FUZZ_CHANNEL_H

/* X(enumerator, argument, what happens) */
#define CHANNEL_RECORDS(X)                                                                                   \
    X(FEED, "peer", "bytes of it come: how many (2 bytes), and they")                                        \
    X(FRAME, "peer", "a frame of it comes: mended fields (1 byte), header (64), bytes of payload (2), and they") \
    X(CALL, "name of a call (calls.h)", "a collective begins")                                               \
    X(RECEIVE, "source and tag", "a receive is posted")                                                      \
    X(SEND, "peer and size", "a message is sent")                                                            \
    X(PROBE, "source and tag", "a message is asked for")                                                     \
    X(BUILD, "none", "a communicator is made, and used from now on")                                         \
    X(CLOSE, "none", "the newest communicator is closed")                                                    \
    X(TIME, "of 1/20 s", "time passes")                                                                      \
    X(ROOM, "peer and bytes", "a peer takes so many bytes more, or all")                                   \
    X(END, "peer", "a peer closes its stream")                                                               \
    X(BREAK, "none", "this rank gives up the communicator in use")

typedef enum {
#define CHANNEL_X(e, argument, text) CHANNEL_##e,
    CHANNEL_RECORDS(CHANNEL_X)
#undef CHANNEL_X
    CHANNEL_NRECORDS
} channel_record;

/* Fields of a FRAME that are set to what an honest peer would say just now. */
enum {
    CHANNEL_MEND_GENERATION = 1,
    CHANNEL_MEND_COMM = 2,   /* to that in use */
    CHANNEL_MEND_CALL = 4,   /* seq and fingerprint: to those of the last collective */
    CHANNEL_MEND_LENGTH = 8, /* to that of the payload in the record */
    CHANNEL_MEND_ID = 16,    /* CTS: a message that was announced; DATA: one that was asked for, and its offset, or
                                where the number has CHANNEL_OFFERED in it, one that was offered */
    CHANNEL_MEND_SHAPE = 32, /* one dimension, of bytes; in the record it is not */
};

enum { CHANNEL_OFFERED = 128 };
enum { CHANNEL_PAYLOAD = 1023 }; /* the most that a FRAME has */

enum { CHANNEL_AGREE = 255, CHANNEL_SHRINK = 254 }; /* names of calls that are no collectives */

enum { CHANNEL_RANK = 4 }; /* of five, each on a host of its own */

/* An argument has the peer in its lowest three bits (5 to 7: any, where that makes sense), then three bits and two. */
enum { CHANNEL_ANY = 5, CHANNEL_HIGH = 3, CHANNEL_TAG = 6 };

#endif
