/* One call of ranks that share memory: its state, its announcement, and those of the others (overview: coll/shm.h). */
#ifndef CMO_SHM_CALL_H
#define CMO_SHM_CALL_H

#include "base/copy.h"
#include "coll/coll.h"

#define CMO_SHM_OWN (UINT64_C(1) << 63) /* more than any offset, and than any address */

/* The payload of an announcement whose data goes in rounds. */
typedef struct cmo_shm_offer {
    uint64_t length;  /* elements that this rank sends, where the others must learn it */
    /* 1 + the offset, in its window, of the array of which the others read its part, or the result; 0: see its slots.
     * `in` may also be CMO_SHM_OWN + the array's address in its own memory. */
    uint64_t in, out;
} cmo_shm_offer;
_Static_assert(sizeof(cmo_shm_offer) <= CMO_ANNOUNCEMENT_BYTES, "an offer is a payload");

/* The first member of every state. */
typedef struct cmo_shm {
    uint64_t base;   /* slots in front of its first round, counted through the life of the communicator */
    uint64_t width;  /* slots of a round, alike on every member, as is … */
    uint64_t rounds; /* … the number of rounds */
    uint64_t t;      /* the loop's */
    int next;        /* the member that cmo_shm_all_… looks at next */
    bool around : 1;  /* this rank's result is stored around the caches */
    bool borrows : 1; /* this rank has read others' arrays */
    bool leaves : 1;  /* it reads nothing more, and waits for its own readers */
    cmo_shm_offer offer;
} cmo_shm;

static inline cmo_piece *cmo_shm_own(const cmo_op *op) { return op->comm->piece[op->comm->rank]; }

/* More members than this on one host (none is that large) use messages: the kernels' lists of sources are on the
 * stack. */
enum { CMO_SHM_MEMBERS = 1024 };

static inline uint64_t cmo_shm_min(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* Announce this operation, with up to CMO_ANNOUNCEMENT_BYTES of payload. CMO_AGAIN while somebody may still read what
 * the slot held before. */
cmo_err cmo_shm_announce(cmo_op *op, const void *payload, size_t bytes);

cmo_err cmo_shm_misfit(const cmo_op *op, int member, uint64_t seq); /* the error that an announcement is */

static inline cmo_announcement *cmo_shm_announcement(const cmo_op *op, int member)
{
    return &op->comm->piece[member]->announcement[op->seq % CMO_ANNOUNCEMENTS];
}

static inline cmo_record *cmo_shm_record(const cmo_op *op, int member)
{
    return &op->comm->piece[member]->record[op->seq % CMO_ANNOUNCEMENTS];
}

/* Has this member made the same call? Then its payload, its record and its round 0 may be read. */
static inline cmo_err cmo_shm_arrived(const cmo_op *op, int member)
{
    const cmo_announcement *theirs = cmo_shm_announcement(op, member);
    /* Acquire pairs with the release in cmo_shm_announce. */
    uint64_t seq = atomic_load_explicit(&theirs->seq, memory_order_acquire);
    if (seq < op->seq) return CMO_AGAIN;
    if (__builtin_expect(seq > op->seq || theirs->fingerprint != op->fingerprint, 0))
        return cmo_shm_misfit(op, member, seq);
    return CMO_OK;
}

static inline cmo_err cmo_shm_all_arrived(const cmo_op *op, cmo_shm *s, int members)
{
    for (; s->next < members; s->next++) CMO_TRY(cmo_shm_arrived(op, s->next));
    s->next = 0;
    return CMO_OK;
}

/* What a member that has arrived offers. Its own word for it: to be used through cmo_shm_part and cmo_shm_result, which
 * check it. */
static inline cmo_shm_offer cmo_shm_offer_of(const cmo_op *op, int member)
{
    cmo_shm_offer offer;
    memcpy(&offer, cmo_shm_announcement(op, member)->payload, sizeof offer);
    __asm__("" : "+m"(offer)); /* one read: what is checked is what is used, whatever its owner does meanwhile */
    return offer;
}

static inline cmo_err cmo_shm_announce_offer(cmo_op *op, const cmo_shm *s)
{
    return cmo_shm_announce(op, &s->offer, sizeof s->offer);
}

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

#endif
