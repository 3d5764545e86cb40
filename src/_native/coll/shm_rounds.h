/* Rounds of staging: slots, and the counts that say when they may be read and written again (overview: coll/shm.h). */
#ifndef CMO_SHM_ROUNDS_H
#define CMO_SHM_ROUNDS_H

#include "coll/shm_call.h"

/* Bytes of a round: a whole number of cache lines, hence of elements of every dtype. */
static inline uint64_t cmo_shm_round_bytes(const cmo_comm *c) { return c->slot_bytes / CMO_LINE * CMO_LINE; }

static inline uint64_t cmo_shm_rounds(uint64_t amount, uint64_t of_a_round)
{
    return amount / of_a_round + (amount % of_a_round != 0);
}

static inline unsigned char *cmo_shm_slot(const cmo_op *op, const cmo_shm *s, int member, uint64_t t)
{
    const cmo_comm *c = op->comm;
    return c->staging[member] + (s->base + t) % (uint64_t)c->slots * c->slot_bytes;
}

bool cmo_shm_look_consumed(cmo_comm *c, uint64_t rounds); /* the slow half of cmo_shm_slot_free */

/* May this rank write its slot of round t? */
static inline cmo_err cmo_shm_slot_free(const cmo_op *op, const cmo_shm *s, uint64_t t)
{
    cmo_comm *c = op->comm;
    uint64_t round = s->base + t + 1, slots = (uint64_t)c->slots;
    if (round <= slots || c->safe_round >= round - slots || cmo_shm_look_consumed(c, round - slots)) return CMO_OK;
    return CMO_AGAIN;
}

/* Wake every member that sleeps: something that it may be waiting for has been stored. */
void cmo_shm_ring(const cmo_comm *c);

/* Release: whoever sees the count sees the bytes. */
static inline void cmo_shm_publish(const cmo_op *op, _Atomic uint64_t *count, uint64_t rounds)
{
    atomic_store_explicit(count, rounds, memory_order_release);
    cmo_shm_ring(op->comm);
}

static inline void cmo_shm_staged(const cmo_op *op, const cmo_shm *s, uint64_t t)
{
    cmo_shm_publish(op, &cmo_shm_own(op)->staged, s->base + t + 1);
}

static inline void cmo_shm_reduced(const cmo_op *op, const cmo_shm *s, uint64_t t)
{
    cmo_shm_publish(op, &cmo_shm_own(op)->reduced, s->base + t + 1);
}

/* This rank reads nothing more of the operation's first `rounds` rounds. Here the release keeps its reads before the
 * store. */
static inline void cmo_shm_consumed(const cmo_op *op, const cmo_shm *s, uint64_t rounds)
{
    cmo_shm_publish(op, &cmo_shm_own(op)->consumed, s->base + rounds);
}

/* Is this member's slot of round t filled? */
static inline cmo_err cmo_shm_has_filled(const cmo_op *op, const cmo_shm *s, int member, uint64_t t)
{
    if (t == 0) return cmo_shm_arrived(op, member);
    uint64_t staged = atomic_load_explicit(&op->comm->piece[member]->staged, memory_order_acquire);
    return staged > s->base + t ? CMO_OK : CMO_AGAIN;
}

/* Can this member's part of round t be read, wherever it is? */
static inline cmo_err cmo_shm_has_staged(const cmo_op *op, const cmo_shm *s, int member, uint64_t t)
{
    cmo_err err = cmo_shm_arrived(op, member);
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
        if (atomic_load_explicit(&c->piece[s->next]->reduced, memory_order_acquire) <= s->base + t) return CMO_AGAIN;
    s->next = 0;
    return CMO_OK;
}

static inline void cmo_shm_begin(const cmo_op *op, cmo_shm *s) { s->base = op->comm->round; }

/* This rank's part is done: raise every count past the operation, so that no later one waits for it here. */
void cmo_shm_end(const cmo_op *op, const cmo_shm *s);

#endif
