/* How the cost of a call grows with the ranks: steps, and the messages and bytes that a rank sends, against the
 * formulas of the algorithms' files. Wires take one unit of time and nothing else takes any, so steps are hops on the
 * longest path. Prints what it has measured, and what it should be, as JSON: bench/bench_growth.py draws it.
 *
 * Those that send n messages a rank send n² in all, and stop at a few hundred ranks. */
#include "check.h"
#include "coll/coll.h"
#include "coll_case.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { HOP = 1000, ON_HOST = 4, FEW = 64, FEWER = 256, SOME = 512, MANY = 4096, PAIRWISE_WINDOW = 4 };
enum { LOW = 0, HIGH = 1 << 20 }; /* doubling_bytes: little traffic, few steps */
enum { VECTOR = 10752, BLOCK = 16, SMALL = 1 }; /* elements of a byte; a vector is 512 · 3 · 7 of them, so that no
                                                   number of ranks up to SOME leaves a rest */

/* Ranks, or hosts. */
static const int counts[] = {2, 3, 4, 7, 8, 12, 16, 28, 32, 56, 64, 96, 128, 168, 256, 336, 512, 1000, 2048, 4096};

typedef struct cost {
    uint64_t steps;
    uint64_t messages, bytes;             /* of the rank that sends most of them */
    uint64_t all_messages, all_bytes;     /* of all ranks together */
} cost;

/* ------------------------------------------------------------------ formulas: of n ranks and a vector or block of B */

static uint64_t log_down(uint64_t n) { return 63 - (uint64_t)__builtin_clzll(n); }
static uint64_t log_up(uint64_t n) { return n > 1 ? log_down(n - 1) + 1 : 0; }

/* Sum of the depths of a tree's places: how often blocks move that each go to the root, or come from it. */
static uint64_t tree_depths(uint64_t n)
{
    uint64_t sum = 0;
    for (uint64_t place = 0; place < n; place++) sum += (uint64_t)__builtin_popcountll(place);
    return sum;
}

/* Places of the largest subtree below the root: of its last child, or the one before. */
static uint64_t tree_widest(uint64_t n)
{
    uint64_t last = UINT64_C(1) << (log_up(n) - 1);
    return n - last > last / 2 ? n - last : last / 2;
}

static cost dissemination(uint64_t n, uint64_t B)
{
    (void)B;
    return (cost){log_up(n), .messages = log_up(n), .all_messages = n * log_up(n)};
}

/* Folding in and out are two steps more; one, while those who have something to fold in are all in the lower half: in
 * the last exchange they hear from ranks that are a step ahead. */
static cost recursive_doubling(uint64_t n, uint64_t B)
{
    uint64_t exchanges = log_down(n), among = UINT64_C(1) << exchanges, extra = n - among;
    uint64_t folds = (extra > 0) + (extra > among / 2);
    uint64_t messages = exchanges + (extra > 0), all = among * exchanges + 2 * extra;
    return (cost){exchanges + folds, messages, messages * B, all, all * B};
}

static cost ring_of(uint64_t n, uint64_t steps, uint64_t chunk)
{
    return (cost){steps, steps, steps * chunk, n * steps, n * steps * chunk};
}

static cost ring_allreduce(uint64_t n, uint64_t B) { return ring_of(n, 2 * (n - 1), B / n); }
static cost ring_blocks(uint64_t n, uint64_t B) { return ring_of(n, n - 1, B); }

static cost tree_broadcast(uint64_t n, uint64_t B)
{
    return (cost){log_down(n), log_up(n), log_up(n) * B, n - 1, (n - 1) * B};
}

static cost tree_reduce(uint64_t n, uint64_t B) { return (cost){log_down(n), 1, B, n - 1, (n - 1) * B}; }

static cost tree_gather(uint64_t n, uint64_t B)
{
    return (cost){log_down(n), 1, tree_widest(n) * B, n - 1, tree_depths(n) * B};
}

/* As the gather the other way round, and a manifest of 3 words and one for each place on each edge. */
static cost tree_scatter(uint64_t n, uint64_t B)
{
    uint64_t word = sizeof(uint64_t), all = tree_depths(n) * (B + word) + 3 * word * (n - 1);
    return (cost){log_down(n), 2 * log_up(n), (n - 1) * (B + word) + 3 * word * log_up(n), 2 * (n - 1), all};
}

static cost bruck(uint64_t n, uint64_t B)
{
    return (cost){log_up(n), log_up(n), (n - 1) * B, n * log_up(n), n * (n - 1) * B};
}

/* Rank 0 waits for nobody, and is through all rounds at once. */
static cost scan_doubling(uint64_t n, uint64_t B)
{
    uint64_t all = 0;
    for (uint64_t distance = 1; distance < n; distance *= 2) all += n - distance;
    return (cost){log_down(n), log_up(n), log_up(n) * B, all, all * B};
}

static cost scan_chain(uint64_t n, uint64_t B) { return (cost){n - 1, 1, B, n - 1, (n - 1) * B}; }

static cost ring_reduce(uint64_t n, uint64_t B)
{
    cost ring = ring_blocks(n, B / n), tree = tree_gather(n, B / n);
    return (cost){ring.steps + tree.steps, ring.messages + tree.messages, ring.bytes + tree.bytes,
                  ring.all_messages + tree.all_messages, ring.all_bytes + tree.all_bytes};
}

static cost pairwise(uint64_t n, uint64_t B)
{
    uint64_t steps = (n - 1 + PAIRWISE_WINDOW - 1) / PAIRWISE_WINDOW; /* so many are in flight at a time */
    return (cost){steps, n - 1, (n - 1) * B, n * (n - 1), n * (n - 1) * B};
}

/* Between hosts, by every rank of a host, each with its slice of the vector. */
static cost each_place(cost across)
{
    across.all_messages *= ON_HOST;
    across.all_bytes *= ON_HOST;
    return across;
}

static cost hosts_doubling(uint64_t hosts, uint64_t B) { return each_place(recursive_doubling(hosts, B / ON_HOST)); }
static cost hosts_ring(uint64_t hosts, uint64_t B) { return each_place(ring_allreduce(hosts, B / ON_HOST)); }
static cost hosts_tree(uint64_t hosts, uint64_t B) { return each_place(tree_reduce(hosts, B / ON_HOST)); }
static cost hosts_bruck(uint64_t hosts, uint64_t B) { return each_place(bruck(hosts, B)); }

/* ------------------------------------------------------------------ measuring */

typedef struct row {
    const char *algorithm; /* as the table of coll/choose.c has it */
    cmo_kind kind;
    uint64_t count;
    int64_t doubling_bytes;
    int most;              /* ranks */
    cost (*formula)(uint64_t n, uint64_t B); /* of the number of ranks, or of hosts */
    const char *name;      /* where two rows have the same algorithm */
} row;

static const row rows[] = {
    {"dissemination", CMO_BARRIER, 0, HIGH, MANY, dissemination, "dissemination"},
    {"recursive_doubling", CMO_ALLREDUCE, BLOCK, HIGH, MANY, recursive_doubling, "recursive doubling"},
    {"ring", CMO_ALLREDUCE, VECTOR, LOW, SOME, ring_allreduce, "ring"},
    {"ring", CMO_REDUCE_SCATTER, BLOCK, LOW, SOME, ring_blocks, "ring"},
    {"ring", CMO_ALLGATHER, BLOCK, LOW, SOME, ring_blocks, "ring"},
    {"bruck", CMO_ALLGATHER, SMALL, HIGH, MANY, bruck, "Bruck"},
    {"pairwise", CMO_ALLTOALL, BLOCK, HIGH, FEWER, pairwise, "pairwise"},
    {"tree_broadcast", CMO_BROADCAST, BLOCK, HIGH, MANY, tree_broadcast, "tree"},
    {"tree_reduce", CMO_REDUCE, BLOCK, HIGH, MANY, tree_reduce, "tree"},
    {"ring_reduce", CMO_REDUCE, VECTOR, LOW, SOME, ring_reduce, "ring, then tree"},
    {"tree_gather", CMO_GATHER, BLOCK, HIGH, MANY, tree_gather, "tree"},
    {"tree_scatter", CMO_SCATTER, BLOCK, HIGH, MANY, tree_scatter, "tree"},
    {"scan_doubling", CMO_SCAN, BLOCK, HIGH, MANY, scan_doubling, "recursive doubling"},
    {"scan_chain", CMO_SCAN, BLOCK, LOW, MANY, scan_chain, "chain"},
    {"hosts", CMO_BARRIER, 0, HIGH, MANY, dissemination, "hosts, dissemination"},
    {"hosts", CMO_BROADCAST, BLOCK, HIGH, MANY, tree_broadcast, "hosts, tree"},
    {"hosts_reduce", CMO_ALLREDUCE, BLOCK, HIGH, MANY, hosts_doubling, "hosts, recursive doubling"},
    {"hosts_reduce", CMO_ALLREDUCE, VECTOR, LOW, SOME, hosts_ring, "hosts, ring"},
    {"hosts_reduce", CMO_REDUCE, BLOCK, HIGH, MANY, hosts_tree, "hosts, tree"},
    {"hosts_allgather", CMO_ALLGATHER, SMALL, HIGH, MANY, hosts_bruck, "hosts, Bruck"},
};
enum { ROWS = sizeof rows / sizeof *rows };

static bool on_hosts(const row *r) { return !strncmp(r->algorithm, "hosts", 5); }

static uint64_t latest_end(world *w, int size)
{
    int64_t end = 0;
    for (int r = 0; r < size; r++)
        if (world_tasks(w, r)->next->ended_at > end) end = world_tasks(w, r)->next->ended_at;
    return (uint64_t)(end - world_tasks(w, 0)->next->started_at);
}

static void count_traffic(world *w, int size, cost *into, uint64_t *messages, uint64_t *bytes)
{
    for (int r = 0; r < size; r++) {
        uint64_t m = world_messages_sent(w, r) - messages[r], b = world_payload_sent(w, r) - bytes[r];
        if (m > into->messages) into->messages = m;
        if (b > into->bytes) into->bytes = b;
        into->all_messages += m;
        into->all_bytes += b;
        messages[r] += m;
        bytes[r] += b;
    }
}

/* The second of two calls: the first one makes the connections. */
static cost measure(const row *r, int size)
{
    world_settings settings = world_plain(size, on_hosts(r) ? WORLD_EVEN_HOSTS : WORLD_OWN_HOSTS, 3);
    settings.per_host = ON_HOST;
    settings.tunables.doubling_bytes = r->doubling_bytes;
    settings.tunables.slots = 8; /* memory for thousands of ranks */
    settings.tunables.pipe_bytes = CMO_PAGE;
    settings.net = (cmo_sim_settings){.latency_ns = HOP};
    coll_case c = {.kind = r->kind, .dtype = CMO_U8, .op = CMO_OP_BXOR, .count = r->count};
    coll_run *runs[2] = {NULL, NULL};
    uint64_t *sent = calloc(2 * (size_t)size, sizeof *sent);
    world *w = world_create(&settings);
    cost found = {0};
    bool right = sent && w;
    if (right) world_count_payload(w);
    for (int i = 0; i < 2 && right; i++) {
        found = (cost){0};
        runs[i] = coll_add(w, &c, i, (uint64_t)i);
        right = world_run(w) && coll_check(runs[i], w);
        if (right) count_traffic(w, size, &found, sent, sent + size);
    }
    /* Among two ranks both cost the same, and there is one of them. */
    const char *algorithm = size == 2 && !strcmp(r->algorithm, "bruck") ? "ring" : r->algorithm;
    CHECKF(right && !strcmp(world_tasks(w, 0)->algorithm->name, algorithm), "%s: %s among %d ranks",
           cmo_kind_name(r->kind), algorithm, size);
    if (right) found.steps = latest_end(w, size) / HOP;
    world_destroy(w);
    for (int i = 0; i < 2; i++) coll_free(runs[i]);
    free(sent);
    return found;
}

/* ------------------------------------------------------------------ what comes of it */

static void print_cost(const char *name, const cost *c)
{
    printf("\"%s\": {\"steps\": %" PRIu64 ", \"messages\": %" PRIu64 ", \"bytes\": %" PRIu64
           ", \"all_messages\": %" PRIu64 ", \"all_bytes\": %" PRIu64 "}",
           name, c->steps, c->messages, c->bytes, c->all_messages, c->all_bytes);
}

static void compare(const row *r, int units, bool first)
{
    int size = on_hosts(r) ? units * ON_HOST : units;
    cost found = measure(r, size), formula = r->formula((uint64_t)units, r->count);
    CHECKF(!memcmp(&found, &formula, sizeof found), "%s by %s, %d ranks: see what is printed", cmo_kind_name(r->kind),
           r->algorithm, size);
    printf("%s\n {\"operation\": \"%s\", \"algorithm\": \"%s\", \"ranks\": %d, \"array\": %" PRIu64 ", ",
           first ? "" : ",", cmo_kind_name(r->kind), r->name, size, r->count);
    print_cost("measured", &found);
    printf(", ");
    print_cost("formula", &formula);
    printf("}");
}

int main(void)
{
    const char *quick = getenv("QUICK");
    int most = quick && *quick != '0' ? FEW : MANY;
    bool first = true;
    printf("[");
    for (const row *r = rows; r < rows + ROWS; r++)
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            int size = on_hosts(r) ? counts[i] * ON_HOST : counts[i];
            if (size > most || size > r->most) break;
            compare(r, counts[i], first);
            first = false;
        }
    printf("\n]\n");
    return check_report();
}
