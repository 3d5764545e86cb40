/* Scatter down a binomial tree (coll/tree.h). Seven ranks, root 2; in brackets the blocks that a message carries:
 *
 *      place  0  1  2  3  4  5  6        0 → 4 [6] [0 1]   0 → 2 [4 5]   0 → 1 [3]
 *      rank   2  3  4  5  6  0  1        4 → 6 [1]   4 → 5 [0]           2 → 3 [5]
 *
 * Only the root knows the array. On each edge a first message, the manifest, tells what the subtree must know: dtype,
 * shape, and the rows of its places. The blocks follow, as one message for each run of ranks (as in
 * coll/tree_gather.c), and are passed on while they arrive. A leaf's block goes straight into its out; a rank between
 * root and leaves keeps its subtree's blocks in scratch memory. Depth log2(n), rounded up; a block moves once for each
 * edge from the root.
 *
 *      manifest, in 64-bit words    | dtype | ndim | shape[ndim] | rows[places of the subtree] |
 *
 * shape is the whole array's; the blocks are told in rows, because a row may have no elements. A manifest comes from a
 * peer, so every word of it is checked. */
#include "coll/algorithms.h"
#include "coll/incoming.h"
#include "coll/tree.h"

#include <stdlib.h>
#include <string.h>

enum { MANIFEST_DTYPE, MANIFEST_NDIM, MANIFEST_SHAPE }; /* words */
enum { SCATTER_MANIFEST = 0, SCATTER_RUN = 1 };         /* steps of the messages: a run is 1 or 2 */

typedef struct tree_scatter {
    cmo_tree tree;
    uint64_t *manifest;   /* of our own subtree */
    uint64_t *manifests;  /* those of our children, end to end, each behind its number of words */
    uint64_t *starts;     /* [width + 1] first byte of each place's block, ours being 0 */
    const uint8_t *blocks;/* of our subtree in order of places; not at the root */
    uint8_t *scratch;     /* the same, owned; NULL where they are in out */
    cmo_xfer recv_manifest, recv[2];
    cmo_xfer *sends;      /* [children][3] the manifest and the runs */
} tree_scatter;

_Static_assert(sizeof(tree_scatter) <= CMO_STATE_HEAP, "see coll/algorithms.h");

static int manifest_ndim(const tree_scatter *s) { return (int)s->manifest[MANIFEST_NDIM]; }
static const uint64_t *manifest_shape(const tree_scatter *s) { return s->manifest + MANIFEST_SHAPE; }
static const uint64_t *manifest_rows(const tree_scatter *s) { return manifest_shape(s) + manifest_ndim(s); }

/* Rows of a rank's block, from the root's call. */
static uint64_t scatter_rows(const cmo_op *op, uint64_t row, int rank)
{
    const cmo_call *c = &op->call;
    if (row) return cmo_block_count(c->counts, c->count, rank) / row;
    return c->counts ? c->counts[rank] : c->shape[0] / (uint64_t)op->comm->size;
}

/* The root's manifest, from its call. An array without a shape counts as one of one dimension. */
static cmo_err scatter_describe(cmo_op *op)
{
    tree_scatter *s = op->state;
    const cmo_call *c = &op->call;
    int n = op->comm->size, ndim = c->ndim ? c->ndim : 1;
    s->manifest = calloc((size_t)(MANIFEST_SHAPE + ndim + n), sizeof *s->manifest);
    if (!s->manifest) return cmo_fail(CMO_ENOMEM, "scatter: %d blocks", n);
    s->manifest[MANIFEST_DTYPE] = (uint64_t)c->dtype;
    s->manifest[MANIFEST_NDIM] = (uint64_t)ndim;
    uint64_t *shape = s->manifest + MANIFEST_SHAPE, *rows = shape + ndim, row;
    if (c->ndim) memcpy(shape, c->shape, (size_t)ndim * sizeof *c->shape);
    else shape[0] = cmo_block_start(c->counts, c->count, n);
    CMO_TRY(cmo_row_elements(c->dtype, ndim, shape, &row));
    for (int place = 0; place < n; place++) rows[place] = scatter_rows(op, row, cmo_tree_rank(&s->tree, place));
    return CMO_OK;
}

/* A cmo_allocate: our manifest has come, in one dimension. */
static cmo_err scatter_manifest_place(void *ctx, const cmo_layout *layout, void **address)
{
    tree_scatter *s = ((cmo_op *)ctx)->state;
    uint64_t least = MANIFEST_SHAPE + 1 + (uint64_t)s->tree.width, most = least + CMO_MAX_DIMS - 1;
    if (layout->dtype != CMO_U64 || layout->ndim != 1 || layout->shape[0] < least || layout->shape[0] > most)
        return cmo_fail(CMO_EPROTO, "scatter: not a manifest for %d ranks", s->tree.width);
    *address = s->manifest = malloc(layout->shape[0] * sizeof *s->manifest);
    return s->manifest ? CMO_OK : cmo_fail(CMO_ENOMEM, "scatter: the manifest of %d ranks", s->tree.width);
}

static cmo_err scatter_check_manifest(const cmo_op *op)
{
    const tree_scatter *s = op->state;
    uint64_t words = s->recv_manifest.length / sizeof *s->manifest, ndim = s->manifest[MANIFEST_NDIM];
    if (s->manifest[MANIFEST_DTYPE] >= CMO_NDTYPES || ndim < 1 || ndim > CMO_MAX_DIMS ||
        words != MANIFEST_SHAPE + ndim + (uint64_t)s->tree.width)
        return cmo_fail(CMO_EPROTO, "scatter: rank %d sends a malformed manifest", cmo_tree_parent(&s->tree));
    return CMO_OK;
}

static cmo_err scatter_prepare(cmo_op *op)
{
    tree_scatter *s = op->state;
    int children = s->tree.children, width = s->tree.width;
    size_t manifests = (size_t)children * (size_t)(1 + MANIFEST_SHAPE + manifest_ndim(s)) + (size_t)width; /* words */
    s->starts = calloc((size_t)width + 1, sizeof *s->starts);
    s->sends = calloc(3 * (size_t)children + 1, sizeof *s->sends);
    s->manifests = calloc(manifests, sizeof *s->manifests);
    if (!s->starts || !s->sends || !s->manifests) return cmo_fail(CMO_ENOMEM, "scatter: %d blocks", width);
    cmo_dtype dtype = (cmo_dtype)s->manifest[MANIFEST_DTYPE];
    uint64_t row, bytes;
    CMO_TRY(cmo_row_elements(dtype, manifest_ndim(s), manifest_shape(s), &row));
    for (int i = 0; i < width; i++)
        if (__builtin_mul_overflow(manifest_rows(s)[i], row * cmo_dtype_size(dtype), &bytes) ||
            __builtin_add_overflow(s->starts[i], bytes, &s->starts[i + 1]) || s->starts[i + 1] > INT64_MAX)
            return cmo_fail(CMO_EPROTO, "scatter: blocks of more than 2^63 bytes are announced");
    return CMO_OK;
}

/* Ask for our own block's place, telling its shape: that of the whole array, with its own number of rows. */
static cmo_err scatter_own_place(cmo_op *op, void **address)
{
    const tree_scatter *s = op->state;
    uint64_t shape[CMO_MAX_DIMS];
    int ndim = manifest_ndim(s);
    memcpy(shape, manifest_shape(s), (size_t)ndim * sizeof *shape);
    shape[0] = manifest_rows(s)[0];
    cmo_layout layout = {.dtype = (cmo_dtype)s->manifest[MANIFEST_DTYPE], .ndim = ndim, .shape = shape};
    return cmo_incoming(op, &layout, address);
}

/* First and last byte of run `which` of the places [place, place + width), in order of places from ours on. */
typedef struct scatter_run {
    uint64_t start, end;
    bool exists;
} scatter_run;

static scatter_run scatter_run_of(const tree_scatter *s, int place, int width, int which)
{
    int first = cmo_tree_first_run(&s->tree, place, width), ours = s->tree.place;
    int from = which ? place + first : place, to = which ? place + width : place + first;
    return (scatter_run){s->starts[from - ours], s->starts[to - ours], from < to};
}

/* Where the run lies. The root's blocks are in order of ranks: those that wrap around come first. */
static const uint8_t *scatter_address(const cmo_op *op, uint64_t start)
{
    const tree_scatter *s = op->state;
    if (s->tree.place) return s->blocks + start;
    uint64_t wrap = s->starts[s->tree.size - s->tree.root], total = s->starts[s->tree.size];
    /* A block without elements at the wrap may count as either: its address is not used. */
    return (const uint8_t *)op->call.in + (start < wrap ? start + (total - wrap) : start - wrap);
}

/* Post the messages to a child. words: where its number of words and its manifest are to stand; returns what follows
 * them. */
static uint64_t *scatter_post_child(cmo_op *op, int child, uint64_t *words)
{
    tree_scatter *s = op->state;
    int rank = cmo_tree_child(&s->tree, child), place = cmo_tree_child_place(&s->tree, child);
    int width = cmo_tree_child_width(&s->tree, child), prefix = MANIFEST_SHAPE + manifest_ndim(s);
    uint64_t *manifest = words + 1;
    *words = (uint64_t)(prefix + width);
    uint64_t bytes = *words * sizeof *manifest;
    memcpy(manifest, s->manifest, (size_t)prefix * sizeof *manifest);
    memcpy(manifest + prefix, manifest_rows(s) + (1 << child), (size_t)width * sizeof *manifest);
    cmo_post_send_shaped(op, &s->sends[3 * child], rank, SCATTER_MANIFEST, manifest, bytes, bytes, CMO_U64, 1, words);
    for (int which = 0; which < 2; which++) {
        scatter_run run = scatter_run_of(s, place, width, which);
        if (run.exists)
            cmo_post_send(op, &s->sends[3 * child + 1 + which], rank, (uint64_t)(SCATTER_RUN + which),
                          scatter_address(op, run.start), run.end - run.start, s->tree.place ? 0 : run.end - run.start);
    }
    return manifest + prefix + width;
}

/* The child with the largest subtree first. */
static void scatter_post_children(cmo_op *op)
{
    tree_scatter *s = op->state;
    uint64_t *words = s->manifests;
    for (int i = s->tree.children - 1; i >= 0; i--) words = scatter_post_child(op, i, words);
}

/* The blocks of our subtree: straight into our own block's place where there is no other. */
static cmo_err scatter_post_recvs(cmo_op *op)
{
    tree_scatter *s = op->state;
    void *own;
    CMO_TRY(scatter_own_place(op, &own));
    op->call.out = own;
    uint8_t *to = own;
    if (s->tree.children && !(to = s->scratch = malloc(s->starts[s->tree.width] + 1)))
        return cmo_fail(CMO_ENOMEM, "scatter: %llu bytes for other ranks",
                        (unsigned long long)s->starts[s->tree.width]);
    s->blocks = to;
    for (int which = 0; which < 2; which++) {
        scatter_run run = scatter_run_of(s, s->tree.place, s->tree.width, which);
        if (run.exists)
            cmo_post_recv(op, &s->recv[which], cmo_tree_parent(&s->tree), (uint64_t)(SCATTER_RUN + which),
                          to + run.start, run.end - run.start);
    }
    return CMO_OK;
}

static bool scatter_idle(const cmo_xfer *x) { return x->state == CMO_X_IDLE || cmo_moved(x); }

/* Let our children have what has come without a gap; true when all has. */
static bool scatter_forward(cmo_op *op)
{
    tree_scatter *s = op->state;
    uint64_t come = s->recv[0].done;
    if (cmo_moved(&s->recv[0]) && s->recv[1].state != CMO_X_IDLE) come += s->recv[1].done;
    for (int i = 0; i < s->tree.children; i++)
        for (int which = 0; which < 2; which++) {
            scatter_run run = scatter_run_of(s, cmo_tree_child_place(&s->tree, i),
                                             cmo_tree_child_width(&s->tree, i), which);
            if (run.exists && come > run.start)
                cmo_send_ready(&s->sends[3 * i + 1 + which], (come < run.end ? come : run.end) - run.start);
        }
    return scatter_idle(&s->recv[0]) && scatter_idle(&s->recv[1]);
}

static void scatter_own(cmo_op *op)
{
    tree_scatter *s = op->state;
    const uint8_t *own = scatter_address(op, 0);
    uint64_t bytes = s->starts[1];
    if (bytes && own != op->call.out) memcpy(op->call.out, own, bytes);
}

static bool scatter_sent(const tree_scatter *s)
{
    for (int i = 0; i < 3 * s->tree.children; i++)
        if (!scatter_idle(&s->sends[i])) return false;
    return true;
}

cmo_err cmo_tree_scatter_step(cmo_op *op)
{
    tree_scatter *s = op->state;
    CO_BEGIN(op);
    s->tree = cmo_tree_of(op->comm->rank, op->call.root, op->comm->size);
    if (s->tree.place == 0) {
        CMO_TRY(scatter_describe(op));
        CMO_TRY(scatter_prepare(op));
        scatter_post_children(op);
    } else {
        cmo_post_recv_shaped(op, &s->recv_manifest, cmo_tree_parent(&s->tree), SCATTER_MANIFEST,
                             scatter_manifest_place, op);
        CO_WAIT_UNTIL(op, cmo_moved(&s->recv_manifest));
        CMO_TRY(scatter_check_manifest(op));
        CMO_TRY(scatter_prepare(op));
        CMO_TRY(scatter_post_recvs(op));
        scatter_post_children(op);
        CO_WAIT_UNTIL(op, scatter_forward(op));
    }
    if (s->tree.children) CO_PAUSE(op);
    scatter_own(op);
    CO_WAIT_UNTIL(op, scatter_sent(s));
    CO_END(op);
}

void cmo_tree_scatter_finish(cmo_op *op)
{
    tree_scatter *s = op->state;
    cmo_xfer_cancel(&s->recv_manifest); /* frees the shape that it has learned */
    free(s->manifest);
    free(s->manifests);
    free(s->starts);
    free(s->scratch);
    free(s->sends);
}
