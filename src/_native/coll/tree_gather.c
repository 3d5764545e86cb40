/* Gather up a binomial tree (coll/tree.h). Seven ranks, root 2; places, and in brackets the
 * blocks that a message carries:
 *
 *      place  0  1  2  3  4  5  6        1 → 0 [3]     3 → 2 [5]     5 → 4 [0]
 *      rank   2  3  4  5  6  0  1        2 → 0 [4 5]   6 → 4 [1]     4 → 0 [6] [0 1]
 *
 * A subtree is a run of places, hence one run of ranks or, where the places wrap around, two: those go as two messages,
 * and so every run lands in the root's out where it belongs. A rank between root and leaves keeps its subtree's blocks
 * in scratch memory, its own first, and passes on what has come without a gap. Depth log2(n), rounded up; a block moves
 * once for each edge to the root and is copied nowhere else. Counts are known on every rank. */
#include "coll/algorithms.h"
#include "coll/tree.h"

#include <stdlib.h>
#include <string.h>

typedef struct tree_gather {
    cmo_tree tree;
    size_t size;       /* bytes of an element */
    uint64_t *starts;  /* [ranks + 1] first byte of each rank's block in the whole */
    uint8_t *scratch;  /* our subtree's blocks, by place */
    cmo_xfer *recvs;   /* [children][2] a transfer for each run */
    cmo_xfer send[2];
} tree_gather;

_Static_assert(sizeof(tree_gather) <= CMO_STATE_HEAP, "see coll/algorithms.h");

/* A run of ranks, consecutive in the whole. Run 0 or 1 of `width` places; run 1 may have none. */
typedef struct gather_run {
    int ranks;
    uint64_t start, bytes; /* in the whole */
} gather_run;

static gather_run gather_run_of(const tree_gather *s, int place, int width, int which)
{
    int first = cmo_tree_first_run(&s->tree, place, width);
    int rank = cmo_tree_rank(&s->tree, which ? (place + first) % s->tree.size : place);
    gather_run run = {.ranks = which ? width - first : first};
    run.start = s->starts[rank];
    run.bytes = run.ranks ? s->starts[rank + run.ranks] - run.start : 0;
    return run;
}

static cmo_err gather_prepare(cmo_op *op)
{
    tree_gather *s = op->state;
    const cmo_call *c = &op->call;
    int n = op->comm->size;
    s->tree = cmo_tree_of(op->comm->rank, c->root, n);
    s->size = cmo_dtype_size(c->dtype);
    s->starts = calloc((size_t)n + 1, sizeof *s->starts);
    s->recvs = calloc(2 * (size_t)s->tree.children + 1, sizeof *s->recvs);
    if (!s->starts || !s->recvs) return cmo_fail(CMO_ENOMEM, "gather: %d blocks", n);
    for (int i = 0; i < n; i++) s->starts[i + 1] = s->starts[i] + cmo_block_count(c->counts, c->count, i) * s->size;
    if (s->tree.place == 0 || s->tree.children == 0) return CMO_OK;
    uint64_t bytes = gather_run_of(s, s->tree.place, s->tree.width, 0).bytes +
                     gather_run_of(s, s->tree.place, s->tree.width, 1).bytes;
    if (!(s->scratch = malloc(bytes + 1)))
        return cmo_fail(CMO_ENOMEM, "gather: %llu bytes of other ranks", (unsigned long long)bytes);
    return CMO_OK;
}

static uint64_t gather_own_bytes(const cmo_op *op)
{
    const tree_gather *s = op->state;
    return s->starts[op->comm->rank + 1] - s->starts[op->comm->rank];
}

/* Our own block, where it belongs: in out at the root, in front of the subtree's elsewhere. */
static void gather_own(cmo_op *op)
{
    tree_gather *s = op->state;
    uint8_t *own = s->tree.place ? s->scratch : (uint8_t *)op->call.out + s->starts[op->comm->rank];
    uint64_t bytes = gather_own_bytes(op);
    if (bytes && own != op->call.in) memcpy(own, op->call.in, bytes);
}

static void gather_post_recvs(cmo_op *op)
{
    tree_gather *s = op->state;
    uint64_t offset = gather_own_bytes(op);
    for (int i = 0; i < s->tree.children; i++)
        for (int which = 0; which < 2; which++) {
            gather_run run =
                gather_run_of(s, cmo_tree_child_place(&s->tree, i), cmo_tree_child_width(&s->tree, i), which);
            uint8_t *to = s->tree.place ? s->scratch + offset : (uint8_t *)op->call.out + run.start;
            if (run.ranks)
                cmo_post_recv(op, &s->recvs[2 * i + which], cmo_tree_child(&s->tree, i), (uint64_t)which, to,
                              run.bytes);
            offset += run.bytes;
        }
}

static void gather_post_sends(cmo_op *op)
{
    tree_gather *s = op->state;
    const uint8_t *from = s->tree.children ? s->scratch : op->call.in;
    for (int which = 0; which < 2; which++) {
        gather_run run = gather_run_of(s, s->tree.place, s->tree.width, which);
        if (run.ranks)
            cmo_post_send(op, &s->send[which], cmo_tree_parent(&s->tree), (uint64_t)which, from, run.bytes,
                          s->tree.children ? 0 : run.bytes);
        from += run.bytes;
    }
}

/* Tell our parent's messages how far our subtree's blocks have come without a gap; true when all are here. */
static bool gather_forward(cmo_op *op)
{
    tree_gather *s = op->state;
    uint64_t come = gather_own_bytes(op);
    bool all = true;
    for (int i = 0; i < 2 * s->tree.children; i++) {
        const cmo_xfer *x = &s->recvs[i];
        if (x->state == CMO_X_IDLE) continue; /* no second run */
        if (all) come += x->done;
        all = all && cmo_moved(x);
    }
    if (s->tree.place == 0 || s->tree.children == 0) return all;
    uint64_t first = gather_run_of(s, s->tree.place, s->tree.width, 0).bytes;
    cmo_send_ready(&s->send[0], come < first ? come : first);
    if (s->send[1].state != CMO_X_IDLE) cmo_send_ready(&s->send[1], come < first ? 0 : come - first);
    return all;
}

static bool gather_sent(const cmo_xfer *x) { return x->state == CMO_X_IDLE || cmo_moved(x); }

cmo_err cmo_tree_gather_step(cmo_op *op)
{
    tree_gather *s = op->state;
    CO_BEGIN(op);
    CMO_TRY(gather_prepare(op));
    gather_post_recvs(op);
    if (s->tree.place == 0 || s->tree.children) gather_own(op);
    if (s->tree.place) gather_post_sends(op);
    CO_WAIT_UNTIL(op, gather_forward(op));
    CO_WAIT_UNTIL(op, gather_sent(&s->send[0]) && gather_sent(&s->send[1]));
    CO_END(op);
}

void cmo_tree_gather_finish(cmo_op *op)
{
    tree_gather *s = op->state;
    free(s->starts);
    free(s->recvs);
    free(s->scratch);
}
