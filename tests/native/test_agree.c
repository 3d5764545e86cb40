/* Agreement among those who are left, in thousands of schedules: ranks die, links break, ranks stand still, at any
 * moment, while ranks agree, shrink, and go on. Whatever happens: nobody waits for ever, all who return from an
 * agreement return the same, and there are never two groups that both go on. SEED=n replays one. */
#include "base/clock.h"
#include "check.h"
#include "coll/coll.h"
#include "comm/internal.h"
#include "sim_world.h"

#include <stdlib.h>
#include <string.h>

enum { MOST = 160, SMALL = 12, ROUNDS = 3 }; /* ranks, mostly, rounds of agree, shrink and a sum */
enum { SUM, AGREE, SHRINK, STEPS };

typedef struct plan { /* of one world */
    uint64_t seed, state;
    world *w;
    int size;
    bool cuts, pauses;
    uint64_t in[MOST], out[MOST][ROUNDS + 1];
    world_task *task[MOST][ROUNDS + 1][STEPS];
    uint64_t flag[MOST][ROUNDS];
} plan;

static uint64_t draw(plan *p, uint64_t bound)
{
    p->state = p->state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (p->state >> 33) % bound;
}

static world_task *add(plan *p, int r, int round, int step)
{
    world_task *t = p->task[r][round][step] = world_add(p->w, r);
    t->waits = true;
    t->number = round * STEPS + step;
    return t;
}

static void add_sum(plan *p, int r, int round)
{
    p->in[r] = 1;
    add(p, r, round, SUM)->call = (cmo_call){.kind = CMO_ALLREDUCE, .op = CMO_OP_SUM, .dtype = CMO_U64, .in = &p->in[r],
                                             .out = &p->out[r][round], .count = 1};
}

/* Every rank: a sum, then rounds of agree, shrink, a sum on what is left. */
static bool prepare(plan *p, uint64_t seed, int least, int most)
{
    *p = (plan){.seed = seed, .state = seed};
    for (int i = 0; i < 4; i++) draw(p, 1);
    p->size = least + (int)draw(p, (uint64_t)(most - least + 1));
    world_settings settings = world_rough(p->size, (world_layout)(seed % WORLD_NLAYOUTS), seed);
    settings.timeout = 20;
    settings.children = ROUNDS;
    settings.tells_all = seed % 3 ? 0 : 1; /* 1: not everybody tells everybody, as in large worlds */
    p->w = world_create(&settings);
    CHECK(p->w != NULL);
    for (int r = 0; p->w && r < p->size; r++) {
        add_sum(p, r, 0);
        for (int round = 0; round < ROUNDS; round++) {
            world_task *t = add(p, r, round, AGREE);
            t->what = TASK_AGREE;
            t->flag = p->flag[r][round] = ~(draw(p, 3) ? 0 : UINT64_C(1) << draw(p, 64));
            add(p, r, round, SHRINK)->what = TASK_SHRINK;
            add_sum(p, r, round + 1);
        }
    }
    return p->w != NULL;
}

static void add_faults(plan *p, uint64_t polls)
{
    const int kills = (int)draw(p, (uint64_t)p->size), cuts = draw(p, 2) ? 0 : (int)draw(p, 4);
    for (int i = 0; i < kills && i < 3; i++)
        world_add_fault(p->w, (world_fault){.what = FAULT_KILL, .rank = (int)draw(p, (uint64_t)p->size),
                                            .polls = draw(p, polls)});
    for (int i = 0; i < cuts && p->size > 1; i++) {
        const int a = (int)draw(p, (uint64_t)p->size), b = (a + 1 + (int)draw(p, (uint64_t)p->size - 1)) % p->size;
        world_add_fault(p->w, (world_fault){.what = FAULT_CUT, .rank = a, .other = b, .polls = draw(p, polls)});
        p->cuts = true;
    }
    /* A partition, which separates all links between its sides */
    const uint64_t at = draw(p, polls);
    const bool parts = !draw(p, 4) && p->size > 1 && p->size <= SMALL;
    const int first = parts ? 1 + (int)draw(p, (uint64_t)p->size - 1) : p->size;
    for (int a = 0; a < first; a++)
        for (int b = first; b < p->size; b++) {
            p->cuts = true;
            world_add_fault(p->w, (world_fault){.what = FAULT_CUT, .rank = a, .other = b, .polls = at});
        }
    if (!draw(p, 4)) {
        p->pauses = true;
        world_add_fault(p->w, (world_fault){.what = FAULT_PAUSE, .rank = (int)draw(p, (uint64_t)p->size),
                                            .polls = draw(p, polls), .pause = (int64_t)draw(p, 60) * CMO_SECOND});
    }
}

static const char *const step_names[] = {"sum", "agree", "shrink"};

static void show(plan *p, int r, int round, int step)
{
    const world_task *t = p->task[r][round][step];
    fprintf(stderr, "    rank %d%s, round %d, %s: %s, flag %llx of %llx, sum %llu, ended at %g s %s\n", r,
            world_is_dead(p->w, r) ? " (dead)" : "", round, step_names[step], cmo_err_name(t->err),
            (unsigned long long)t->flag, round < ROUNDS ? (unsigned long long)p->flag[r][round] : 0,
            (unsigned long long)p->out[r][round], (double)t->ended_at * 1e-9, t->err ? t->op.text : "");
}

static void complain(plan *p, int r, int round, int step, const char *what)
{
    const world_task *t = p->task[r][round][step];
    fprintf(stderr, "SEED=%llu: rank %d of %d, round %d, %s: %s: %s (%s)\n", (unsigned long long)p->seed, r, p->size,
            round, step_names[step], what, cmo_err_name(t->err), t->op.text);
    world_describe(p->w, stderr);
    for (int i = 0; i < p->size; i++)
        for (int k = 0; k <= ROUNDS; k++)
            for (int s = 0; s < STEPS; s++)
                if (p->task[i][k][s]) show(p, i, k, s);
}

static bool went_well(plan *p, int r, int round, int step)
{
    const world_task *t = p->task[r][round][step];
    return t->ended && !t->err;
}

/* Has the rank come so far, on the communicator that all who go on have? */
static bool is_in(plan *p, int r, int round)
{
    for (int before = 0; before < round; before++)
        if (!went_well(p, r, before, SHRINK)) return false;
    return true;
}

static bool same_flags(plan *p, int round)
{
    int first = -1;
    for (int r = 0; r < p->size; r++) {
        if (!is_in(p, r, round) || !went_well(p, r, round, AGREE)) continue;
        const uint64_t flag = p->task[r][round][AGREE]->flag;
        if (first < 0) first = r;
        if (flag != p->task[first][round][AGREE]->flag || flag & ~p->flag[r][round]) {
            complain(p, r, round, AGREE, "it returned another flag, or not its own");
            return false;
        }
    }
    return true;
}

/* What a rank that has shrunk `round` times holds: kept in the sums, which are of all members. */
static bool same_sums(plan *p, int round)
{
    uint64_t sum = 0;
    for (int r = 0; r < p->size; r++) {
        if (!is_in(p, r, round) || !went_well(p, r, round, SUM)) continue;
        if (!sum) sum = p->out[r][round];
        if (p->out[r][round] == sum) continue;
        complain(p, r, round, SUM, "it has another sum");
        return false;
    }
    uint64_t present = 0;
    for (int r = 0; r < p->size; r++) present += is_in(p, r, round) && went_well(p, r, round, SUM);
    if (sum && present > sum) {
        complain(p, 0, round, SUM, "there are more ranks with a sum than members: two groups went on");
        return false;
    }
    return true;
}

/* Where nothing but deaths happens, who lives gets there. */
static bool survivors_finish(plan *p)
{
    for (int r = 0; r < p->size; r++) {
        if (world_is_dead(p->w, r)) continue;
        for (int round = 0; round < ROUNDS; round++)
            for (int step = AGREE; step <= SHRINK; step++)
                if (!went_well(p, r, round, step)) {
                    complain(p, r, round, step, "it lives, and was not let in");
                    return false;
                }
    }
    return true;
}

static cmo_comm *last_comm(plan *p, int r) { return world_comm(p->w, r); }

static bool same_members(plan *p)
{
    const cmo_comm *all = NULL;
    for (int r = 0; r < p->size; r++) {
        if (world_is_dead(p->w, r) || !is_in(p, r, ROUNDS)) continue;
        const cmo_comm *c = last_comm(p, r);
        if (!all) all = c;
        if (c->size == all->size && !memcmp(c->world, all->world, (size_t)c->size * sizeof *c->world)) continue;
        complain(p, r, ROUNDS - 1, SHRINK, "it goes on with others");
        return false;
    }
    return true;
}

static uint64_t run(uint64_t seed, int least, int most, uint64_t polls)
{
    static plan p;
    if (!prepare(&p, seed, least, most)) return 0;
    if (polls) add_faults(&p, polls);
    bool good = world_run(p.w);
    CHECKF(good, "SEED=%llu", (unsigned long long)seed);
    for (int round = 0; good && round <= ROUNDS; round++)
        good = same_sums(&p, round) && (round == ROUNDS || same_flags(&p, round));
    good = good && same_members(&p);
    if (good && !p.cuts && !p.pauses) good = survivors_finish(&p);
    CHECKF(good, "SEED=%llu", (unsigned long long)seed);
    polls = world_polls(p.w);
    world_destroy(p.w);
    return polls;
}

/* Some rank stands still for longer than any time-out: the others agree in vain, naming it, then go on without it; and
 * when it moves again, it is told so. */
static void test_left_behind(uint64_t seed)
{
    static plan p;
    if (!prepare(&p, seed, 3, SMALL)) return;
    const int late = (int)draw(&p, (uint64_t)p.size);
    char name[16];
    snprintf(name, sizeof name, " %d", late);
    world_add_fault(p.w, (world_fault){.what = FAULT_PAUSE, .rank = late, .polls = draw(&p, 20),
                                       .pause = 100 * CMO_SECOND});
    bool good = world_run(p.w), alike = good;
    const cmo_err sum_of_others = p.task[late == 0][0][SUM]->err; /* else some agree while others still add */
    for (int r = 0; r < p.size; r++) alike &= r == late || p.task[r][0][SUM]->err == sum_of_others;
    for (int r = 0; r < p.size && alike && good; r++) {
        const world_task *agree = p.task[r][0][AGREE], *sum = p.task[r][ROUNDS][SUM];
        for (int round = 0; round < ROUNDS && good; round++)
            good = r == late ? p.task[r][round][SHRINK]->err == CMO_EREVOKED : went_well(&p, r, round, SHRINK);
        if (r != late)
            good = good && agree->err == CMO_ETIMEOUT && strstr(agree->op.text, name) && !sum->err &&
                   p.out[r][ROUNDS] == (uint64_t)p.size - 1;
        if (!good) complain(&p, r, 0, AGREE, "one stood still");
    }
    CHECKF(good, "SEED=%llu", (unsigned long long)seed);
    world_destroy(p.w);
}

/* Where a rank has no memory for the new communicator, no rank gets it; and they may agree on what to do. */
static void test_no_memory(uint64_t seed)
{
    world_settings settings = world_plain(2 + (int)(seed % 5), WORLD_ONE_HOST, seed);
    settings.tunables.slot_bytes = 1 << 16; /* more than all else that the windows have room for */
    settings.tunables.slots = 8;
    settings.tunables.pipe_bytes = 4096;
    settings.timeout = 20;
    world *w = world_create(&settings);
    CHECK(w != NULL);
    for (int r = 0; w && r < settings.size; r++) {
        world_task *shrink = world_add(w, r), *agree = world_add(w, r);
        shrink->what = TASK_SHRINK;
        agree->what = TASK_AGREE;
        agree->waits = true;
        agree->flag = UINT64_MAX;
    }
    CHECK(w && world_run(w));
    for (int r = 0; w && r < settings.size; r++) {
        const world_task *shrink = world_tasks(w, r);
        CHECKF(shrink->err == CMO_ENOMEM, "%s: %s", cmo_err_name(shrink->err), shrink->op.text);
        CHECK(!shrink->next->err && shrink->next->flag == UINT64_MAX);
    }
    world_destroy(w);
}

static void test_seed(uint64_t seed)
{
    const uint64_t polls = run(seed, 1, SMALL, 0); /* nothing happens, and is found out how long that takes */
    if (polls) run(seed, 1, SMALL, polls + polls / 2);
    if (seed % 100 == 0) test_left_behind(seed);
    if (seed % 1500 == 0) run(seed, MOST - 30, MOST, 40000);
}

int main(void)
{
    const char *seed = getenv("SEED"), *quick = getenv("QUICK");
    for (uint64_t s = 0; s < 5; s++) test_no_memory(s);
    if (seed) test_seed(strtoull(seed, NULL, 10));
    else
        for (uint64_t s = 0; s < (quick && *quick != '0' ? 200 : 5000); s++) test_seed(s);
    return check_report();
}
