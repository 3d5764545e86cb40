/* The same bits on every run: fractions that round, the same call twice under schedules that have nothing in common. */
#include "check.h"
#include "coll_case.h"

#include <stdlib.h>
#include <string.h>

static const cmo_kind kinds[] = {CMO_ALLREDUCE, CMO_REDUCE, CMO_REDUCE_SCATTER, CMO_SCAN, CMO_EXSCAN};
static const cmo_dtype dtypes[] = {CMO_F32, CMO_F16, CMO_BF16, CMO_F64, CMO_C64};
enum { TWICE = 2 };

static bool same_bits(coll_run *runs[TWICE], int size)
{
    for (int r = 0; r < size; r++) {
        size_t bytes, again;
        const void *a = coll_out(runs[0], r, &bytes), *b = coll_out(runs[1], r, &again);
        if (bytes != again || (bytes && memcmp(a, b, bytes))) return false;
    }
    return true;
}

static void test_case(const coll_case *c, world_layout layout, int size, uint64_t seed)
{
    coll_run *runs[TWICE];
    world *worlds[TWICE];
    bool right = true;
    for (int i = 0; i < TWICE; i++) {
        world_settings settings = world_rough(size, layout, seed);
        settings.seed += (uint64_t)i * 1000003; /* another schedule, the same tunables */
        settings.net.jitter_ns = i ? 100000 : 10;
        settings.net.short_moves = i ? 0.5 : 0;
        settings.stagger_ns = i ? 200000 : 1;
        worlds[i] = world_create(&settings);
        CHECK(worlds[i] != NULL);
        if (!worlds[i]) exit(1);
        runs[i] = coll_add(worlds[i], c, 0, seed);
        right = world_run(worlds[i]) && coll_check(runs[i], worlds[i]) && right;
    }
    char what[160];
    coll_describe(c, what, sizeof what);
    CHECKF(right && same_bits(runs, size), "%s, %d ranks, layout %d", what, size, layout);
    for (int i = 0; i < TWICE; i++) {
        world_destroy(worlds[i]);
        coll_free(runs[i]);
    }
}

int main(void)
{
    const char *quick = getenv("QUICK");
    int most = quick && *quick != '0' ? 5 : 13;
    uint64_t seed = 1;
    for (int size = 2; size <= most; size++)
        for (int layout = 0; layout < WORLD_NLAYOUTS; layout++)
            for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
                for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
                    uint64_t state = ++seed;
                    coll_case c = {.kind = kinds[k], .op = coll_random(&state, 2) ? CMO_OP_SUM : CMO_OP_PROD,
                                   .dtype = dtypes[d], .root = (int)coll_random(&state, (uint64_t)size),
                                   .count = 1 + coll_random(&state, 150), .inexact = true};
                    test_case(&c, (world_layout)layout, size, seed);
                }
    return check_report();
}
