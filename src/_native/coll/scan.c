/* scan and exscan: rank r gets x[0] + … + x[r], or the same without its own part. Two ways.
 *
 * Small vectors: recursive doubling. In round i a rank sends its window of 2^i operands to rank r + 2^i, and puts what
 * comes from r - 2^i in front of its own. Five ranks, windows after each round:
 *
 *      rank        0        1        2        3        4
 *      start       0        1        2        3        4
 *      round 0     0       01       12       23       34
 *      round 1     0       01      012     0123     1234
 *      round 2     0       01      012     0123    01234
 *
 * exscan combines what comes, without its own. log2(n) rounds, rounded up, of one vector each. (W. D. Hillis, G. L.
 * Steele, "Data Parallel Algorithms", 1986.) Scratch: three vectors.
 *
 * Large vectors: a chain. 0 → 1 → 2 → 3 → 4, each adding its part to a segment while the next one is arriving. Every
 * rank sends one vector instead of log2(n), at the price of n-1 hops before the last rank has its first segment.
 * Scratch: at most two vectors.
 *
 * Both apply the operation in rank order, in an order of evaluation that depends on the rank alone. A mean divides by
 * the number of operands: r + 1 for scan, r for exscan. Half types that are summed or multiplied travel as float32. */
#include "coll/algorithms.h"
#include "coll/fold.h"
#include "comm/engine.h"

#include <stdlib.h>

static uint64_t scan_divisor(const cmo_op *op)
{
    return cmo_fold_divisor(&op->call, op->call.kind == CMO_SCAN ? op->comm->rank + 1 : op->comm->rank);
}

/* ------------------------------------------------------------------ recursive doubling */

typedef struct scan_doubling {
    cmo_xfer send, recv;
    cmo_fold fold;
    uint8_t *scratch; /* [3] */
    uint8_t *window;  /* what this rank sends: operands up to its own */
    uint8_t *before;  /* operands before its own, once any has come */
    uint8_t *arrived;
    int distance;
    bool any;         /* `before` holds something */
} scan_doubling;

_Static_assert(sizeof(scan_doubling) <= CMO_STATE_HEAP, "see coll/algorithms.h");

static cmo_err scan_doubling_prepare(cmo_op *op)
{
    scan_doubling *s = op->state;
    cmo_fold_init(&s->fold, &op->call);
    uint64_t bytes = op->call.count * s->fold.size;
    if (!(s->scratch = malloc(3 * bytes + 1)))
        return cmo_fail(CMO_ENOMEM, "scan: 3 vectors of %llu bytes", (unsigned long long)bytes);
    s->window = s->scratch;
    s->before = s->window + bytes;
    s->arrived = s->before + bytes;
    cmo_fold_load(&s->fold, s->window, op->call.in, op->call.count);
    return CMO_OK;
}

/* What has come stands before everything that this rank has. */
static void scan_doubling_combine(cmo_op *op)
{
    scan_doubling *s = op->state;
    uint64_t count = op->call.count;
    cmo_fold_pair(&s->fold, s->window, s->arrived, s->window, count);
    if (s->any) {
        cmo_fold_pair(&s->fold, s->before, s->arrived, s->before, count);
    } else {
        uint8_t *first = s->arrived;
        s->arrived = s->before;
        s->before = first;
    }
    s->any = true;
}

cmo_err cmo_scan_doubling_step(cmo_op *op)
{
    scan_doubling *s = op->state;
    const cmo_call *c = &op->call;
    int rank = op->comm->rank, size = op->comm->size;
    uint64_t bytes = c->count * s->fold.size;
    CO_BEGIN(op);
    CMO_TRY(scan_doubling_prepare(op));
    bytes = c->count * s->fold.size;
    for (s->distance = 1; s->distance < size; s->distance *= 2) {
        if (rank >= s->distance)
            cmo_post_recv(op, &s->recv, rank - s->distance, (uint64_t)s->distance, s->arrived, bytes);
        if (size - rank > s->distance)
            cmo_post_send(op, &s->send, rank + s->distance, (uint64_t)s->distance, s->window, bytes, bytes);
        CO_WAIT_UNTIL(op, (rank < s->distance || cmo_moved(&s->recv)) &&
                      (size - rank <= s->distance || cmo_moved(&s->send)));
        if (rank >= s->distance) scan_doubling_combine(op);
        if (s->distance > size / 2) break; /* doubling it once more might overflow */
    }
    if (c->kind == CMO_SCAN) cmo_fold_store(&s->fold, c->out, s->window, c->count, scan_divisor(op));
    else if (s->any) cmo_fold_store(&s->fold, c->out, s->before, c->count, scan_divisor(op));
    CO_END(op);
}

void cmo_scan_doubling_finish(cmo_op *op) { free(((scan_doubling *)op->state)->scratch); }

/* ------------------------------------------------------------------ the chain */

typedef struct scan_chain {
    cmo_xfer send, recv;
    cmo_fold fold;
    uint8_t *scratch;   /* [2] at most */
    uint8_t *before;    /* where the operands before ours arrive */
    uint8_t *with;      /* the same with ours, for the next rank */
    uint64_t forwarded; /* elements */
} scan_chain;

_Static_assert(sizeof(scan_chain) <= CMO_STATE_HEAP, "see coll/algorithms.h");

/* Partial results lie in out where out may hold them: no other dtype, nothing to divide, and
 * nothing of `in` to overwrite. */
static cmo_err scan_chain_prepare(cmo_op *op)
{
    scan_chain *s = op->state;
    const cmo_call *c = &op->call;
    cmo_fold_init(&s->fold, c);
    uint64_t bytes = c->count * s->fold.size;
    bool plain = !s->fold.widens && c->op != CMO_OP_MEAN;
    bool before_in_out = plain && c->in != c->out && op->comm->rank > 0, with_in_out = plain && c->kind == CMO_SCAN;
    int vectors = !before_in_out + !with_in_out;
    if (vectors && !(s->scratch = malloc((uint64_t)vectors * bytes + 1)))
        return cmo_fail(CMO_ENOMEM, "scan: %d vectors of %llu bytes", vectors, (unsigned long long)bytes);
    s->before = before_in_out ? c->out : s->scratch;
    s->with = with_in_out ? c->out : s->scratch + (before_in_out ? 0 : bytes);
    return CMO_OK;
}

/* Add our part to elements [from, to), and store what is ours of the result. */
static void scan_chain_fold(cmo_op *op, uint64_t from, uint64_t to)
{
    scan_chain *s = op->state;
    const cmo_call *c = &op->call;
    uint64_t count = to - from;
    const uint8_t *in = (const uint8_t *)c->in + from * s->fold.in_size;
    uint8_t *out = (uint8_t *)c->out + from * s->fold.in_size;
    uint8_t *before = s->before + from * s->fold.size, *with = s->with + from * s->fold.size;
    if (op->comm->rank == 0) cmo_fold_load(&s->fold, with, in, count);
    else cmo_fold_in(&s->fold, with, before, in, count);
    if (c->kind == CMO_SCAN) cmo_fold_store(&s->fold, out, with, count, scan_divisor(op));
    else if (op->comm->rank) cmo_fold_store(&s->fold, out, before, count, scan_divisor(op));
}

static bool scan_chain_forward(cmo_op *op)
{
    scan_chain *s = op->state;
    uint64_t total = op->call.count * s->fold.size, arrived = op->comm->rank ? s->recv.done : total;
    uint64_t segment = cmo_segment(cmo_engine_tunables(op->comm->engine)->segment_bytes, s->fold.size);
    uint64_t elements = cmo_whole_segments(arrived, total, segment) / s->fold.size;
    if (elements > s->forwarded) {
        scan_chain_fold(op, s->forwarded, elements);
        s->forwarded = elements;
        if (op->comm->rank + 1 < op->comm->size) cmo_send_ready(&s->send, elements * s->fold.size);
    }
    return elements == op->call.count && (op->comm->rank == 0 || cmo_moved(&s->recv));
}

cmo_err cmo_scan_chain_step(cmo_op *op)
{
    scan_chain *s = op->state;
    int rank = op->comm->rank, last = op->comm->size - 1;
    CO_BEGIN(op);
    CMO_TRY(scan_chain_prepare(op));
    uint64_t bytes = op->call.count * s->fold.size;
    if (rank > 0) cmo_post_recv(op, &s->recv, rank - 1, 0, s->before, bytes);
    if (rank < last) cmo_post_send(op, &s->send, rank + 1, 0, s->with, bytes, 0);
    CO_WAIT_UNTIL(op, scan_chain_forward(op));
    CO_WAIT_UNTIL(op, rank == last || cmo_moved(&s->send));
    CO_END(op);
}

void cmo_scan_chain_finish(cmo_op *op) { free(((scan_chain *)op->state)->scratch); }
