/* Collectives of ranks that share memory: what their algorithms have in common. Protocol and invariants: comm/piece.h.
 *
 *     file                  used for                                       waits for others
 *     shm_inline.c          anything that fits in an announcement          once
 *     shm_staged.c          reductions of small arrays; scan, exscan       once a round
 *     shm_sliced.c          allreduce and reduce of large arrays           twice a round
 *     shm_reduce_scatter.c  reduce_scatter                                 once a round
 *     shm_rooted.c          broadcast and scatter; only root knows sizes   readers once a round, root never
 *     shm_gather.c          gather and allgather                           receivers once a round
 *     shm_alltoall.c        alltoall                                       once a round
 *     shm_direct.c          what they do where arrays lie in windows       once more, for the readers
 *
 * In a communicator whose members share memory a member's place on its host is its rank, so pieces and slots are
 * indexed by rank here. Rounds of an operation are counted from 0; round t of it is round base + t of the communicator.
 *
 * What all of them agree on: a member stages its round 0 before it announces. So whoever has seen an announcement may
 * read round 0, and an operation of one round costs one cache line of synchronisation. `staged` speaks of later rounds only.
 * A member whose array is read where it lies (shm_direct.c) stages nothing: its announcement stands for all rounds. */
#ifndef CMO_SHM_H
#define CMO_SHM_H

#include "coll/coll.h"

#include <string.h>

/* The payload of an announcement whose data goes in rounds. */
typedef struct cmo_shm_offer {
    uint64_t length;  /* elements that this rank sends, where the others must learn it */
    uint64_t in, out; /* 1 + the offset, in its window, of the array of which the others read its part, or the result; 0: see its slots */
} cmo_shm_offer;
_Static_assert(sizeof(cmo_shm_offer) <= CMO_POST_BYTES, "an offer is a payload");

/* The first member of every state. */
typedef struct cmo_shm {
    uint64_t base;   /* rounds that the communicator's past operations have used */
    uint64_t rounds; /* that this one uses, alike on every member */
    uint64_t t;      /* the loop's */
    int next;        /* the member that cmo_shm_all_… looks at next */
    bool borrows;    /* this rank has read others' arrays */
    bool leaves;     /* it reads nothing more, and waits for its own readers */
    cmo_shm_offer offer;
} cmo_shm;

static inline cmo_piece *cmo_shm_own(const cmo_op *op) { return op->comm->piece[op->comm->rank]; }

/* Bytes of a round: a whole number of cache lines, hence of elements of every dtype. */
static inline uint64_t cmo_shm_round_bytes(const cmo_comm *c) { return c->slot_bytes / CMO_LINE * CMO_LINE; }
static inline uint64_t cmo_shm_rounds(uint64_t amount, uint64_t of_a_round) { return amount / of_a_round + (amount % of_a_round != 0); }

static inline unsigned char *cmo_shm_slot(const cmo_op *op, const cmo_shm *s, int member, uint64_t t)
{
    const cmo_comm *c = op->comm;
    return c->staging[member] + (s->base + t) % (uint64_t)c->slots * c->slot_bytes;
}

/* memcpy that allows null pointers with no bytes. */
static inline void cmo_shm_copy(void *to, const void *from, uint64_t bytes)
{
    if (bytes) memcpy(to, from, bytes);
}

static inline uint64_t cmo_shm_min(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* More members than this on one host (none is that large) use messages: the kernels' lists of sources are on the stack. */
enum { CMO_SHM_MEMBERS = 1024 };

/* ------------------------------------------------------------------ announcements */

/* Post this operation with up to CMO_POST_BYTES of payload. CMO_AGAIN while somebody may still read what the slot held before. */
cmo_err cmo_shm_announce(cmo_op *op, const void *payload, size_t bytes);

cmo_err cmo_shm_misfit(const cmo_op *op, int member, uint64_t seq); /* the error that an announcement is */

static inline cmo_post *cmo_shm_post(const cmo_op *op, int member) { return &op->comm->piece[member]->post[op->seq % CMO_POSTS]; }
static inline cmo_record *cmo_shm_record(const cmo_op *op, int member) { return &op->comm->piece[member]->record[op->seq % CMO_POSTS]; }

/* Has this member made the same call? Then its payload, its record and its round 0 may be read. */
static inline cmo_err cmo_shm_arrived(const cmo_op *op, int member)
{
    cmo_post *post = cmo_shm_post(op, member);
    uint64_t seq = atomic_load_explicit(&post->seq, memory_order_acquire); /* pairs with the release in cmo_shm_announce */
    if (seq < op->seq) return CMO_AGAIN;
    if (__builtin_expect(seq > op->seq || post->fingerprint != op->fingerprint, 0)) return cmo_shm_misfit(op, member, seq);
    return CMO_OK;
}

static inline cmo_err cmo_shm_all_arrived(const cmo_op *op, cmo_shm *s, int members)
{
    for (; s->next < members; s->next++) CMO_TRY(cmo_shm_arrived(op, s->next));
    s->next = 0;
    return CMO_OK;
}

/* What a member that has arrived offers. Its own word for it: to be used through cmo_shm_part and cmo_shm_result, which check it. */
static inline cmo_shm_offer cmo_shm_offer_of(const cmo_op *op, int member)
{
    cmo_shm_offer offer;
    memcpy(&offer, cmo_shm_post(op, member)->payload, sizeof offer);
    __asm__("" : "+m"(offer)); /* one read: what is checked is what is used, whatever its owner does meanwhile */
    return offer;
}

static inline cmo_err cmo_shm_announce_offer(cmo_op *op, const cmo_shm *s) { return cmo_shm_announce(op, &s->offer, sizeof s->offer); }

/* Members 0 … n-1 whose data this rank needs in a reduction or movement that has no root but call.root. */
static inline int cmo_shm_sources(const cmo_op *op)
{
    const cmo_comm *c = op->comm;
    switch (op->call.kind) {
    case CMO_REDUCE: case CMO_GATHER: return c->rank == op->call.root ? c->size : 0;
    case CMO_SCAN: return c->rank + 1;
    case CMO_EXSCAN: return c->rank;
    default: return c->size;
    }
}

/* ------------------------------------------------------------------ rounds of staging */

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

/* This rank reads nothing more of the operation's first `rounds` rounds. Here the release keeps its reads before the store. */
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

/* ------------------------------------------------------------------ arrays in windows: coll/shm_direct.c */

/* Offer `bytes` at `array` to the others, if they lie in this rank's window and are worth it: *place (offer.in or offer.out) says so.
 * They then need not be staged. Before the announcement. */
void cmo_shm_offer_array(const cmo_op *op, uint64_t *place, const void *array, uint64_t bytes);

/* Where in `member`'s window [from, from + bytes) of the array is that is said to be at `place` there. CMO_EPROTO: not in the window. */
cmo_err cmo_shm_borrow(const cmo_op *op, cmo_shm *s, int member, uint64_t place, uint64_t from, uint64_t bytes, const void **at);

/* Where to read [from, from + bytes) of a member's array: there, if it offers it, else at `in_slot` bytes of its slot of round t. The member's part
 * of the round has been staged. */
cmo_err cmo_shm_part(const cmo_op *op, cmo_shm *s, int member, uint64_t t, uint64_t from, uint64_t bytes, uint64_t in_slot, const void **at);

/* The same for the result that a member has reduced. */
cmo_err cmo_shm_result(const cmo_op *op, cmo_shm *s, int member, uint64_t t, uint64_t from, uint64_t bytes, uint64_t in_slot, const void **at);

cmo_err cmo_shm_await_readers(cmo_op *op, cmo_shm *s, int first, int last); /* the slow half of cmo_shm_leave */

/* As cmo_shm_end, in a wait: but where this rank has offered something, only when members [first, last), its readers, read it no more; and where
 * it has read what others offered, only if they have stood by it. */
static inline cmo_err cmo_shm_leave(cmo_op *op, cmo_shm *s, int first, int last)
{
    if (s->offer.in | s->offer.out | s->borrows) CMO_TRY(cmo_shm_await_readers(op, s, first, last));
    cmo_shm_end(op, s);
    return CMO_OK;
}

/* ------------------------------------------------------------------ slots with a part for every member */

/* reduce_scatter and alltoall: a slot is cut in one part for each destination. Where it is too small for that many
 * cache lines, destinations take turns: `together` of them are served in one round. */
typedef struct cmo_shm_cut {
    int together;      /* destinations in a round */
    uint64_t elements; /* of one destination in a round */
    uint64_t stride;   /* bytes from part to part */
    uint64_t turns;    /* rounds that a destination needs */
} cmo_shm_cut;

/* longest: elements of the longest block that any member sends. Returns the number of rounds. */
uint64_t cmo_shm_cut_slots(cmo_shm_cut *cut, const cmo_comm *c, size_t itemsize, uint64_t longest);

/* Which destinations a round serves, [first, last), and from which element of their blocks on. */
typedef struct cmo_shm_turn {
    int first, last;
    uint64_t from;
} cmo_shm_turn;

static inline cmo_shm_turn cmo_shm_turn_of(const cmo_shm_cut *cut, int size, uint64_t round)
{
    int first = (int)(round / cut->turns) * cut->together, last = first + cut->together;
    return (cmo_shm_turn){first, last < size ? last : size, round % cut->turns * cut->elements};
}

/* Elements of a block of `count` that a round moves which starts at element `from`. */
static inline uint64_t cmo_shm_part_of(const cmo_shm_cut *cut, uint64_t count, uint64_t from)
{
    return from < count ? cmo_shm_min(cut->elements, count - from) : 0;
}

/* Copy what this rank has for every destination of the turn but itself into its slot. */
void cmo_shm_stage_parts(const cmo_op *op, unsigned char *slot, const cmo_shm_cut *cut, cmo_shm_turn turn);

#endif
