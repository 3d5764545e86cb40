/* Barrier and broadcast over several hosts: one message between hosts for each host, the rest inside.
 *
 *      hosts A: 0 1 2, B: 3 4, broadcast from 1       A      B
 *      its place, 1, across the hosts                 1  →   4        cross_comm of place 1
 *      inside each host                               0 2    3        local_comm, from place 1
 *
 * Barrier: inside, across by the ranks of place 0, inside again to let the others go. */
#include "coll/algorithms.h"
#include "coll/hosts.h"
#include "coll/incoming.h"

#include <string.h>

cmo_err cmo_hosts_barrier_step(cmo_op *op)
{
    const cmo_call barrier = {.kind = CMO_BARRIER};
    CO_BEGIN(op);
    CMO_TRY(cmo_child_start(op, op->comm->local_comm, &barrier));
    CO_WAIT(op, cmo_child_step(op));
    if (op->comm->local == 0) {
        CMO_TRY(cmo_child_start(op, op->comm->cross_comm, &barrier));
        CO_WAIT(op, cmo_child_step(op));
    }
    CMO_TRY(cmo_child_start(op, op->comm->local_comm, &barrier));
    CO_WAIT(op, cmo_child_step(op));
    CO_END(op);
}

/* ------------------------------------------------------------------ broadcast */

typedef struct hosts_broadcast {
    cmo_call known; /* the array as the root has it: dtype, count, ndim, and where it is here */
    uint64_t shape[CMO_MAX_DIMS];
} hosts_broadcast;

_Static_assert(sizeof(hosts_broadcast) <= CMO_STATE_HEAP, "see coll/algorithms.h");

/* A cmo_allocate: place the array as the call says, and remember what it is for the broadcast inside our host. */
static cmo_err hosts_incoming(void *ctx, const cmo_layout *layout, void **address)
{
    cmo_op *op = ctx;
    hosts_broadcast *s = op->state;
    uint64_t elements;
    CMO_TRY(cmo_layout_elements(layout, &elements));
    CMO_TRY(cmo_incoming(op, layout, address));
    s->known.dtype = layout->dtype;
    s->known.count = elements;
    s->known.ndim = layout->ndim;
    s->known.in = s->known.out = *address;
    if (layout->ndim) memcpy(s->shape, layout->shape, (size_t)layout->ndim * sizeof *s->shape);
    return CMO_OK;
}

/* Broadcast in a part of the communicator, from its rank `root`: there what is known, elsewhere what comes is placed as
 * the call says. */
static cmo_err hosts_broadcast_in(cmo_op *op, cmo_comm *part, int root)
{
    hosts_broadcast *s = op->state;
    cmo_call call = {.kind = CMO_BROADCAST, .op = op->call.op, .root = root,
                     .allocate = hosts_incoming, .allocate_ctx = op};
    if (part->rank == root) {
        call = s->known;
        call.root = root;
    }
    return cmo_child_start(op, part, &call);
}

cmo_err cmo_hosts_broadcast_step(cmo_op *op)
{
    hosts_broadcast *s = op->state;
    cmo_comm *c = op->comm;
    CO_BEGIN(op);
    if (c->rank == op->call.root) {
        s->known = op->call;
        s->known.in = s->known.out;
    } else {
        s->known.kind = CMO_BROADCAST;
        s->known.op = op->call.op;
        s->known.shape = s->shape;
    }
    if (c->local == cmo_hosts_place(c, op->call.root)) {
        CMO_TRY(hosts_broadcast_in(op, c->cross_comm, cmo_hosts_cross_rank(c, op->call.root)));
        CO_WAIT(op, cmo_child_step(op));
    }
    CMO_TRY(hosts_broadcast_in(op, c->local_comm, cmo_hosts_place(c, op->call.root)));
    CO_WAIT(op, cmo_child_step(op));
    CO_END(op);
}
