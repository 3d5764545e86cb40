/* Alltoall: every rank's slot is cut in a part for each of the others, who read it there.
 *
 *     5 ranks, one round: slots of ranks a … e
 *
 *     a     . a1 a2 a3 a4        rank 0 reads the column b0 c0 d0 e0,
 *     b    b0  . b2 b3 b4        rank 1 the column a1 c1 d1 e1, …
 *     c    c0 c1  . c3 c4
 *     d    d0 d1 d2  . d4
 *     e    e0 e1 e2 e3  .
 *
 * A rank whose blocks are equal and lie in its window does not copy them in (coll/shm_direct.c).
 *
 * Round t is copied in while round t - 1 is read. With blocks of B bytes a rank writes B (size - 1) and
 * reads as much; rounds + 1 steps.
 *
 * Where blocks differ, nobody knows what the others send to each other, but all must agree on the number of rounds. So
 * every rank announces the length of its longest block, all wait for all, and the rounds are those of the longest of
 * all. Before the data each rank stages its counts, 8 bytes a destination, of which everyone reads the one that is for
 * it: to allocate, or to compare it with what it expects. */
#include "coll/algorithms.h"
#include "coll/shm.h"
#include "coll/shm_cut.h"

#include <inttypes.h>
#include <stdlib.h>

typedef struct alltoall_state {
    cmo_shm shm;
    cmo_shm_cut cut;
    size_t item;
    bool varies;       /* blocks differ */
    uint64_t lead;     /* rounds that carry counts, before those with data */
    uint64_t *learned;  /* if so, elements that come from each rank, [size]; owned */
    unsigned char *out;
} alltoall_state;
_Static_assert(sizeof(alltoall_state) <= CMO_STATE_INLINE, "see coll/algorithms.h");

/* ------------------------------------------------------------------ counts */

static uint64_t counts_bytes(const cmo_op *op) { return (uint64_t)op->comm->size * sizeof(uint64_t); }

static void counts_stage(const cmo_op *op, const alltoall_state *s, uint64_t t)
{
    const cmo_call *call = &op->call;
    uint64_t round = cmo_shm_round_bytes(op, &s->shm), from = t * round;
    uint64_t to = cmo_shm_min(from + round, counts_bytes(op));
    unsigned char *slot = cmo_shm_slot(op, &s->shm, op->comm->rank, t);
    for (uint64_t at = from; at < to; at += sizeof(uint64_t)) {
        uint64_t count = cmo_block_count(call->counts, call->count, (int)(at / sizeof(uint64_t)));
        memcpy(slot + (at - from), &count, sizeof count);
    }
}

static uint64_t counts_longest(const cmo_op *op)
{
    uint64_t longest = 0;
    for (int j = 0; j < op->comm->size; j++) {
        uint64_t count = cmo_block_count(op->call.counts, op->call.count, j);
        if (count > longest) longest = count;
    }
    return longest;
}

/* Read, from every member's slot, how much it sends to us, if that stands in round t. */
static cmo_err counts_take(const cmo_op *op, alltoall_state *s, uint64_t t)
{
    const cmo_comm *c = op->comm;
    uint64_t round = cmo_shm_round_bytes(op, &s->shm), at = (uint64_t)c->rank * sizeof(uint64_t);
    if (at / round != t) return CMO_OK;
    CMO_TRY(cmo_shm_all_staged(op, &s->shm, c->size, t));
    for (int j = 0; j < c->size; j++)
        memcpy(&s->learned[j], cmo_shm_slot(op, &s->shm, j, t) + at % round, sizeof s->learned[j]);
    return CMO_OK;
}

/* The counts are there, and all announcements with the longest blocks. All are peers', hence checked. */
static cmo_err counts_learn(cmo_op *op, alltoall_state *s)
{
    const cmo_call *call = &op->call;
    const cmo_comm *c = op->comm;
    uint64_t longest = 0, total = 0, bytes;
    for (int j = 0; j < c->size; j++) {
        uint64_t theirs = cmo_shm_offer_of(op, j).length;
        if (theirs > longest) longest = theirs;
        if (s->learned[j] > theirs || __builtin_add_overflow(total, s->learned[j], &total) ||
            __builtin_mul_overflow(total, (uint64_t)s->item, &bytes))
            return cmo_fail(CMO_EPROTO, "rank %d sends %" PRIu64 " elements to rank %d", j, s->learned[j], c->rank);
        if (!call->exchange && call->recv_counts && s->learned[j] != call->recv_counts[j])
            return cmo_fail(CMO_EMISMATCH,
                            "alltoall: rank %d sends %" PRIu64 " elements to rank %d, which expects %" PRIu64, j,
                            s->learned[j], c->rank, call->recv_counts[j]);
    }
    s->shm.rounds = s->lead + cmo_shm_cut_round(&s->cut, op, &s->shm, s->item, longest);
    if (!call->exchange) return CMO_OK;
    cmo_layout layout = {.dtype = call->dtype, .counts = s->learned, .ncounts = c->size};
    void *out;
    CMO_TRY(call->allocate(call->allocate_ctx, &layout, &out));
    s->out = out;
    return CMO_OK;
}

/* ------------------------------------------------------------------ data */

static cmo_err alltoall_begin(cmo_op *op, alltoall_state *s)
{
    const cmo_call *call = &op->call;
    const cmo_comm *c = op->comm;
    s->item = cmo_dtype_size(call->dtype);
    s->varies = call->counts || call->exchange;
    s->out = call->out;
    if (!s->varies) {
        cmo_shm_begin_cut(op, &s->shm, s->item, call->count);
        s->shm.rounds = cmo_shm_cut_round(&s->cut, op, &s->shm, s->item, call->count);
        const uint64_t bytes = cmo_block_start(NULL, call->count, c->size) * s->item;
        /* Of two ranks each has a core, or half of one: slots are in its cache. */
        cmo_shm_offer_copy(op, &s->shm.offer.in, call->in, bytes, c->size > 2 ? 2 * (uint64_t)c->size * bytes : 0);
        return CMO_OK;
    }
    cmo_shm_begin(op, &s->shm, true, UINT64_MAX); /* nobody knows how much there is: rounds as wide as can be */
    s->shm.offer.length = counts_longest(op);
    s->lead = cmo_shm_rounds(counts_bytes(op), cmo_shm_round_bytes(op, &s->shm));
    s->learned = malloc((size_t)c->size * sizeof *s->learned);
    return s->learned ? CMO_OK : cmo_fail(CMO_ENOMEM, "counts of %d ranks", c->size);
}

/* Block of `rank` in a buffer whose blocks have these counts, in bytes. */
static uint64_t alltoall_start(const cmo_op *op, const alltoall_state *s, const uint64_t *counts, int rank)
{
    return cmo_block_start(counts, op->call.count, rank) * s->item;
}

/* Round t has data from round `lead` on. */
static cmo_shm_turn alltoall_turn(const cmo_op *op, const alltoall_state *s, uint64_t t)
{
    return cmo_shm_turn_of(&s->cut, op->comm->size, t - s->lead);
}

/* Our own block, as much as round t has of it, while what has just been staged is on its way to the others. */
static void alltoall_keep(const cmo_op *op, const alltoall_state *s, uint64_t t)
{
    const cmo_call *call = &op->call;
    const int rank = op->comm->rank;
    const cmo_shm_turn turn = alltoall_turn(op, s, t);
    if (rank < turn.first || rank >= turn.last) return;
    const uint64_t part = cmo_shm_part_of(&s->cut, cmo_block_count(call->counts, call->count, rank), turn.from);
    const uint64_t from = turn.from * s->item;
    if (part)
        cmo_shm_deliver(&s->shm, s->out + alltoall_start(op, s, s->learned, rank) + from,
                        (const char *)call->in + alltoall_start(op, s, call->counts, rank) + from, part * s->item);
}

static void alltoall_stage(const cmo_op *op, const alltoall_state *s, uint64_t t)
{
    cmo_shm_stage_parts(op, cmo_shm_slot(op, &s->shm, op->comm->rank, t), &s->cut, alltoall_turn(op, s, t));
}

/* Read what round t brings from every other member, as it comes. Each rank begins behind itself, so that they do not
 * all read the same slot at once. */
static cmo_err alltoall_take(const cmo_op *op, alltoall_state *s, uint64_t t)
{
    const cmo_comm *c = op->comm;
    cmo_shm_turn turn = alltoall_turn(op, s, t);
    if (c->rank < turn.first || c->rank >= turn.last) return CMO_OK;
    for (; s->shm.next < c->size - 1; s->shm.next++) {
        int j = (c->rank + 1 + s->shm.next) % c->size;
        uint64_t part = cmo_shm_part_of(&s->cut, cmo_block_count(s->learned, op->call.count, j), turn.from);
        if (!part) continue;
        CMO_TRY(cmo_shm_has_staged(op, &s->shm, j, t));
        if (!s->varies && cmo_shm_offer_of(op, j).in & CMO_SHM_OWN) { /* whole, with the first round: parts are small */
            if (turn.from) continue;
            part = op->call.count;
        }
        uint64_t in_slot = cmo_shm_part_start(&s->cut, turn, c->size, j, c->rank);
        /* Where blocks differ nobody offers. */
        uint64_t from = alltoall_start(op, s, NULL, c->rank) + turn.from * s->item;
        CMO_TRY(cmo_shm_fetch(op, &s->shm, j, t, from, part * s->item, in_slot,
                              s->out + alltoall_start(op, s, s->learned, j) + turn.from * s->item));
    }
    s->shm.next = 0;
    return CMO_OK;
}

cmo_err cmo_shm_alltoall_step(cmo_op *op)
{
    alltoall_state *s = op->state;
    cmo_shm *m = &s->shm;
    CO_BEGIN(op);
    CMO_TRY(alltoall_begin(op, s));
    if (!m->offer.in) CO_WAIT(op, cmo_shm_slot_free(op, m, 0));
    if (s->varies) {
        counts_stage(op, s, 0);
        CO_WAIT(op, cmo_shm_announce_offer(op, m));
        for (m->t = 1; m->t <= s->lead; m->t++) {
            if (m->t < s->lead) {
                CO_WAIT(op, cmo_shm_slot_free(op, m, m->t));
                counts_stage(op, s, m->t);
                cmo_shm_staged(op, m, m->t);
            }
            CO_WAIT(op, counts_take(op, s, m->t - 1));
            cmo_shm_consumed(op, m, m->t);
        }
        CO_WAIT(op, cmo_shm_all_arrived(op, m, op->comm->size));
        CMO_TRY(counts_learn(op, s));
        m->t = s->lead;
    } else {
        if (!m->offer.in) alltoall_stage(op, s, 0);
        CO_WAIT(op, cmo_shm_announce_offer(op, m));
        m->t = 1;
    }
    cmo_shm_expect(op, m, alltoall_start(op, s, s->learned, op->comm->size));
    if (!s->varies && m->rounds) alltoall_keep(op, s, 0);
    for (; m->t <= m->rounds; m->t++) {
        if (m->t < m->rounds && !m->offer.in) {
            CO_WAIT(op, cmo_shm_slot_free(op, m, m->t));
            alltoall_stage(op, s, m->t);
            cmo_shm_staged(op, m, m->t);
        }
        if (m->t < m->rounds) alltoall_keep(op, s, m->t);
        if (m->t > s->lead) {
            CO_WAIT(op, alltoall_take(op, s, m->t - 1));
            if (m->t < m->rounds) cmo_shm_consumed(op, m, m->t);
        }
    }
    CO_WAIT(op, cmo_shm_leave(op, m, 0, op->comm->size));
    CO_END(op);
}

void cmo_shm_alltoall_finish(cmo_op *op) { free(((alltoall_state *)op->state)->learned); }
