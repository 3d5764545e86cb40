/* What goes wrong between ranks: different calls, and a death in the middle. Every survivor gets an error, none hangs. SEED=n
 * replays one world. */
#include "base/clock.h"
#include "check.h"
#include "coll/coll.h"
#include "coll_case.h"

#include <stdlib.h>

enum { BEFORE = 2, CALLS = 5 }; /* calls that are alike; in all, the last one a barrier */

static const cmo_kind last_kind = CMO_BARRIER;

/* Virtual nanoseconds within which every rank has heard of different calls: far less than any deadline here. */
static const int64_t soon = 2 * CMO_SECOND;

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
static void change_call(cmo_call *call, int size, uint64_t *state)
{
    bool rooted = call->kind == CMO_BROADCAST || call->kind == CMO_REDUCE || call->kind == CMO_SCATTER || call->kind == CMO_GATHER;
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
        call->shape = shape;
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
    change_call(call, size, &state);
    bool ran = world_run(w);
    CHECKF(ran, "SEED=%llu", (unsigned long long)seed);
    for (int r = 0; r < size && ran; r++) {
        const world_task *t = task_number(w, r, CALLS - 1);
        bool told = t->err == CMO_EMISMATCH && t->ended_at - t->started_at < soon;
        CHECKF(told, "SEED=%llu: rank %d of %d ends with %s (%s) after %g s though rank %d made another %s (%s)", (unsigned long long)seed, r, size,
               cmo_err_name(t->err), t->op.text, (double)(t->ended_at - t->started_at) * 1e-9, odd, cmo_kind_name(was.kind), cmo_kind_name(call->kind));
        if (!told) world_describe(w, stderr);
    }
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
    if (*polls) world_kill_after(w, victim, coll_random(&when, *polls));
    bool ran = world_run(w);
    CHECKF(ran, "SEED=%llu", (unsigned long long)seed);
    bool left_us = *polls && !task_number(w, victim, CALLS - 1)->op.algorithm; /* before it took part in the last call */
    for (int r = 0; r < size && ran; r++) {
        const world_task *t = task_number(w, r, CALLS - 1);
        if (r == victim) continue;
        bool fits = left_us ? is_loss(t->err) : !t->err || is_loss(t->err);
        CHECKF(fits, "SEED=%llu: rank %d ends with %s (%s) though rank %d died", (unsigned long long)seed, r, cmo_err_name(t->err),
               t->op.text, victim);
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
    for (int moment = 0; moment < 4; moment++) test_death(seed, moment, &polls);
}

int main(void)
{
    const char *seed = getenv("SEED"), *quick = getenv("QUICK");
    if (seed) test_seed(strtoull(seed, NULL, 10));
    else
        for (uint64_t s = 0; s < (quick && *quick != '0' ? 66 : 1320); s++) test_seed(s);
    return check_report();
}
