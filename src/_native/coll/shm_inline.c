/* The whole payload in the announcement: one cache line written, and one read from each member.
 *
 *     allgather of 8 bytes, 5 ranks
 *
 *     line of     0        1        2        3        4          each rank writes its own line,
 *              [seq|a]  [seq|b]  [seq|c]  [seq|d]  [seq|e]       then reads the lines of the others
 *                 \________\________|________/________/
 *                          every rank: a b c d e
 *
 * One step. A rank writes one line of 64 bytes and reads size - 1: none as a sender of gather or reduce, those of the
 * ranks before it in a scan. Nobody waits for readers: the line is written again CMO_ANNOUNCEMENTS collectives later. A
 * reduction folds the payloads in the order of ranks, with one call of the kernel.
 *
 * Broadcast and scatter, where only the root knows how much there is, do the same in shm_rooted.c. */
#include "coll/algorithms.h"
#include "coll/fold.h"
#include "coll/shm.h"

typedef struct inline_state {
    cmo_shm shm;
} inline_state;
_Static_assert(sizeof(inline_state) <= CMO_STATE_SMALL, "see coll/algorithms.h");

/* Elements that this rank announces, or the most that any rank does where they differ by the counts that all know. */
static uint64_t inline_longest(const cmo_call *call, int size)
{
    switch (call->kind) {
    case CMO_BARRIER: return 0;
    case CMO_REDUCE_SCATTER: case CMO_ALLTOALL:
        /* size times that could overflow */
        if (!call->counts && call->count > CMO_ANNOUNCEMENT_BYTES) return call->count;
        return cmo_block_start(call->counts, call->count, size);
    default: break;
    }
    uint64_t longest = call->count;
    if (call->counts) {
        longest = 0;
        for (int i = 0; i < size; i++)
            if (call->counts[i] > longest) longest = call->counts[i];
    }
    return longest;
}

bool cmo_shm_inline_fits(const cmo_op *op)
{
    const cmo_call *call = &op->call;
    if (!cmo_shm_fits(op) || call->exchange || (call->kind == CMO_ALLTOALL && call->counts)) return false;
    return inline_longest(call, op->comm->size) <= CMO_ANNOUNCEMENT_BYTES / cmo_dtype_size(call->dtype);
}

/* Fold `count` elements at `offset` bytes of the first `sources` payloads. */
static void inline_reduce(const cmo_op *op, int sources, uint64_t offset, uint64_t count)
{
    const cmo_call *call = &op->call;
    if (!sources) return;
    const void *srcs[CMO_SHM_MEMBERS];
    for (int j = 0; j < sources; j++) srcs[j] = cmo_shm_announcement(op, j)->payload + offset;
    cmo_kernel_for(call->dtype, call->op)(call->out, srcs, sources, count, cmo_fold_divisor(call, sources));
}

static void inline_deliver(const cmo_op *op, int sources)
{
    const cmo_call *call = &op->call;
    const int rank = op->comm->rank;
    const size_t item = cmo_dtype_size(call->dtype);
    char *out = call->out;
    switch (call->kind) {
    case CMO_ALLREDUCE: case CMO_REDUCE: case CMO_SCAN: case CMO_EXSCAN:
        inline_reduce(op, sources, 0, call->count);
        break;
    case CMO_REDUCE_SCATTER:
        inline_reduce(op, sources, cmo_block_start(call->counts, call->count, rank) * item,
                      cmo_block_count(call->counts, call->count, rank));
        break;
    case CMO_GATHER: case CMO_ALLGATHER:
        for (int j = 0; j < sources; j++) {
            size_t bytes = cmo_block_count(call->counts, call->count, j) * item;
            cmo_copy(out, cmo_shm_announcement(op, j)->payload, bytes);
            out += bytes;
        }
        break;
    case CMO_ALLTOALL:
        for (int j = 0; j < sources; j++) {
            size_t bytes = call->count * item;
            cmo_copy(out, cmo_shm_announcement(op, j)->payload + (size_t)rank * bytes, bytes);
            out += bytes;
        }
        break;
    default: break; /* a barrier delivers nothing */
    }
}

static size_t inline_bytes(const cmo_op *op)
{
    const cmo_call *call = &op->call;
    bool block = call->kind == CMO_GATHER || call->kind == CMO_ALLGATHER;
    uint64_t count =
        block ? cmo_block_count(call->counts, call->count, op->comm->rank) : inline_longest(call, op->comm->size);
    return count * cmo_dtype_size(call->dtype);
}

cmo_err cmo_shm_inline_step(cmo_op *op)
{
    inline_state *s = op->state;
    CO_BEGIN(op);
    CO_WAIT(op, cmo_shm_announce(op, op->call.in, inline_bytes(op)));
    CO_WAIT(op, cmo_shm_all_arrived(op, &s->shm, cmo_shm_sources(op)));
    inline_deliver(op, cmo_shm_sources(op));
    cmo_shm_end(op, &s->shm);
    CO_END(op);
}
