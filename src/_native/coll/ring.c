/* The ring: allreduce, reduce_scatter and allgather. Rank r receives from r-1 and sends to r+1.
 *
 * The vector is cut in one chunk a rank. Five ranks; the number is the chunk that a rank sends in a step:
 *
 *      step            rank 0   1   2   3   4
 *      0                    4   0   1   2   3     Reduce steps. Chunk c sets out from rank c+1 and each rank on the way
 *      1                    3   4   0   1   2     adds its own part, until it is complete at rank c:
 *      2                    2   3   4   0   1     ((x[c+1] + x[c+2]) + …) + x[c]. One expression, computed once, so all
 *      3                    1   2   3   4   0     ranks hold the same bits in the end.
 *      4                    0   1   2   3   4     Gather steps. The complete chunks go round.
 *      5                    4   0   1   2   3
 *      6                    3   4   0   1   2
 *      7                    2   3   4   0   1
 *
 * In every step k rank r sends chunk r-1-k and receives chunk r-2-k (mod n): what it received in the step before.
 * reduce_scatter is steps 0 … n-2, allgather is n-1 … 2n-3, allreduce is all of them. A rank moves (n-1)/n of the
 * vector in each half, out and in alike, which is the least possible for both.
 *
 * Nothing waits for whole chunks: a segment that has arrived is reduced and becomes ready to be sent in the next step,
 * whose message was announced one step ahead, and whose receive is posted one step ahead. So the wire, the reduction
 * and the announcements overlap. An empty chunk (fewer elements than ranks) is no message at all.
 *
 * Scratch: none for allgather, for an allreduce whose out is not its in, and for a reduce_scatter among two ranks; up
 * to three chunks otherwise. Half types that are summed or multiplied travel as float32 in the reduce steps (twice the
 * bytes) and as they are in the gather steps. */
#include "coll/algorithms.h"
#include "coll/fold.h"
#include "comm/engine.h"

#include <stdlib.h>
#include <string.h>

enum { RING_SLOTS = 3 }; /* one message arrives, the next is announced, the one before is being sent */

typedef struct ring {
    cmo_fold fold;
    uint64_t *starts;      /* [size + 1] first element of each chunk */
    uint8_t *scratch;      /* [RING_SLOTS] partial results of a chunk each */
    uint64_t slot_bytes;
    bool direct;           /* partial results lie in out, where the complete ones come later */
    int step, end;
    uint64_t forwarded;    /* elements of the arriving chunk that have been reduced and passed on */
    cmo_xfer send[2], recv[2]; /* of step k at [k % 2] */
} ring;

_Static_assert(sizeof(ring) <= CMO_STATE_HEAP, "see coll/algorithms.h");

static int ring_chunk_sent(const cmo_op *op, int step)
{
    int n = op->comm->size;
    return (op->comm->rank - 1 - step + 2 * n) % n; /* step ≤ 2n-3 */
}

static int ring_chunk_received(const cmo_op *op, int step) { return ring_chunk_sent(op, step + 1); }

static bool ring_reduces(const cmo_op *op, int step) { return step < op->comm->size - 1; }

/* Is what arrives in this step complete when this rank has added its part? */
static bool ring_completes(const cmo_op *op, int step) { return step == op->comm->size - 2; }

static uint64_t ring_count(const ring *s, int chunk) { return s->starts[chunk + 1] - s->starts[chunk]; }

/* Bytes of an element in the messages of a step. */
static uint64_t ring_element(const cmo_op *op, int step)
{
    const ring *s = op->state;
    return ring_reduces(op, step) ? s->fold.size : s->fold.in_size;
}

/* Where a complete chunk belongs: reduce_scatter's out is this rank's own chunk alone. */
static uint8_t *ring_out(const cmo_op *op, int chunk)
{
    const ring *s = op->state;
    uint8_t *out = op->call.out;
    return op->call.kind == CMO_REDUCE_SCATTER ? out : out + s->starts[chunk] * s->fold.in_size;
}

static const uint8_t *ring_in(const cmo_op *op, int chunk)
{
    const ring *s = op->state;
    return (const uint8_t *)op->call.in + s->starts[chunk] * s->fold.in_size;
}

static uint8_t *ring_slot(const ring *s, int step)
{
    return s->scratch + (uint64_t)(step % RING_SLOTS) * s->slot_bytes;
}

/* Does the message of a step arrive where the complete chunk belongs? A reduce_scatter's out has room for its own
 * alone, and is never its in. */
static bool ring_lands_in_out(const cmo_op *op, int step)
{
    const ring *s = op->state;
    return !ring_reduces(op, step) || s->direct ||
           (op->call.kind == CMO_REDUCE_SCATTER && ring_completes(op, step) && !s->fold.widens);
}

/* Where the message of a step arrives, and is sent from in the next step. */
static uint8_t *ring_landing(const cmo_op *op, int step)
{
    return ring_lands_in_out(op, step) ? ring_out(op, ring_chunk_received(op, step)) : ring_slot(op->state, step);
}

/* Where the message of a step is sent from. */
static const uint8_t *ring_source(const cmo_op *op, int step)
{
    const ring *s = op->state;
    if (step == 0) return s->fold.widens ? ring_slot(s, RING_SLOTS - 1) : ring_in(op, ring_chunk_sent(op, 0));
    if (ring_completes(op, step - 1)) return ring_out(op, op->comm->rank);
    return ring_landing(op, step - 1);
}

static void ring_post_send(cmo_op *op, int step, bool ready)
{
    ring *s = op->state;
    uint64_t bytes = ring_count(s, ring_chunk_sent(op, step)) * ring_element(op, step);
    if (bytes)
        cmo_post_send(op, &s->send[step % 2], (op->comm->rank + 1) % op->comm->size, (uint64_t)step,
                      ring_source(op, step), bytes, ready ? bytes : 0);
}

static void ring_post_recv(cmo_op *op, int step)
{
    ring *s = op->state;
    uint64_t bytes = ring_count(s, ring_chunk_received(op, step)) * ring_element(op, step);
    if (bytes)
        cmo_post_recv(op, &s->recv[step % 2], (op->comm->rank + op->comm->size - 1) % op->comm->size, (uint64_t)step,
                      ring_landing(op, step), bytes);
}

static bool ring_idle(const cmo_xfer *x) { return x->state == CMO_X_IDLE || cmo_moved(x); }

/* Add our part to elements [from, to) of the chunk that arrives in this step. */
static void ring_reduce(cmo_op *op, int chunk, uint64_t from, uint64_t to)
{
    ring *s = op->state;
    uint8_t *partial = ring_landing(op, s->step) + from * s->fold.size;
    const uint8_t *own = ring_in(op, chunk) + from * s->fold.in_size;
    if (!ring_completes(op, s->step))
        cmo_fold_in(&s->fold, partial, partial, own, to - from);
    else
        cmo_fold_last(&s->fold, ring_out(op, chunk) + from * s->fold.in_size, partial, own, to - from,
                      cmo_fold_divisor(&op->call, op->comm->size));
}

/* Reduce what has arrived of this step's chunk and make it ready for the next step; true when that was all of it. */
static bool ring_forward(cmo_op *op)
{
    ring *s = op->state;
    int chunk = ring_chunk_received(op, s->step);
    uint64_t count = ring_count(s, chunk);
    if (!count) return true;
    const cmo_xfer *x = &s->recv[s->step % 2];
    uint64_t size = ring_element(op, s->step);
    uint64_t segment = cmo_segment(cmo_engine_tunables(op->comm->engine)->segment_bytes, size);
    uint64_t arrived = cmo_whole_segments(x->done, count * size, segment) / size;
    if (arrived > s->forwarded) {
        if (ring_reduces(op, s->step)) ring_reduce(op, chunk, s->forwarded, arrived);
        s->forwarded = arrived;
        if (s->step + 1 < s->end) cmo_send_ready(&s->send[(s->step + 1) % 2], arrived * ring_element(op, s->step + 1));
    }
    return arrived == count && cmo_moved(x);
}

static uint64_t ring_start_of(const cmo_op *op, int chunk)
{
    const cmo_call *c = &op->call;
    return c->kind == CMO_ALLREDUCE ? cmo_part(c->count, op->comm->size, chunk) : c->count * (uint64_t)chunk;
}

/* The chunks, and the scratch memory for what is on its way. */
static cmo_err ring_prepare(cmo_op *op)
{
    ring *s = op->state;
    const cmo_call *c = &op->call;
    int n = op->comm->size;
    cmo_fold_init(&s->fold, c);
    s->step = c->kind == CMO_ALLGATHER ? n - 1 : 0;
    s->end = c->kind == CMO_REDUCE_SCATTER ? n - 1 : 2 * n - 2;
    s->direct = c->kind == CMO_ALLREDUCE && c->in != c->out && !s->fold.widens;
    if (!(s->starts = calloc((size_t)n + 1, sizeof *s->starts))) return cmo_fail(CMO_ENOMEM, "ring: %d chunks", n);
    uint64_t most = 0;
    for (int i = 0; i < n; i++) {
        s->starts[i + 1] = c->counts ? s->starts[i] + c->counts[i] : ring_start_of(op, i + 1);
        if (ring_count(s, i) > most) most = ring_count(s, i);
    }
    if (c->kind == CMO_ALLGATHER || s->direct) return CMO_OK;
    int slots = s->fold.widens ? RING_SLOTS : 0;
    for (int i = 0; slots < RING_SLOTS && ring_reduces(op, i); i++) slots += !ring_lands_in_out(op, i);
    s->slot_bytes = most * s->fold.size;
    if (most && slots && !(s->scratch = malloc((uint64_t)slots * s->slot_bytes)))
        return cmo_fail(CMO_ENOMEM, "ring: %d chunks of %llu bytes", slots, (unsigned long long)s->slot_bytes);
    return CMO_OK;
}

/* What the first message of this rank is made of. */
static void ring_own(cmo_op *op)
{
    ring *s = op->state;
    if (op->call.kind == CMO_ALLGATHER) {
        uint8_t *own = ring_out(op, op->comm->rank);
        uint64_t bytes = ring_count(s, op->comm->rank) * s->fold.in_size;
        if (bytes && own != op->call.in) memcpy(own, op->call.in, bytes);
    } else if (s->fold.widens) {
        int chunk = ring_chunk_sent(op, 0);
        cmo_fold_load(&s->fold, ring_slot(s, RING_SLOTS - 1), ring_in(op, chunk), ring_count(s, chunk));
    }
}

cmo_err cmo_ring_step(cmo_op *op)
{
    ring *s = op->state;
    CO_BEGIN(op);
    CMO_TRY(ring_prepare(op));
    ring_post_recv(op, s->step); /* first: what comes early then needs no other place */
    ring_own(op);
    ring_post_send(op, s->step, true);
    for (; s->step < s->end; s->step++) {
        /* The send of step-1 leaves its slot of scratch, and its transfer, to those of step+1. */
        CO_WAIT_UNTIL(op, ring_idle(&s->send[(s->step + 1) % 2]));
        if (s->step + 1 < s->end) {
            ring_post_recv(op, s->step + 1);
            ring_post_send(op, s->step + 1, false);
        }
        s->forwarded = 0;
        CO_WAIT_UNTIL(op, ring_forward(op));
    }
    CO_WAIT_UNTIL(op, ring_idle(&s->send[0]) && ring_idle(&s->send[1]));
    CO_END(op);
}

void cmo_ring_finish(cmo_op *op)
{
    ring *s = op->state;
    free(s->starts);
    free(s->scratch);
}
