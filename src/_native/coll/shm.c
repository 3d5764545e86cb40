#include "coll/shm.h"

#include "coll/algorithms.h"
#include "coll/fold.h"

#include <inttypes.h>

enum { FOLD_BYTES = 8 << 10 }; /* that pass through a block on the stack at a time */

bool cmo_shm_fits(const cmo_op *op) { return cmo_comm_shares_memory(op->comm) && op->comm->size <= CMO_SHM_MEMBERS; }

void cmo_shm_ring(const cmo_comm *c)
{
    /* The waker's half of the pairing described in base/wait.h, once for all members. */
    atomic_thread_fence(memory_order_seq_cst);
    for (int i = 0; i < c->size; i++) {
        const cmo_neighbour *n = c->neighbour[i];
        if (i != c->rank && __builtin_expect(atomic_load_explicit(&n->head->asleep, memory_order_relaxed), 0))
            cmo_window_wake(n);
    }
}

/* Has every member finished collective `seq`? Remembers the answer in comm->safe_seq, so that n cache lines
 * are fetched once in CMO_ANNOUNCEMENTS collectives at most. Acquire: what the members have read of our slot they have
 * read before we write it again. */
static bool shm_look_finished(cmo_comm *c, uint64_t seq)
{
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < c->size; i++) {
        uint64_t finished = atomic_load_explicit(&c->piece[i]->finished, memory_order_acquire);
        least = cmo_shm_min(least, finished);
    }
    c->safe_seq = least;
    return least >= seq;
}

bool cmo_shm_look_consumed(cmo_comm *c, uint64_t slots)
{
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < c->size; i++) {
        /* As above, for slots. */
        uint64_t consumed = atomic_load_explicit(&c->piece[i]->consumed, memory_order_acquire);
        least = cmo_shm_min(least, consumed);
    }
    c->safe_slots = least;
    return least >= slots;
}

/* What this rank has called. The whole shape is there for those who must learn it. */
static void shm_fill_record(const cmo_op *op, cmo_record *record)
{
    const cmo_call *call = &op->call;
    const bool teaches = (call->kind == CMO_BROADCAST || call->kind == CMO_SCATTER) && op->comm->rank == call->root;
    int dims = teaches && call->shape ? call->ndim : 0;
    if (!teaches && call->shape && call->ndim > 1) dims = call->ndim < CMO_RECENT_DIMS ? call->ndim : CMO_RECENT_DIMS;
    record->seq = op->seq;
    record->count = cmo_block_start(call->counts, call->count, call->counts ? op->comm->size : 1);
    record->root = call->root;
    record->kind = (uint8_t)call->kind;
    record->op = (uint8_t)call->op;
    record->dtype = (uint8_t)call->dtype;
    record->ndim = call->shape ? (uint8_t)call->ndim : 0;
    record->flags = (call->counts ? CMO_RECORD_COUNTS : 0) | (call->shape ? CMO_RECORD_SHAPE : 0);
    for (int i = 0; i < dims; i++) record->shape[i] = call->shape[i];
}

cmo_err cmo_shm_announce(cmo_op *op, const void *payload, size_t bytes)
{
    cmo_comm *c = op->comm;
    /* The collective whose announcement stands where this one is to go */
    uint64_t before = op->seq > CMO_ANNOUNCEMENTS ? op->seq - CMO_ANNOUNCEMENTS : 0;
    if (c->safe_seq < before && !shm_look_finished(c, before))
        return CMO_AGAIN;
    cmo_announcement *own = cmo_shm_announcement(op, c->rank);
    shm_fill_record(op, cmo_shm_record(op, c->rank));
    own->fingerprint = op->fingerprint;
    cmo_copy(own->payload, payload, bytes);
    /* Release: whoever sees the number sees what is above, and our round 0. */
    atomic_store_explicit(&own->seq, op->seq, memory_order_release);
    cmo_shm_ring(c);
    return CMO_OK;
}

/* Neither staging memory nor what goes around the caches is written by a kernel: for what is cheap there see
 * base/copy.h. */
void cmo_shm_fold(const cmo_op *op, const cmo_shm *s, void *staged, void *out, const void **srcs, int n,
                  uint64_t count)
{
    const cmo_call *call = &op->call;
    const cmo_kernel kernel = cmo_kernel_for(call->dtype, call->op);
    const uint64_t divisor = cmo_fold_divisor(call, n), item = cmo_dtype_size(call->dtype), at_once = FOLD_BYTES / item;
    if (!staged && !s->around) {
        kernel(out, srcs, n, count, divisor);
        return;
    }
    _Alignas(CMO_LINE) unsigned char block[FOLD_BYTES];
    for (uint64_t done = 0; done < count; done += at_once) {
        const uint64_t part = cmo_shm_min(at_once, count - done), bytes = part * item;
        kernel(block, srcs, n, part, divisor);
        if (staged) cmo_stage((unsigned char *)staged + done * item, block, bytes);
        if (out) cmo_shm_deliver(s, (unsigned char *)out + done * item, block, bytes);
        for (int j = 0; j < n; j++) srcs[j] = (const unsigned char *)srcs[j] + bytes;
    }
}

cmo_err cmo_shm_misfit(const cmo_op *op, int member, uint64_t seq)
{
    if (seq > op->seq)
        return cmo_fail(CMO_EPROTO,
                        "rank %d has overwritten its announcement of collective %" PRIu64 " with that of %" PRIu64,
                        member, op->seq, seq);
    const cmo_record *theirs = cmo_shm_record(op, member);
    const char *name = theirs->kind < CMO_NKINDS ? cmo_kind_name((cmo_kind)theirs->kind) : "something else";
    return cmo_fail(CMO_EMISMATCH,
                    "collective %" PRIu64 " is %s on rank %d and %s on rank %d, or differs in its arguments, "
                    "or one before it did",
                    op->seq, cmo_kind_name(op->call.kind), op->comm->rank, name, member);
}

void cmo_shm_end(const cmo_op *op, const cmo_shm *s)
{
    cmo_comm *c = op->comm;
    cmo_piece *own = cmo_shm_own(op);
    if (s->rounds) {
        c->used = cmo_shm_before(s, s->rounds);
        /* Release throughout: a member that sees these numbers, instead of the smaller ones that it waits for, must
         * still see the bytes, and what this rank has read must be behind it. */
        atomic_store_explicit(&own->staged, c->used, memory_order_release);
        atomic_store_explicit(&own->reduced, c->used, memory_order_release);
        atomic_store_explicit(&own->consumed, c->used, memory_order_release);
    }
    atomic_store_explicit(&own->finished, op->seq, memory_order_release);
    cmo_shm_ring(c); /* somebody may wait for room to announce or to stage */
}
