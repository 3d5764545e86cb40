/* Where a rank stands in a communicator, as it tells the others when that has failed: what a FAIL frame begins with. */
#ifndef CMO_TOLD_H
#define CMO_TOLD_H

#include "comm/piece.h"
#include "transport/wire.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CMO_RECENT = 8,  /* collectives that error messages can tell of; as many as announcements (comm/piece.h) */
    CMO_RECENT_DIMS = 4, /* that they can tell of its array's shape */
    CMO_UNTOLD = 255 /* instead of a number of dimensions */
};

typedef struct cmo_recent_call { /* a collective that was called; seq 0: none */
    uint64_t seq, fingerprint, count;
    int root;
    uint8_t kind, op, dtype, ndim;
    uint64_t shape[CMO_RECENT_DIMS]; /* the first of them, 0 where there are fewer; of cmo_told_dims only */
} cmo_recent_call;

/* Is an array of so many dimensions told of by its shape? Of one dimension, the count says it all. */
static inline bool cmo_told_dims(uint8_t ndim) { return ndim > 1 && ndim != CMO_UNTOLD; }

typedef struct cmo_told {
    bool heard;
    bool in_call;
    uint64_t seq;            /* of the collective that it is in, or has called last */
    cmo_recent_call recent[CMO_RECENT]; /* its latest collectives, at [seq % CMO_RECENT] */
    char doing[CMO_DOING_BYTES]; /* in its own words, which are not checked; of who shares no memory with us; "":
                                none */
} cmo_told;

/* On the wire, little-endian, without the words:
 *
 *      0       8         16                 80                         528
 *     +-------+---------+------------------+------------------+--     --+
 *     |  seq  | in_call | recent[0]        | recent[1]        |   ...   |
 *     +-------+---------+------------------+------------------+--     --+
 *
 *      0       8             16      24     28     29   30      31     32      64
 *     +-------+-------------+-------+------+------+----+-------+------+-------+
 *     |  seq  | fingerprint | count | root | kind | op | dtype | ndim | shape |      one of recent[]
 *     +-------+-------------+-------+------+------+----+-------+------+-------+
 */
enum { CMO_TOLD_BYTES = 16 + CMO_RECENT * 64 };

void cmo_told_write(uint8_t out[CMO_TOLD_BYTES], const cmo_told *told);

/* Sets `heard`. CMO_EPROTO, with the reason, for what no rank writes: a wrong length, kinds, ops or dtypes that do not
 * exist, calls in a wrong place. */
cmo_err cmo_told_parse(cmo_told *out, const uint8_t *in, size_t bytes);

/* The same of a member whose memory we share. */
void cmo_told_look(cmo_told *out, const cmo_piece *piece);

#endif
