#include "coll/incoming.h"

#include <string.h>

cmo_err cmo_layout_elements(const cmo_layout *layout, uint64_t *elements)
{
    uint64_t bytes = cmo_dtype_size(layout->dtype);
    bool empty = false, overflow = false;
    *elements = 1;
    for (int i = 0; i < layout->ndim; i++) {
        if (!layout->shape[i]) empty = true;
        overflow |= __builtin_mul_overflow(bytes, layout->shape[i], &bytes);
        *elements *= layout->shape[i];
    }
    if (empty) *elements = 0;
    else if (overflow || bytes > INT64_MAX) /* the most that a frame can announce */
        return cmo_fail(CMO_EPROTO, "an array of more than 2^63 bytes is announced");
    return CMO_OK;
}

cmo_err cmo_row_elements(cmo_dtype dtype, int ndim, const uint64_t *shape, uint64_t *elements)
{
    return cmo_layout_elements(&(cmo_layout){.dtype = dtype, .ndim = ndim - 1, .shape = shape + 1}, elements);
}

static bool same_shape(const cmo_call *call, const cmo_layout *layout)
{
    const size_t bytes = (size_t)layout->ndim * sizeof *call->shape;
    return !call->shape || (call->ndim == layout->ndim && !memcmp(call->shape, layout->shape, bytes));
}

cmo_err cmo_incoming(void *ctx, const cmo_layout *layout, void **address)
{
    const cmo_op *op = ctx;
    const cmo_call *call = &op->call;
    if (call->allocate) return call->allocate(call->allocate_ctx, layout, address);
    uint64_t elements;
    CMO_TRY(cmo_layout_elements(layout, &elements));
    uint64_t expected = cmo_block_count(call->kind == CMO_SCATTER ? call->counts : NULL, call->count, op->comm->rank);
    if (layout->dtype == call->dtype && elements == expected && same_shape(call, layout)) {
        *address = call->out;
        return CMO_OK;
    }
    enum { SHOWN = 4 };
    char sent[96], wanted[96];
    cmo_shape_text(sent, sizeof sent, layout->ndim, layout->shape, SHOWN);
    if (call->shape) cmo_shape_text(wanted, sizeof wanted, call->ndim, call->shape, SHOWN);
    else cmo_shape_text(wanted, sizeof wanted, 1, &expected, SHOWN);
    return cmo_fail(CMO_EMISMATCH,
                    "%s: rank %d, the root, sends %s of shape %s to rank %d, which expects %s of shape %s",
                    cmo_kind_name(call->kind), call->root, cmo_dtype_name(layout->dtype), sent, op->comm->rank,
                    cmo_dtype_name(call->dtype), wanted);
}
