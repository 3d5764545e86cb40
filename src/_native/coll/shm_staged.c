/* Reductions straight from the slots: every rank copies its array in, and whoever wants the result folds the arrays of
 * all members at once, in the order of ranks, into its own.
 *
 *     allreduce, 5 ranks, one round
 *
 *     slot of    0      1      2      3      4       each rank writes its own slot, announces,
 *               [a]    [b]    [c]    [d]    [e]      then reads those of the others
 *                \______\______|______/______/
 *                  every rank: a+b+c+d+e
 *
 * One wait a round; an array larger than a slot goes in rounds, of which round t is copied in while round t - 1 is
 * folded. For an array of B bytes a rank writes B and reads B (size - 1): right where waiting costs more than reading
 * (a small allreduce), and where no part of the result is wanted twice: a scan (rank r reads the r slots before it), a
 * reduce between two. Rounding happens once, for half types too, since no partial result leaves the kernel.
 *
 * A large array in its owner's window is not copied in (coll/shm_direct.c), unless the owner
 * puts its result in its place. */
#include "coll/algorithms.h"
#include "coll/shm.h"
#include "comm/engine.h"

typedef struct staged_state {
    cmo_shm shm;
    uint64_t elements; /* of a round */
    int sources;       /* ranks 0 … sources-1 are folded here */
    bool stages;       /* somebody reads what this rank has */
} staged_state;
_Static_assert(sizeof(staged_state) <= CMO_STATE_INLINE, "see coll/algorithms.h");

/* Up to a size, reading every member's array is cheaper than sharing the work and waiting a second time. */
bool cmo_shm_staged_fits(const cmo_op *op)
{
    const cmo_call *call = &op->call;
    if (!cmo_shm_fits(op)) return false;
    switch (call->kind) {
    case CMO_SCAN: case CMO_EXSCAN: return true;
    case CMO_REDUCE: if (op->comm->size <= 2) return true; break;
    default: break;
    }
    return call->count <= (uint64_t)cmo_engine_tunables(op->comm->engine)->staged_bytes / cmo_dtype_size(call->dtype);
}

/* Not what this rank overwrites while others fold it. Nor, in a reduce, in which it has nothing else to do, more
 * than its slots hold: bringing its array into the cache while the root folds is help (with 2 ranks and 8 MiB the
 * root alone was half as fast). */
static bool staged_may_offer(const cmo_op *op, const staged_state *s)
{
    if (op->call.kind == CMO_REDUCE) return s->shm.rounds * s->shm.width <= op->comm->all.slots;
    return op->call.out != op->call.in;
}

static void staged_begin(cmo_op *op, staged_state *s)
{
    const cmo_call *call = &op->call;
    const cmo_comm *c = op->comm;
    cmo_shm_begin(op, &s->shm, call->kind != CMO_REDUCE, call->count * cmo_dtype_size(call->dtype));
    s->elements = cmo_shm_round_bytes(op, &s->shm) / cmo_dtype_size(call->dtype);
    s->shm.rounds = cmo_shm_rounds(call->count, s->elements);
    s->sources = cmo_shm_sources(op);
    cmo_shm_expect(op, &s->shm, call->count * cmo_dtype_size(call->dtype));
    bool scans = call->kind == CMO_SCAN || call->kind == CMO_EXSCAN;
    s->stages = scans ? c->rank < c->size - 1 : call->kind != CMO_REDUCE || c->rank != call->root;
    if (s->stages && staged_may_offer(op, s))
        cmo_shm_offer_array(op, &s->shm.offer.in, call->in, call->count * cmo_dtype_size(call->dtype));
    if (!s->sources) cmo_shm_consumed(op, &s->shm, s->shm.rounds);
}

static void staged_copy_in(const cmo_op *op, const staged_state *s, uint64_t t)
{
    if (!s->stages || s->shm.offer.in) return;
    size_t item = cmo_dtype_size(op->call.dtype);
    uint64_t from = t * s->elements, count = cmo_shm_min(s->elements, op->call.count - from);
    cmo_stage(cmo_shm_slot(op, &s->shm, op->comm->rank, t), (const char *)op->call.in + from * item, count * item);
}

/* Our own part comes from `in`, which is nearer than our slot. */
static cmo_err staged_fold(const cmo_op *op, staged_state *s, uint64_t t)
{
    const cmo_call *call = &op->call;
    size_t item = cmo_dtype_size(call->dtype);
    uint64_t from = t * s->elements, count = cmo_shm_min(s->elements, call->count - from);
    const void *srcs[CMO_SHM_MEMBERS];
    for (int j = 0; j < s->sources; j++) {
        if (j == op->comm->rank) srcs[j] = (const unsigned char *)call->in + from * item;
        else CMO_TRY(cmo_shm_part(op, &s->shm, j, t, from * item, count * item, 0, &srcs[j]));
    }
    cmo_shm_fold(op, &s->shm, NULL, (char *)call->out + from * item, srcs, s->sources, count);
    return CMO_OK;
}

/* Who folds what this rank has: members [first, last). */
static cmo_err staged_leave(cmo_op *op, staged_state *s)
{
    const int size = op->comm->size, rank = op->comm->rank, root = op->call.root;
    switch (op->call.kind) {
    case CMO_REDUCE: return cmo_shm_leave(op, &s->shm, root, root + 1);
    case CMO_SCAN: case CMO_EXSCAN: return cmo_shm_leave(op, &s->shm, rank + 1, size);
    default: return cmo_shm_leave(op, &s->shm, 0, size);
    }
}

cmo_err cmo_shm_staged_step(cmo_op *op)
{
    staged_state *s = op->state;
    cmo_shm *m = &s->shm;
    CO_BEGIN(op);
    staged_begin(op, s);
    if (!m->offer.in) CO_WAIT(op, cmo_shm_slot_free(op, m, 0));
    staged_copy_in(op, s, 0);
    CO_WAIT(op, cmo_shm_announce_offer(op, m));
    for (m->t = 1; m->t <= m->rounds; m->t++) {
        if (m->t < m->rounds && !m->offer.in) {
            CO_WAIT(op, cmo_shm_slot_free(op, m, m->t));
            staged_copy_in(op, s, m->t);
            cmo_shm_staged(op, m, m->t);
        }
        if (s->sources) {
            CO_WAIT(op, cmo_shm_all_staged(op, m, s->sources, m->t - 1));
            CMO_TRY(staged_fold(op, s, m->t - 1));
            if (m->t < m->rounds) cmo_shm_consumed(op, m, m->t);
        }
    }
    CO_WAIT(op, staged_leave(op, s));
    CO_END(op);
}
