/* Allreduce and reduce of large arrays: every rank folds one slice of each round for all.
 *
 *     5 ranks, one round: slices 0 … 4 of the slots of ranks a … e
 *
 *              copy in           fold, each rank its slice            copy out
 *     a     . a1 a2 a3 a4         S0 = a0+b0+c0+d0+e0  .  .  .  .     S0 from a, S1 from b, S2 from c,
 *     b    b0  . b2 b3 b4          .  S1 = a1+b1+c1+d1+e1  .  .       S3 from d, S4 from e
 *     c    c0 c1  . c3 c4   wait   .  .  S2               wait
 *     d    d0 d1 d2  . d4          .  .  .  S3
 *     e    e0 e1 e2 e3  .          .  .  .  .  S4
 *
 * A rank does not copy in its own slice, which nobody else reads; the folded slice goes in its place, and into the
 * rank's own result at the same time. The array goes in rounds, in a pipeline: while round t is copied in, round t - 1
 * is folded and round t - 2 copied out, so a rank waits only for those that are a whole round behind. For B bytes a
 * rank writes B in slots and reads 2 B (size - 1) / size of the others', whatever the size is; rounds + 2 steps. In a
 * reduce only the root copies out.
 *
 * Arrays in windows (coll/shm_direct.c) are folded where they are, without the copy in; and if the result's array lies
 * in one, the rank's slice is folded right into it, and copied from there by the others. That is safe in place, `out`
 * being `in`: an element of a round is in one slice, say r's. All ranks' inputs of it are read by r alone, when it
 * folds. Before that nobody writes it anywhere; r's kernel may write where it reads; the others write theirs when r has
 * said `reduced`, from r's copy, which nobody changes any more; and r returns when they all have it (cmo_shm_leave).
 * That last wait is more than a result of one round is worth, which is folded into the slot; `in` needs none in an
 * allreduce: who has seen that all have folded everything knows that they read it no more.
 *
 * Slices end at cache lines. The fold is in the order of ranks and in one call of the kernel, so the result has the
 * same bits as that of shm_staged.c. */
#include "coll/algorithms.h"
#include "coll/shm.h"

typedef struct sliced_state {
    cmo_shm shm;
    uint64_t elements; /* of a round */
    bool receives;     /* this rank wants the result */
    bool at_home;      /* its own slice is folded into `out`: others read it there, or nobody does */
} sliced_state;
_Static_assert(sizeof(sliced_state) <= CMO_STATE_INLINE, "see coll/algorithms.h");

static void sliced_begin(cmo_op *op, sliced_state *s)
{
    uint64_t bytes = op->call.count * cmo_dtype_size(op->call.dtype);
    cmo_shm_begin(op, &s->shm, true, bytes);
    s->elements = cmo_shm_round_bytes(op, &s->shm) / cmo_dtype_size(op->call.dtype);
    s->shm.rounds = cmo_shm_rounds(op->call.count, s->elements);
    s->receives = op->call.kind == CMO_ALLREDUCE || op->comm->rank == op->call.root;
    /* Whose result of one round replaces its input stages it: lines that the others have just read are slow
     * to write (a fifth, at 256 KiB). */
    bool one_round = s->shm.rounds <= 1;
    cmo_shm_expect(op, &s->shm, bytes);
    if (!one_round || op->call.in != op->call.out) cmo_shm_offer_array(op, &s->shm.offer.in, op->call.in, bytes);
    if (op->call.kind == CMO_ALLREDUCE && !one_round) cmo_shm_offer_array(op, &s->shm.offer.out, op->call.out, bytes);
    s->at_home = s->shm.offer.out || (op->call.kind == CMO_REDUCE && s->receives);
}

/* Round t of the array, in bytes, and where slice r of it starts, from the start of the round. */
static uint64_t sliced_start(const cmo_op *op, const sliced_state *s, uint64_t t)
{
    return t * s->elements * cmo_dtype_size(op->call.dtype);
}

static uint64_t sliced_bytes(const cmo_op *op, const sliced_state *s, uint64_t t)
{
    return cmo_shm_min(s->elements, op->call.count - t * s->elements) * cmo_dtype_size(op->call.dtype);
}

static uint64_t slice(const cmo_op *op, uint64_t bytes, int r)
{
    uint64_t lines = (bytes + CMO_LINE - 1) / CMO_LINE;
    return cmo_shm_min(cmo_part(lines, op->comm->size, r) * CMO_LINE, bytes);
}

static void sliced_copy_in(const cmo_op *op, const sliced_state *s, uint64_t t)
{
    int rank = op->comm->rank;
    const char *in = (const char *)op->call.in + sliced_start(op, s, t);
    unsigned char *slot = cmo_shm_slot(op, &s->shm, rank, t);
    uint64_t bytes = sliced_bytes(op, s, t), from = slice(op, bytes, rank), to = slice(op, bytes, rank + 1);
    cmo_stage(slot, in, from);
    cmo_stage(slot + to, in + to, bytes - to);
}

static cmo_err sliced_fold(const cmo_op *op, sliced_state *s, uint64_t t)
{
    const cmo_call *call = &op->call;
    const cmo_comm *c = op->comm;
    uint64_t bytes = sliced_bytes(op, s, t), from = slice(op, bytes, c->rank), to = slice(op, bytes, c->rank + 1);
    uint64_t start = sliced_start(op, s, t) + from;
    unsigned char *staged = s->at_home ? NULL : cmo_shm_slot(op, &s->shm, c->rank, t) + from;
    unsigned char *out = s->receives ? (unsigned char *)call->out + start : NULL;
    if (s->shm.offer.out) staged = out, out = NULL; /* the others read it there: to write it is as dear */
    const void *srcs[CMO_SHM_MEMBERS];
    for (int j = 0; j < c->size; j++) {
        if (j == c->rank) srcs[j] = (const unsigned char *)call->in + start;
        else CMO_TRY(cmo_shm_part(op, &s->shm, j, t, start, to - from, from, &srcs[j]));
    }
    cmo_shm_fold(op, &s->shm, staged, out, srcs, c->size, (to - from) / cmo_dtype_size(call->dtype));
    return CMO_OK;
}

/* Our own slice is there already. Each rank starts behind it, so that they do not all read from the same one. */
static cmo_err sliced_copy_out(const cmo_op *op, sliced_state *s, uint64_t t)
{
    const cmo_comm *c = op->comm;
    uint64_t bytes = sliced_bytes(op, s, t), start = sliced_start(op, s, t);
    char *out = (char *)op->call.out + start;
    for (int i = 1; i < c->size; i++) {
        const int j = (c->rank + i) % c->size;
        uint64_t from = slice(op, bytes, j), to = slice(op, bytes, j + 1);
        const void *result = cmo_shm_slot(op, &s->shm, j, t) + from;
        if (op->call.kind == CMO_ALLREDUCE)
            CMO_TRY(cmo_shm_result(op, &s->shm, j, t, start + from, to - from, from, &result));
        cmo_shm_deliver(&s->shm, out + from, result, to - from);
    }
    return CMO_OK;
}

cmo_err cmo_shm_sliced_step(cmo_op *op)
{
    sliced_state *s = op->state;
    cmo_shm *m = &s->shm;
    CO_BEGIN(op);
    sliced_begin(op, s);
    if (!(m->offer.in && s->at_home)) CO_WAIT(op, cmo_shm_slot_free(op, m, 0));
    if (!m->offer.in) sliced_copy_in(op, s, 0);
    CO_WAIT(op, cmo_shm_announce_offer(op, m));
    for (m->t = 1; m->t < m->rounds + 2; m->t++) {
        if (m->t < m->rounds) {
            if (!(m->offer.in && s->at_home)) CO_WAIT(op, cmo_shm_slot_free(op, m, m->t));
            if (!m->offer.in) {
                sliced_copy_in(op, s, m->t);
                cmo_shm_staged(op, m, m->t);
            }
        }
        if (m->t <= m->rounds) {
            CO_WAIT(op, cmo_shm_all_staged(op, m, op->comm->size, m->t - 1));
            CMO_TRY(sliced_fold(op, s, m->t - 1));
            cmo_shm_reduced(op, m, m->t - 1);
            if (!s->receives && m->t < m->rounds) cmo_shm_consumed(op, m, m->t);
        }
        if (m->t >= 2 && s->receives) {
            CO_WAIT(op, cmo_shm_all_reduced(op, m, m->t - 2));
            CMO_TRY(sliced_copy_out(op, s, m->t - 2));
            if (m->t <= m->rounds) cmo_shm_consumed(op, m, m->t - 1);
        }
    }
    CO_WAIT(op, cmo_shm_leave(op, m, 0, op->call.kind == CMO_REDUCE || m->offer.out ? op->comm->size : 0));
    CO_END(op);
}
