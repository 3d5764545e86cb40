/* The collectives of ranks that share memory, with real concurrency: a thread for each rank over one mapping,
 * so that ThreadSanitizer sees every access to the slots and announcements. What it must not find is a byte
 * that is read or written again before the protocol of comm/piece.h allows it. (The grid of cases is
 * test_coll.c's; here it is about the races.)
 *
 * Arrays are ordinary or, as comm.empty makes them, in the windows, where every rank reads what the others write
 * before the call and after it.
 *
 * Every element is a function of (call, rank, index), so each rank knows by itself what it must receive. */
#include "check.h"
#include "coll/coll.h"
#include "comm/engine.h"

#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_RANKS = 5, MOST = 3000 /* elements of a block */ };

typedef enum { ORDINARY, MIXED, SHARED } places; /* arrays in windows: of no ranks, of odd ones, of all */

typedef struct setting {
    int ranks;
    int64_t slot_bytes, slots, staged_bytes;
    int calls;
    places places;
} setting;

/* Few small slots, so that every slot and announcement is used again as soon as it may be; and
 * slots as they are in earnest. */
static const setting settings[] = {
    {2, 64, 3, 0, 400, ORDINARY},
    {2, 4096, 512, 16 << 10, 400, ORDINARY},
    {3, 128, 3, 16 << 10, 300, ORDINARY},
    {3, 64, 32, 0, 300, ORDINARY},
    {3, 4096, 4, 0, 300, ORDINARY},
    {5, 512, 3, 0, 150, ORDINARY},
    {5, 4096, 3, 16 << 10, 150, ORDINARY},
    {2, 512, 3, 0, 400, SHARED},
    {3, 4096, 3, 64, 300, SHARED},
    {3, 512, 4, 64, 300, MIXED},
    {5, 4096, 3, 0, 150, SHARED},
    {5, 512, 3, 0, 150, MIXED},
};

typedef struct member {
    pthread_t thread;
    const setting *setting;
    int rank;
    cmo_window *window;
    cmo_window_head *head; /* the one mapping that all threads use */
    size_t head_bytes;
    cmo_engine *engine;
    uint64_t *in, *out;    /* [MOST_RANKS * MOST] */
    bool shares;           /* they lie in the window */
} member;

static uint64_t element(int call, int rank, uint64_t i)
{
    uint64_t h = ((uint64_t)call << 40) ^ ((uint64_t)rank << 32) ^ i;
    h *= UINT64_C(0x9e3779b97f4a7c15);
    return h ^ h >> 29;
}

/* ------------------------------------------------------------------ what is called, and what must come out */

/* The call that number `n` is on all ranks: its kind, its root, and the elements of a block or array. */
typedef struct plan {
    int n;
    cmo_kind kind;
    int root;
    uint64_t counts[MOST_RANKS]; /* of each rank's block; all alike where a call takes no counts */
    bool unequal, learns;
} plan;

static plan plan_of(const setting *s, int n)
{
    static const uint64_t sizes[] = {1, 6, 0, 7, 100, 33, MOST, 2};
    uint64_t draw = element(n, 99, 0);
    plan p = {.n = n, .kind = (cmo_kind)(draw % CMO_NKINDS), .root = (int)(draw / 64 % (uint64_t)s->ranks)};
    /* For a while only calls in which the root waits for nobody, so that it runs ahead as far as it may. */
    if (n / 32 % 2) {
        p.kind = draw % 2 ? CMO_BROADCAST : CMO_SCATTER;
        p.root = n / 64 % s->ranks;
    }
    uint64_t count = sizes[draw / 4096 % 8];
    bool blocks = p.kind == CMO_REDUCE_SCATTER || p.kind == CMO_SCATTER || p.kind == CMO_GATHER ||
                  p.kind == CMO_ALLGATHER;
    p.unequal = blocks && draw / 65536 % 2;
    p.learns = p.kind == CMO_BROADCAST || p.kind == CMO_SCATTER || p.kind == CMO_GATHER || p.kind == CMO_ALLGATHER ||
               p.kind == CMO_ALLTOALL;
    p.learns = p.learns && draw / (65536 * 2) % 2;
    for (int r = 0; r < s->ranks; r++) p.counts[r] = p.unequal ? count * (uint64_t)((r + n) % 3) / 2 : count;
    return p;
}

static uint64_t start_of(const plan *p, int rank)
{
    uint64_t start = 0;
    for (int r = 0; r < rank; r++) start += p->counts[r];
    return start;
}

static uint64_t sum_of(const plan *p, int ranks, uint64_t i)
{
    uint64_t sum = 0;
    for (int r = 0; r < ranks; r++) sum += element(p->n, r, i);
    return sum;
}

static uint64_t given(const plan *p, int rank, int ranks) /* elements of rank's input */
{
    switch (p->kind) {
    case CMO_BARRIER: return 0;
    case CMO_BROADCAST: return rank == p->root ? p->counts[0] : 0;
    case CMO_SCATTER: return rank == p->root ? start_of(p, ranks) : 0;
    case CMO_REDUCE_SCATTER: case CMO_ALLTOALL: return start_of(p, ranks);
    default: return p->counts[rank];
    }
}

static uint64_t expected_count(const plan *p, int rank, int ranks)
{
    switch (p->kind) {
    case CMO_BARRIER: return 0;
    case CMO_EXSCAN: return rank ? p->counts[0] : 0;
    case CMO_REDUCE: return rank == p->root ? p->counts[0] : 0;
    case CMO_GATHER: return rank == p->root ? start_of(p, ranks) : 0;
    case CMO_ALLGATHER: case CMO_ALLTOALL: return start_of(p, ranks);
    default: return p->counts[rank];
    }
}

static uint64_t expected(const plan *p, int rank, int ranks, uint64_t i)
{
    int from = 0;
    switch (p->kind) {
    case CMO_BROADCAST: return element(p->n, p->root, i);
    case CMO_SCATTER: return element(p->n, p->root, start_of(p, rank) + i);
    case CMO_REDUCE_SCATTER: return sum_of(p, ranks, start_of(p, rank) + i);
    case CMO_SCAN: return sum_of(p, rank + 1, i);
    case CMO_EXSCAN: return sum_of(p, rank, i);
    case CMO_GATHER: case CMO_ALLGATHER: case CMO_ALLTOALL:
        while (i >= p->counts[from]) i -= p->counts[from++];
        return element(p->n, from, p->kind == CMO_ALLTOALL ? start_of(p, rank) + i : i);
    default: return sum_of(p, ranks, i);
    }
}

/* ------------------------------------------------------------------ a rank */

static cmo_err allocate(void *ctx, const cmo_layout *layout, void **address)
{
    *address = ((member *)ctx)->out;
    return layout->dtype == CMO_U64 ? CMO_OK : CMO_ETYPE;
}

static void make_call(member *m, const plan *p)
{
    const int ranks = m->setting->ranks;
    const bool root = m->rank == p->root;
    uint64_t n = given(p, m->rank, ranks), shape[1] = {n};
    for (uint64_t i = 0; i < n; i++) m->in[i] = element(p->n, m->rank, i);
    cmo_call call = {.kind = p->kind, .op = CMO_OP_SUM, .dtype = CMO_U64, .root = p->root, .in = m->in, .out = m->out,
                     .count = p->counts[m->rank], .counts = p->unequal ? p->counts : NULL};
    if (p->kind == CMO_BROADCAST || p->kind == CMO_SCATTER) {
        if (root) {
            call.ndim = 1;
            call.shape = shape;
        }
        if (!root) call.counts = NULL;
        if (root && p->kind == CMO_BROADCAST) call.out = m->in;
        if (!root && p->learns) call.allocate = allocate;
    } else if (p->learns) {
        call.exchange = true;
        call.counts = NULL;
        call.allocate = allocate;
    }
    bool whole = p->kind == CMO_ALLREDUCE || p->kind == CMO_REDUCE || p->kind == CMO_SCAN || p->kind == CMO_EXSCAN;
    if (whole && p->n % 3 == 0) call.out = m->in;
    call.allocate_ctx = m;
    cmo_op op = {0};
    cmo_err err = cmo_call_start(&op, cmo_engine_world(m->engine), &call, -1);
    CHECKF(err == CMO_OK, "%s: %s", cmo_err_name(err), cmo_reason());
    while (!err && atomic_load_explicit(&op.signal, memory_order_acquire) != CMO_OP_ENDED)
        if (!cmo_engine_poll(m->engine)) sched_yield();
    CHECKF(op.err == CMO_OK, "%s: %s", cmo_err_name(op.err), op.text);
    const uint64_t *out = call.out;
    uint64_t wrong = 0, count = expected_count(p, m->rank, ranks);
    for (uint64_t i = 0; i < count; i++) wrong += out[i] != expected(p, m->rank, ranks, i);
    CHECKF(!wrong, "%s %d, rank %d of %d: %" PRIu64 " of %" PRIu64 " elements are wrong", cmo_kind_name(p->kind), p->n,
           m->rank, ranks, wrong, count);
}

static void *run_member(void *ctx)
{
    member *m = ctx;
    for (int n = 0; n < m->setting->calls; n++) {
        plan p = plan_of(m->setting, n);
        make_call(m, &p);
    }
    return NULL;
}

/* ------------------------------------------------------------------ the world */

static cmo_err make_arrays(member *m)
{
    const size_t bytes = MOST_RANKS * MOST * sizeof *m->in;
    uint64_t in, out;
    m->shares = m->setting->places == SHARED || (m->setting->places == MIXED && m->rank % 2);
    if (m->shares) { /* at their addresses in the one mapping */
        CMO_TRY(cmo_window_alloc(m->window, bytes, &in));
        CMO_TRY(cmo_window_alloc(m->window, bytes, &out));
        m->in = cmo_window_bytes(&(cmo_neighbour){.head = m->head, .size = m->head_bytes}, in, bytes);
        m->out = cmo_window_bytes(&(cmo_neighbour){.head = m->head, .size = m->head_bytes}, out, bytes);
    } else {
        m->in = calloc(1, bytes);
        m->out = calloc(1, bytes);
    }
    return m->in && m->out ? CMO_OK : cmo_fail(CMO_ENOMEM, "arrays");
}

static cmo_err make_world(const setting *s, member *members)
{
    int host[MOST_RANKS] = {0};
    cmo_neighbour neighbours[MOST_RANKS];
    cmo_tunables tunables;
    CMO_TRY(cmo_tunables_read(&tunables));
    tunables.slot_bytes = s->slot_bytes;
    tunables.slots = s->slots;
    tunables.staged_bytes = s->staged_bytes;
    tunables.direct_bytes = 1;
    for (int r = 0; r < s->ranks; r++) {
        member *m = &members[r];
        *m = (member){.setting = s, .rank = r};
        CMO_TRY(cmo_window_create(&m->window, s->ranks, 4 << 20, false));
        CMO_TRY(cmo_window_map(cmo_window_fd(m->window), s->ranks, &m->head, &m->head_bytes));
        neighbours[r] = (cmo_neighbour){.head = m->head, .size = m->head_bytes, .doorbell = -1, .pidfd = -1};
    }
    for (int r = 0; r < s->ranks; r++)
        CMO_TRY(cmo_engine_create(&members[r].engine,
                                  &(cmo_world){.rank = r, .size = s->ranks, .generation = 1, .host = host,
                                               .window = members[r].window, .neighbours = neighbours,
                                               .nlocal = s->ranks, .share = true, .collectives = &cmo_coll,
                                               .tunables = tunables, .threadless = true}));
    /* After the engines' own memory, which is at the same place in all windows. */
    for (int r = 0; r < s->ranks; r++) CMO_TRY(make_arrays(&members[r]));
    return CMO_OK;
}

static void run_setting(const setting *s)
{
    member members[MOST_RANKS] = {0};
    cmo_err err = make_world(s, members);
    CHECKF(err == CMO_OK, "%s: %s", cmo_err_name(err), cmo_reason());
    if (err) return;
    for (int r = 0; r < s->ranks; r++) CHECK(pthread_create(&members[r].thread, NULL, run_member, &members[r]) == 0);
    for (int r = 0; r < s->ranks; r++) pthread_join(members[r].thread, NULL);
    for (int r = 0; r < s->ranks; r++) cmo_engine_destroy(members[r].engine);
    for (int r = 0; r < s->ranks; r++) {
        cmo_window_unmap(members[r].head, members[r].head_bytes);
        cmo_window_destroy(members[r].window);
        if (members[r].shares) continue;
        free(members[r].in);
        free(members[r].out);
    }
}

int main(void)
{
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) run_setting(&settings[i]);
    return check_report();
}
