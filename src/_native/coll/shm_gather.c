/* Gather and allgather: every rank's block goes through its own slots, and whoever wants it reads it there.
 *
 *     5 ranks, blocks a … e of different length, three rounds
 *
 *     slots of    0       1       2       3       4
 *     round 0    [aaaa]  [bbbb]  [cc]    [dddd]  [eeee]       receivers: a a a a . . .  b b b b b . . …
 *     round 1    [aaaa]  [b]             [dddd]
 *     round 2    [aa]                    [d]
 *
 * Receivers (all in an allgather, the root in a gather) read round t - 1 while round t is copied in. A receiver's own
 * block goes into its result round by round too, while what has just been staged is in the cache. For a block of B
 * bytes a sender writes B, a receiver reads the others' blocks; rounds + 1 steps. A sender that receives nothing
 * returns when it has copied everything in.
 *
 * With `exchange` each rank knows its own block alone. Its length travels in the announcement, and all wait for all
 * announcements, since the number of rounds is that of the longest block. A block that lies in its owner's window is
 * not copied in (coll/shm_direct.c). */
#include "coll/algorithms.h"
#include "coll/shm.h"

#include <stdlib.h>

typedef struct gather_state {
    cmo_shm shm;
    uint64_t round_bytes;
    size_t item;
    bool sends, receives;
    const uint64_t *counts; /* as in the call, or the learned ones */
    uint64_t *learned;       /* with exchange: [size]; owned */
    unsigned char *out;
} gather_state;
_Static_assert(sizeof(gather_state) <= CMO_STATE_INLINE, "see coll/algorithms.h");

static uint64_t gather_bytes(const cmo_op *op, const gather_state *s, int rank)
{
    return cmo_block_count(s->counts, op->call.count, rank) * s->item;
}
static uint64_t gather_start(const cmo_op *op, const gather_state *s, int rank)
{
    return cmo_block_start(s->counts, op->call.count, rank) * s->item;
}

static uint64_t gather_longest(const cmo_op *op, const gather_state *s)
{
    uint64_t longest = 0;
    for (int j = 0; j < op->comm->size; j++) {
        uint64_t bytes = gather_bytes(op, s, j);
        if (bytes > longest) longest = bytes;
    }
    return longest;
}

static uint64_t gather_own(const cmo_op *op, const gather_state *s)
{
    return cmo_block_count(op->call.exchange ? NULL : op->call.counts, op->call.count, op->comm->rank) * s->item;
}

static void gather_begin(cmo_op *op, gather_state *s)
{
    const cmo_comm *c = op->comm;
    s->item = cmo_dtype_size(op->call.dtype);
    s->counts = op->call.exchange ? NULL : op->call.counts;
    /* Where each knows its own block alone, rounds are as wide as can be */
    cmo_shm_begin(op, &s->shm, op->call.kind == CMO_ALLGATHER,
                  op->call.exchange ? UINT64_MAX : gather_longest(op, s));
    s->round_bytes = cmo_shm_round_bytes(op, &s->shm);
    s->receives = op->call.kind == CMO_ALLGATHER || c->rank == op->call.root;
    s->sends = c->size > 1 && (op->call.kind == CMO_ALLGATHER || c->rank != op->call.root) && gather_own(op, s);
    s->out = op->call.out;
    if (s->sends) cmo_shm_offer_array(op, &s->shm.offer.in, op->call.in, gather_own(op, s));
    if (op->call.exchange) s->shm.offer.length = op->call.count;
}

/* With exchange: the lengths that all have announced. They are peers', hence checked: all
 * blocks together are an array. */
static cmo_err gather_learn(cmo_op *op, gather_state *s)
{
    const cmo_comm *c = op->comm;
    uint64_t total = 0, bytes;
    s->counts = s->learned = malloc((size_t)c->size * sizeof *s->learned);
    if (!s->learned) return cmo_fail(CMO_ENOMEM, "counts of %d ranks", c->size);
    for (int j = 0; j < c->size; j++) {
        s->learned[j] = cmo_shm_offer_of(op, j).length;
        if (__builtin_add_overflow(total, s->learned[j], &total) ||
            __builtin_mul_overflow(total, (uint64_t)s->item, &bytes))
            return cmo_fail(CMO_EPROTO, "the blocks of ranks 0 to %d are more than 2^64 bytes", j);
    }
    if (!s->receives) return CMO_OK;
    cmo_layout layout = {.dtype = op->call.dtype, .counts = s->learned, .ncounts = c->size};
    void *out;
    CMO_TRY(op->call.allocate(op->call.allocate_ctx, &layout, &out));
    s->out = out;
    return CMO_OK;
}

/* All blocks' lengths are known. */
static void gather_measure(cmo_op *op, gather_state *s)
{
    const cmo_comm *c = op->comm;
    s->shm.rounds = cmo_shm_rounds(gather_longest(op, s), s->round_bytes);
    if (s->receives) cmo_shm_expect(op, &s->shm, gather_start(op, s, c->size));
    else if (s->shm.rounds) cmo_shm_consumed(op, &s->shm, s->shm.rounds);
}

static void gather_stage(const cmo_op *op, const gather_state *s, uint64_t t)
{
    uint64_t from = t * s->round_bytes, bytes = cmo_shm_min(s->round_bytes, gather_own(op, s) - from);
    cmo_stage(cmo_shm_slot(op, &s->shm, op->comm->rank, t), (const char *)op->call.in + from, bytes);
}

/* Our own block, as much as round t has of it, which has just been staged. */
static void gather_keep(const cmo_op *op, const gather_state *s, uint64_t t)
{
    const uint64_t from = t * s->round_bytes, own = gather_own(op, s);
    if (s->receives && from < own)
        cmo_shm_deliver(&s->shm, s->out + gather_start(op, s, op->comm->rank) + from,
                        (const unsigned char *)op->call.in + from, cmo_shm_min(s->round_bytes, own - from));
}

/* Read round t of every other member's block as it comes. Each rank begins behind itself, so that they do not
 * all read the same slot at once. */
static cmo_err gather_take(const cmo_op *op, gather_state *s, uint64_t t)
{
    const cmo_comm *c = op->comm;
    uint64_t from = t * s->round_bytes;
    for (; s->shm.next < c->size - 1; s->shm.next++) {
        int j = (c->rank + 1 + s->shm.next) % c->size;
        uint64_t bytes = gather_bytes(op, s, j);
        if (from >= bytes) continue;
        bytes = cmo_shm_min(s->round_bytes, bytes - from);
        CMO_TRY(cmo_shm_has_staged(op, &s->shm, j, t));
        CMO_TRY(cmo_shm_fetch(op, &s->shm, j, t, from, bytes, 0, s->out + gather_start(op, s, j) + from));
    }
    s->shm.next = 0;
    return CMO_OK;
}

cmo_err cmo_shm_gather_step(cmo_op *op)
{
    gather_state *s = op->state;
    cmo_shm *m = &s->shm;
    CO_BEGIN(op);
    gather_begin(op, s);
    if (s->sends && !m->offer.in) {
        CO_WAIT(op, cmo_shm_slot_free(op, m, 0));
        gather_stage(op, s, 0);
    }
    CO_WAIT(op, cmo_shm_announce_offer(op, m));
    if (op->call.exchange) {
        CO_WAIT(op, cmo_shm_all_arrived(op, m, op->comm->size));
        CMO_TRY(gather_learn(op, s));
    }
    gather_measure(op, s);
    gather_keep(op, s, 0);
    for (m->t = 1; m->t <= m->rounds; m->t++) {
        if (s->sends && !m->offer.in && m->t * s->round_bytes < gather_own(op, s)) {
            CO_WAIT(op, cmo_shm_slot_free(op, m, m->t));
            gather_stage(op, s, m->t);
            cmo_shm_staged(op, m, m->t);
        }
        gather_keep(op, s, m->t);
        if (s->receives) {
            CO_WAIT(op, gather_take(op, s, m->t - 1));
            if (m->t < m->rounds) cmo_shm_consumed(op, m, m->t);
        }
    }
    if (op->call.kind == CMO_GATHER) CO_WAIT(op, cmo_shm_leave(op, m, op->call.root, op->call.root + 1));
    else CO_WAIT(op, cmo_shm_leave(op, m, 0, op->comm->size));
    CO_END(op);
}

void cmo_shm_gather_finish(cmo_op *op) { free(((gather_state *)op->state)->learned); }
