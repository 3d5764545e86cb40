/* The dissemination barrier: in round i a rank tells the one 2^i ahead, and hears of the one 2^i behind.
 *
 * Seven ranks, what rank 0 has heard of, directly or through others:
 *
 *      round 0   from 6             6
 *      round 1   from 5             5 and what 5 heard in round 0: 4
 *      round 2   from 3             3 and what 3 had heard: 2, 1, 0
 *
 * log2(n) rounds, rounded up, of one empty message each. (D. Hensgen, R. Finkel, U. Manber, "Two Algorithms for
 * Barrier Synchronization", 1988.) */
#include "coll/algorithms.h"

typedef struct dissemination {
    cmo_xfer send, recv;
    int round;
} dissemination;

_Static_assert(sizeof(dissemination) <= CMO_STATE_HEAP, "see coll/algorithms.h");

cmo_err cmo_dissemination_step(cmo_op *op)
{
    dissemination *s = op->state;
    int64_t rank = op->comm->rank, size = op->comm->size;
    CO_BEGIN(op);
    for (; INT64_C(1) << s->round < size; s->round++) {
        int64_t distance = INT64_C(1) << s->round;
        cmo_post_recv(op, &s->recv, (int)((rank + size - distance) % size), (uint64_t)s->round, NULL, 0);
        cmo_post_send(op, &s->send, (int)((rank + distance) % size), (uint64_t)s->round, NULL, 0, 0);
        CO_WAIT_UNTIL(op, cmo_moved(&s->recv) && cmo_moved(&s->send));
    }
    CO_END(op);
}
