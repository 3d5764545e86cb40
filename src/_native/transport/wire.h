/* The bytes between ranks: frames. Layout and parsing only; pure functions, no state, fuzzed.
 *
 * A link carries frames, each a header of 64 bytes, little-endian:
 *
 *      0      1      2      3      4            8                    16                   24                   32
 *     +------+------+------+------+------------+--------------------+--------------------+--------------------+
 *     | kind | space| dtype| ndim | generation |        comm        |        seq         |        tag         |
 *     +------+------+------+------+------------+--------------------+--------------------+--------------------+
 *     |          length           |            id             |            aux            |      fingerprint   |
 *     +---------------------------+---------------------------+---------------------------+--------------------+
 *     32                          40                          48                          56                   64
 *
 * then `ndim` shape entries of 8 bytes, then the payload.
 *
 *     kind   | ndim, length               | id                  | aux                 | payload
 *     EAGER  | the message's shape, bytes | 0                   | 0                   | the whole message
 *     RTS    | the message's shape, bytes | sender's transfer   | 0                   | none: it waits for CTS
 *     CTS    | 0, 0                       | sender's transfer   | receiver's transfer | none
 *     DATA   | 0, bytes in this frame     | receiver's transfer | offset in message   | a piece of the message
 *     CREDIT | 0, 0                       | 0                   | bytes returned      | none
 *     FAIL   | 0, bytes                   | error code          | 1 + the lost rank   | where the sender stood, the
 *            |                            |                     | or 0                | reason, what it does now
 *     BYE    | 0, 0                       | 0                   | 0                   | none: sender closes `comm`, its
 *            |                            |                     |                     | last call (seq, fingerprint)
 *     ASK    | 0, 0                       | 0                   | 0                   | none: sender waits in the call
 *            |                            |                     |                     | (seq, fingerprint) of `comm`,
 *            |                            |                     |                     | or in POINT for a message or
 *            |                            |                     |                     | an agreement: see comm/ask.c
 *     DOING  | 0, bytes                   | 0                   | 0                   | what the sender does now, to
 *            |                            |                     |                     | who has asked in POINT
 *     AGREE  | 0, bytes                   | 1 + sender's kind   | ballot              | see comm/ballot.h
 *
 * `space` says how a message is matched: in COLLECTIVE by (comm, source, seq, tag = phase and step of the algorithm),
 * in POINT by (comm, source, tag = the user's). `fingerprint` is that of the call in COLLECTIVE; in POINT it is the
 * sender's own word (whether the message is a pickled object). In FAIL it says whose words the reason is: their rank in
 * the low 32 bits, and in the high ones whether that rank saw the failure itself; such words stand before others'. In
 * AGREE it is 1 + the number of the last collective that the sender has called, 0 where the communicator has failed. */
#ifndef CMO_WIRE_H
#define CMO_WIRE_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

enum { CMO_HEADER_BYTES = 64, CMO_MAX_DIMS = 64, CMO_DOING_BYTES = 256, CMO_MAX_FAIL_BYTES = 4096,
       CMO_MAX_AGREE_BYTES = 1 << 20 };

typedef enum {
    CMO_EAGER = 1, CMO_RTS, CMO_CTS, CMO_DATA, CMO_CREDIT, CMO_FAIL, CMO_BYE, CMO_ASK, CMO_AGREE, CMO_DOING,
    CMO_NFRAMES
} cmo_frame_kind;
typedef enum { CMO_POINT, CMO_COLLECTIVE, CMO_NSPACES } cmo_space;

typedef struct cmo_header {
    uint8_t kind, space, dtype, ndim;
    uint32_t generation;
    uint64_t comm, seq;
    int64_t tag;
    uint64_t length, id, aux, fingerprint;
} cmo_header;

/* Numbers as they stand in frames: little-endian, in 1 to 8 bytes. */
static inline void cmo_wire_put(uint8_t *out, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++) out[i] = (uint8_t)(value >> (8 * i));
}

static inline uint64_t cmo_wire_get(const uint8_t *in, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++) value |= (uint64_t)in[i] << (8 * i);
    return value;
}

void cmo_header_write(uint8_t out[CMO_HEADER_BYTES], const cmo_header *h);

/* Parse and check what can be checked without knowing the receiver's state. CMO_EPROTO otherwise, with the reason. */
cmo_err cmo_header_parse(cmo_header *out, const uint8_t in[CMO_HEADER_BYTES]);

void cmo_shape_write(uint8_t *out, const uint64_t *shape, int ndim);
/* CMO_EPROTO where shape × itemsize is not `length` or overflows. */
cmo_err cmo_shape_parse(uint64_t *out, const uint8_t *in, int ndim, uint64_t itemsize, uint64_t length);

#endif
