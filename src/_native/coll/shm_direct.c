/* Arrays that are read where they lie, in the windows of their owners (comm.empty), or, where they are only copied, in
 * their owners' own memory: nothing goes through slots.
 *
 *     allgather, 5 ranks, of which 0 and 3 pass ordinary arrays
 *
 *     window of   0       1       2       3       4
 *     slots      [aaa]                   [dd]              copied in, in rounds, as ever
 *     arrays             [bbbb]  [cc]            [eee]     read where they are
 *                  \________\_______|_______/_______/
 *                          every rank: a b c d e
 *
 * Only its owner knows where an array lies, and each owner decides for itself: its announcement says where its array
 * is, or that it is in its slots. So there is nothing to agree on, nobody waits for a decision, and a rank with an
 * ordinary array does exactly what it does among others with ordinary arrays. Readers follow each announcement; rounds
 * are counted as if all went through slots, so everybody agrees on them.
 *
 * What it saves is the copy in. In an allreduce the result may be offered too: then a rank folds its slice of it
 * into its own array, whence the others copy it, and for B bytes a rank writes B and reads B (2 size - 1) / size,
 * all of it in arrays. What it costs is one wait: an owner returns when its readers have read, since its caller may
 * then change the array or free it. That is why small arrays are staged. (An allreduce whose result goes through
 * slots has that wait already.)
 *
 * Copying from another process's own memory takes 2 to 3 times as long as a memcpy while caches hold the arrays, and
 * still 1.3 times once they do not (bench/NOTES.md). So it pays where what is read is read by one rank alone, and where
 * a scatter's root would copy in alone or more than two ranks share few cores' caches (cmo_shm_offer_copy).
 *
 * A rank writes nothing but its own memory, wherever others say that their arrays are, and however they fail.
 * comm/piece.h has the invariants. */
#include "coll/shm.h"
#include "comm/engine.h"
#include "transport/attach.h"

void cmo_shm_offer_array(const cmo_op *op, uint64_t *place, const void *array, uint64_t bytes)
{
    const cmo_comm *c = op->comm;
    uint64_t offset;
    bool worth = bytes >= (uint64_t)cmo_engine_tunables(c->engine)->direct_bytes;
    *place = worth && cmo_window_offset(c->neighbour[c->rank], array, bytes, &offset) ? 1 + offset : 0;
}

static bool shm_all_attach(const cmo_comm *c)
{
    for (int j = 0; j < c->size; j++) /* relaxed: what it says holds from the start */
        if (!atomic_load_explicit(&c->neighbour[j]->head->attaches, memory_order_relaxed)) return false;
    return true;
}

void cmo_shm_offer_copy(const cmo_op *op, uint64_t *place, const void *array, uint64_t bytes, uint64_t weight)
{
    cmo_shm_offer_array(op, place, array, bytes);
    if (!*place && weight >= op->comm->attach_bytes && bytes && shm_all_attach(op->comm))
        *place = CMO_SHM_OWN | (uintptr_t)array;
}

/* Is what this member has offered for the operation still there? If not, the driver will find out why; but nobody
 * explains it who has closed. */
static cmo_err shm_stands(const cmo_op *op, int member)
{
    const cmo_comm *c = op->comm;
    if (!cmo_piece_quit(c->piece[member], op->seq)) return CMO_OK;
    atomic_thread_fence(memory_order_acquire); /* what it did before it gave up */
    if (atomic_load_explicit(&c->piece[c->rank]->abort, memory_order_relaxed)) return CMO_AGAIN;
    return cmo_fail(CMO_EREVOKED, "rank %d has closed the communicator in the middle of collective %llu", member,
                    (unsigned long long)op->seq);
}

/* A read that fails because the owner has given up, and its caller has let go of the array, is none of this rank's
 * errors. */
static cmo_err shm_copy_own(const cmo_op *op, cmo_shm *s, int member, uint64_t address, void *to, uint64_t bytes)
{
    const cmo_comm *c = op->comm;
    const cmo_neighbour *n = c->neighbour[member];
    if (!n->pid) return cmo_fail(CMO_EPROTO, "rank %d offers memory that cannot be read here", member);
    s->borrows = true;
    const cmo_err err = cmo_attach_read(n, address, to, bytes);
    if (err == CMO_OK || err == CMO_AGAIN) return err;
    CMO_TRY(shm_stands(op, member));
    return err;
}

static cmo_err shm_borrow(const cmo_op *op, cmo_shm *s, int member, uint64_t place, uint64_t from, uint64_t bytes,
                          const void **at)
{
    const unsigned char *array = cmo_window_bytes(op->comm->neighbour[member], place - 1, from + bytes);
    if (!array) return cmo_fail(CMO_EPROTO, "rank %d announces an array outside its window", member);
    s->borrows = true;
    *at = array + from;
    return CMO_OK;
}

cmo_err cmo_shm_part(const cmo_op *op, cmo_shm *s, int member, uint64_t t, uint64_t from, uint64_t bytes,
                     uint64_t in_slot, const void **at)
{
    uint64_t place = cmo_shm_offer_of(op, member).in;
    if (place) return shm_borrow(op, s, member, place, from, bytes, at);
    *at = cmo_shm_slot(op, s, member, t) + in_slot;
    return CMO_OK;
}

cmo_err cmo_shm_fetch_array(const cmo_op *op, cmo_shm *s, int member, uint64_t place, uint64_t from, uint64_t bytes,
                            void *to)
{
    if (place & CMO_SHM_OWN) return shm_copy_own(op, s, member, (place & ~CMO_SHM_OWN) + from, to, bytes);
    const void *at = NULL;
    CMO_TRY(shm_borrow(op, s, member, place, from, bytes, &at));
    cmo_shm_deliver(s, to, at, bytes);
    return CMO_OK;
}

cmo_err cmo_shm_fetch(const cmo_op *op, cmo_shm *s, int member, uint64_t t, uint64_t from, uint64_t bytes,
                      uint64_t in_slot, void *to)
{
    const uint64_t place = cmo_shm_offer_of(op, member).in;
    if (place) return cmo_shm_fetch_array(op, s, member, place, from, bytes, to);
    cmo_shm_deliver(s, to, cmo_shm_slot(op, s, member, t) + in_slot, bytes);
    return CMO_OK;
}

cmo_err cmo_shm_result(const cmo_op *op, cmo_shm *s, int member, uint64_t t, uint64_t from, uint64_t bytes,
                       uint64_t in_slot, const void **at)
{
    uint64_t place = cmo_shm_offer_of(op, member).out;
    if (place) return shm_borrow(op, s, member, place, from, bytes, at);
    *at = cmo_shm_slot(op, s, member, t) + in_slot;
    return CMO_OK;
}

/* Were the arrays that this rank has read still their owners' to show? The fence keeps what was read in front of the
 * looks. */
static cmo_err shm_stood(const cmo_op *op)
{
    const cmo_comm *c = op->comm;
    atomic_thread_fence(memory_order_acquire);
    for (int j = 0; j < c->size; j++) {
        if (cmo_shm_arrived(op, j)) continue;
        const cmo_shm_offer theirs = cmo_shm_offer_of(op, j);
        if (!(theirs.in | theirs.out)) continue;
        CMO_TRY(shm_stands(op, j));
        if (theirs.in & CMO_SHM_OWN && !cmo_attach_lives(c->neighbour[j])) return CMO_AGAIN;
    }
    return CMO_OK;
}

cmo_err cmo_shm_await_readers(cmo_op *op, cmo_shm *s, int first, int last)
{
    const cmo_comm *c = op->comm;
    if (!s->leaves) {
        if (s->borrows) CMO_TRY(shm_stood(op));
        if (!(s->offer.in | s->offer.out)) return CMO_OK;
        s->leaves = true;
        s->next = first;
        cmo_shm_consumed(op, s, s->rounds); /* others wait for this as we shall for them */
    }
    for (; s->next < last; s->next++) /* acquire: what they have read is behind them before our caller writes */
        if (atomic_load_explicit(&c->piece[s->next]->consumed, memory_order_acquire) < cmo_shm_before(s, s->rounds))
            return CMO_AGAIN;
    return CMO_OK;
}
