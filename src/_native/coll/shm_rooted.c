/* Broadcast and scatter: the root's bytes are a stream through its slots, and the others read what is theirs.
 *
 *     scatter, 5 ranks, root 1, two rounds; the blocks are a b c d e
 *
 *     stream    [a a a . . c c][c d d d e e e]       the root's own block is not copied into the stream
 *     read by    0 0 0     2 2  2 3 3 3 4 4 4
 *
 * Only the root knows how much there is. The others wait for its announcement, whose record tells dtype and shape, and
 * ask where the array shall go. A scatter whose blocks differ has the size of each, 8 bytes a rank, at the head of its
 * stream: in elements, or where a row has none, in rows. A stream that fits goes in the announcement itself. The root
 * returns as soon as it has copied everything in: the protocol keeps the slots until they have been read. A large array
 * in the root's window is read there (coll/shm_direct.c): then only the counts, if any, are in the stream's rounds, and
 * the root returns when all have read.
 *
 * The root writes the B bytes of the stream; each other rank reads B in a broadcast, its block in a scatter, skipping
 * the rounds that hold nothing for it. Rounds + 1 steps, copying in and copying out at the same time. */
#include "coll/algorithms.h"
#include "coll/incoming.h"
#include "coll/shm.h"
#include "comm/engine.h"

enum { MANY_ROUNDS = 32, MANY_TIMES = 4 }; /* from so many rounds on they are longer, up to so many times */

enum { MOST_WEIGHT = 4 }; /* ranks that count towards copying once */

enum { KEEP_BYTES = 32 << 10 }; /* of its own block that a root copies at a time */

typedef struct rooted_state {
    cmo_shm shm;
    uint64_t round_bytes;
    uint64_t head;     /* bytes of counts in front of the array */
    uint64_t bytes;    /* of the stream, head included */
    uint64_t lo, hi;   /* where in the stream this rank's part of the array lies; at the root, what is left out */
    uint64_t kept;     /* at the root of a scatter: bytes of its own block that are where they belong */
    /* Elsewhere than at the root: */
    cmo_dtype dtype;
    uint64_t total;    /* elements of the array in the stream */
    bool equal;        /* all ranks' parts are alike */
    uint64_t rows;     /* of this rank's part, where a row has no elements */
    bool learned;       /* lo, hi and out are known */
    uint64_t direct;   /* where the root's array is, if it offers it; 0: in the stream */
    unsigned char *out;
} rooted_state;
_Static_assert(sizeof(rooted_state) <= CMO_STATE_INLINE, "see coll/algorithms.h");

static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* In rounds of how many bytes, at most: the first is copied in before anybody can read, the last is read when nothing
 * more is copied in. Where there are many rounds that matters little, and the counters' journeys more. */
static uint64_t rooted_round(const cmo_op *op, uint64_t bytes)
{
    const uint64_t stream = (uint64_t)cmo_engine_tunables(op->comm->engine)->stream_bytes;
    return cmo_shm_min(bytes / 4, larger(stream, cmo_shm_min(bytes / MANY_ROUNDS, MANY_TIMES * stream)));
}

/* How long the stream is that carries `total` elements, and in how many rounds it goes. CMO_EPROTO where 64 bits do not
 * hold it. */
static cmo_err rooted_measure(const cmo_op *op, rooted_state *s, cmo_dtype dtype, uint64_t total, bool counts)
{
    s->dtype = dtype;
    s->total = total;
    s->lo = s->hi = s->head = counts ? (uint64_t)op->comm->size * sizeof(uint64_t) : 0;
    if (__builtin_mul_overflow(total, (uint64_t)cmo_dtype_size(dtype), &s->bytes) ||
        __builtin_add_overflow(s->bytes, s->head, &s->bytes))
        return cmo_fail(CMO_EPROTO, "rank %d sends an array of more than 2^64 bytes", op->call.root);
    cmo_shm_begin(op, &s->shm, false, rooted_round(op, s->bytes));
    s->round_bytes = cmo_shm_round_bytes(op, &s->shm);
    s->shm.rounds = s->bytes > CMO_ANNOUNCEMENT_BYTES ? cmo_shm_rounds(s->bytes, s->round_bytes) : 0;
    return CMO_OK;
}

/* ------------------------------------------------------------------ at the root */

static const void *rooted_array(const cmo_op *op)
{
    return op->call.kind == CMO_BROADCAST ? op->call.out : op->call.in;
}

static cmo_err rooted_begin(cmo_op *op, rooted_state *s)
{
    const cmo_call *call = &op->call;
    const cmo_comm *c = op->comm;
    if (call->kind == CMO_BROADCAST) {
        CMO_TRY(rooted_measure(op, s, call->dtype, call->count, false));
    } else {
        uint64_t item = cmo_dtype_size(call->dtype), row = 1;
        if (call->ndim) CMO_TRY(cmo_row_elements(call->dtype, call->ndim, call->shape, &row));
        if (!row) item = 0; /* the counts are rows */
        uint64_t total = item ? cmo_block_start(call->counts, call->count, c->size) : 0;
        CMO_TRY(rooted_measure(op, s, call->dtype, total, call->counts));
        uint64_t start = cmo_block_start(call->counts, call->count, c->rank) * item;
        uint64_t bytes = cmo_block_count(call->counts, call->count, c->rank) * item;
        s->lo += start;
        s->hi = s->lo + bytes;
        cmo_shm_expect(op, &s->shm, bytes);
    }
    /* A broadcast's bytes are read by many, or by one who would copy alone. A scatter's root copies in what the others
     * copy out at the same time: the more they are the earlier it pays, but each such copy costs a system call. */
    const uint64_t array = s->bytes - s->head, ranks = cmo_shm_min((uint64_t)c->size, MOST_WEIGHT);
    const uint64_t weight = call->kind == CMO_SCATTER ? array / 2 * ranks : 0;
    if (s->shm.rounds) cmo_shm_offer_copy(op, &s->shm.offer.in, rooted_array(op), array, weight);
    if (s->shm.rounds) cmo_shm_consumed(op, &s->shm, s->shm.rounds);
    return CMO_OK;
}

/* Put what [from, to) of the stream and [start, end) have in common, and what stands at `segment`, in its place in the
 * round. */
static void rooted_put(unsigned char *round, uint64_t from, uint64_t to, const void *segment, uint64_t start,
                       uint64_t end)
{
    uint64_t lo = larger(from, start), hi = cmo_shm_min(to, end);
    if (lo < hi) cmo_stage(round + (lo - from), (const unsigned char *)segment + (lo - start), hi - lo);
}

static void rooted_copy_in(const cmo_op *op, const rooted_state *s, unsigned char *round, uint64_t from, uint64_t to)
{
    const char *array = rooted_array(op);
    rooted_put(round, from, to, op->call.counts, 0, s->head);
    if (s->shm.offer.in) return;
    rooted_put(round, from, to, array, s->head, s->lo);
    if (s->hi < s->bytes) rooted_put(round, from, to, array + (s->hi - s->head), s->hi, s->bytes);
}

static void rooted_stage(const cmo_op *op, const rooted_state *s, uint64_t t)
{
    uint64_t from = t * s->round_bytes;
    rooted_copy_in(op, s, cmo_shm_slot(op, &s->shm, op->comm->rank, t), from,
                   cmo_shm_min(from + s->round_bytes, s->bytes));
}

static cmo_err rooted_announce(cmo_op *op, const rooted_state *s)
{
    unsigned char payload[CMO_ANNOUNCEMENT_BYTES] = {0};
    if (s->shm.rounds) return cmo_shm_announce_offer(op, &s->shm);
    rooted_copy_in(op, s, payload, 0, s->bytes);
    return cmo_shm_announce(op, payload, s->bytes);
}

/* The next `most` bytes of a scatter's block for its root itself. */
static void rooted_keep(const cmo_op *op, rooted_state *s, uint64_t most)
{
    const cmo_call *call = &op->call;
    if (call->kind != CMO_SCATTER) return;
    const uint64_t bytes = cmo_shm_min(most, s->hi - s->lo - s->kept);
    cmo_shm_deliver(&s->shm, (char *)call->out + s->kept, (const char *)call->in + (s->lo - s->head) + s->kept, bytes);
    s->kept += bytes;
}

/* May round t be written? While it may not, the root's own block is something to do. */
static cmo_err rooted_slot_free(const cmo_op *op, rooted_state *s, uint64_t t)
{
    while (cmo_shm_slot_free(op, &s->shm, t) == CMO_AGAIN) {
        const uint64_t before = s->kept;
        rooted_keep(op, s, KEEP_BYTES);
        if (s->kept == before) return CMO_AGAIN;
    }
    return CMO_OK;
}

/* Does round t carry anything? */
static bool rooted_streams(const rooted_state *s, uint64_t t)
{
    return t < s->shm.rounds && (!s->shm.offer.in || t * s->round_bytes < s->head);
}

static cmo_err rooted_send(cmo_op *op, rooted_state *s)
{
    cmo_shm *m = &s->shm;
    CO_BEGIN(op);
    CMO_TRY(rooted_begin(op, s));
    if (rooted_streams(s, 0)) {
        CO_WAIT(op, cmo_shm_slot_free(op, m, 0));
        rooted_stage(op, s, 0);
    }
    CO_WAIT(op, rooted_announce(op, s));
    for (m->t = 1; rooted_streams(s, m->t); m->t++) {
        CO_WAIT(op, rooted_slot_free(op, s, m->t));
        rooted_stage(op, s, m->t);
        cmo_shm_staged(op, m, m->t);
    }
    rooted_keep(op, s, UINT64_MAX);
    CO_WAIT(op, cmo_shm_leave(op, m, 0, op->comm->size));
    CO_END(op);
}

/* ------------------------------------------------------------------ elsewhere */

/* The announcement is there. What it says is a peer's, hence copied, then checked. */
static cmo_err rooted_read_record(const cmo_op *op, rooted_state *s)
{
    const cmo_record *record = cmo_shm_record(op, op->call.root);
    const bool scatters = op->call.kind == CMO_SCATTER;
    uint64_t total = record->count, row = 1;
    unsigned dtype = record->dtype, ndim = record->ndim;
    s->equal = !(record->flags & CMO_RECORD_COUNTS);
    if (dtype >= CMO_NDTYPES)
        return cmo_fail(CMO_EPROTO, "rank %d announces an array of unknown type %u", op->call.root, dtype);
    if (ndim > CMO_RECORD_DIMS) return cmo_fail(CMO_EPROTO, "rank %d announces %u dimensions", op->call.root, ndim);
    if (scatters && ndim) CMO_TRY(cmo_row_elements((cmo_dtype)dtype, (int)ndim, record->shape, &row));
    if (!row) total = 0; /* it is of rows */
    if (scatters && s->equal && __builtin_mul_overflow(total, (uint64_t)op->comm->size, &total))
        return cmo_fail(CMO_EPROTO, "rank %d announces blocks of more than 2^64 elements", op->call.root);
    CMO_TRY(rooted_measure(op, s, (cmo_dtype)dtype, total, scatters && !s->equal));
    if (!scatters) {
        s->hi = s->bytes;
    } else if (s->equal) {
        uint64_t block = s->bytes / (uint64_t)op->comm->size;
        s->lo = block * (uint64_t)op->comm->rank;
        s->hi = s->lo + block;
    }
    return CMO_OK;
}

/* Add up the counts that [from, to) of the stream brings, up to our own. */
static cmo_err rooted_read_counts(const cmo_op *op, rooted_state *s, const unsigned char *round, uint64_t from,
                                  uint64_t to)
{
    const uint64_t item = cmo_dtype_size(s->dtype), rank = (uint64_t)op->comm->rank;
    const bool in_rows = s->bytes == s->head; /* or there are no rows: then no counts but 0 */
    for (uint64_t at = from; at < to && at <= rank * sizeof(uint64_t); at += sizeof(uint64_t)) {
        uint64_t count;
        memcpy(&count, round + (at - from), sizeof count);
        s->rows = count;
        if (in_rows) continue;
        if (count > (s->bytes - s->hi) / item)
            return cmo_fail(CMO_EPROTO, "rank %d scatters blocks that are more than its array", op->call.root);
        s->lo = s->hi;
        s->hi += count * item;
    }
    return CMO_OK;
}

/* Now that the place of our part in the stream is known, ask where it shall go. */
static cmo_err rooted_learn(cmo_op *op, rooted_state *s)
{
    const cmo_record *record = cmo_shm_record(op, op->call.root);
    const uint64_t item = cmo_dtype_size(s->dtype), own = (s->hi - s->lo) / item;
    uint64_t shape[CMO_RECORD_DIMS], elements;
    cmo_layout layout = {.dtype = s->dtype, .ndim = record->ndim, .shape = shape, .source = op->call.root};
    if (layout.ndim > CMO_RECORD_DIMS)
        return cmo_fail(CMO_EPROTO, "rank %d announces an array of %d dimensions", op->call.root, layout.ndim);
    memcpy(shape, record->shape, (size_t)layout.ndim * sizeof *shape);
    if (op->call.kind == CMO_SCATTER) {
        if (!layout.ndim) return cmo_fail(CMO_EPROTO, "rank %d scatters an array without a shape", op->call.root);
        uint64_t rows = shape[0], row;
        shape[0] = 1;
        CMO_TRY(cmo_layout_elements(&layout, &row));
        shape[0] = row ? own / row : s->equal ? rows / (uint64_t)op->comm->size : s->rows;
    }
    CMO_TRY(cmo_layout_elements(&layout, &elements));
    if (elements != own)
        return cmo_fail(CMO_EPROTO, "rank %d announces a shape that does not fit its array", op->call.root);
    void *out;
    CMO_TRY(cmo_incoming(op, &layout, &out));
    s->out = out;
    s->learned = true;
    cmo_shm_expect(op, &s->shm, s->hi - s->lo);
    return CMO_OK;
}

/* Take what [from, to) of the stream, which is at `round`, has for this rank. */
static cmo_err rooted_take(cmo_op *op, rooted_state *s, const unsigned char *round, uint64_t from, uint64_t to)
{
    if (!s->learned) {
        if (from < s->head) CMO_TRY(rooted_read_counts(op, s, round, from, cmo_shm_min(to, s->head)));
        if (to < s->head) return CMO_OK;
        CMO_TRY(rooted_learn(op, s));
    }
    uint64_t lo = larger(from, s->lo), hi = cmo_shm_min(to, s->hi);
    if (lo < hi && !s->direct) cmo_shm_deliver(&s->shm, s->out + (lo - s->lo), round + (lo - from), hi - lo);
    return CMO_OK;
}

/* Take it all from the root's array, if it is there. CMO_AGAIN: its owner is no more. */
static cmo_err rooted_take_direct(const cmo_op *op, rooted_state *s)
{
    const uint64_t bytes = s->direct && s->learned ? s->hi - s->lo : 0;
    return bytes ? cmo_shm_fetch_array(op, &s->shm, op->call.root, s->direct, s->lo - s->head, bytes, s->out)
                 : CMO_OK;
}

/* The round after t that has something for this rank. */
static uint64_t rooted_next(const rooted_state *s, uint64_t t)
{
    if (!s->learned) return t + 1;
    if (s->direct) return s->shm.rounds;
    if (s->lo == s->hi || (s->hi - 1) / s->round_bytes <= t) return s->shm.rounds;
    return larger(t + 1, s->lo / s->round_bytes);
}

static cmo_err rooted_receive(cmo_op *op, rooted_state *s)
{
    cmo_shm *m = &s->shm;
    CO_BEGIN(op);
    CO_WAIT(op, cmo_shm_announce_offer(op, m)); /* none */
    CO_WAIT(op, cmo_shm_arrived(op, op->call.root));
    CMO_TRY(rooted_read_record(op, s));
    if (m->rounds) s->direct = cmo_shm_offer_of(op, op->call.root).in;
    CO_WAIT_UNTIL(op, !(s->direct && op->brief)); /* it is taken at once, however large */
    if (!m->rounds) CMO_TRY(rooted_take(op, s, cmo_shm_announcement(op, op->call.root)->payload, 0, s->bytes));
    while (m->t < m->rounds) {
        CO_WAIT(op, cmo_shm_has_filled(op, m, op->call.root, m->t));
        uint64_t from = m->t * s->round_bytes, to = cmo_shm_min(from + s->round_bytes, s->bytes);
        CMO_TRY(rooted_take(op, s, cmo_shm_slot(op, m, op->call.root, m->t), from, to));
        CO_WAIT(op, rooted_take_direct(op, s)); /* a wait: where the root has died it comes back, and passes nothing */
        m->t = rooted_next(s, m->t);
        if (m->t < m->rounds) cmo_shm_consumed(op, m, m->t);
    }
    CO_WAIT(op, cmo_shm_leave(op, m, 0, 0));
    CO_END(op);
}

cmo_err cmo_shm_rooted_step(cmo_op *op)
{
    return op->comm->rank == op->call.root ? rooted_send(op, op->state) : rooted_receive(op, op->state);
}
