/* Calls whose ranks do not know of each other how much they send: the counts travel first, then the data.
 *
 *      gather, allgather     allgather of every rank's count     allocate(counts)     gather or allgather with counts
 *      alltoall              alltoall of the counts              allocate(counts)     alltoall with counts
 *
 * Five ranks that gather 3, 0, 2, 1, 4 elements: [3 0 2 1 4] is known everywhere after the first call. Two collectives,
 * each by the algorithm that fits it; 8 bytes a rank more than the data. Scratch: the counts. */
#include "coll/algorithms.h"
#include "coll/incoming.h"

#include <stdlib.h>

typedef struct exchange {
    uint64_t *sends;  /* [1], or for alltoall [size] elements that this rank sends */
    uint64_t *counts; /* [size] elements that come from each rank */
} exchange;

_Static_assert(sizeof(exchange) <= CMO_STATE_INLINE, "see coll/algorithms.h");

static cmo_err exchange_counts(cmo_op *op)
{
    exchange *s = op->state;
    const cmo_call *c = &op->call;
    size_t n = (size_t)op->comm->size, sends = c->kind == CMO_ALLTOALL ? n : 1;
    s->sends = malloc(sends * sizeof *s->sends);
    s->counts = malloc(n * sizeof *s->counts);
    if (!s->sends || !s->counts) return cmo_fail(CMO_ENOMEM, "the counts of %d ranks", op->comm->size);
    for (size_t i = 0; i < sends; i++)
        s->sends[i] = c->kind == CMO_ALLTOALL ? cmo_block_count(c->counts, c->count, (int)i) : c->count;
    return cmo_child_start(op, op->comm, &(cmo_call){.kind = c->kind == CMO_ALLTOALL ? CMO_ALLTOALL : CMO_ALLGATHER,
                                                     .dtype = CMO_U64, .in = s->sends, .out = s->counts, .count = 1});
}

/* Ask for out, for as many elements as the counts say. They come from other ranks: their sum is not to be trusted, by
 * those either who will only pass blocks on, in memory as large as that sum. */
static cmo_err exchange_allocate(cmo_op *op)
{
    exchange *s = op->state;
    cmo_call *c = &op->call;
    uint64_t total = 0, elements;
    for (int i = 0; i < op->comm->size; i++)
        if (__builtin_add_overflow(total, s->counts[i], &total))
            return cmo_fail(CMO_EPROTO, "%s: more than 2^64 elements are announced", cmo_kind_name(c->kind));
    cmo_layout layout = {.dtype = c->dtype, .ndim = 1, .shape = &total, .counts = s->counts, .ncounts = op->comm->size};
    CMO_TRY(cmo_layout_elements(&layout, &elements));
    if (c->kind == CMO_GATHER && op->comm->rank != c->root) return CMO_OK;
    return c->allocate(c->allocate_ctx, &layout, &c->out);
}

static cmo_err exchange_data(cmo_op *op)
{
    exchange *s = op->state;
    cmo_call call = op->call;
    call.exchange = false;
    call.allocate = NULL;
    if (call.kind == CMO_ALLTOALL) {
        call.counts = s->sends;
        call.recv_counts = s->counts;
    } else {
        call.counts = s->counts;
    }
    return cmo_child_start(op, op->comm, &call);
}

cmo_err cmo_exchange_step(cmo_op *op)
{
    CO_BEGIN(op);
    CMO_TRY(exchange_counts(op));
    CO_WAIT(op, cmo_child_step(op));
    CMO_TRY(exchange_allocate(op));
    CMO_TRY(exchange_data(op));
    CO_WAIT(op, cmo_child_step(op));
    CO_END(op);
}

void cmo_exchange_finish(cmo_op *op)
{
    exchange *s = op->state;
    free(s->sends);
    free(s->counts);
}
