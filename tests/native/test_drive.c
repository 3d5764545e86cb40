/* Who drives an engine: several threads of each rank, each on a communicator of its own, call at once what blocks and
 * what does not, make and close communicators, and wait for each other's ranks; the progress thread is there too. Ranks
 * are engines of one process, so ThreadSanitizer sees the hand-over of calls and of the driver's role. */
#include "check.h"
#include "coll/coll.h"
#include "comm/internal.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { RANKS = 2, THREADS = 3, ROUNDS = 500, MOST = 400 };

typedef struct rank_state {
    cmo_window *window;
    cmo_engine *engine;
    cmo_comm *comm[THREADS];
} rank_state;

static rank_state ranks[RANKS];

static uint64_t draw(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

static cmo_call sum_call(const uint64_t *in, uint64_t *out, uint64_t count)
{
    return (cmo_call){.kind = CMO_ALLREDUCE, .op = CMO_OP_SUM, .dtype = CMO_U64, .in = in, .out = out, .count = count};
}

static void check_sum(const uint64_t *out, uint64_t count, uint64_t round)
{
    uint64_t want = 0;
    for (int r = 0; r < RANKS; r++) want += round + (uint64_t)r;
    for (uint64_t i = 0; i < count; i++) CHECK(out[i] == want + RANKS * i);
}

static void fill(uint64_t *in, uint64_t count, uint64_t round, int rank)
{
    for (uint64_t i = 0; i < count; i++) in[i] = round + (uint64_t)rank + i;
}

/* ------------------------------------------------------------------ what a thread does in a round */

/* A blocking call. Every other one of a thread is tried in the first half too. */
static cmo_err blocking(cmo_op *op, cmo_comm *comm, const cmo_call *call, double timeout)
{
    static _Thread_local unsigned calls;
    cmo_err err = cmo_call_begin(op, comm, call, timeout, calls++ % 2);
    return err == CMO_AGAIN ? cmo_op_finish(op) : err;
}

static void blocking_sum(cmo_comm *comm, int rank, uint64_t round, uint64_t count)
{
    uint64_t in[MOST], out[MOST];
    cmo_op op = {0};
    fill(in, count, round, rank);
    cmo_call call = sum_call(in, out, count);
    CHECK(blocking(&op, comm, &call, 60) == CMO_OK);
    check_sum(out, count, round);
}

static void ended(void *counter) { atomic_fetch_add((_Atomic int *)counter, 1); }

static void started_sums(cmo_comm *comm, int rank, uint64_t round, uint64_t count)
{
    enum { AT_ONCE = 3 };
    static _Thread_local uint64_t in[MOST], out[AT_ONCE][MOST];
    static _Thread_local cmo_op ops[AT_ONCE];
    _Atomic int calls_back = 0;
    fill(in, count, round, rank);
    for (int k = 0; k < AT_ONCE; k++) {
        memset(&ops[k], 0, sizeof ops[k]);
        ops[k].on_done = ended;
        ops[k].on_done_ctx = &calls_back;
        cmo_call call = sum_call(in, out[k], count);
        CHECK(cmo_call_start(&ops[k], comm, &call, 60) == CMO_OK);
    }
    for (int k = AT_ONCE - 1; k >= 0; k--) { /* the last one first */
        CHECK(cmo_op_wait(&ops[k], -1) == CMO_OK);
        check_sum(out[k], count, round);
    }
    while (atomic_load(&calls_back) < AT_ONCE) cmo_relax();
}

static cmo_err take(void *ctx, const cmo_layout *layout, void **address)
{
    *address = ctx;
    return layout->dtype == CMO_U64 ? CMO_OK : CMO_ETYPE;
}

static void exchange_messages(cmo_comm *comm, int rank, uint64_t round, uint64_t count)
{
    static _Thread_local uint64_t in[MOST], out[MOST];
    int other = (rank + 1) % RANKS;
    cmo_op sending = {0}, receiving = {0};
    cmo_status status;
    fill(in, count, round, rank);
    cmo_message send = {.peer = other, .tag = (int64_t)round, .dtype = CMO_U64, .ndim = 1, .shape = &count,
                        .buffer = in, .bytes = 8 * count};
    cmo_message receive = {.peer = CMO_ANY, .tag = (int64_t)round, .allocate = take, .allocate_ctx = out};
    CHECK(cmo_send_start(&sending, comm, &send, 60) == CMO_OK);
    CHECK(cmo_recv_start(&receiving, comm, &receive, 60, &status) == CMO_OK);
    CHECK(cmo_op_wait(&receiving, -1) == CMO_OK);
    CHECK(cmo_op_wait(&sending, -1) == CMO_OK);
    CHECK(status.source == other && status.bytes == 8 * count);
    for (uint64_t i = 0; i < count; i++) CHECK(out[i] == round + (uint64_t)other + i);
}

static cmo_comm *make_child(cmo_comm *parent)
{
    cmo_member own, all[RANKS];
    cmo_comm *child = NULL;
    cmo_op op = {0};
    cmo_engine *e = parent->engine;
    cmo_engine_enter(e);
    CHECK(cmo_comm_offer(parent, 0, 0, &own) == CMO_OK);
    cmo_engine_leave(e);
    cmo_call call = {.kind = CMO_ALLGATHER, .dtype = CMO_U8, .in = &own, .out = all, .count = sizeof own};
    CHECK(blocking(&op, parent, &call, 60) == CMO_OK);
    cmo_engine_enter(e);
    CHECK(cmo_comm_build(parent, all, &child) == CMO_OK);
    cmo_engine_leave(e);
    return child;
}

static void close_child(cmo_comm *child)
{
    cmo_engine *e = child->engine;
    cmo_engine_enter(e);
    cmo_comm_close(child);
    cmo_engine_leave(e);
}

/* ------------------------------------------------------------------ threads */

typedef struct worker {
    pthread_t thread;
    int rank, number;
} worker;

static void *work(void *arg)
{
    worker *w = arg;
    cmo_comm *comm = ranks[w->rank].comm[w->number];
    uint64_t state = (uint64_t)w->number + 1; /* alike on the ranks: they make the same calls */
    for (uint64_t round = 0; round < ROUNDS; round++) {
        static const uint64_t counts[] = {1, 6, 40, MOST};
        uint64_t what = draw(&state) % 5, count = counts[draw(&state) % 4];
        if (what <= 1) blocking_sum(comm, w->rank, round, count);
        else if (what == 2) started_sums(comm, w->rank, round, count);
        else if (what == 3) exchange_messages(comm, w->rank, round, count);
        else {
            cmo_comm *child = make_child(comm);
            blocking_sum(child, w->rank, round, count);
            close_child(child);
        }
    }
    return NULL;
}

static void for_all(void *(*what)(void *), worker *workers, int n)
{
    for (int i = 0; i < n; i++) pthread_create(&workers[i].thread, NULL, what, &workers[i]);
    for (int i = 0; i < n; i++) pthread_join(workers[i].thread, NULL);
}

/* One communicator for each thread, made one after the other. */
static void *prepare(void *arg)
{
    worker *w = arg;
    for (int t = 0; t < THREADS; t++) ranks[w->rank].comm[t] = make_child(cmo_engine_world(ranks[w->rank].engine));
    return NULL;
}

static void *finish(void *arg)
{
    cmo_engine_destroy(ranks[((worker *)arg)->rank].engine);
    return NULL;
}

static void start_engines(bool shares_memory)
{
    static const int host[RANKS];
    int bells[RANKS];
    for (int r = 0; r < RANKS; r++) {
        bells[r] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        CHECK(cmo_window_create(&ranks[r].window, RANKS, 64 << 20, true) == CMO_OK);
    }
    for (int r = 0; r < RANKS; r++) {
        cmo_neighbour neighbours[RANKS];
        for (int i = 0; i < RANKS; i++) /* the engine closes the descriptors that it is given */
            neighbours[i] = (cmo_neighbour){.head = cmo_window_base(ranks[i].window),
                                            .size = cmo_window_size(ranks[i].window),
                                            .doorbell = fcntl(bells[i], F_DUPFD_CLOEXEC, 0), .pidfd = -1};
        cmo_world world = {.rank = r, .size = RANKS, .host = host, .window = ranks[r].window, .neighbours = neighbours,
                           .nlocal = RANKS, .share = shares_memory, .collectives = &cmo_coll, .keeps_mappings = true};
        CHECK(cmo_tunables_read(&world.tunables) == CMO_OK);
        CHECK(cmo_engine_create(&ranks[r].engine, &world) == CMO_OK);
    }
    for (int r = 0; r < RANKS; r++) close(bells[r]);
}

static void test_threads_of_every_rank_call_at_once(bool shares_memory)
{
    worker leaders[RANKS], workers[RANKS * THREADS];
    start_engines(shares_memory);
    for (int r = 0; r < RANKS; r++) {
        leaders[r] = (worker){.rank = r};
        for (int t = 0; t < THREADS; t++) workers[r * THREADS + t] = (worker){.rank = r, .number = t};
    }
    for_all(prepare, leaders, RANKS);
    for_all(work, workers, RANKS * THREADS);
    for_all(finish, leaders, RANKS);
    for (int r = 0; r < RANKS; r++) cmo_window_destroy(ranks[r].window);
}

/* ------------------------------------------------------------------ ranks that wait for each other
 *
 * Each is the root of a call of its own, and no message or announcement shows it: they find out by asking, or
 * looking. */

enum { LONG = 4 << 20 }; /* bytes that do not fit into the slots of a rank */

/* In memory, the longer one of two broadcasts waits for the other rank to read it, who is done and goes on to a
 * barrier. By messages, both gather, and each waits for what the other sends. */
static void *be_root(void *arg)
{
    int rank = ((worker *)arg)->rank;
    cmo_comm *comm = cmo_engine_world(ranks[rank].engine);
    const uint64_t bytes = (uint64_t)LONG * (uint64_t)(1 + rank);
    unsigned char *array = calloc(1, bytes);
    cmo_call gather = {.kind = CMO_GATHER, .dtype = CMO_U8, .root = rank, .in = array, .out = array + 1, .count = 1};
    cmo_call broadcast = {.kind = CMO_BROADCAST, .dtype = CMO_U8, .root = rank, .in = array, .out = array,
                          .count = bytes, .ndim = 1, .shape = &bytes};
    cmo_call barrier = {.kind = CMO_BARRIER};
    cmo_op op = {0};
    cmo_err err = array ? blocking(&op, comm, comm->piece ? &broadcast : &gather, 3600) : CMO_ENOMEM;
    if (!err) err = blocking(&op, comm, &barrier, 3600);
    CHECKF(err == CMO_EMISMATCH, "rank %d: %s: %s", rank, cmo_err_name(err), cmo_reason());
    free(array);
    return NULL;
}

static void test_ranks_that_wait_for_each_other_find_out(bool shares_memory)
{
    worker roots[RANKS];
    start_engines(shares_memory);
    for (int r = 0; r < RANKS; r++) roots[r] = (worker){.rank = r};
    for_all(be_root, roots, RANKS);
    for_all(finish, roots, RANKS);
    for (int r = 0; r < RANKS; r++) cmo_window_destroy(ranks[r].window);
}

/* ------------------------------------------------------------------ nobody sleeps while there is something to do
 *
 * A sleep ends by itself after a slice of time, so what fails to end it shows as a wait that takes so long, and nothing
 * worse. These tests count what a wake-up that is missing makes happen, and look at no clock. */

typedef struct mover { /* something moves in every poll, until the last one */
    uint64_t progress;
    int polls, sleeps;
} mover;

static cmo_err move(void *ctx)
{
    mover *m = ctx;
    m->progress++;
    return ++m->polls < 200 ? CMO_AGAIN : CMO_OK;
}

static void move_slept(void *ctx, const struct epoll_event *events, int n)
{
    (void)events, (void)n;
    ((mover *)ctx)->sleeps++;
}

static void test_a_wait_does_not_sleep_after_a_poll_that_moved_something(void)
{
    mover m = {0};
    _Atomic uint32_t asleep = 0;
    cmo_waiter waiter = {.epoll = -1, .sockets = -1, .asleep = &asleep, .progress = &m.progress};
    CHECK(cmo_wait(&waiter, move, move_slept, &m, CMO_NEVER) == CMO_OK);
    CHECK(m.polls == 200 && m.sleeps == 0);
}

static bool count_slices(void *counter) /* a cmo_world.interrupted: asked when a sleep has ended by itself */
{
    atomic_fetch_add((_Atomic int *)counter, 1);
    return false;
}

/* An engine of one rank. */
static cmo_engine *lone_engine(cmo_window **window, bool threadless, _Atomic int *slices, cmo_net *remote)
{
    static const int host[1];
    cmo_engine *e = NULL;
    CHECK(cmo_window_create(window, 1, 1 << 20, true) == CMO_OK);
    cmo_neighbour self = {.head = cmo_window_base(*window), .size = cmo_window_size(*window),
                          .doorbell = threadless ? -1 : eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), .pidfd = -1};
    cmo_world world = {.size = 1, .host = host, .window = *window, .neighbours = &self, .nlocal = 1, .share = true,
                       .collectives = &cmo_coll, .keeps_mappings = true, .threadless = threadless, .remote = remote,
                       .interrupted = slices ? count_slices : NULL, .interrupt_ctx = slices};
    CHECK(cmo_tunables_read(&world.tunables) == CMO_OK);
    CHECK(cmo_engine_create(&e, &world) == CMO_OK);
    return e;
}

/* Else whoever polls goes to sleep, and the next call of the queue waits for nothing. */
static void test_what_moved_in_a_pass_counts_at_its_end(void)
{
    enum { CALLS = 4 };
    cmo_window *window;
    cmo_engine *e = lone_engine(&window, true, NULL, NULL);
    static cmo_op ops[CALLS];
    cmo_call barrier = {.kind = CMO_BARRIER};
    for (int i = 0; i < CALLS; i++) CHECK(cmo_call_start(&ops[i], cmo_engine_world(e), &barrier, 60) == CMO_OK);
    while (ops[CALLS - 1].signal != CMO_OP_ENDED) {
        uint64_t before = e->progress;
        CHECK(cmo_engine_poll(e)); /* each call can end at once */
        CHECK(e->progress > before);
    }
    cmo_engine_destroy(e);
    cmo_window_destroy(window);
}

static void *receive_nothing(void *engine)
{
    cmo_op op = {0};
    cmo_status status;
    uint64_t got;
    cmo_message receive = {.peer = 0, .allocate = take, .allocate_ctx = &got};
    CHECK(cmo_recv_start(&op, cmo_engine_world(engine), &receive, -1, &status) == CMO_OK);
    CHECK(cmo_op_wait(&op, -1) == CMO_OK);
    return NULL;
}

/* A thread drives and sleeps, since its message does not come. Others hand it calls, or must change something. */
static void test_a_driver_that_sleeps_is_woken(void (*use)(cmo_engine *))
{
    enum { TIMES = 60 };
    cmo_window *window;
    _Atomic int slices = 0;
    cmo_engine *e = lone_engine(&window, false, &slices, NULL);
    pthread_t driver;
    pthread_create(&driver, NULL, receive_nothing, e);
    int before = -1;
    for (int i = 0; i < TIMES; i++) {
        do sched_yield();
        while (!atomic_load(e->asleep));
        if (i == 0) before = atomic_load(&slices);
        use(e);
    }
    int ran_out = atomic_load(&slices) - before;
    CHECKF(ran_out < TIMES / 2, "%d of %d sleeps ended only by themselves", ran_out, TIMES);
    cmo_op op = {0};
    uint64_t one = 1, word = 0;
    cmo_message send = {.peer = 0, .dtype = CMO_U64, .ndim = 1, .shape = &one, .buffer = &word, .bytes = sizeof word};
    CHECK(cmo_send_start(&op, cmo_engine_world(e), &send, 60) == CMO_OK);
    CHECK(cmo_op_wait(&op, -1) == CMO_OK);
    pthread_join(driver, NULL);
    cmo_engine_destroy(e);
    cmo_window_destroy(window);
}

static void hand_a_call(cmo_engine *e)
{
    cmo_op op = {0};
    cmo_call barrier = {.kind = CMO_BARRIER};
    CHECK(cmo_call_start(&op, cmo_engine_world(e), &barrier, 60) == CMO_OK);
    while (atomic_load(&op.signal) != CMO_OP_ENDED) sched_yield();
    pthread_mutex_lock(&e->lock); /* who has ended it is done with it */
    pthread_mutex_unlock(&e->lock);
}

static void change_something(cmo_engine *e)
{
    cmo_engine_enter(e);
    cmo_engine_leave(e);
}

typedef struct counting_net { /* of which nothing comes */
    cmo_net net;
    _Atomic int polls;
} counting_net;

static cmo_err counting_poll(cmo_net *net)
{
    atomic_fetch_add(&((counting_net *)net)->polls, 1);
    return CMO_OK;
}

static void counting_close(cmo_net *net) { (void)net; }

/* Calls that are over at once, one after the other: who connects to this rank meanwhile must be let in all the same. */
static void test_small_calls_leave_time_for_the_sockets(void)
{
    enum { CALLS = 20000, LEAST = 20 };
    static const cmo_net_ops ops = {.name = "counting", .poll = counting_poll, .close = counting_close};
    counting_net remote = {.net = {.ops = &ops, .fd = -1}};
    cmo_window *window;
    cmo_engine *e = lone_engine(&window, false, NULL, &remote.net);
    cmo_call barrier = {.kind = CMO_BARRIER};
    int before = atomic_load(&remote.polls);
    for (int i = 0; i < CALLS; i++) {
        cmo_op op;
        CHECK(blocking(&op, cmo_engine_world(e), &barrier, 60) == CMO_OK);
    }
    int polls = atomic_load(&remote.polls) - before;
    CHECKF(polls >= LEAST, "%d looks at the sockets in %d calls", polls, (int)CALLS);
    cmo_engine_destroy(e);
    cmo_window_destroy(window);
}

int main(void)
{
    test_small_calls_leave_time_for_the_sockets();
    test_a_wait_does_not_sleep_after_a_poll_that_moved_something();
    test_what_moved_in_a_pass_counts_at_its_end();
    test_a_driver_that_sleeps_is_woken(hand_a_call);
    test_a_driver_that_sleeps_is_woken(change_something);
    test_threads_of_every_rank_call_at_once(true);
    test_threads_of_every_rank_call_at_once(false); /* the same ranks, by messages through the pipes of their windows */
    test_ranks_that_wait_for_each_other_find_out(true);
    test_ranks_that_wait_for_each_other_find_out(false);
    return check_report();
}
