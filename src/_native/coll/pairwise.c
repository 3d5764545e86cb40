/* Pairwise exchange: alltoall. In step k rank r sends to r+k and receives from r-k, so that in every step each rank
 * has one partner to send to and one to receive from, and nobody is swamped.
 *
 *      five ranks      step 1     step 2     step 3     step 4
 *      0 sends to      1          2          3          4
 *      0 hears from    4          3          2          1
 *
 * n-1 steps; a rank sends and receives every block but its own once, straight between in and out. A few steps
 * are in flight at a time. Blocks without elements are sent too: ranks that disagree about a count then learn
 * it from that block's message. */
#include "coll/algorithms.h"

#include <stdlib.h>
#include <string.h>

enum { PAIRWISE_WINDOW = 4 }; /* steps in flight */

typedef struct pairwise {
    cmo_xfer *transfers;               /* [PAIRWISE_WINDOW][2] sends and receives */
    uint64_t *send_starts, *recv_starts; /* [size + 1] first byte of each block, in one allocation */
    int step;
} pairwise;

_Static_assert(sizeof(pairwise) <= CMO_STATE_INLINE, "see coll/algorithms.h");

static cmo_err pairwise_prepare(cmo_op *op)
{
    pairwise *s = op->state;
    const cmo_call *c = &op->call;
    size_t n = (size_t)op->comm->size, size = cmo_dtype_size(c->dtype);
    s->transfers = calloc(2 * PAIRWISE_WINDOW, sizeof *s->transfers);
    s->send_starts = calloc(2 * (n + 1), sizeof *s->send_starts);
    if (!s->transfers || !s->send_starts) return cmo_fail(CMO_ENOMEM, "alltoall: %d blocks", op->comm->size);
    s->recv_starts = s->send_starts + n + 1;
    for (int i = 0; i < op->comm->size; i++) {
        s->send_starts[i + 1] = s->send_starts[i] + cmo_block_count(c->counts, c->count, i) * size;
        s->recv_starts[i + 1] =
            s->recv_starts[i] + cmo_block_count(c->counts ? c->recv_counts : NULL, c->count, i) * size;
    }
    return CMO_OK;
}

static cmo_xfer *pairwise_send(const pairwise *s, int step) { return &s->transfers[2 * (step % PAIRWISE_WINDOW)]; }
static cmo_xfer *pairwise_recv(const pairwise *s, int step) { return &s->transfers[2 * (step % PAIRWISE_WINDOW) + 1]; }

static void pairwise_post(cmo_op *op, int step)
{
    pairwise *s = op->state;
    int n = op->comm->size, to = (int)(((int64_t)op->comm->rank + step) % n), from = (op->comm->rank - step + n) % n;
    uint64_t sends = s->send_starts[to + 1] - s->send_starts[to];
    uint64_t receives = s->recv_starts[from + 1] - s->recv_starts[from];
    cmo_post_recv(op, pairwise_recv(s, step), from, 0, (uint8_t *)op->call.out + s->recv_starts[from], receives);
    cmo_post_send(op, pairwise_send(s, step), to, 0, (const uint8_t *)op->call.in + s->send_starts[to], sends, sends);
}

static bool pairwise_idle(const cmo_xfer *x) { return x->state == CMO_X_IDLE || cmo_moved(x); }

static bool pairwise_all_idle(const pairwise *s)
{
    for (int i = 0; i < 2 * PAIRWISE_WINDOW; i++)
        if (!pairwise_idle(&s->transfers[i])) return false;
    return true;
}

/* Our own block; ranks may disagree with themselves about no more than its length. */
static cmo_err pairwise_own(cmo_op *op)
{
    const pairwise *s = op->state;
    int r = op->comm->rank;
    uint64_t sends = s->send_starts[r + 1] - s->send_starts[r], receives = s->recv_starts[r + 1] - s->recv_starts[r];
    if (sends != receives)
        return cmo_fail(CMO_EMISMATCH, "alltoall: rank %d sends itself %llu bytes and expects %llu", r,
                        (unsigned long long)sends, (unsigned long long)receives);
    if (sends)
        memcpy((uint8_t *)op->call.out + s->recv_starts[r], (const uint8_t *)op->call.in + s->send_starts[r], sends);
    return CMO_OK;
}

cmo_err cmo_pairwise_step(cmo_op *op)
{
    pairwise *s = op->state;
    CO_BEGIN(op);
    CMO_TRY(pairwise_prepare(op));
    for (s->step = 1; s->step < op->comm->size; s->step++) {
        CO_WAIT_UNTIL(op, pairwise_idle(pairwise_send(s, s->step)) && pairwise_idle(pairwise_recv(s, s->step)));
        pairwise_post(op, s->step);
    }
    CO_PAUSE(op);
    CMO_TRY(pairwise_own(op));
    CO_WAIT_UNTIL(op, pairwise_all_idle(s));
    CO_END(op);
}

void cmo_pairwise_finish(cmo_op *op)
{
    pairwise *s = op->state;
    free(s->transfers);
    free(s->send_starts);
}
