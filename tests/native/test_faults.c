/* What goes wrong between ranks: different calls, and a death in the middle. Every survivor gets an error, none hangs.
 * SEED=n replays one world. */
#include "base/clock.h"
#include "check.h"
#include "coll/coll.h"
#include "coll_case.h"

#include <stdlib.h>
#include <string.h>

enum { BEFORE = 2, CALLS = 5 }; /* calls that are alike; in all, the last one a barrier */

static const cmo_kind last_kind = CMO_BARRIER;

/* Virtual nanoseconds within which every rank has heard of different calls: far less than any deadline here. One whose
 * slots the others still hold cannot say what it calls; then they wait for its word, three seconds. */
static const int64_t soon = 4 * CMO_SECOND;

static world *make_world(uint64_t seed, int size)
{
    world_settings settings = world_rough(size, (world_layout)(seed % WORLD_NLAYOUTS), seed);
    settings.timeout = 60;
    return world_create(&settings);
}

static coll_case plain_case(uint64_t *state, cmo_kind kind, int size)
{
    coll_case c = coll_draw(state, kind, size, 60);
    c.unequal = c.learns = false;
    return c;
}

static world_task *task_number(world *w, int rank, int number)
{
    world_task *t = world_tasks(w, rank);
    while (t->number != number) t = t->next;
    return t;
}

/* ------------------------------------------------------------------ different calls */

/* Change one thing that every rank must pass alike. */
static void change_call(cmo_call *call, int rank, int size, uint64_t *state)
{
    bool rooted = call->kind == CMO_BROADCAST || call->kind == CMO_REDUCE || call->kind == CMO_SCATTER ||
                  call->kind == CMO_GATHER;
    bool sized = call->kind != CMO_BARRIER && call->kind != CMO_BROADCAST && call->kind != CMO_SCATTER;
    uint64_t what = coll_random(state, 3);
    if (what == 0 && rooted) { /* whichever part it plays now, it needs memory for */
        static unsigned char in[1 << 14], out[1 << 14];
        static uint64_t shape[1];
        bool broadcasts = call->kind == CMO_BROADCAST;
        shape[0] = call->count * (broadcasts ? 1 : (uint64_t)size);
        call->root = (call->root + 1) % size;
        call->in = broadcasts ? out : in;
        call->out = out;
        call->ndim = 1;
        call->shape = rank == call->root ? shape : NULL;
    } else if (what == 1 && sized && call->count) {
        call->count--;
    } else {
        *call = (cmo_call){.kind = call->kind == CMO_BARRIER ? CMO_ALLREDUCE : CMO_BARRIER, .dtype = CMO_U8};
    }
}

static void test_different_calls(uint64_t seed)
{
    uint64_t state = seed;
    int size = 2 + (int)coll_random(&state, 8);
    world *w = make_world(seed, size);
    CHECK(w != NULL);
    if (!w) return;
    coll_run *runs[CALLS];
    for (int i = 0; i < CALLS; i++) {
        cmo_kind kind = i == CALLS - 1 ? last_kind : (cmo_kind)coll_random(&state, CMO_NKINDS);
        coll_case c = plain_case(&state, kind, size);
        runs[i] = coll_add(w, &c, i, coll_random(&state, 0));
    }
    int odd = (int)coll_random(&state, (uint64_t)size);
    cmo_call *call = &task_number(w, odd, BEFORE)->call;
    cmo_call was = *call;
    change_call(call, odd, size, &state);
    bool ran = world_run(w);
    CHECKF(ran, "SEED=%llu", (unsigned long long)seed);
    for (int r = 0; r < size && ran; r++) {
        const world_task *t = task_number(w, r, CALLS - 1);
        bool told = t->err == CMO_EMISMATCH && t->ended_at - t->started_at < soon;
        CHECKF(told, "SEED=%llu: rank %d of %d ends with %s (%s) after %g s though rank %d made another %s (%s)",
               (unsigned long long)seed, r, size, cmo_err_name(t->err), t->op.text,
               (double)(t->ended_at - t->started_at) * 1e-9, odd, cmo_kind_name(was.kind), cmo_kind_name(call->kind));
        if (!told) world_describe(w, stderr);
    }
    world_destroy(w);
    for (int i = 0; i < CALLS; i++) coll_free(runs[i]);
}

/* ------------------------------------------------------------------ every pair of calls */

enum { FIRST, SECOND, LAST }; /* numbers of a rank's tasks */

static bool kind_reduces(cmo_kind k)
{
    return k == CMO_ALLREDUCE || k == CMO_REDUCE || k == CMO_REDUCE_SCATTER || k == CMO_SCAN || k == CMO_EXSCAN;
}

/* Another call than `c` of the same kind; false where there is none whose difference must be noticed. */
static bool differ_in(coll_case *c, int what, int size)
{
    bool learns = c->kind == CMO_BROADCAST || c->kind == CMO_SCATTER; /* dtype and size are the root's to say */
    bool rooted = learns || c->kind == CMO_REDUCE || c->kind == CMO_GATHER, reduces = kind_reduces(c->kind);
    switch (what) {
    case 0: c->root = (c->root + 1) % size; return rooted;
    case 1: c->op = CMO_OP_MAX; return reduces;
    case 2: c->dtype = CMO_U16; return !learns && c->kind != CMO_BARRIER;
    case 3: c->count++; return !learns && c->kind != CMO_BARRIER;
    default: return false;
    }
}

/* These ranks make the two calls in the opposite order. */
static void swap_calls(world *w, int rank)
{
    world_task *a = task_number(w, rank, FIRST), *b = task_number(w, rank, SECOND);
    cmo_call call = a->call;
    void *ctx = a->op.on_done_ctx;
    a->call = b->call;
    a->op.on_done_ctx = b->op.on_done_ctx;
    b->call = call;
    b->op.on_done_ctx = ctx;
}

/* The first of the rank's calls that failed says of which call they all disagreed. One that was made too late does so
 * only if the others have told by then: here nobody waits for that before a call begins. */
static bool says_which(world *w, int rank)
{
    int number = FIRST;
    while (number < LAST && !task_number(w, rank, number)->err) number++;
    const char *text = task_number(w, rank, number)->op.text;
    return strstr(text, "is broken: ") || strstr(text, "different calls as number 1 of this communicator: rank 0: ");
}

static void test_pair(const coll_case *first, const coll_case *second, uint64_t seed)
{
    uint64_t state = seed;
    int size = 2 + (int)(seed / WORLD_NLAYOUTS % 6);
    coll_case barrier = {.kind = CMO_BARRIER, .dtype = CMO_U8};
    const coll_case *cases[] = {[FIRST] = first, [SECOND] = second, [LAST] = &barrier};
    coll_run *runs[3];
    world *w = make_world(seed, size);
    CHECK(w != NULL);
    if (!w) return;
    for (int i = 0; i < 3; i++) runs[i] = coll_add(w, cases[i], i, coll_random(&state, 0));
    int swapped = 1 + (int)coll_random(&state, (uint64_t)size - 1), from = (int)coll_random(&state, (uint64_t)size);
    for (int i = 0; i < swapped; i++) swap_calls(w, (from + i) % size);
    bool ran = world_run(w), good = ran;
    for (int r = 0; r < size && good; r++) {
        const world_task *t = task_number(w, r, LAST);
        good = t->err == CMO_EMISMATCH && t->ended_at - t->started_at < soon && says_which(w, r);
        char one[160], other[160];
        coll_describe(first, one, sizeof one);
        coll_describe(second, other, sizeof other);
        CHECKF(good, "seed %llu: rank %d of %d ends with %s (%s) after %g s though ranks %d to %d swapped %s and %s",
               (unsigned long long)seed, r, size, cmo_err_name(t->err), t->op.text,
               (double)(t->ended_at - t->started_at) * 1e-9, from, (from + swapped - 1) % size, one, other);
    }
    if (!good) world_describe(w, stderr);
    world_destroy(w);
    for (int i = 0; i < 3; i++) coll_free(runs[i]);
}

static coll_case any_case(uint64_t *state, cmo_kind kind, int size)
{
    coll_case c = coll_draw(state, kind, size, 60);
    c.place = COLL_ORDINARY;
    c.in_place = false;
    return c;
}

/* For all kinds × kinds, on all layouts: each kind with each other, and with itself where one argument differs. */
static void test_every_pair(uint64_t seed)
{
    uint64_t state = seed;
    for (uint64_t pair = 0; pair < CMO_NKINDS * CMO_NKINDS; pair++) {
        cmo_kind a = (cmo_kind)(pair / CMO_NKINDS), b = (cmo_kind)(pair % CMO_NKINDS);
        int size = 2 + (int)(seed / WORLD_NLAYOUTS % 6);
        coll_case first = any_case(&state, a, size), second = any_case(&state, b, size);
        if (a != b) test_pair(&first, &second, seed);
        for (int what = 0; what < 4 && a == b; what++) {
            first.unequal = first.learns = false;
            first.dtype = CMO_I32;
            first.op = CMO_OP_SUM;
            second = first;
            if (differ_in(&second, what, size)) test_pair(&first, &second, seed);
        }
    }
}

/* ------------------------------------------------------------------ who hears when */

typedef struct gatherer {
    int root;
    double at; /* virtual seconds */
    uint8_t in, out[3];
    world_task *task;
} gatherer;

/* Three ranks on hosts of their own gather, each at its time and to a root of its own mind. In a tree of three, the
 * root waits for both others, who send and are done. */
static world *run_gatherers(gatherer g[3])
{
    world_settings settings = world_plain(3, WORLD_OWN_HOSTS, 1);
    settings.timeout = 60;
    world *w = world_create(&settings);
    CHECK(w != NULL);
    if (!w) return NULL;
    for (int r = 0; r < 3; r++) {
        g[r].task = world_add(w, r);
        g[r].task->delay = (int64_t)(g[r].at * 1e9);
        g[r].task->call = (cmo_call){.kind = CMO_GATHER, .dtype = CMO_U8, .root = g[r].root, .in = &g[r].in,
                                     .out = g[r].out, .count = 1};
    }
    CHECK(world_run(w));
    return w;
}

static bool heard_by(const gatherer *g, double second)
{
    return g->task->err == CMO_EMISMATCH && g->task->ended_at < (int64_t)(second * 1e9);
}

static void test_a_rank_that_has_gone_on_tells_who_asks_it(void)
{
    gatherer g[3] = {{.root = 0, .at = 5}, {.root = 2, .at = 0}, {.root = 2, .at = 50}};
    world *w = run_gatherers(g);
    CHECK(!g[1].task->err && g[1].task->ended_at < CMO_SECOND); /* it has given its block to rank 2, who is not there */
    CHECK(heard_by(&g[0], 5 + 6));
    CHECK(heard_by(&g[2], 50 + 1));
    world_destroy(w);
}

static void test_what_a_late_rank_was_asked_counts_when_it_comes(void)
{
    gatherer g[3] = {{.root = 0, .at = 0}, {.root = 2, .at = 10}, {.root = 2, .at = 50}};
    world *w = run_gatherers(g);
    CHECK(heard_by(&g[0], 10 + 5.5));
    CHECK(heard_by(&g[1], 10 + 5.5));
    CHECK(heard_by(&g[2], 50 + 1));
    world_destroy(w);
}

/* ------------------------------------------------------------------ no mismatch */

/* Ranks that come seconds after each other, to calls that are alike: all end well, though everybody has asked. */
static void test_late_ranks(uint64_t seed)
{
    uint64_t state = seed;
    int size = 2 + (int)coll_random(&state, 8);
    world_settings settings = world_rough(size, (world_layout)(seed % WORLD_NLAYOUTS), seed);
    settings.timeout = 600;
    settings.stagger_ns = 5 * CMO_SECOND;
    world *w = world_create(&settings);
    CHECK(w != NULL);
    if (!w) return;
    coll_run *runs[CALLS];
    for (int i = 0; i < CALLS; i++) {
        coll_case c = coll_draw(&state, (cmo_kind)coll_random(&state, CMO_NKINDS), size, 60);
        runs[i] = coll_add(w, &c, i, coll_random(&state, 0));
    }
    bool ran = world_run(w);
    CHECKF(ran, "SEED=%llu", (unsigned long long)seed);
    for (int i = 0; i < CALLS && ran; i++) ran = coll_check(runs[i], w);
    world_destroy(w);
    for (int i = 0; i < CALLS; i++) coll_free(runs[i]);
}

/* ------------------------------------------------------------------ a death */

static bool is_loss(cmo_err err) { return err == CMO_EPEERLOST || err == CMO_ETIMEOUT; }

/* polls: how often the engines are polled in all; 0: nobody dies, and it is found out. */
static void test_death(uint64_t seed, int moment, uint64_t *polls)
{
    uint64_t state = seed, when = seed * 4 + (uint64_t)moment;
    int size = 2 + (int)coll_random(&state, 8), victim = (int)coll_random(&state, (uint64_t)size);
    world *w = make_world(seed, size);
    CHECK(w != NULL);
    if (!w) return;
    coll_run *runs[CALLS];
    cmo_kind kind = (cmo_kind)(seed / WORLD_NLAYOUTS % CMO_NKINDS);
    for (int i = 0; i < CALLS; i++) {
        coll_case c = plain_case(&state, i == CALLS - 1 ? last_kind : kind, size);
        runs[i] = coll_add(w, &c, i, coll_random(&state, 0));
    }
    if (*polls)
        world_add_fault(w, (world_fault){.what = FAULT_KILL, .rank = victim, .polls = coll_random(&when, *polls)});
    bool ran = world_run(w);
    CHECKF(ran, "SEED=%llu", (unsigned long long)seed);
    /* Before it took part in the last call */
    bool left_us = *polls && !task_number(w, victim, CALLS - 1)->op.algorithm;
    for (int r = 0; r < size && ran; r++) {
        const world_task *t = task_number(w, r, CALLS - 1);
        if (r == victim) continue;
        bool fits = left_us ? is_loss(t->err) : !t->err || is_loss(t->err);
        CHECKF(fits, "SEED=%llu: rank %d ends with %s (%s) though rank %d died", (unsigned long long)seed, r,
               cmo_err_name(t->err), t->op.text, victim);
        if (!fits) world_describe(w, stderr);
    }
    if (!*polls) *polls = world_polls(w);
    world_destroy(w);
    for (int i = 0; i < CALLS; i++) coll_free(runs[i]);
}

static void test_seed(uint64_t seed)
{
    uint64_t polls = 0;
    test_different_calls(seed);
    test_late_ranks(seed);
    if (seed % 8 == 0) test_every_pair(seed / 8);
    for (int moment = 0; moment < 4; moment++) test_death(seed, moment, &polls);
}

int main(void)
{
    const char *seed = getenv("SEED"), *quick = getenv("QUICK");
    test_a_rank_that_has_gone_on_tells_who_asks_it();
    test_what_a_late_rank_was_asked_counts_when_it_comes();
    if (seed) test_seed(strtoull(seed, NULL, 10));
    else
        for (uint64_t s = 0; s < (quick && *quick != '0' ? 66 : 1320); s++) test_seed(s);
    return check_report();
}
