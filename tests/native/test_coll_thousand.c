/* Every algorithm once among 1,000 ranks, in segments of a few elements. Those in which every rank talks to every other
 * have 128, since each link takes memory at both ends; rings of hosts have 300, since n² messages take their time. */
#include "check.h"
#include "coll/coll.h"
#include "coll_case.h"

#include <stdlib.h>
#include <string.h>

enum { MANY = 1000, RING = 300, SOME = 128, FEW = 40 };

static const world_layout layouts[] = {WORLD_ONE_HOST, WORLD_OWN_HOSTS, WORLD_EVEN_HOSTS};
static unsigned char used[256]; /* rows of cmo_algorithms */

static int ranks_for(cmo_kind kind, world_layout layout)
{
    const char *quick = getenv("QUICK");
    if (quick && *quick != '0') return FEW;
    if (layout != WORLD_ONE_HOST && kind == CMO_ALLTOALL) return SOME;
    const bool rings = kind == CMO_ALLREDUCE || kind == CMO_REDUCE_SCATTER || kind == CMO_ALLGATHER;
    return layout == WORLD_OWN_HOSTS && rings ? RING : MANY;
}

/* Calls of one kind, one after the other: tiny, and several segments long. */
static void run_kind(cmo_kind kind, world_layout layout)
{
    int size = ranks_for(kind, layout);
    world_settings settings = world_plain(size, layout, 1 + (uint64_t)kind);
    settings.per_host = 8;
    settings.tunables.slot_bytes = 4096; /* of a tenth of this, an alltoall would take hundreds of rounds */
    settings.tunables.staged_bytes = 256;
    settings.tunables.segment_bytes = 32;
    settings.tunables.eager_bytes = 64;
    settings.tunables.pipe_bytes = 256;
    settings.tunables.doubling_bytes = 16;
    settings.net.jitter_ns = 0;
    bool long_enough = kind == CMO_ALLREDUCE || kind == CMO_REDUCE || kind == CMO_BROADCAST;
    bool scans = kind == CMO_SCAN || kind == CMO_EXSCAN;
    const coll_case cases[] = {
        {.kind = kind, .dtype = CMO_F32, .count = 2, .root = size / 2},
        {.kind = kind, .dtype = CMO_I32, .count = long_enough ? (uint64_t)size + 107 : 9, .root = size - 1},
        {.kind = kind, .dtype = CMO_F16, .count = long_enough || scans ? 40 : 3, .learns = kind >= CMO_GATHER,
         .root = 0},
    };
    enum { CASES = sizeof cases / sizeof *cases };
    world *w = world_create(&settings);
    CHECK(w != NULL);
    if (!w) return;
    coll_run *runs[CASES];
    for (int i = 0; i < CASES; i++) runs[i] = coll_add(w, &cases[i], i, (uint64_t)i);
    bool right = world_run(w);
    for (int i = 0; i < CASES && right; i++) right = coll_check(runs[i], w);
    CHECKF(right, "%s of %d ranks, layout %d", cmo_kind_name(kind), size, layout);
    for (const world_task *t = world_tasks(w, 0); t; t = t->next)
        if (t->algorithm) used[t->algorithm - cmo_algorithms] = 1;
    world_destroy(w);
    for (int i = 0; i < CASES; i++) coll_free(runs[i]);
}

/* Does the table have an algorithm of this kind for several hosts? */
static bool has_hosts(cmo_kind kind)
{
    for (int i = 0; i < cmo_nalgorithms; i++)
        if (cmo_algorithms[i].kind == kind && !strncmp(cmo_algorithms[i].name, "hosts", 5)) return true;
    return false;
}

/* Rows that have no place here: one rank, and blocks of so few bytes that those of 1,000 ranks fit in a cache line. */
static bool is_exempt(const cmo_algorithm *a)
{
    return !strcmp(a->name, "alone") ||
           (!strcmp(a->name, "shm_inline") && (a->kind == CMO_REDUCE_SCATTER || a->kind == CMO_ALLTOALL));
}

int main(void)
{
    for (size_t l = 0; l < sizeof layouts / sizeof *layouts; l++)
        for (int kind = 0; kind < CMO_NKINDS; kind++)
            if (layouts[l] != WORLD_EVEN_HOSTS || has_hosts((cmo_kind)kind)) run_kind((cmo_kind)kind, layouts[l]);
    for (int i = 0; i < cmo_nalgorithms; i++)
        CHECKF(used[i] || is_exempt(&cmo_algorithms[i]), "%s of %s was never used", cmo_algorithms[i].name,
               cmo_kind_name(cmo_algorithms[i].kind));
    return check_report();
}
