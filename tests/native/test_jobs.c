/* Whole jobs in thousands of schedules in which things go wrong: ranks die, links break, a network parts, ranks stand
 * still, all at any moment of any collective. Nobody waits for ever; who is told that a call has ended well has the
 * right result; who is told of a lost rank is told the truth, and all are told the same. What the ranks that are left
 * do then is in test_agree.c. SEED=n replays one. */
#include "base/clock.h"
#include "check.h"
#include "coll/coll.h"
#include "coll_case.h"

#include <stdlib.h>
#include <string.h>

enum { CALLS = 6 };

typedef struct job {
    uint64_t seed, state;
    world *w;
    int size, kills, victim;
    bool cuts, pauses;
    coll_run *runs[CALLS];
} job;

static bool job_make(job *j, uint64_t seed)
{
    *j = (job){.seed = seed, .state = seed * 3 + 1, .victim = -1};
    for (int i = 0; i < 4; i++) coll_random(&j->state, 2);
    j->size = 2 + (int)coll_random(&j->state, 9);
    world_settings settings = world_rough(j->size, (world_layout)(seed % WORLD_NLAYOUTS), seed);
    settings.timeout = 20;
    j->w = world_create(&settings);
    CHECK(j->w != NULL);
    for (int i = 0; i < CALLS && j->w; i++) {
        coll_case c = coll_draw(&j->state, (cmo_kind)coll_random(&j->state, CMO_NKINDS), j->size, 60);
        j->runs[i] = coll_add(j->w, &c, i, coll_random(&j->state, 0));
    }
    return j->w != NULL;
}

static void job_free(job *j)
{
    world_destroy(j->w);
    for (int i = 0; i < CALLS; i++) coll_free(j->runs[i]);
}

static int any_rank(job *j) { return (int)coll_random(&j->state, (uint64_t)j->size); }

static void job_spoil(job *j, uint64_t polls)
{
    uint64_t *s = &j->state;
    const uint64_t what = coll_random(s, 6);
    if (what <= 2) { /* one death mostly, so that all must be told the same */
        j->kills = what == 2 ? 2 : 1;
        for (int i = 0; i < j->kills; i++) {
            j->victim = any_rank(j);
            world_add_fault(j->w, (world_fault){.what = FAULT_KILL, .rank = j->victim, .polls = coll_random(s, polls)});
        }
    }
    if (what == 3) {
        const int a = any_rank(j), b = (a + 1 + (int)coll_random(s, (uint64_t)j->size - 1)) % j->size;
        world_add_fault(j->w, (world_fault){.what = FAULT_CUT, .rank = a, .other = b, .polls = coll_random(s, polls)});
        j->cuts = true;
    }
    if (what == 4) {
        const int first = 1 + (int)coll_random(s, (uint64_t)j->size - 1);
        const uint64_t at = coll_random(s, polls);
        for (int a = 0; a < first; a++)
            for (int b = first; b < j->size; b++)
                world_add_fault(j->w, (world_fault){.what = FAULT_CUT, .rank = a, .other = b, .polls = at});
        j->cuts = true;
    }
    if (what == 5 || !coll_random(s, 4)) {
        world_add_fault(j->w, (world_fault){.what = FAULT_PAUSE, .rank = any_rank(j), .polls = coll_random(s, polls),
                                            .pause = (int64_t)coll_random(s, 50) * CMO_SECOND});
        j->pauses = true;
    }
}

static const world_task *last_task(const job *j, int r)
{
    const world_task *t = world_tasks(j->w, r);
    while (t->next) t = t->next;
    return t;
}

/* The call in which this rank heard of a loss; NULL: it heard of it between two. (Then the next one waits for what the
 * others have to say before it begins, but not here, where there are no threads.) */
static const world_task *told_in(const job *j, int r)
{
    const world_task *t = world_tasks(j->w, r);
    while (t && !t->err) t = t->next;
    return t && t->err == CMO_EPEERLOST && t->ended_at > t->started_at ? t : NULL;
}

/* Of a single death, and nothing else: all who hear of it name that rank and no other, with the same words. */
static bool told_the_same(const job *j)
{
    const char *words = NULL;
    for (int r = 0; r < j->size; r++) {
        const world_task *t = told_in(j, r);
        const cmo_comm *c = world_comm(j->w, r);
        if (r == j->victim || !t) continue;
        for (int other = 0; other < j->size; other++)
            if (c->lost[other] != (other == j->victim)) return false;
        if (!words) words = t->op.text;
        if (strcmp(words, t->op.text)) return false;
    }
    return true;
}

static uint64_t run(uint64_t seed, uint64_t polls)
{
    job j;
    if (!job_make(&j, seed)) return 0;
    if (polls) job_spoil(&j, polls);
    bool good = world_run(j.w);
    for (int i = 0; i < CALLS && good; i++) good = coll_check_well(j.runs[i], j.w);
    for (int r = 0; r < j.size && good && !j.kills && !j.cuts && !j.pauses; r++) good = !last_task(&j, r)->err;
    if (good && j.kills == 1 && !j.pauses && !told_the_same(&j)) {
        good = false;
        fprintf(stderr, "rank %d died\n", j.victim);
        for (int r = 0; r < j.size; r++)
            fprintf(stderr, "    rank %d: %s\n", r, told_in(&j, r) ? told_in(&j, r)->op.text : "");
    }
    CHECKF(good, "SEED=%llu", (unsigned long long)seed);
    if (!good) world_describe(j.w, stderr);
    polls = world_polls(j.w);
    job_free(&j);
    return polls;
}

static void test_seed(uint64_t seed)
{
    const uint64_t polls = run(seed, 0); /* nothing happens, and is found out how long that takes */
    if (polls) run(seed, polls + polls / 4);
}

int main(void)
{
    const char *seed = getenv("SEED"), *quick = getenv("QUICK");
    if (seed) test_seed(strtoull(seed, NULL, 10));
    else
        for (uint64_t s = 0; s < (quick && *quick != '0' ? 200 : 6000); s++) test_seed(s);
    return check_report();
}
