#include "coll_case.h"

#include "check.h"
#include "coll/coll.h"
#include "coll_values.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD_BYTES = 24, GUARD = 0xa5, UNTOUCHED = 0x5a, OVERWRITTEN = 0xc3 };

typedef struct coll_rank {
    coll_run *run;
    int rank;
    unsigned char *in, *given; /* given: a copy of `in`, as it was */
    unsigned char *out;        /* with guard bytes behind it; may be `in` */
    bool in_window, out_window; /* they lie in the rank's window, until its call has ended */
    uint64_t in_count, out_count;
    uint64_t *send_counts, *recv_counts;
    uint64_t shape[2];
    int asked;                 /* how often `allocate` was called */
    bool fits;                 /* what it was told was right */
    world_task *task;
} coll_rank;

struct coll_run {
    coll_case c;
    int size, number;
    uint64_t *counts; /* [size] elements of each block; ALLTOALL: [size × size] from, to */
    coll_rank *ranks;
};

/* ------------------------------------------------------------------ cases */

static const cmo_dtype drawn_dtypes[] = {CMO_I32, CMO_U8, CMO_I64, CMO_F32, CMO_F64, CMO_F16, CMO_BF16, CMO_C64,
                                         CMO_BOOL};
static const cmo_redop drawn_ops[] = {CMO_OP_SUM, CMO_OP_SUM, CMO_OP_MIN, CMO_OP_MAX, CMO_OP_PROD, CMO_OP_MEAN,
                                      CMO_OP_BXOR, CMO_OP_LAND};
#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

uint64_t coll_random(uint64_t *state, uint64_t bound)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    z ^= z >> 31;
    return bound ? z % bound : z;
}

static bool kind_reduces(cmo_kind k)
{
    return k == CMO_ALLREDUCE || k == CMO_REDUCE || k == CMO_REDUCE_SCATTER || k == CMO_SCAN || k == CMO_EXSCAN;
}

static bool kind_has_root(cmo_kind k)
{
    return k == CMO_BROADCAST || k == CMO_REDUCE || k == CMO_SCATTER || k == CMO_GATHER;
}

static bool kind_has_counts(cmo_kind k)
{
    return k == CMO_REDUCE_SCATTER || k == CMO_SCATTER || k == CMO_GATHER || k == CMO_ALLGATHER || k == CMO_ALLTOALL;
}

static bool kind_learns(cmo_kind k)
{
    return k == CMO_BROADCAST || k == CMO_SCATTER || k == CMO_GATHER || k == CMO_ALLGATHER || k == CMO_ALLTOALL;
}
static bool kind_in_place(cmo_kind k)
{
    return k == CMO_ALLREDUCE || k == CMO_REDUCE || k == CMO_SCAN || k == CMO_EXSCAN;
}

coll_case coll_draw(uint64_t *state, cmo_kind kind, int size, uint64_t most)
{
    uint64_t n = (uint64_t)size;
    const uint64_t counts[] = {0, 1, 2, n - 1, n, n + 1, 7 * n + 3, coll_random(state, 300)};
    coll_case c = {.kind = kind};
    c.count = counts[coll_random(state, COUNT_OF(counts))];
    if (c.count > most) c.count %= most + 1;
    do {
        c.dtype = drawn_dtypes[coll_random(state, COUNT_OF(drawn_dtypes))];
        c.op = drawn_ops[coll_random(state, COUNT_OF(drawn_ops))];
    } while (kind_reduces(c.kind) && !cmo_kernel_for(c.dtype, c.op));
    if (!kind_reduces(c.kind)) c.op = CMO_OP_SUM;
    const int roots[] = {0, size / 2, size - 1};
    if (kind_has_root(c.kind)) c.root = roots[coll_random(state, 3)];
    c.in_place = kind_in_place(c.kind) && coll_random(state, 2);
    c.unequal = kind_has_counts(c.kind) && coll_random(state, 2);
    c.learns = kind_learns(c.kind) && coll_random(state, 2);
    return c;
}

void coll_describe(const coll_case *c, char *out, size_t n)
{
    snprintf(out, n, "%s of %" PRIu64 " %s, op %s, root %d%s%s%s%s%s", cmo_kind_name(c->kind), c->count,
             cmo_dtype_name(c->dtype), cmo_redop_name(c->op), c->root, c->in_place ? ", in place" : "",
             c->unequal ? ", unequal" : "", c->learns ? ", learning" : "", c->inexact ? ", inexact" : "",
             (const char *const[]){"", ", some arrays in windows", ", arrays in windows"}[c->place]);
}

/* ------------------------------------------------------------------ sizes and buffers */

/* Elements that rank `from` has for rank `to` in an alltoall; in the other kinds, of the block of rank `to`. */
static uint64_t block(const coll_run *run, int from, int to)
{
    if (run->c.kind == CMO_BARRIER) return 0;
    return run->counts[run->c.kind == CMO_ALLTOALL ? from * run->size + to : to];
}

static uint64_t block_start(const coll_run *run, int from, int to)
{
    uint64_t start = 0;
    for (int i = 0; i < to; i++) start += block(run, from, i);
    return start;
}

static uint64_t received_start(const coll_run *run, int from, int to)
{
    uint64_t start = 0;
    for (int i = 0; i < from; i++) start += block(run, i, to);
    return start;
}

static uint64_t in_count(const coll_run *run, int r)
{
    const coll_case *c = &run->c;
    switch (c->kind) {
    case CMO_BARRIER: return 0;
    case CMO_BROADCAST: return r == c->root ? c->count : 0;
    case CMO_SCATTER: return r == c->root ? block_start(run, r, run->size) : 0;
    case CMO_REDUCE_SCATTER: case CMO_ALLTOALL: return block_start(run, r, run->size);
    case CMO_GATHER: case CMO_ALLGATHER: return block(run, r, r);
    default: return c->count;
    }
}

static uint64_t out_count(const coll_run *run, int r)
{
    const coll_case *c = &run->c;
    switch (c->kind) {
    case CMO_BARRIER: return 0;
    case CMO_REDUCE: return r == c->root ? c->count : 0;
    case CMO_GATHER: return r == c->root ? block_start(run, r, run->size) : 0;
    case CMO_ALLGATHER: return block_start(run, r, run->size);
    case CMO_ALLTOALL: return received_start(run, run->size, r);
    case CMO_REDUCE_SCATTER: case CMO_SCATTER: return block(run, r, r);
    default: return c->count;
    }
}

static unsigned char *prepare(unsigned char *p, uint64_t bytes)
{
    if (!p) abort();
    memset(p, UNTOUCHED, bytes);
    memset(p + bytes, GUARD, GUARD_BYTES);
    return p;
}

static unsigned char *guarded(uint64_t bytes) { return prepare(malloc(bytes + GUARD_BYTES), bytes); }

/* An array in the rank's window, at any address, if the case wants that and there is room; else an ordinary one. */
static unsigned char *placed(coll_rank *me, world *w, uint64_t bytes, uint64_t *state, bool *in_window)
{
    const cmo_comm *p = cmo_comm_with_pieces(world_comm(w, me->rank));
    coll_place place = me->run->c.place;
    uint64_t offset, lead = coll_random(state, 200);
    *in_window = p->neighbour && (place == COLL_SHARED || (place == COLL_MIXED && coll_random(state, 2)));
    *in_window = *in_window && !cmo_window_alloc(world_window(w, me->rank), lead + bytes + GUARD_BYTES, &offset);
    return *in_window ? prepare((unsigned char *)p->neighbour[p->local]->head + offset + lead, bytes) : guarded(bytes);
}

static unsigned char *take_home(unsigned char *array, uint64_t bytes)
{
    unsigned char *copy = malloc(bytes + GUARD_BYTES);
    if (!copy) abort();
    memcpy(copy, array, bytes + GUARD_BYTES);
    memset(array, OVERWRITTEN, bytes + GUARD_BYTES);
    return copy;
}

/* A call has ended. Its arrays in the window are now its caller's to overwrite; what they held is checked later. */
static void end_call(void *ctx)
{
    coll_rank *me = ctx;
    size_t item = cmo_dtype_size(me->run->c.dtype);
    bool shares = me->out == me->in;
    if (me->in_window) me->in = take_home(me->in, me->in_count * item);
    if (shares) me->out = me->in;
    else if (me->out_window) me->out = take_home(me->out, me->out_count * item);
    me->in_window = me->out_window = false;
}

static void draw_counts(coll_run *run, uint64_t *state)
{
    const coll_case *c = &run->c;
    size_t n = (size_t)run->size * (c->kind == CMO_ALLTOALL ? (size_t)run->size : 1);
    run->counts = malloc(n * sizeof *run->counts);
    if (!run->counts) abort();
    for (size_t i = 0; i < n; i++) {
        run->counts[i] = c->count;
        if (c->unequal) run->counts[i] = coll_random(state, 3) ? coll_random(state, 2 * c->count + 2) : 0;
    }
}

/* A cmo_allocate. */
static cmo_err give_memory(void *ctx, const cmo_layout *layout, void **address)
{
    coll_rank *me = ctx;
    const coll_run *run = me->run;
    const coll_case *c = &run->c;
    bool counts = c->kind != CMO_BROADCAST && c->kind != CMO_SCATTER;
    uint64_t elements = 1;
    for (int d = 0; d < layout->ndim; d++) elements *= layout->shape[d];
    me->fits = layout->dtype == c->dtype && (counts || elements == me->out_count);
    if (counts) {
        me->fits = me->fits && layout->counts && layout->ncounts == run->size;
        for (int i = 0; i < run->size && me->fits; i++)
            me->fits = layout->counts[i] == block(run, i, c->kind == CMO_ALLTOALL ? me->rank : i);
    }
    me->asked++;
    *address = me->out;
    return CMO_OK;
}

/* ------------------------------------------------------------------ the call */

static void make_call(const coll_run *run, coll_rank *me, cmo_call *call)
{
    const coll_case *c = &run->c;
    bool root = me->rank == c->root;
    *call = (cmo_call){.kind = c->kind, .op = c->op, .dtype = c->dtype, .root = c->root,
                       .in = me->in, .out = me->out, .count = c->count};
    if (c->kind == CMO_BARRIER) *call = (cmo_call){.kind = CMO_BARRIER, .dtype = CMO_U8};
    if (c->unequal) {
        bool knows = c->kind != CMO_SCATTER || root;
        call->counts = knows ? c->kind == CMO_ALLTOALL ? me->send_counts : run->counts : NULL;
        call->recv_counts = me->recv_counts;
        call->count = c->kind == CMO_SCATTER && !root ? block(run, me->rank, me->rank) : 0;
    }
    if (c->kind == CMO_BROADCAST || c->kind == CMO_SCATTER) {
        if (root) {
            me->shape[0] = me->in_count;
            call->ndim = 1;
            call->shape = me->shape;
        } else if (c->learns) {
            call->dtype = CMO_U8;
            call->count = 0;
            call->out = NULL;
            call->allocate = give_memory;
        }
    } else if (c->learns) {
        call->exchange = true;
        call->count = c->kind == CMO_ALLTOALL ? 0 : me->in_count;
        call->counts = c->kind == CMO_ALLTOALL ? me->send_counts : NULL;
        call->recv_counts = NULL;
        call->out = NULL;
        if (c->kind != CMO_GATHER || root) call->allocate = give_memory;
    }
    call->allocate_ctx = me;
}

static void make_rank(coll_run *run, world *w, int r, uint64_t seed)
{
    const coll_case *c = &run->c;
    coll_rank *me = &run->ranks[r];
    size_t item = cmo_dtype_size(c->dtype);
    *me = (coll_rank){.run = run, .rank = r, .in_count = in_count(run, r), .out_count = out_count(run, r)};
    bool shares = c->in_place || (c->kind == CMO_BROADCAST && r == c->root);
    uint64_t places = seed ^ (uint64_t)r << 32;
    me->in = placed(me, w, me->in_count * item, &places, &me->in_window);
    me->given = guarded(me->in_count * item);
    uint64_t state = seed + (uint64_t)r * UINT64_C(0x632be59bd9b4e019);
    coll_fill(me->in, c->dtype, c->op, me->in_count, &state, c->inexact);
    memcpy(me->given, me->in, me->in_count * item);
    if (c->kind == CMO_BARRIER || (c->kind == CMO_REDUCE && r != c->root) || (c->kind == CMO_GATHER && r != c->root))
        return;
    me->out = shares ? me->in : placed(me, w, me->out_count * item, &places, &me->out_window);
    if (c->kind != CMO_ALLTOALL) return;
    size_t n = (size_t)run->size * sizeof(uint64_t);
    me->send_counts = malloc(n);
    me->recv_counts = malloc(n);
    if (!me->send_counts || !me->recv_counts) abort();
    for (int i = 0; i < run->size; i++) {
        me->send_counts[i] = block(run, r, i);
        me->recv_counts[i] = block(run, i, r);
    }
}

coll_run *coll_add(world *w, const coll_case *c, int number, uint64_t seed)
{
    coll_run *run = calloc(1, sizeof *run);
    if (!run) abort();
    *run = (coll_run){.c = *c, .size = world_size(w), .number = number};
    run->ranks = calloc((size_t)run->size, sizeof *run->ranks);
    if (!run->ranks) abort();
    uint64_t state = seed;
    draw_counts(run, &state);
    for (int r = 0; r < run->size; r++) {
        make_rank(run, w, r, seed + 1);
        run->ranks[r].task = world_add(w, r);
        run->ranks[r].task->number = number;
        run->ranks[r].task->op.on_done = end_call;
        run->ranks[r].task->op.on_done_ctx = &run->ranks[r];
        make_call(run, &run->ranks[r], &run->ranks[r].task->call);
    }
    return run;
}

void coll_free(coll_run *run)
{
    if (!run) return;
    for (int r = 0; r < run->size; r++) {
        coll_rank *me = &run->ranks[r];
        if (me->out != me->in && !me->out_window) free(me->out);
        if (!me->in_window) free(me->in);
        free(me->given);
        free(me->send_counts);
        free(me->recv_counts);
    }
    free(run->ranks);
    free(run->counts);
    free(run);
}

const void *coll_out(const coll_run *run, int r, size_t *bytes)
{
    *bytes = run->ranks[r].out ? run->ranks[r].out_count * cmo_dtype_size(run->c.dtype) : 0;
    return run->ranks[r].out;
}

/* ------------------------------------------------------------------ what should have come out */

/* Reduce elements [from, from + count) of the inputs of ranks 0 … n-1. */
static void reduce_ranks(const coll_run *run, void *out, int n, uint64_t from, uint64_t count)
{
    size_t item = cmo_dtype_size(run->c.dtype);
    const void **srcs = malloc((size_t)n * sizeof *srcs);
    if (!srcs) abort();
    for (int i = 0; i < n; i++) srcs[i] = run->ranks[i].given + from * item;
    cmo_kernel_for(run->c.dtype, run->c.op)(out, srcs, n, count, run->c.op == CMO_OP_MEAN ? (uint64_t)n : 0);
    free(srcs);
}

static void expect(const coll_run *run, int r, unsigned char *out)
{
    const coll_case *c = &run->c;
    size_t item = cmo_dtype_size(c->dtype);
    const coll_rank *root = &run->ranks[c->root];
    switch (c->kind) {
    case CMO_BARRIER: break;
    case CMO_BROADCAST: memcpy(out, root->given, c->count * item); break;
    case CMO_ALLREDUCE: case CMO_REDUCE: reduce_ranks(run, out, run->size, 0, c->count); break;
    case CMO_REDUCE_SCATTER: reduce_ranks(run, out, run->size, block_start(run, r, r), block(run, r, r)); break;
    case CMO_SCAN: reduce_ranks(run, out, r + 1, 0, c->count); break;
    case CMO_EXSCAN:
        if (r) reduce_ranks(run, out, r, 0, c->count);
        else if (c->in_place) memcpy(out, run->ranks[0].given, c->count * item);
        else memset(out, UNTOUCHED, c->count * item);
        break;
    case CMO_SCATTER:
        memcpy(out, root->given + block_start(run, c->root, r) * item, block(run, c->root, r) * item);
        break;
    case CMO_GATHER: case CMO_ALLGATHER: case CMO_ALLTOALL:
        for (int i = 0; i < run->size; i++) {
            uint64_t start = c->kind == CMO_ALLTOALL ? block_start(run, i, r) : 0;
            uint64_t n = block(run, i, c->kind == CMO_ALLTOALL ? r : i);
            memcpy(out, run->ranks[i].given + start * item, n * item);
            out += n * item;
        }
        break;
    default: abort();
    }
}

static bool guard_holds(const unsigned char *p, uint64_t bytes)
{
    for (int i = 0; p && i < GUARD_BYTES; i++)
        if (p[bytes + (uint64_t)i] != GUARD) return false;
    return true;
}

static bool check_rank(const coll_run *run, int r, const char *what)
{
    const coll_case *c = &run->c;
    const coll_rank *me = &run->ranks[r];
    size_t item = cmo_dtype_size(c->dtype);
    const world_task *t = me->task;
    if (!t->ended || t->err) {
        CHECKF(t->ended && !t->err, "task %d, rank %d, %s: %s: %s", run->number, r, what,
               t->ended ? cmo_err_name(t->err) : "unfinished", t->op.text);
        return false;
    }
    bool writes = me->out && c->kind != CMO_BARRIER;
    unsigned char *expected = guarded(me->out_count * item);
    if (writes) expect(run, r, expected);
    uint64_t wrong = writes ? coll_differ(c->dtype, me->out, expected, me->out_count, c->inexact) : UINT64_MAX;
    bool kept = me->out == me->in || !memcmp(me->in, me->given, me->in_count * item);
    bool guards = guard_holds(me->in, me->in_count * item) && (!me->out || guard_holds(me->out, me->out_count * item));
    bool asks = t->call.allocate != NULL;
    free(expected);
    CHECKF(wrong == UINT64_MAX, "task %d, rank %d, %s (%s): element %" PRIu64 " of %" PRIu64 " is wrong", run->number,
           r, what, t->algorithm ? t->algorithm->name : "?", wrong, me->out_count);
    CHECKF(kept, "task %d, rank %d, %s: the input has been changed", run->number, r, what);
    CHECKF(guards, "task %d, rank %d, %s: written beyond the end", run->number, r, what);
    CHECKF(me->asked == asks && (!asks || me->fits), "task %d, rank %d, %s: allocate was called %d times%s",
           run->number, r, what, me->asked, me->asked && !me->fits ? " with a wrong layout" : "");
    return wrong == UINT64_MAX && kept && guards;
}

/* Nobody leaves a barrier before everybody is there. */
static bool check_barrier(const coll_run *run)
{
    int64_t last = 0;
    for (int r = 0; r < run->size; r++)
        if (run->ranks[r].task->started_at > last) last = run->ranks[r].task->started_at;
    for (int r = 0; r < run->size; r++)
        if (run->ranks[r].task->ended_at < last) return false;
    return true;
}

bool coll_check(coll_run *run, world *w)
{
    char what[160];
    coll_describe(&run->c, what, sizeof what);
    bool good = true;
    for (int r = 0; r < run->size && good; r++) good = check_rank(run, r, what);
    if (good && run->c.kind == CMO_BARRIER) {
        good = check_barrier(run);
        CHECKF(good, "task %d: somebody left a barrier too early", run->number);
    }
    if (good && run->c.inexact && run->c.kind == CMO_ALLREDUCE)
        for (int r = 1; r < run->size && good; r++) {
            good = !memcmp(run->ranks[r].out, run->ranks[0].out,
                           run->ranks[0].out_count * cmo_dtype_size(run->c.dtype));
            CHECKF(good, "task %d, %s: ranks 0 and %d have different bits", run->number, what, r);
        }
    if (!good) world_describe(w, stderr);
    return good;
}

bool coll_check_well(coll_run *run, world *w)
{
    char what[160];
    coll_describe(&run->c, what, sizeof what);
    bool good = true;
    for (int r = 0; r < run->size && good; r++)
        if (run->ranks[r].task->ended && !run->ranks[r].task->err) good = check_rank(run, r, what);
    if (!good) world_describe(w, stderr);
    return good;
}
