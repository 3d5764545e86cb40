/* Who drives an engine, and how a call is handed over. The rules are in engine.h; the progress thread is in thread.c,
 * the fast path of blocking calls in fast.c.
 *
 * `role` is 1 while there is a driver. It is taken by compare and swap. Whoever finds it taken puts its call on the
 * submitted list, under the lock, and looks at the role once more; the driver, after giving the role up, looks at the
 * list once more (both sequentially consistent): so a call is never left with nobody to see it. A driver that leaves
 * while a thread sleeps for an unfinished call hands the role to it; calls that nobody waits for are left to the
 * progress thread, which leaves as soon as somebody does.
 *
 * The driver holds `driving` while it is one. A thread that must change something for a moment (make or close a
 * communicator) counts itself in `nwanting`, wakes the driver if it sleeps, and takes `driving`, which the driver lets
 * go between two passes. */
#include "comm/internal.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    LAUNCH_BYTES = 128 << 10, /* times ranks: a call of no more is begun by the thread that makes it, a larger one by
                                 the progress thread */
    CALLS_PER_LOOK = 256,     /* of calls that are made without a pass: then one is made, which also lets in who
                                 connects, and hears what other ranks have to say */
    GIVE_WAY_US = 10,   /* between looks whether those who make or close a communicator have done so: they hold up every
                           call of this rank, for microseconds */
};

/* Become the driver, but for `driving`, which must be taken next. */
static bool role_claim(cmo_engine *e)
{
    uint32_t free_role = 0;
    if (!atomic_compare_exchange_strong_explicit(&e->role, &free_role, 1, memory_order_seq_cst, memory_order_relaxed))
        return false;
    uint32_t turn = atomic_load_explicit(&e->turn, memory_order_relaxed);
    atomic_store_explicit(&e->turn, turn + 1, memory_order_relaxed);
    if (atomic_load_explicit(&e->watching, memory_order_seq_cst)) {
        atomic_store_explicit(&e->watching, 0, memory_order_relaxed);
        cmo_bell_ring(e->thread_bell); /* its sleep would be disturbed by every packet that comes for us */
    }
    return true;
}

bool cmo_role_take(cmo_engine *e)
{
    if (!role_claim(e)) return false;
    pthread_mutex_lock(&e->driving);
    return true;
}

/* Ring the progress thread, unless it has been told already. The role was given back before: either the thread sees
 * that, or we see that it has taken notice of what it was told before. */
static void leave_to_thread(cmo_engine *e, uint32_t when)
{
    uint32_t told = atomic_load_explicit(&e->left, memory_order_seq_cst);
    while (told < when)
        if (atomic_compare_exchange_weak_explicit(&e->left, &told, when, memory_order_seq_cst, memory_order_seq_cst)) {
            cmo_bell_ring(e->thread_bell);
            return;
        }
}

/* The role is free again. What was handed over meanwhile is the progress thread's, and so is what it may have been told
 * of while the role was ours. */
static void role_freed(cmo_engine *e, uint32_t when)
{
    if (atomic_load_explicit(&e->nsubmitted, memory_order_seq_cst)) when = CMO_LEFT_NOW;
    if (e->has_thread) leave_to_thread(e, when);
}

bool cmo_role_try(cmo_engine *e)
{
    if (e->threadless || !role_claim(e)) return false;
    if (!pthread_mutex_trylock(&e->driving)) return true;
    atomic_store_explicit(&e->role, 0, memory_order_seq_cst);
    role_freed(e, CMO_LEFT_SOON);
    return false;
}

/* Say whether a thread sleeps for the op. Under the lock. */
static void op_waited(cmo_op *op, bool waited)
{
    if (op->waited == waited) return;
    op->waited = waited;
    if (waited) atomic_fetch_add_explicit(&op->engine->nwaited, 1, memory_order_seq_cst);
    else atomic_fetch_sub_explicit(&op->engine->nwaited, 1, memory_order_relaxed);
}

/* An unfinished call that a thread sleeps for. Under the lock. */
static cmo_op *somebody_waiting(cmo_engine *e)
{
    CMO_EACH(n, &e->busy) {
        cmo_comm *c = CMO_ENTRY(n, cmo_comm, busy);
        CMO_EACH(m, &c->queue)
            if (CMO_ENTRY(m, cmo_op, node)->waited) return CMO_ENTRY(m, cmo_op, node);
    }
    CMO_EACH(n, &e->points)
        if (CMO_ENTRY(n, cmo_op, node)->waited) return CMO_ENTRY(n, cmo_op, node);
    return NULL;
}

/* Hand the role, which is ours, to a thread that sleeps for an unfinished call. False: there is none. */
static bool role_hand_on(cmo_engine *e)
{
    if (!atomic_load_explicit(&e->nwaited, memory_order_seq_cst)) return false;
    pthread_mutex_lock(&e->lock);
    cmo_op *next = somebody_waiting(e);
    if (next) {
        pthread_mutex_unlock(&e->driving);
        op_waited(next, false);
        next->given = true; /* whatever becomes of the call before that thread is awake: the role is its to leave */
        atomic_store_explicit(&next->signal, CMO_OP_DRIVE, memory_order_release);
        cmo_futex_wake(&next->signal);
    }
    pthread_mutex_unlock(&e->lock);
    return next != NULL;
}

/* What the progress thread is to do about the calls in progress. */
static uint32_t left_over(const cmo_engine *e)
{
    return !e->running ? CMO_LEFT_NOTHING : cmo_list_empty(&e->busy) ? CMO_LEFT_SOON : CMO_LEFT_NOW;
}

/* The role first, then the lock: who gets the lock next sees whether anybody drives. */
static void role_free(cmo_engine *e)
{
    atomic_store_explicit(&e->role, 0, memory_order_seq_cst);
    pthread_mutex_unlock(&e->driving);
}

void cmo_role_leave(cmo_engine *e)
{
    do {
        uint32_t when = left_over(e); /* ours to read only while we drive */
        if (when && role_hand_on(e)) return;
        role_free(e);
        if (e->has_thread) leave_to_thread(e, when);
        if (!atomic_load_explicit(&e->nsubmitted, memory_order_seq_cst) || !cmo_role_take(e)) return;
        cmo_engine_poll(e); /* takes what was submitted */
    } while (true);
}

void cmo_role_drop(cmo_engine *e, bool pass)
{
    uint32_t when = left_over(e);
    if (when && !pass && role_hand_on(e)) return;
    role_free(e);
    role_freed(e, pass ? CMO_LEFT_NOW : when);
}

/* Between two passes: let those in who want to change something. */
void cmo_role_give_way(cmo_engine *e)
{
    if (!atomic_load_explicit(&e->nwanting, memory_order_relaxed)) return;
    pthread_mutex_unlock(&e->driving);
    while (atomic_load_explicit(&e->nwanting, memory_order_relaxed)) usleep(GIVE_WAY_US);
    pthread_mutex_lock(&e->driving);
}

void cmo_engine_enter(cmo_engine *e)
{
    atomic_fetch_add_explicit(&e->nwanting, 1, memory_order_seq_cst);
    if (atomic_load_explicit(e->asleep, memory_order_seq_cst)) cmo_bell_ring(e->neighbours[e->self].doorbell);
    pthread_mutex_lock(&e->driving);
    atomic_fetch_sub_explicit(&e->nwanting, 1, memory_order_relaxed);
}

void cmo_engine_leave(cmo_engine *e)
{
    uint32_t when = left_over(e); /* a pass made here may have taken up what was handed over to a driver who has left */
    bool driven = atomic_load_explicit(&e->role, memory_order_seq_cst);
    pthread_mutex_unlock(&e->driving);
    if (e->has_thread && !driven) leave_to_thread(e, when);
}

void cmo_engine_slept(void *engine, const struct epoll_event *events, int n)
{
    cmo_engine *e = engine;
    e->look = true;
    for (int i = 0; i < n; i++) {
        uint64_t which = events[i].data.u64;
        cmo_neighbour *neighbour = &e->neighbours[which];
        if ((int)which == e->self) {
            cmo_bell_silence(neighbour->doorbell);
            continue;
        }
        epoll_ctl(e->epoll, EPOLL_CTL_DEL, neighbour->pidfd, NULL);
        cmo_engine_neighbour_ended(e, (int)which);
    }
}

typedef struct drive_ctx {
    cmo_engine *engine;
    cmo_op *op;
} drive_ctx;

static cmo_err drive_poll(void *ctx)
{
    drive_ctx *d = ctx;
    cmo_role_give_way(d->engine);
    cmo_engine_poll(d->engine);
    return cmo_op_ended(d->op) ? CMO_OK : CMO_AGAIN;
}

static void drive_slept(void *ctx, const struct epoll_event *events, int n)
{
    cmo_engine_slept(((drive_ctx *)ctx)->engine, events, n);
}

/* Drive until the op has ended, the deadline has passed or a signal came. The role is ours. */
static cmo_err drive(cmo_engine *e, cmo_op *op, int64_t deadline)
{
    drive_ctx ctx = {e, op};
    e->look |= e->remote != NULL; /* from now on it is known how old news can be that comes by a socket */
    return cmo_wait(&e->waiter, drive_poll, drive_slept, &ctx, deadline);
}

/* End a blocking call for a reason of this rank's own, and see it to its end. The role is ours. */
static void drive_to_end(cmo_engine *e, cmo_op *op, cmo_err err)
{
    char text[CMO_TEXT];
    if (err == CMO_ETIMEOUT) {
        e->look = true; /* the pass ends what is overdue, this call included */
    } else if (op->point) {
        cmo_op_fail(op, err, "interrupted");
    } else {
        snprintf(text, sizeof text, "rank %d was interrupted in %s", op->comm->rank, cmo_kind_name(op->call.kind));
        cmo_comm_fail(op->comm, err, text);
    }
    while (!cmo_op_ended(op) && drive(e, op, cmo_now() + CMO_SECOND / 10) != CMO_OK) e->look = true;
}

static cmo_err op_result(cmo_op *op)
{
    if (op->err) cmo_fail(op->err, "%s", op->text);
    return op->err;
}

/* Hand a call to whoever drives. True: the role was free after all and is ours now. */
static bool hand_over(cmo_engine *e, cmo_op *op)
{
    pthread_mutex_lock(&e->lock);
    cmo_list_append(&e->submitted, &op->node);
    atomic_fetch_add_explicit(&e->nsubmitted, 1, memory_order_seq_cst);
    pthread_mutex_unlock(&e->lock);
    if (op->point) atomic_store_explicit(&e->called, 1, memory_order_relaxed);
    if (cmo_role_take(e)) return true;
    if (atomic_load_explicit(e->asleep, memory_order_seq_cst)) cmo_bell_ring(e->neighbours[e->self].doorbell);
    return false;
}

/* From now on its time runs. */
static void op_time(cmo_op *op, bool light)
{
    const int64_t now = cmo_engine_now(op->engine), time = cmo_time_of(op->timeout);
    op->called = now;
    op->timed = !light || op->engine->recorder.exact;
    op->deadline = time == CMO_NEVER ? CMO_NEVER : now + time;
}

static void op_prepare(cmo_op *op, cmo_comm *comm, double timeout, bool shared)
{
    op->engine = comm->engine;
    op->comm = comm;
    op->step = NULL;
    op->finish = NULL;
    op->state = NULL;
    op->child = NULL;
    op->err = CMO_OK;
    op->lost = -1;
    op->way = CMO_WAY_OPEN;
    op->begun = CMO_BEGUN_NOT;
    op->pc = 0;
    op->timeout = timeout;
    op->deadline = CMO_NEVER;
    op->called = 0;
    op->recorded = 0;
    op->caller = cmo_flight_caller;
    op->ask_at = op->asked_at = 0;
    op->waited = op->given = op->brief = op->endures = op->overslept = op->timed = false;
    op->shared = op->apart = shared;
    op->advanced = 0;
    cmo_list_init(&op->node);
    cmo_list_init(&op->xfers);
    atomic_store_explicit(&op->signal, CMO_OP_RUNNING, memory_order_relaxed);
}

cmo_err cmo_op_wait(cmo_op *op, double seconds)
{
    cmo_engine *e = op->engine;
    int64_t until = cmo_deadline(seconds);
    cmo_err err = CMO_OK;
    cmo_flight_inside(&e->recorder, true);
    while (!cmo_op_ended(op)) {
        bool mine = cmo_role_take(e);
        if (!mine) {
            pthread_mutex_lock(&e->lock);
            op_waited(op, !cmo_op_ended(op));
            pthread_mutex_unlock(&e->lock);
            if (atomic_load_explicit(e->asleep, memory_order_seq_cst)) cmo_bell_ring(e->neighbours[e->self].doorbell);
            cmo_futex_wait(&op->signal, CMO_OP_RUNNING, until);
            pthread_mutex_lock(&e->lock);
            op_waited(op, false);
            mine = op->given;
            op->given = false;
            if (mine && !cmo_op_ended(op)) atomic_store_explicit(&op->signal, CMO_OP_RUNNING, memory_order_relaxed);
            pthread_mutex_unlock(&e->lock);
            if (mine) pthread_mutex_lock(&e->driving);
        }
        err = CMO_OK;
        if (mine) {
            if (!cmo_op_ended(op)) err = drive(e, op, op->deadline < until ? op->deadline : until);
            if (err == CMO_ETIMEOUT && cmo_now() < until) {
                e->look = true; /* it is the call itself that is overdue */
                cmo_engine_poll(e);
                err = CMO_OK;
            }
            cmo_role_leave(e);
        } else if (cmo_now() >= until) {
            err = cmo_fail(CMO_ETIMEOUT, "the call has not ended within %g s", seconds);
        } else if (e->waiter.interrupted && e->waiter.interrupted(e->waiter.interrupt_ctx)) {
            err = CMO_EINTERRUPT;
        }
        if (err && !cmo_op_ended(op)) break;
    }
    cmo_flight_inside(&e->recorder, false);
    if (err && !cmo_op_ended(op)) return err;
    pthread_mutex_lock(&e->lock); /* whoever ended it has let go of it */
    pthread_mutex_unlock(&e->lock);
    return op_result(op);
}

/* A blocking call that another thread drives: wait, and carry the deadline and signals of this thread. */
static cmo_err wait_for_driver(cmo_engine *e, cmo_op *op)
{
    /* The driver ends it at its deadline; this is for the worst case */
    double seconds = op->timeout < 0 ? -1 : op->timeout + 2;
    cmo_err err = cmo_op_wait(op, seconds);
    if (cmo_op_ended(op)) return err;
    if (err == CMO_EINTERRUPT) { /* the call must have ended before its buffers may go */
        pthread_mutex_lock(&e->lock);
        op->deadline = 0;
        pthread_mutex_unlock(&e->lock);
        while (!cmo_op_ended(op)) cmo_op_wait(op, 0.1);
        return cmo_fail(CMO_EINTERRUPT, "interrupted");
    }
    while (!cmo_op_ended(op)) err = cmo_op_wait(op, 0.1);
    return err;
}

cmo_err cmo_op_begin(cmo_op *op, bool light)
{
    cmo_engine *e = op->engine;
    if (!light || !cmo_comm_healthy(op->comm) || e->threadless || !role_claim(e)) return CMO_AGAIN;
    op->begun = CMO_BEGUN_ROLE;
    if (pthread_mutex_trylock(&e->driving)) return CMO_AGAIN;
    op->begun = CMO_BEGUN_DRIVES;
    if (e->recorder.exact) op_time(op, false);
    cmo_engine_submit(e, op);
    if (!cmo_op_ended(op)) cmo_run_fast(e, op, true);
    if (e->recorder.flight) cmo_record_begun(e, op);
    if (!cmo_op_ended(op) || e->running) return CMO_AGAIN;
    cmo_role_drop(e, false);
    return op_result(op);
}

cmo_err cmo_op_finish(cmo_op *op)
{
    cmo_engine *e = op->engine;
    if (op->begun == CMO_BEGUN_NOT) CMO_TRY(cmo_comm_usable(op, op->comm, op->point ? NULL : &op->call));
    if (!op->timed) op_time(op, false);
    if (op->begun == CMO_BEGUN_DRIVES && op->recorded && !cmo_op_ended(op)) cmo_record_timed(e, op);
    if (op->begun == CMO_BEGUN_ROLE) pthread_mutex_lock(&e->driving);
    if (op->begun == CMO_BEGUN_NOT && !cmo_role_take(e)) {
        op->shared = true;
        if (!hand_over(e, op)) return wait_for_driver(e, op);
        cmo_engine_poll(e);
    } else {
        if (op->begun != CMO_BEGUN_DRIVES) cmo_engine_submit(e, op);
        if (!cmo_op_ended(op)) cmo_run_fast(e, op, false);
    }
    cmo_err err = cmo_op_ended(op) ? CMO_OK : drive(e, op, op->deadline);
    if (!cmo_op_ended(op)) drive_to_end(e, op, err);
    cmo_role_leave(e);
    return op_result(op);
}

/* May who launches a call make a pass over it, so that what needs nobody else is over at once? Where the others are
 * there already, a pass over a large collective in shared memory would be most of it. */
static bool is_short(const cmo_op *op)
{
    const cmo_call *c = &op->call;
    if (op->point || op->comm->size == 1) return true;
    return !c->counts && !c->allocate && c->count * cmo_dtype_size(c->dtype) <= LAUNCH_BYTES / (uint64_t)op->comm->size;
}

bool cmo_engine_look_due(cmo_engine *e)
{
    if (++e->fast_calls % CALLS_PER_LOOK) return false;
    e->look = true;
    return true;
}

void cmo_op_launch_driving(cmo_op *op, bool light)
{
    cmo_engine *e = op->engine;
    op_time(op, light);
    cmo_engine_submit(e, op);
    /* What another thread has handed over must go before this one. */
    bool alone = e->unposted == (unsigned)(op->point && op->pc == 0), started = false;
    bool due = cmo_engine_look_due(e) || (!light && e->look);
    if (due && !light) cmo_failure_look(op->comm); /* a pass does not find it if it ends at once */
    if (op->point && alone && !op->comm->failed && !cmo_op_ended(op)) {
        cmo_point_start(e, op);
        started = true;
    }
    if (!light && (due || (!started && (!alone || is_short(op))))) cmo_engine_poll(e);
    cmo_role_drop(e, light && (due || !started));
}

void cmo_op_launch(cmo_op *op)
{
    cmo_engine *e = op->engine;
    if (!e->threadless && cmo_role_take(e)) {
        cmo_op_launch_driving(op, false);
        return;
    }
    op_time(op, false);
    if (e->threadless) {
        cmo_engine_submit(e, op);
    } else if (hand_over(e, op)) {
        if (is_short(op)) cmo_engine_poll(e);
        cmo_role_leave(e);
    }
}

cmo_err cmo_call_begin(cmo_op *op, cmo_comm *comm, const cmo_call *call, double timeout, bool light)
{
    op_prepare(op, comm, timeout, false);
    op->on_done = NULL;
    op->point = false;
    op->call = *call;
    return cmo_op_begin(op, light);
}

cmo_err cmo_call_start(cmo_op *op, cmo_comm *comm, const cmo_call *call, double timeout)
{
    CMO_TRY(cmo_comm_usable(op, comm, call));
    op_prepare(op, comm, timeout, true);
    op->point = false;
    op->call = *call;
    cmo_op_launch(op);
    return CMO_OK;
}

void cmo_point_prepare(cmo_op *op, cmo_comm *comm, double timeout, bool shared)
{
    op_prepare(op, comm, timeout, shared);
    op->point = true;
    memset(op->inline_state, 0, sizeof(cmo_xfer));
}
