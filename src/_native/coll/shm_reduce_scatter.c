/* Reduce-scatter: every rank copies in what it has for each of the others, and folds its own block from all slots.
 *
 *     5 ranks, one round: slots of ranks a … e, cut in parts for ranks 0 … 4
 *
 *     a     . a1 a2 a3 a4        rank 0: a0+b0+c0+d0+e0
 *     b    b0  . b2 b3 b4        rank 1: a1+b1+c1+d1+e1
 *     c    c0 c1  . c3 c4   wait rank 2: …
 *     d    d0 d1 d2  . d4
 *     e    e0 e1 e2 e3  .
 *
 * One wait a round, round t copied in while round t - 1 is folded. With blocks of B bytes a rank writes B
 * (size - 1) and reads as much. What a rank has for itself it reads where it is. The fold is in the order of
 * ranks, in one call of the kernel. */
#include "coll/algorithms.h"
#include "coll/shm.h"
#include "coll/shm_cut.h"

typedef struct reduce_scatter_state {
    cmo_shm shm;
    cmo_shm_cut cut;
} reduce_scatter_state;
_Static_assert(sizeof(reduce_scatter_state) <= CMO_STATE_INLINE, "see coll/algorithms.h");

static void reduce_scatter_begin(cmo_op *op, reduce_scatter_state *s)
{
    const cmo_call *call = &op->call;
    const cmo_comm *c = op->comm;
    uint64_t longest = 0;
    for (int j = 0; j < c->size; j++) {
        uint64_t count = cmo_block_count(call->counts, call->count, j);
        if (count > longest) longest = count;
    }
    size_t item = cmo_dtype_size(call->dtype);
    cmo_shm_begin_cut(op, &s->shm, item, longest);
    s->shm.rounds = cmo_shm_cut_round(&s->cut, op, &s->shm, item, longest);
    cmo_shm_expect(op, &s->shm, cmo_block_count(call->counts, call->count, c->rank) * item);
    cmo_shm_offer_array(op, &s->shm.offer.in, call->in, cmo_block_start(call->counts, call->count, c->size) * item);
}

static void reduce_scatter_stage(const cmo_op *op, const reduce_scatter_state *s, uint64_t t)
{
    const cmo_comm *c = op->comm;
    cmo_shm_stage_parts(op, cmo_shm_slot(op, &s->shm, c->rank, t), &s->cut, cmo_shm_turn_of(&s->cut, c->size, t));
}

/* Elements of this rank's block that round t brings. */
static uint64_t reduce_scatter_here(const cmo_op *op, const reduce_scatter_state *s, uint64_t t)
{
    const int rank = op->comm->rank;
    cmo_shm_turn turn = cmo_shm_turn_of(&s->cut, op->comm->size, t);
    if (rank < turn.first || rank >= turn.last) return 0;
    return cmo_shm_part_of(&s->cut, cmo_block_count(op->call.counts, op->call.count, rank), turn.from);
}

static cmo_err reduce_scatter_fold(const cmo_op *op, reduce_scatter_state *s, uint64_t t)
{
    const cmo_call *call = &op->call;
    const cmo_comm *c = op->comm;
    size_t item = cmo_dtype_size(call->dtype);
    cmo_shm_turn turn = cmo_shm_turn_of(&s->cut, c->size, t);
    uint64_t own = (cmo_block_start(call->counts, call->count, c->rank) + turn.from) * item;
    uint64_t count = reduce_scatter_here(op, s, t);
    const void *srcs[CMO_SHM_MEMBERS];
    for (int j = 0; j < c->size; j++) {
        if (j == c->rank) srcs[j] = (const unsigned char *)call->in + own;
        else CMO_TRY(cmo_shm_part(op, &s->shm, j, t, own, count * item,
                                  cmo_shm_part_start(&s->cut, turn, c->size, j, c->rank), &srcs[j]));
    }
    cmo_shm_fold(op, &s->shm, NULL, (char *)call->out + turn.from * item, srcs, c->size, count);
    return CMO_OK;
}

cmo_err cmo_shm_reduce_scatter_step(cmo_op *op)
{
    reduce_scatter_state *s = op->state;
    cmo_shm *m = &s->shm;
    CO_BEGIN(op);
    reduce_scatter_begin(op, s);
    if (!m->offer.in) {
        CO_WAIT(op, cmo_shm_slot_free(op, m, 0));
        reduce_scatter_stage(op, s, 0);
    }
    CO_WAIT(op, cmo_shm_announce_offer(op, m));
    for (m->t = 1; m->t <= m->rounds; m->t++) {
        if (m->t < m->rounds && !m->offer.in) {
            CO_WAIT(op, cmo_shm_slot_free(op, m, m->t));
            reduce_scatter_stage(op, s, m->t);
            cmo_shm_staged(op, m, m->t);
        }
        if (reduce_scatter_here(op, s, m->t - 1)) {
            CO_WAIT(op, cmo_shm_all_staged(op, m, op->comm->size, m->t - 1));
            CMO_TRY(reduce_scatter_fold(op, s, m->t - 1));
        }
        if (m->t < m->rounds) cmo_shm_consumed(op, m, m->t);
    }
    CO_WAIT(op, cmo_shm_leave(op, m, 0, op->comm->size));
    CO_END(op);
}
