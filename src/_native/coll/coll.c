#include "coll/coll.h"

#include <stdlib.h>
#include <string.h>

/* Murmur3's finalizer: every bit of the result depends on every bit of both. */
static uint64_t mix(uint64_t a, uint64_t b)
{
    uint64_t h = a * UINT64_C(0x9e3779b97f4a7c15) + b;
    h ^= h >> 33;
    h *= UINT64_C(0xff51afd7ed558ccd);
    h ^= h >> 33;
    h *= UINT64_C(0xc4ceb9fe1a85ec53);
    return h ^ h >> 33;
}

/* What must be alike on every rank. Not the size where only the root knows it (broadcast, scatter), nor where ranks
 * differ in it by right (an exchange of counts). */
static uint64_t call_fingerprint(const cmo_call *c, int size)
{
    bool learns = c->kind == CMO_BROADCAST || c->kind == CMO_SCATTER;
    bool typeless = learns || c->kind == CMO_BARRIER;
    bool blocks = c->kind == CMO_GATHER || c->kind == CMO_ALLGATHER || c->kind == CMO_ALLTOALL;
    bool rows_differ = c->exchange || (blocks && c->counts);
    int ndim = learns || !c->shape ? 1 : c->ndim; /* 1: the count says it all */
    uint64_t h = mix((uint64_t)c->kind << 16 | (uint64_t)c->op << 8 | (typeless ? 0 : (uint64_t)c->dtype),
                     (uint64_t)c->root << 8 | (uint64_t)ndim << 1 | c->exchange);
    if (ndim > 1)
        for (int i = rows_differ; i < ndim; i++) h = mix(h, c->shape[i]);
    if (c->alike) h = mix(h, c->alike);
    if (learns || c->exchange || c->kind == CMO_BARRIER) return h;
    if (c->kind == CMO_ALLTOALL && c->counts) return mix(h, 1);
    if (!c->counts) return mix(h, c->count << 1);
    for (int i = 0; i < size; i++) h = mix(h, c->counts[i] << 1 | 1);
    return h;
}

static void coll_next(const cmo_comm *comm, const cmo_call *call, cmo_recent_call *next)
{
    next->seq = comm->seq + 1;
    next->fingerprint = mix(comm->chain, call_fingerprint(call, comm->size));
    next->count = cmo_block_start(call->counts, call->count, call->counts ? comm->size : 1);
    next->root = call->root;
    next->kind = (uint8_t)call->kind;
    next->op = (uint8_t)call->op;
    next->dtype = (uint8_t)call->dtype;
    next->ndim = call->shape ? (uint8_t)call->ndim : CMO_UNTOLD;
    for (int i = 0; cmo_told_dims(next->ndim) && i < CMO_RECENT_DIMS; i++)
        next->shape[i] = i < call->ndim ? call->shape[i] : 0;
}

/* Give the op its number, fingerprint, algorithm and state. The call's arguments have been checked. */
static cmo_err coll_start(cmo_op *op, cmo_comm *comm, const cmo_call *call)
{
    op->call = *call;
    op->comm = comm;
    op->pc = 0;
    op->child = NULL;
    op->err = CMO_OK;
    op->text[0] = 0;
    op->state = NULL;
    op->finish = NULL;
    cmo_list_init(&op->xfers);
    cmo_recent_call *next = &comm->recent[(comm->seq + 1) % CMO_RECENT];
    coll_next(comm, call, next);
    op->seq = comm->seq = next->seq;
    op->fingerprint = comm->chain = next->fingerprint;
    comm->fingerprints[op->seq % CMO_FINGERPRINTS] = op->fingerprint;
    op->algorithm = cmo_choose(op);
    if (!op->algorithm) return cmo_fail(CMO_EINVAL, "no algorithm for %s", cmo_kind_name(call->kind));
    op->step = op->algorithm->step;
    size_t bytes = op->algorithm->state_bytes;
    if (bytes <= sizeof op->inline_state) {
        op->state = op->inline_state;
        memset(op->state, 0, bytes);
    } else if (!(op->state = calloc(1, bytes))) {
        return cmo_fail(CMO_ENOMEM, "the state of a %s", cmo_kind_name(call->kind));
    }
    op->finish = op->algorithm->finish;
    cmo_check_unexpected(op);
    return CMO_OK;
}

/* Cancel transfers, finish, free the state; may be repeated. */
static void coll_end(cmo_op *op)
{
    if (op->child) {
        coll_end(op->child);
        free(op->child);
        op->child = NULL;
    }
    if (op->xfers.next)
        CMO_EACH(n, &op->xfers) cmo_xfer_cancel(CMO_ENTRY(n, cmo_xfer, of_op));
    if (op->finish) op->finish(op);
    op->finish = NULL;
    if (op->state && op->state != op->inline_state) free(op->state);
    op->state = NULL;
}

const cmo_collectives cmo_coll = {.next = coll_next, .start = coll_start, .end = coll_end};

cmo_err cmo_child_start(cmo_op *op, cmo_comm *comm, const cmo_call *call)
{
    cmo_op *child = calloc(1, sizeof *child);
    if (!child) return cmo_fail(CMO_ENOMEM, "a call inside a call");
    op->child = child;
    child->deadline = op->deadline;
    comm->chain = mix(comm->chain, op->fingerprint); /* the same call inside different ones is not the same */
    return coll_start(child, comm, call);
}

cmo_err cmo_child_step(cmo_op *op)
{
    cmo_op *child = op->child;
    unsigned before = child->advanced;
    cmo_err err = child->step(child);
    op->advanced += child->advanced - before;
    if (child->err) err = cmo_fail(child->err, "%s", child->text);
    if (err == CMO_AGAIN) return err;
    coll_end(child);
    free(child);
    op->child = NULL;
    return err;
}
