/* Every collective of a communicator of one rank: what the others would have added is nothing, so the result is a copy.
 *
 *      reductions, scan    out = in; the logical ops make 0 or 1 of it, and a mean divides by 1
 *      exscan, barrier     nothing
 *      the others          out = in: the one block, where it is not in place already
 *
 * No step, no byte between ranks. With an exchange of counts there is only our own to tell. */
#include "coll/algorithms.h"
#include "coll/fold.h"

#include <string.h>

static void alone_reduce(const cmo_call *c)
{
    cmo_fold_load(&(cmo_fold){.kernel = cmo_kernel_for(c->dtype, c->op)}, c->out, c->in, c->count);
}

static cmo_err alone_copy(const cmo_op *op)
{
    const cmo_call *c = &op->call;
    uint64_t count = cmo_block_count(c->counts, c->count, 0);
    void *out = c->out;
    const cmo_layout layout = {.dtype = c->dtype, .ndim = 1, .shape = &count, .counts = &count, .ncounts = 1};
    if (c->exchange)
        CMO_TRY(c->allocate(c->allocate_ctx, &layout, &out));
    else if (c->kind == CMO_ALLTOALL && c->counts && c->recv_counts[0] != count)
        return cmo_fail(CMO_EMISMATCH, "alltoall: rank 0 sends itself %llu elements and expects %llu",
                        (unsigned long long)count, (unsigned long long)c->recv_counts[0]);
    if (count && out != c->in) memcpy(out, c->in, count * cmo_dtype_size(c->dtype));
    return CMO_OK;
}

cmo_err cmo_alone_step(cmo_op *op)
{
    cmo_call *c = &op->call;
    switch (c->kind) {
    case CMO_REDUCE_SCATTER:
        if (c->counts) c->count = c->counts[0];
        __attribute__((fallthrough));
    case CMO_ALLREDUCE: case CMO_REDUCE: case CMO_SCAN:
        alone_reduce(c);
        return CMO_OK;
    case CMO_SCATTER: case CMO_GATHER: case CMO_ALLGATHER: case CMO_ALLTOALL:
        return alone_copy(op);
    default: /* broadcast: the root's array is in place */
        return CMO_OK;
    }
}
