/* The grid: every kind of collective and every algorithm, 1 to 70 ranks, on all layouts of hosts, with small segments,
 * started back to back by ranks far out of step, and the results of all of them.
 *
 * A seed determines a world and all that happens in it: `SEED=123 ./test_coll` runs it again. QUICK=1 runs a part. */
#include "check.h"
#include "coll/coll.h"
#include "coll_case.h"

#include <stdlib.h>

static const int sizes[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 23, 31, 32, 33, 47, 64, 65, 70};
enum { NSIZES = sizeof sizes / sizeof *sizes, TASKS = 4 * CMO_NKINDS, WORLDS = NSIZES * WORLD_NLAYOUTS };

static unsigned long uses[256]; /* of each row of cmo_algorithms */

static void note_uses(world *w)
{
    for (world_task *t = world_tasks(w, 0); t; t = t->next)
        if (t->algorithm) uses[t->algorithm - cmo_algorithms]++;
}

static void run_world(uint64_t seed)
{
    int size = sizes[seed % NSIZES];
    world_settings settings = world_rough(size, (world_layout)(seed / NSIZES % WORLD_NLAYOUTS), seed);
    world *w = world_create(&settings);
    CHECK(w != NULL);
    if (!w) return;
    coll_run *runs[TASKS];
    int tasks = size <= 17 ? TASKS : size <= 33 ? TASKS / 2 : TASKS / 4;
    uint64_t state = seed;
    for (int i = 0; i < tasks; i++) {
        coll_case c = coll_draw(&state, (cmo_kind)(i * 7 % CMO_NKINDS), size, size <= 17 ? 400 : 120);
        c.inexact = c.op != CMO_OP_MEAN && coll_random(&state, 4) == 0;
        runs[i] = coll_add(w, &c, i, coll_random(&state, 0));
    }
    for (int r = 0; r < size; r++) /* now and then a rank waits for all that it has begun */
        for (world_task *t = world_tasks(w, r); t; t = t->next) t->waits = world_random(w, 5) == 0;
    bool ran = world_run(w);
    CHECKF(ran, "SEED=%llu", (unsigned long long)seed);
    bool right = ran;
    for (int i = 0; i < tasks && right; i++) right = coll_check(runs[i], w);
    CHECKF(!ran || right, "SEED=%llu", (unsigned long long)seed);
    note_uses(w);
    world_destroy(w);
    for (int i = 0; i < tasks; i++) coll_free(runs[i]);
}

int main(void)
{
    const char *seed = getenv("SEED"), *quick = getenv("QUICK");
    if (seed) {
        run_world(strtoull(seed, NULL, 10));
        return check_report();
    }
    bool part = quick && *quick != '0';
    for (uint64_t s = 0; s < (part ? 1 : 3) * WORLDS; s++)
        if (sizes[s % NSIZES] <= 17 || (!part && s < WORLDS)) run_world(s);
    for (int i = 0; i < cmo_nalgorithms; i++)
        CHECKF(uses[i] > 0, "%s of %s was never used", cmo_algorithms[i].name, cmo_kind_name(cmo_algorithms[i].kind));
    return check_report();
}
