/* How two ranks prove to each other who they are before anything else is said. Layout, parsing and the rules that need
 * no state; pure functions, fuzzed. What each side does with the messages is in tcp_handshake.c.
 *
 *     client                                            server
 *       | HELLO   who I am, whom I want, nonce_c           |
 *       |------------------------------------------------->| judge: this job, this world, me?
 *       |      ANSWER  status, nonce_s, HMAC("server" …)   |
 *       |<-------------------------------------------------|
 *       | PROOF   HMAC("client" …)                         |
 *       |------------------------------------------------->| verify
 *       |      WELCOME   the connection is ours            |
 *       |<-------------------------------------------------|
 *
 * Both codes cover the HELLO, the ANSWER's status and both nonces. Nonces are fresh, the labels differ and the HELLO
 * names both ranks, so a code is of no use on any other connection, in the other direction or to another rank. With
 * TLS, all of this is said inside it, and the codes cover what its session alone has, too (cmo_tls_binding). Sizes are
 * fixed, integers little-endian:
 *
 *     HELLO    magic 8 | version 4 | src 4 | dst 4 | size 4 | generation 4 | zero 4 | job 16 | nonce_c 32
 *     ANSWER   magic 8 | version 4 | status 4 | nonce_s 32 | code 32
 *     PROOF    code 32
 *     WELCOME  magic 8
 *
 * Every version keeps the size of HELLO and ANSWER and the place of their magic, version and status, so that two
 * versions that meet can say so. */
#ifndef CMO_HANDSHAKE_H
#define CMO_HANDSHAKE_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CMO_HANDSHAKE_VERSION = 1,
    CMO_JOB_BYTES = 16,
    CMO_NONCE_BYTES = 32,
    CMO_MAC_BYTES = 32,
    CMO_HELLO_BYTES = 80,
    CMO_ANSWER_BYTES = 80,
    CMO_PROOF_BYTES = CMO_MAC_BYTES,
    CMO_WELCOME_BYTES = 8,
    CMO_LABEL_BYTES = 16,
    CMO_SIGNED_BYTES = CMO_LABEL_BYTES + CMO_HELLO_BYTES + CMO_ANSWER_BYTES - CMO_MAC_BYTES
};

/* X(enumerator, what the one who is refused is told) */
#define CMO_ANSWER_STATUSES(X)                                                    \
    X(ACCEPTED, "accepted")                                                       \
    X(WRONG_VERSION, "it speaks another version of the protocol")                 \
    X(WRONG_JOB, "it belongs to another job")                                     \
    X(WRONG_SIZE, "it counts another number of ranks")                            \
    X(WRONG_GENERATION, "it is in another generation of the job")                 \
    X(NOT_YOU, "it is another rank")                                              \
    X(BAD_SOURCE, "it does not take this rank's number for that of a peer")       \
    X(DUPLICATE, "it has chosen another connection between the two ranks")        \
    X(GONE, "it has given up the connection between the two ranks")

typedef enum {
#define CMO_X(e, text) CMO_ANSWER_##e,
    CMO_ANSWER_STATUSES(CMO_X)
#undef CMO_X
    CMO_NANSWERS
} cmo_answer_status;

typedef struct cmo_hello {
    uint32_t version, src, dst, size, generation;
    uint8_t job[CMO_JOB_BYTES], nonce[CMO_NONCE_BYTES];
} cmo_hello;

typedef struct cmo_answer {
    uint32_t version, status;
    uint8_t nonce[CMO_NONCE_BYTES], mac[CMO_MAC_BYTES];
} cmo_answer;

void cmo_hello_write(uint8_t out[CMO_HELLO_BYTES], const cmo_hello *h);
void cmo_answer_write(uint8_t out[CMO_ANSWER_BYTES], const cmo_answer *a);
void cmo_welcome_write(uint8_t out[CMO_WELCOME_BYTES]);

/* CMO_EPROTO, with the reason, for bytes that are no such message. A HELLO of any version and with any ranks parses:
 * cmo_hello_judge says what is wrong with it. An ANSWER of our own version has a known status. */
cmo_err cmo_hello_parse(cmo_hello *out, const uint8_t in[CMO_HELLO_BYTES]);
cmo_err cmo_answer_parse(cmo_answer *out, const uint8_t in[CMO_ANSWER_BYTES]);
cmo_err cmo_welcome_parse(const uint8_t in[CMO_WELCOME_BYTES]);

/* Whether the first `n` bytes of a message could be those of a HELLO: strangers are sent away at their first byte. */
bool cmo_hello_begins(const uint8_t *in, size_t n);

/* What a server whose own HELLO would be `own` (src is its rank; dst and nonce do not matter) says to `h`, as far as
 * that depends on the two alone: ACCEPTED, or why not. */
cmo_answer_status cmo_hello_judge(const cmo_hello *h, const cmo_hello *own);

const char *cmo_answer_text(uint32_t status); /* for any number */

/* The bytes that the server's and the client's code are made over. `answer` holds the ANSWER; its code is not read. */
void cmo_server_signed(uint8_t out[CMO_SIGNED_BYTES], const uint8_t *hello, const uint8_t *answer);
void cmo_client_signed(uint8_t out[CMO_SIGNED_BYTES], const uint8_t *hello, const uint8_t *answer);

/* Whether two codes are equal, in a time that does not depend on where they differ. */
bool cmo_mac_equal(const uint8_t a[CMO_MAC_BYTES], const uint8_t b[CMO_MAC_BYTES]);

#endif
