/* The progress thread of an engine, and the engine's end. It drives the calls that nobody waits for, and takes in what
 * comes while this rank is in no call. Who else drives, and how the role changes hands, is in drive.c. */
#include "comm/internal.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    IDLE_MS = 2,   /* for which nobody must have made a call before this thread looks after the sockets: where one call
                      follows the other it would only be in the way, and even its sleep cost each packet a wake-up */
    BUSY_MS = 32,  /* between looks whether that is so, at most */
    SOON_MS = 10,  /* after which it sees to them in any case */
    SOON_US = 200, /* for which nobody must have made a call before this thread sees to messages that are in progress */
    FLUSH_US = 100 /* between tries to send what is queued: sockets take more, or peers read, within that time */
};

static const int64_t flush_time = 2 * CMO_SECOND; /* for the last frames; a peer that takes none may be stuck */

static cmo_err thread_poll(void *engine)
{
    cmo_engine *e = engine;
    cmo_role_give_way(e);
    cmo_engine_poll(e);
    if (atomic_load_explicit(&e->nwaited, memory_order_relaxed)) return CMO_OK; /* who waits drives better: it spins */
    if (!e->running || atomic_load_explicit(&e->stop, memory_order_relaxed)) return CMO_OK;
    /* A program that starts one message after the other had better drive itself than wake this thread each time. */
    bool called = atomic_exchange_explicit(&e->called, 0, memory_order_relaxed);
    return called && cmo_list_empty(&e->busy) ? CMO_OK : CMO_AGAIN;
}

/* Has anybody driven since turn number `turn`, or does now? */
static bool driven_since(cmo_engine *e, uint32_t turn)
{
    /* The role first: who sees it given back sees the turn that it was. */
    return atomic_load_explicit(&e->role, memory_order_seq_cst) ||
           atomic_load_explicit(&e->turn, memory_order_relaxed) != turn;
}

/* While calls are made one after the other: sleep until nobody has made one for a while. False: rung meanwhile. */
static bool sleep_till_idle(cmo_engine *e)
{
    struct pollfd bell = {.fd = e->thread_bell, .events = POLLIN};
    for (int ms = IDLE_MS;; ms = 2 * ms < BUSY_MS ? 2 * ms : BUSY_MS) {
        const uint32_t turn = atomic_load_explicit(&e->turn, memory_order_relaxed);
        if (poll(&bell, 1, ms) > 0) return false;
        if (!driven_since(e, turn)) return true;
    }
}

/* While no call is made: sleep until the sockets have something. False: rung meanwhile, or somebody drives. */
static bool sleep_till_readable(cmo_engine *e)
{
    struct pollfd fds[] = {{.fd = e->thread_bell, .events = POLLIN}, {.fd = e->remote->fd, .events = POLLIN}};
    uint32_t turn = atomic_load_explicit(&e->turn, memory_order_relaxed);
    /* Either we see that somebody drives, or whoever does sees this and rings (cmo_role_take). */
    atomic_store_explicit(&e->watching, 1, memory_order_seq_cst);
    bool readable = !driven_since(e, turn) && poll(fds, 2, -1) > 0 && !fds[0].revents;
    atomic_store_explicit(&e->watching, 0, memory_order_relaxed);
    return readable && !driven_since(e, turn);
}

/* Messages are in progress: wait until no call has been made for a moment. True: now they want a driver. */
static bool sleep_soon(cmo_engine *e)
{
    struct pollfd bell = {.fd = e->thread_bell, .events = POLLIN};
    const struct timespec moment = {.tv_nsec = SOON_US * 1000};
    const int64_t at_last = cmo_now() + SOON_MS * CMO_SECOND / 1000; /* calls that follow each other make few passes */
    while (!atomic_load_explicit(&e->stop, memory_order_relaxed)) {
        uint32_t nothing = CMO_LEFT_NOTHING;
        const uint32_t turn = atomic_load_explicit(&e->turn, memory_order_relaxed);
        /* While it says so, nobody rings. */
        atomic_compare_exchange_strong_explicit(&e->left, &nothing, CMO_LEFT_SOON, memory_order_seq_cst,
                                                memory_order_relaxed);
        if (ppoll(&bell, 1, &moment, NULL) > 0) cmo_bell_silence(e->thread_bell);
        const bool now = atomic_load_explicit(&e->left, memory_order_seq_cst) == CMO_LEFT_NOW;
        if (!now && atomic_load_explicit(&e->turn, memory_order_relaxed) != turn && cmo_now() < at_last) continue;
        /* From here on who leaves something rings; who drives now has not left yet. */
        return atomic_exchange_explicit(&e->left, CMO_LEFT_NOTHING, memory_order_seq_cst) == CMO_LEFT_NOW ||
               !atomic_load_explicit(&e->role, memory_order_seq_cst);
    }
    return false;
}

static bool sleep_till_rung(cmo_engine *e)
{
    struct pollfd bell = {.fd = e->thread_bell, .events = POLLIN};
    poll(&bell, 1, -1);
    return false;
}

/* It sleeps until it is rung, because there are calls that nobody waits for, or until the sockets have something, and
 * have it while nobody makes a call: then it takes in what comes (connections, messages before their receives, news of
 * failures), though this rank is in no call. */
static void *thread_main(void *engine)
{
    cmo_engine *e = engine;
    while (!atomic_load_explicit(&e->stop, memory_order_acquire)) {
        bool wanted = e->remote ? sleep_till_idle(e) && sleep_till_readable(e) : sleep_till_rung(e);
        cmo_bell_silence(e->thread_bell);
        uint32_t left = atomic_exchange_explicit(&e->left, CMO_LEFT_NOTHING, memory_order_seq_cst);
        wanted |= left == CMO_LEFT_NOW || (left == CMO_LEFT_SOON && sleep_soon(e));
        if (!wanted || atomic_load_explicit(&e->stop, memory_order_acquire) || !cmo_role_take(e)) continue;
        atomic_store_explicit(&e->called, 0, memory_order_relaxed);
        e->look = true; /* as in drive() */
        cmo_wait(&e->thread_waiter, thread_poll, cmo_engine_slept, e, CMO_NEVER);
        cmo_role_leave(e);
    }
    return NULL;
}

cmo_err cmo_engine_start_thread(cmo_engine *e)
{
    sigset_t all, before;
    sigfillset(&all); /* signals are for the threads of the program */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&e->thread, NULL, thread_main, e);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc) return cmo_fail(CMO_ESYS, "the progress thread: %s", strerror(rc));
    e->has_thread = true;
    return CMO_OK;
}

/* ------------------------------------------------------------------ the end */

/* Let what is queued go out, for a while: the last frames say that we leave. */
static void flush(cmo_engine *e)
{
    int64_t until = cmo_now() + flush_time;
    for (bool idle = false; !idle && cmo_now() < until;) {
        idle = true;
        if (e->remote) e->remote->ops->poll(e->remote);
        CMO_EACH(n, &e->channels) {
            cmo_channel *c = CMO_ENTRY(n, cmo_channel, node);
            cmo_channel_pump(c);
            /* Also what waits for its connection: a rank that has not heard of a failure from us would blame us for
             * it. */
            if (!cmo_channel_idle(c) && !e->dead[c->peer]) idle = false;
        }
        if (!idle) usleep(FLUSH_US);
    }
}

static void thread_stop(cmo_engine *e)
{
    if (!e->has_thread) return;
    atomic_store_explicit(&e->stop, 1, memory_order_release);
    cmo_bell_ring(e->thread_bell);
    cmo_bell_ring(e->neighbours[e->self].doorbell);
    pthread_join(e->thread, NULL);
    e->has_thread = false;
}

static cmo_comm *any_open(cmo_engine *e)
{
    CMO_EACH(n, &e->comms)
        if (!CMO_ENTRY(n, cmo_comm, node)->outer) return CMO_ENTRY(n, cmo_comm, node);
    return NULL;
}

cmo_err cmo_engine_close(cmo_engine *e)
{
    cmo_err first = CMO_OK;
    char why[CMO_TEXT];
    cmo_engine_enter(e);
    for (cmo_comm *c; (c = any_open(e));) {
        const cmo_err err = cmo_comm_close(c);
        if (err && !first) {
            first = err;
            snprintf(why, sizeof why, "%s", cmo_reason());
        }
    }
    cmo_engine_leave(e);
    cmo_bell_ring(e->neighbours[e->self].doorbell); /* a driver may sleep for a call that has just ended */
    return first ? cmo_fail(first, "%s", why) : CMO_OK;
}

void cmo_engine_destroy(cmo_engine *e)
{
    cmo_engine_close(e);
    thread_stop(e);
    if (!e->threadless) flush(e);
    cmo_engine_release(e);
}
