/* Reduce up a binomial tree (coll/tree.h), for vectors that are not large. Seven ranks, root 0:
 *
 *      1 → 0, 3 → 2, 5 → 4       2 → 0, 6 → 4       4 → 0
 *
 * A rank adds what its children send, the nearest first, to its own: x[r] + (subtree r+1) + (subtree r+2) + ….
 * The expression depends on rank and root alone. It does so segment by segment, as soon as every child has
 * sent that segment, and passes the segment on. Depth log2(n), rounded up; a rank sends one vector and
 * receives one from each child. Scratch: a vector for each child, and one for the sum elsewhere than at the
 * root; half types travel as float32. */
#include "coll/algorithms.h"
#include "coll/fold.h"
#include "coll/tree.h"
#include "comm/engine.h"

#include <stdlib.h>

enum { TREE_MAX_CHILDREN = 32 };

typedef struct tree_reduce {
    cmo_tree tree;
    cmo_fold fold;
    uint8_t *scratch;   /* [children + 1][bytes] of the children, then the sum */
    cmo_xfer *recvs;    /* [children] */
    cmo_xfer send;
    uint64_t bytes;     /* of a partial result */
    uint64_t reduced;   /* of them */
} tree_reduce;

_Static_assert(sizeof(tree_reduce) <= CMO_STATE_INLINE, "see coll/algorithms.h");

static cmo_err reduce_prepare(cmo_op *op)
{
    tree_reduce *s = op->state;
    s->tree = cmo_tree_of(op->comm->rank, op->call.root, op->comm->size);
    cmo_fold_init(&s->fold, &op->call);
    s->bytes = op->call.count * s->fold.size;
    s->recvs = calloc((size_t)s->tree.children + 1, sizeof *s->recvs);
    s->scratch = malloc(((uint64_t)s->tree.children + 1) * s->bytes + 1);
    if (!s->recvs || !s->scratch)
        return cmo_fail(CMO_ENOMEM, "reduce: %d vectors of %llu bytes", s->tree.children + 1,
                        (unsigned long long)s->bytes);
    return CMO_OK;
}

static uint8_t *reduce_from_child(const tree_reduce *s, int child) { return s->scratch + (uint64_t)child * s->bytes; }
static uint8_t *reduce_sum(const tree_reduce *s) { return s->scratch + (uint64_t)s->tree.children * s->bytes; }

/* Add up elements [from, to) of everything that has arrived; at the root into out. */
static void reduce_fold(cmo_op *op, uint64_t from, uint64_t to)
{
    tree_reduce *s = op->state;
    const cmo_call *c = &op->call;
    bool root = s->tree.place == 0;
    uint8_t *sum = reduce_sum(s) + from * s->fold.size;
    const void *sources[1 + TREE_MAX_CHILDREN] = {(const uint8_t *)c->in + from * s->fold.in_size};
    for (int i = 0; i < s->tree.children; i++) sources[1 + i] = reduce_from_child(s, i) + from * s->fold.size;
    if (s->fold.widens) {
        cmo_fold_load(&s->fold, sum, sources[0], to - from);
        sources[0] = sum;
    }
    uint8_t *out = root ? (uint8_t *)c->out + from * s->fold.in_size : sum;
    uint64_t divisor = root ? cmo_fold_divisor(c, op->comm->size) : 0;
    if (root && s->fold.widens) {
        s->fold.kernel(sum, sources, 1 + s->tree.children, to - from, 0);
        cmo_fold_store(&s->fold, out, sum, to - from, divisor);
    } else {
        s->fold.kernel(out, sources, 1 + s->tree.children, to - from, divisor);
    }
}

/* Reduce the segments that every child has sent and pass them on; true when that was the whole vector. */
static bool reduce_forward(cmo_op *op)
{
    tree_reduce *s = op->state;
    uint64_t arrived = s->bytes;
    bool all = true;
    for (int i = 0; i < s->tree.children; i++) {
        if (s->recvs[i].done < arrived) arrived = s->recvs[i].done;
        all = all && cmo_moved(&s->recvs[i]);
    }
    uint64_t segment = cmo_segment(cmo_engine_tunables(op->comm->engine)->segment_bytes, s->fold.size);
    arrived = cmo_whole_segments(arrived, s->bytes, segment);
    if (arrived > s->reduced) {
        reduce_fold(op, s->reduced / s->fold.size, arrived / s->fold.size);
        s->reduced = arrived;
        if (s->tree.place) cmo_send_ready(&s->send, arrived);
    }
    return all && arrived == s->bytes;
}

cmo_err cmo_tree_reduce_step(cmo_op *op)
{
    tree_reduce *s = op->state;
    CO_BEGIN(op);
    CMO_TRY(reduce_prepare(op));
    for (int i = 0; i < s->tree.children; i++)
        cmo_post_recv(op, &s->recvs[i], cmo_tree_child(&s->tree, i), 0, reduce_from_child(s, i), s->bytes);
    if (s->tree.place) {
        bool leaf = s->tree.children == 0 && !s->fold.widens;
        cmo_post_send(op, &s->send, cmo_tree_parent(&s->tree), 0, leaf ? op->call.in : reduce_sum(s), s->bytes,
                      leaf ? s->bytes : 0);
        if (leaf) s->reduced = s->bytes;
    }
    CO_WAIT_UNTIL(op, reduce_forward(op));
    CO_WAIT_UNTIL(op, s->tree.place == 0 || cmo_moved(&s->send));
    CO_END(op);
}

void cmo_tree_reduce_finish(cmo_op *op)
{
    tree_reduce *s = op->state;
    free(s->recvs);
    free(s->scratch);
}
