/* Broadcast down a binomial tree (coll/tree.h). Seven ranks, root 0:
 *
 *      0 → 4, 0 → 2, 0 → 1       4 → 6, 4 → 5       2 → 3
 *
 * A message tells dtype and shape with it, and is passed on while it is still arriving. Depth log2(n),
 * rounded up; a rank sends the array to each of its children, the root to log2(n) of them, the one with the
 * largest subtree first. No scratch. */
#include "coll/algorithms.h"
#include "coll/incoming.h"
#include "coll/tree.h"

#include <stdlib.h>

typedef struct tree_broadcast {
    cmo_tree tree;
    cmo_xfer recv;
    cmo_xfer *sends; /* [tree.children] */
} tree_broadcast;

_Static_assert(sizeof(tree_broadcast) <= CMO_STATE_INLINE, "see coll/algorithms.h");

static void broadcast_send_own(cmo_op *op)
{
    tree_broadcast *s = op->state;
    const cmo_call *c = &op->call;
    uint64_t bytes = c->count * cmo_dtype_size(c->dtype);
    for (int i = s->tree.children - 1; i >= 0; i--)
        cmo_post_send_shaped(op, &s->sends[i], cmo_tree_child(&s->tree, i), 0, c->out, bytes, bytes, c->dtype, c->ndim,
                             c->shape);
}

/* The message from our parent has been announced: announce it to our children. */
static void broadcast_send_on(cmo_op *op)
{
    tree_broadcast *s = op->state;
    const cmo_xfer *x = &s->recv;
    for (int i = s->tree.children - 1; i >= 0; i--)
        cmo_post_send_shaped(op, &s->sends[i], cmo_tree_child(&s->tree, i), 0, x->buffer, x->length, x->done,
                             (cmo_dtype)x->header.dtype, x->header.ndim, x->got_shape);
}

static bool broadcast_forward(cmo_op *op)
{
    tree_broadcast *s = op->state;
    for (int i = 0; i < s->tree.children; i++) cmo_send_ready(&s->sends[i], s->recv.done);
    return cmo_moved(&s->recv);
}

static bool broadcast_sent(const tree_broadcast *s)
{
    for (int i = 0; i < s->tree.children; i++)
        if (!cmo_moved(&s->sends[i])) return false;
    return true;
}

cmo_err cmo_tree_broadcast_step(cmo_op *op)
{
    tree_broadcast *s = op->state;
    CO_BEGIN(op);
    s->tree = cmo_tree_of(op->comm->rank, op->call.root, op->comm->size);
    s->sends = calloc((size_t)s->tree.children + 1, sizeof *s->sends);
    if (!s->sends) return cmo_fail(CMO_ENOMEM, "broadcast: %d messages", s->tree.children);
    if (s->tree.place == 0) {
        broadcast_send_own(op);
    } else {
        cmo_post_recv_shaped(op, &s->recv, cmo_tree_parent(&s->tree), 0, cmo_incoming, op);
        CO_WAIT_UNTIL(op, cmo_matched(&s->recv));
        broadcast_send_on(op);
        CO_WAIT_UNTIL(op, broadcast_forward(op));
    }
    CO_WAIT_UNTIL(op, broadcast_sent(s));
    CO_END(op);
}

void cmo_tree_broadcast_finish(cmo_op *op)
{
    tree_broadcast *s = op->state;
    cmo_xfer_cancel(&s->recv); /* frees the shape that it has learned */
    free(s->sends);
}
