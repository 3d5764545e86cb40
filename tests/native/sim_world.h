/* A world of ranks in one process: an engine each over the simulated transport and shared windows, under one scheduler.
 *
 * A test makes a world, gives each rank its tasks (world_add), and runs them (world_run): every rank starts its tasks
 * in order, at times drawn from the seed and without waiting for the earlier ones to end, and engines are polled in an
 * order drawn from the seed. The clock moves when nothing else does. Tasks that are never going to end are a deadlock:
 * nothing moves and no event is pending, or every deadline is long past. Then the run fails and says who is where. */
#ifndef CMO_TESTS_SIM_WORLD_H
#define CMO_TESTS_SIM_WORLD_H

#include "comm/engine.h"
#include "transport/sim.h"

#include <stdio.h>

/* X(enumerator, how the ranks stand on hosts) */
#define WORLD_LAYOUTS(X)                                                  \
    X(ONE_HOST, "one host, sharing memory")                               \
    X(UNSHARED, "one host, pipes only")                                   \
    X(OWN_HOSTS, "a host each")                                           \
    X(EVEN_HOSTS, "hosts of equal size")                                  \
    X(UNEVEN_HOSTS, "hosts of 1, 2, 3, … ranks")                          \
    X(SCATTERED_HOSTS, "hosts whose ranks are not consecutive")

typedef enum {
#define WORLD_X(e, text) WORLD_##e,
    WORLD_LAYOUTS(WORLD_X)
#undef WORLD_X
    WORLD_NLAYOUTS
} world_layout;

typedef struct world_settings {
    int size;
    world_layout layout;
    int per_host;           /* EVEN_HOSTS: ranks of a host (the last may have fewer); UNEVEN_, SCATTERED_HOSTS: hosts */
    uint64_t seed;
    cmo_tunables tunables;
    cmo_sim_settings net;
    int64_t stagger_ns;     /* greatest time between a rank's starts of two tasks */
    double timeout;         /* of every task, in virtual seconds; negative: never */
    int children;           /* communicators beside the first for which there is memory */
    int tells_all;          /* as cmo_world has it */
} world_settings;

typedef struct world world;

typedef enum { TASK_CALL, TASK_SEND, TASK_RECV, TASK_PROBE, TASK_AGREE, TASK_SHRINK } task_what;

typedef struct world_task {
    /* Set by the test before the run. Everything that they point at must live until the world is destroyed. */
    task_what what;
    cmo_call call;
    cmo_message message; /* SEND, RECV; PROBE: its peer and tag */
    uint64_t flag;       /* AGREE: ours, then what was agreed. After a SHRINK that ended well, later tasks of the rank
                            are on the new communicator */
    bool waits;          /* start when all earlier tasks of this rank have ended */
    int64_t delay;       /* nanoseconds to start after it otherwise would */
    int number;          /* for the test */

    /* Results. */
    bool started, ended;
    cmo_err err;
    const struct cmo_algorithm *algorithm; /* CALL: what was chosen; NULL if it never began */
    int64_t started_at, ended_at;
    cmo_status status;
    cmo_op op;

    struct world_task *next; /* of the same rank */
} world_task;

/* Settings with tunables so small that small arrays walk the paths of large ones, drawn from the seed. */
world_settings world_rough(int size, world_layout layout, uint64_t seed);
/* The default tunables, and a smooth net. */
world_settings world_plain(int size, world_layout layout, uint64_t seed);

world *world_create(const world_settings *settings); /* NULL, having complained, on failure */
void world_destroy(world *w);

world_task *world_add(world *w, int rank); /* another task, zeroed; the world's */
bool world_run(world *w);                  /* false: a deadlock, reported on stderr */
world_task *world_tasks(world *w, int rank); /* the first task of a rank */

uint64_t world_random(world *w, uint64_t bound);
int world_size(const world *w);
cmo_comm *world_comm(world *w, int rank);
cmo_window *world_window(world *w, int rank);
cmo_sim *world_sim(world *w);
const int *world_hosts(const world *w);    /* [size] */

/* What goes wrong, after the engines have been polled so many times in all. */
typedef struct world_fault {
    enum { FAULT_KILL, FAULT_CUT, FAULT_PAUSE } what;
    int rank;            /* KILL: it dies, and its tasks count as ended. PAUSE: it is not polled for a while */
    int other;           /* CUT: the link between the two breaks */
    uint64_t polls;
    int64_t pause;       /* nanoseconds */
    bool done;
} world_fault;

enum { WORLD_FAULTS = 256 };
void world_add_fault(world *w, world_fault fault);
bool world_is_dead(const world *w, int rank);
uint64_t world_polls(const world *w);

/* Ask for payload to be counted apart from frame headers. Before the run; small worlds only. */
void world_count_payload(world *w);
uint64_t world_payload_sent(const world *w, int rank); /* bytes of messages */
uint64_t world_messages_sent(const world *w, int rank);

/* "seed 7, 5 ranks, one host, …": what is needed to run it again. */
void world_describe(const world *w, FILE *out);

#endif
