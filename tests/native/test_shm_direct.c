/* Collectives on arrays that lie in windows (coll/shm_direct.c), in the simulator: on all, some or none of the
 * ranks, at any address, small and large, back to back, by ranks far out of step; every array is overwritten as soon
 * as its owner's call has ended.
 *
 * A seed determines a world and all that happens in it: `SEED=123 ./test_shm_direct` runs
 * it again. QUICK=1 runs a part. */
#include "check.h"
#include "coll/coll.h"
#include "coll_case.h"

#include <stdlib.h>
#include <string.h>

enum { TASKS = 3 * CMO_NKINDS, WORLDS = 240 };

static const int sizes[] = {2, 3, 4, 5, 7, 8, 13};
enum { NSIZES = sizeof sizes / sizeof *sizes };

static world_settings settings_of(uint64_t seed)
{
    world_layout layout = seed % 5 ? WORLD_ONE_HOST : WORLD_UNEVEN_HOSTS;
    world_settings s = world_rough(sizes[seed % NSIZES], layout, seed);
    s.tunables.direct_bytes = 1 + (int64_t)(seed * 7 % 3) * 100;
    s.tunables.staged_bytes = seed % 2 ? 64 : 0;
    s.tunables.pipe_bytes = 1 << 19; /* windows have room for a pipe to every rank: here, for arrays */
    return s;
}

static void run_world(uint64_t seed)
{
    world_settings settings = settings_of(seed);
    world *w = world_create(&settings);
    CHECK(w != NULL);
    if (!w) return;
    coll_run *runs[TASKS];
    uint64_t state = seed;
    for (int i = 0; i < TASKS; i++) {
        coll_case c = coll_draw(&state, (cmo_kind)(i * 7 % CMO_NKINDS), settings.size, 400);
        c.place = i % 4 == 3 ? COLL_ORDINARY : (coll_place)coll_random(&state, 3);
        runs[i] = coll_add(w, &c, i, coll_random(&state, 0));
    }
    for (int r = 0; r < settings.size; r++)
        for (world_task *t = world_tasks(w, r); t; t = t->next) t->waits = world_random(w, 5) == 0;
    bool ran = world_run(w);
    CHECKF(ran, "SEED=%llu", (unsigned long long)seed);
    bool right = ran;
    for (int i = 0; i < TASKS && right; i++) right = coll_check(runs[i], w);
    CHECKF(!ran || right, "SEED=%llu", (unsigned long long)seed);
    world_destroy(w);
    for (int i = 0; i < TASKS; i++) coll_free(runs[i]);
}

/* ------------------------------------------------------------------ the same bits */

/* Fractions, so that another order of additions would show. */
static void test_results_have_the_bits_of_staged_ones(void)
{
    enum { SIZE = 5, PLACES = 3 };
    static const cmo_dtype dtypes[] = {CMO_F32, CMO_F16, CMO_BF16, CMO_F64, CMO_C64};
    static const cmo_kind kinds[] = {CMO_ALLREDUCE, CMO_REDUCE, CMO_REDUCE_SCATTER, CMO_SCAN, CMO_EXSCAN};
    for (int i = 0; i < 50; i++) {
        coll_case c = {.kind = kinds[i % 5], .dtype = dtypes[i / 5 % 5], .op = i / 25 ? CMO_OP_MEAN : CMO_OP_SUM,
                       .count = 333, .inexact = true};
        world *worlds[PLACES];
        coll_run *runs[PLACES];
        for (int p = 0; p < PLACES; p++) {
            world_settings s = world_rough(SIZE, WORLD_ONE_HOST, 1);
            s.tunables.direct_bytes = 1;
            s.tunables.staged_bytes = 0;
            s.tunables.pipe_bytes = 1 << 16;
            c.place = (coll_place)p;
            worlds[p] = world_create(&s);
            CHECK(worlds[p] != NULL);
            if (!worlds[p]) return;
            runs[p] = coll_add(worlds[p], &c, 0, (uint64_t)i);
            CHECK(world_run(worlds[p]));
        }
        for (int p = 1; p < PLACES; p++)
            for (int r = 0; r < SIZE; r++) {
                size_t bytes, same;
                const void *direct = coll_out(runs[p], r, &bytes), *staged = coll_out(runs[0], r, &same);
                CHECKF(bytes == same && (!bytes || !memcmp(direct, staged, bytes)), "%s of %s, rank %d",
                       cmo_kind_name(c.kind), cmo_dtype_name(c.dtype), r);
            }
        for (int p = 0; p < PLACES; p++) {
            world_destroy(worlds[p]);
            coll_free(runs[p]);
        }
    }
}

int main(void)
{
    const char *seed = getenv("SEED"), *quick = getenv("QUICK");
    if (seed) {
        run_world(strtoull(seed, NULL, 10));
        return check_report();
    }
    bool part = quick && *quick != '0';
    for (uint64_t s = 0; s < (part ? WORLDS / 6 : WORLDS); s++) run_world(s);
    test_results_have_the_bits_of_staged_ones();
    return check_report();
}
