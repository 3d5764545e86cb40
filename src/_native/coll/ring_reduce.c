/* Reduce for large vectors: reduce_scatter by the ring, then the slices gathered at the root by the tree.
 *
 *      5 ranks      4 steps of the ring         3 steps of the tree
 *      every rank   sends 4/5 of the vector     the root receives 4/5 of the vector
 *
 * The tree alone would send the whole vector log2(n) times one after the other. Scratch: a
 * slice, and the two algorithms' own. */
#include "coll/algorithms.h"

#include <stdlib.h>

typedef struct ring_reduce {
    uint64_t *counts; /* [size] elements of each rank's slice */
    void *slice;
} ring_reduce;

_Static_assert(sizeof(ring_reduce) <= CMO_STATE_INLINE, "see coll/algorithms.h");

static cmo_err ring_reduce_prepare(cmo_op *op)
{
    ring_reduce *s = op->state;
    int n = op->comm->size;
    if (!(s->counts = malloc((size_t)n * sizeof *s->counts))) return cmo_fail(CMO_ENOMEM, "reduce: %d slices", n);
    for (int i = 0; i < n; i++) s->counts[i] = cmo_part(op->call.count, n, i + 1) - cmo_part(op->call.count, n, i);
    uint64_t bytes = s->counts[op->comm->rank] * cmo_dtype_size(op->call.dtype);
    if (!(s->slice = malloc(bytes + 1))) return cmo_fail(CMO_ENOMEM, "reduce: %llu bytes", (unsigned long long)bytes);
    return CMO_OK;
}

cmo_err cmo_ring_reduce_step(cmo_op *op)
{
    ring_reduce *s = op->state;
    const cmo_call *c = &op->call;
    CO_BEGIN(op);
    CMO_TRY(ring_reduce_prepare(op));
    CMO_TRY(cmo_child_start(op, op->comm, &(cmo_call){.kind = CMO_REDUCE_SCATTER, .op = c->op, .dtype = c->dtype,
                                                      .in = c->in, .out = s->slice, .counts = s->counts}));
    CO_WAIT(op, cmo_child_step(op));
    CMO_TRY(cmo_child_start(op, op->comm, &(cmo_call){.kind = CMO_GATHER, .dtype = c->dtype, .root = c->root,
                                                      .in = s->slice, .out = c->out, .counts = s->counts}));
    CO_WAIT(op, cmo_child_step(op));
    CO_END(op);
}

void cmo_ring_reduce_finish(cmo_op *op)
{
    ring_reduce *s = op->state;
    free(s->counts);
    free(s->slice);
}
