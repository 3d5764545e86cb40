/* Rounds of staging: slots, and the counts that say when they may be read and written again (overview: coll/shm.h). */
#ifndef CMO_SHM_ROUNDS_H
#define CMO_SHM_ROUNDS_H

#include "coll/shm_call.h"

/* Begin a call that has up to `bytes` to stage: a round is as wide as that needs, or as rounds may be. `mutual`: those
 * who stage also read. What is passed here is alike on every member. A round starts at a multiple of its width, so that
 * it does not wrap around.
 *
 * A slot is cheap to write again when it has left its last reader's cache. Where each rank stages little, or one alone
 * does, that takes all slots. Where much goes both ways, all that is copied drives it out soon enough, and fewer slots
 * leave more of the last-level cache to the arrays. */
static inline void cmo_shm_begin(const cmo_op *op, cmo_shm *s, bool mutual, uint64_t bytes)
{
    cmo_comm *c = op->comm;
    const cmo_rotation *r = mutual && bytes > c->some.widest * c->slot_bytes / 2 ? &c->some : &c->all;
    s->width = 1;
    while (s->width < r->widest && s->width * c->slot_bytes < bytes) s->width *= 2;
    s->base = (c->used + s->width - 1) / s->width * s->width;
    if (c->turning == r->slots) return;
    c->turning = r->slots;
    c->turning_since = c->used;
}

/* Bytes of a round: a whole number of cache lines, hence of elements of every dtype. */
static inline uint64_t cmo_shm_round_bytes(const cmo_op *op, const cmo_shm *s)
{
    return s->width * op->comm->slot_bytes;
}

static inline uint64_t cmo_shm_rounds(uint64_t amount, uint64_t of_a_round)
{
    return amount / of_a_round + (amount % of_a_round != 0);
}

/* Slots, of all ever used, in front of round t. */
static inline uint64_t cmo_shm_before(const cmo_shm *s, uint64_t t) { return s->base + t * s->width; }

/* Where a member's part of round t is staged. */
static inline unsigned char *cmo_shm_slot(const cmo_op *op, const cmo_shm *s, int member, uint64_t t)
{
    const cmo_comm *c = op->comm;
    return c->staging[member] + cmo_shm_before(s, t) % c->turning * c->slot_bytes;
}

bool cmo_shm_look_consumed(cmo_comm *c, uint64_t slots); /* the slow half of cmo_shm_slot_free */

/* May this rank write its slots of round t? Since collectives rotate through this number of slots, the last use of
 * these was one rotation ago; before that it may have been any. */
static inline cmo_err cmo_shm_slot_free(const cmo_op *op, const cmo_shm *s, uint64_t t)
{
    cmo_comm *c = op->comm;
    const uint64_t end = cmo_shm_before(s, t + 1);
    uint64_t last = end > c->turning ? end - c->turning : 0;
    if (last < c->turning_since) last = c->turning_since;
    return c->safe_slots >= last || cmo_shm_look_consumed(c, last) ? CMO_OK : CMO_AGAIN;
}

/* The result of this rank has `bytes`: decide how they are stored. */
static inline void cmo_shm_expect(const cmo_op *op, cmo_shm *s, uint64_t bytes)
{
    s->around = bytes >= op->comm->around_bytes;
}

/* Copy a part of the result to where it belongs. */
static inline void cmo_shm_deliver(const cmo_shm *s, void *out, const void *part, uint64_t bytes)
{
    if (s->around) cmo_copy_around(out, part, bytes);
    else cmo_copy(out, part, bytes);
}

/* Reduce `count` elements of each of `n` arrays, in their order, into staging memory, or the result, or both: the one
 * that is not wanted is NULL. May advance srcs. */
void cmo_shm_fold(const cmo_op *op, const cmo_shm *s, void *staged, void *out, const void **srcs, int n,
                  uint64_t count);

/* Wake every member that sleeps: something that it may be waiting for has been stored. */
void cmo_shm_ring(const cmo_comm *c);

/* Release: whoever sees the count sees the bytes. */
static inline void cmo_shm_publish(const cmo_op *op, _Atomic uint64_t *count, uint64_t slots)
{
    atomic_store_explicit(count, slots, memory_order_release);
    cmo_shm_ring(op->comm);
}

static inline void cmo_shm_staged(const cmo_op *op, const cmo_shm *s, uint64_t t)
{
    cmo_shm_publish(op, &cmo_shm_own(op)->staged, cmo_shm_before(s, t + 1));
}

static inline void cmo_shm_reduced(const cmo_op *op, const cmo_shm *s, uint64_t t)
{
    cmo_shm_publish(op, &cmo_shm_own(op)->reduced, cmo_shm_before(s, t + 1));
}

/* This rank reads nothing more of the operation's first `rounds` rounds. Here the release keeps its reads before the
 * store. */
static inline void cmo_shm_consumed(const cmo_op *op, const cmo_shm *s, uint64_t rounds)
{
    cmo_shm_publish(op, &cmo_shm_own(op)->consumed, cmo_shm_before(s, rounds));
}

/* Rounds that a call takes while its caller holds a lock (comm/fast.c). */
enum { CMO_BRIEF_ROUNDS = 4 };

/* Is this member's slot of round t filled? */
static inline cmo_err cmo_shm_has_filled(const cmo_op *op, const cmo_shm *s, int member, uint64_t t)
{
    if (t == 0) return cmo_shm_arrived(op, member);
    if (op->brief && t >= CMO_BRIEF_ROUNDS) return CMO_AGAIN;
    uint64_t staged = atomic_load_explicit(&op->comm->piece[member]->staged, memory_order_acquire);
    return staged > cmo_shm_before(s, t) ? CMO_OK : CMO_AGAIN;
}

/* Can this member's part of round t be read, wherever it is? */
static inline cmo_err cmo_shm_has_staged(const cmo_op *op, const cmo_shm *s, int member, uint64_t t)
{
    cmo_err err = op->brief && t >= CMO_BRIEF_ROUNDS ? CMO_AGAIN : cmo_shm_arrived(op, member);
    if (err || t == 0 || cmo_shm_offer_of(op, member).in) return err;
    return cmo_shm_has_filled(op, s, member, t);
}

static inline cmo_err cmo_shm_all_staged(const cmo_op *op, cmo_shm *s, int members, uint64_t t)
{
    for (; s->next < members; s->next++) CMO_TRY(cmo_shm_has_staged(op, s, s->next, t));
    s->next = 0;
    return CMO_OK;
}

static inline cmo_err cmo_shm_all_reduced(const cmo_op *op, cmo_shm *s, uint64_t t)
{
    const cmo_comm *c = op->comm;
    for (; s->next < c->size; s->next++)
        if (atomic_load_explicit(&c->piece[s->next]->reduced, memory_order_acquire) <= cmo_shm_before(s, t))
            return CMO_AGAIN;
    s->next = 0;
    return CMO_OK;
}

/* This rank's part is done: raise every count past the operation, so that no later one waits for it here. */
void cmo_shm_end(const cmo_op *op, const cmo_shm *s);

#endif
