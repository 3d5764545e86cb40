/* What the algorithms move: bytes of messages each rank sends, and how many messages,
 * against the formulas in their files. */
#include "check.h"
#include "coll/coll.h"
#include "coll_case.h"

#include <string.h>

enum { ELEMENTS_EACH = 12, ELEMENT = 8 };

typedef struct cost {
    uint64_t most, total;          /* bytes: of the rank that sends most, of all */
    uint64_t most_messages;
    const char *algorithm;
} cost;

/* One call among ranks on a host each, over a smooth net. */
static cost measure(cmo_kind kind, int size, uint64_t count, int64_t doubling_bytes)
{
    world_settings settings = world_plain(size, WORLD_OWN_HOSTS, 3);
    settings.tunables.doubling_bytes = doubling_bytes;
    settings.tunables.segment_bytes = 32;
    settings.tunables.eager_bytes = 64;
    world *w = world_create(&settings);
    world_count_payload(w);
    coll_case c = {.kind = kind, .dtype = CMO_F64, .count = count, .root = size / 2};
    coll_run *run = coll_add(w, &c, 0, 1);
    CHECK(world_run(w) && coll_check(run, w));
    cost total = {.algorithm = world_tasks(w, 0)->algorithm->name};
    for (int r = 0; r < size; r++) {
        uint64_t sent = world_payload_sent(w, r), messages = world_messages_sent(w, r);
        total.total += sent;
        if (sent > total.most) total.most = sent;
        if (messages > total.most_messages) total.most_messages = messages;
        CHECK(cmo_sim_traffic_of(world_sim(w), r)->sent >= sent);
    }
    world_destroy(w);
    coll_free(run);
    return total;
}

static uint64_t rounds_of(int size)
{
    uint64_t rounds = 0;
    while (1 << rounds < size) rounds++;
    return rounds;
}

static void check_ring(int size)
{
    uint64_t n = (uint64_t)size, bytes = n * ELEMENTS_EACH * ELEMENT, part = bytes / n;
    cost all = measure(CMO_ALLREDUCE, size, n * ELEMENTS_EACH, 0);
    CHECK(!strcmp(all.algorithm, "ring"));
    /* 2 (n-1)/n of the array. */
    CHECKF(all.most == 2 * (n - 1) * part, "%d ranks: %llu", size, (unsigned long long)all.most);
    CHECKF(all.total == n * all.most, "%d ranks: the ring is uneven", size);
    cost scattered = measure(CMO_REDUCE_SCATTER, size, ELEMENTS_EACH, 0);
    CHECKF(scattered.most == (n - 1) * part && scattered.total == n * scattered.most, "%d ranks: %llu", size,
           (unsigned long long)scattered.most);
}

static void check_trees(int size)
{
    uint64_t n = (uint64_t)size, bytes = ELEMENTS_EACH * ELEMENT, rounds = rounds_of(size);
    cost broadcast = measure(CMO_BROADCAST, size, ELEMENTS_EACH, 0);
    CHECKF(broadcast.total == (n - 1) * bytes, "%d ranks: %llu", size, (unsigned long long)broadcast.total);
    CHECK(broadcast.most_messages <= rounds);
    cost reduce = measure(CMO_REDUCE, size, ELEMENTS_EACH, 1 << 20);
    CHECKF(reduce.total == (n - 1) * bytes && reduce.most_messages <= 1, "%d ranks: %llu", size,
           (unsigned long long)reduce.total);
    cost gather = measure(CMO_GATHER, size, ELEMENTS_EACH, 0);
    CHECKF(gather.total <= rounds * (n - 1) * bytes && gather.most_messages <= 2, "%d ranks: %llu", size,
           (unsigned long long)gather.total);
}

static void check_logarithmic(int size)
{
    uint64_t n = (uint64_t)size, bytes = ELEMENTS_EACH * ELEMENT, rounds = rounds_of(size);
    cost barrier = measure(CMO_BARRIER, size, 0, 0);
    CHECKF(barrier.most_messages == rounds && !barrier.total, "%d ranks: %llu messages", size,
           (unsigned long long)barrier.most_messages);
    cost doubling = measure(CMO_ALLREDUCE, size, ELEMENTS_EACH, 1 << 20);
    CHECK(!strcmp(doubling.algorithm, "recursive_doubling"));
    CHECKF(doubling.most <= rounds * bytes, "%d ranks: %llu", size, (unsigned long long)doubling.most);
    if (!(n & (n - 1))) CHECK(doubling.total == n * rounds * bytes);
}

static void check_everybody_to_everybody(int size)
{
    uint64_t n = (uint64_t)size, bytes = ELEMENTS_EACH * ELEMENT;
    cost all = measure(CMO_ALLTOALL, size, ELEMENTS_EACH, 0);
    if (!strcmp(all.algorithm, "pairwise"))
        CHECKF(all.most == (n - 1) * bytes, "%d ranks: %llu", size, (unsigned long long)all.most);
    cost gathered = measure(CMO_ALLGATHER, size, ELEMENTS_EACH, 0);
    CHECKF(gathered.most == (n - 1) * bytes && gathered.total == n * gathered.most, "%d ranks: %s, %llu", size,
           gathered.algorithm, (unsigned long long)gathered.most);
}

int main(void)
{
    for (int size = 2; size <= 17; size++) {
        check_ring(size);
        check_trees(size);
        check_logarithmic(size);
        check_everybody_to_everybody(size);
    }
    return check_report();
}
