/* How the algorithms are written, and what they may use.
 *
 * A step function reads like the algorithm it is, top to bottom, with CO_WAIT where another rank must do something
 * first. Between CO_BEGIN and CO_END local variables do not survive a CO_WAIT or CO_PAUSE: what must be remembered is
 * in `s`, the algorithm's state. CO_WAIT stores its line and returns; the next call jumps back there (Duff's device, as
 * in A. Dunkels' protothreads). One CO_WAIT a line, none inside a nested switch. */
#ifndef CMO_COLL_H
#define CMO_COLL_H

#include "comm/comm.h"

#define CO_BEGIN(op) switch ((op)->pc) { case 0:

/* `expression` is a cmo_err: go on when it is CMO_OK, come back later while it is
 * CMO_AGAIN, end the op with any other. */
#define CO_WAIT(op, expression)                     \
    do {                                            \
        (op)->pc = __LINE__;                        \
        __attribute__((fallthrough));               \
    case __LINE__: {                                \
        cmo_err co_err_ = (expression);             \
        if (co_err_ != CMO_OK) return co_err_;      \
        (op)->advanced++;                           \
    }                                               \
    } while (0)

#define CO_WAIT_UNTIL(op, condition) CO_WAIT(op, (condition) ? CMO_OK : CMO_AGAIN)

/* Come back later, once: what has been posted leaves before what follows, a copy say. A communicator that has failed
 * makes one step more, so there it goes on at once. */
#define CO_PAUSE(op)                                \
    do {                                            \
        (op)->pc = __LINE__;                        \
        (op)->advanced++;                           \
        if (!(op)->comm->failed) return CMO_AGAIN;  \
        __attribute__((fallthrough));               \
    case __LINE__:;                                 \
    } while (0)

#define CO_END(op) } (op)->pc = -1; return CMO_OK

typedef struct cmo_algorithm {
    const char *name; /* "ring": the file, or one of two algorithms in it; failing tests show it */
    cmo_kind kind;
    /* May it be used for this call? Must say the same on every rank, so it may look only at what every rank knows
     * alike: the communicator's shape, tunables, and the parts of the call that the fingerprint covers. */
    bool (*fits)(const cmo_op *op);
    cmo_err (*step)(cmo_op *op);
    void (*finish)(cmo_op *op);
    size_t state_bytes;
} cmo_algorithm;

/* The algorithms in order of preference: the first that fits is used (coll/choose.c). */
extern const cmo_algorithm cmo_algorithms[];
extern const int cmo_nalgorithms;

const cmo_algorithm *cmo_choose(const cmo_op *op);

/* How the engine starts and ends a collective: for cmo_world. */
extern const cmo_collectives cmo_coll;

/* Make a collective from inside a collective: start it, then CO_WAIT(op, cmo_child_step(op)). One child at a time. */
cmo_err cmo_child_start(cmo_op *op, cmo_comm *comm, const cmo_call *call);
cmo_err cmo_child_step(cmo_op *op);

/* Blocks: where rank r's block starts and how many elements it has, equal blocks or counts alike. */
static inline uint64_t cmo_block_count(const uint64_t *counts, uint64_t count, int r)
{
    return counts ? counts[r] : count;
}
static inline uint64_t cmo_block_start(const uint64_t *counts, uint64_t count, int r)
{
    if (!counts) return count * (uint64_t)r;
    uint64_t start = 0;
    for (int i = 0; i < r; i++) start += counts[i];
    return start;
}

/* Cut `count` elements in `parts` parts whose sizes differ by at most one; part r is
 * [cmo_part(…, r), cmo_part(…, r + 1)). */
static inline uint64_t cmo_part(uint64_t count, int parts, int r)
{
    uint64_t each = count / (uint64_t)parts, more = count % (uint64_t)parts;
    return each * (uint64_t)r + (more < (uint64_t)r ? more : (uint64_t)r);
}

#endif
