#include "base/wait.h"

#include "base/clock.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A signal that comes between the last look at `interrupted` and poll does not end the sleep; the slice bounds
 * how long it can go unnoticed. */
static const int64_t slice = CMO_SECOND / 10;

enum {
    EVENTS = 8, /* taken from epoll at a time */
    POLLS_PER_LOOK = 64,      /* spins between looks at the clock, which costs more than a poll; not one of sockets */
    SLEEPS_PER_QUESTION = 64, /* sleeps that an event ended, between questions to `interrupted`: with peers that ring
                                 all the time no sleep would ever end otherwise, and no signal be noticed */
};

static cmo_err wait_spin(cmo_waiter *w, cmo_err (*poll)(void *), void *ctx, int64_t deadline)
{
    int64_t until = INT64_MIN;
    uint64_t progress = 0;
    bool yields = w->crowded;
    for (unsigned n = 0;; n++) {
        cmo_err err = poll(ctx);
        if (err != CMO_AGAIN) return err;
        if (!w->crowded && w->shares_core && n % POLLS_PER_LOOK == 0) yields = w->shares_core(w->shares_core_ctx);
        if (yields) {
            sched_yield();
        } else {
            cmo_relax();
            if (w->sockets < 0 && n % POLLS_PER_LOOK != POLLS_PER_LOOK - 1) continue;
        }
        int64_t now = cmo_now();
        if (until == INT64_MIN || *w->progress != progress) until = now + w->spin;
        progress = *w->progress;
        if (now >= deadline || now >= until) return CMO_AGAIN;
    }
}

/* Returns what poll does; *n events of those that the epoll knows. */
static int wait_sleep(const cmo_waiter *w, int64_t ns, struct epoll_event *events, int *n)
{
    struct pollfd fds[] = {{.fd = w->epoll, .events = POLLIN}, {.fd = w->sockets, .events = POLLIN}};
    int woken = poll(fds, 2, (int)(ns / 1000000) + 1);
    if (woken > 0 && fds[0].revents) *n = epoll_wait(w->epoll, events, EVENTS, 0);
    if (*n < 0) *n = 0;
    return woken;
}

cmo_err cmo_wait(cmo_waiter *w, cmo_err (*poll)(void *), cmo_slept slept, void *ctx, int64_t deadline)
{
    for (unsigned sleeps = 1;; sleeps++) {
        cmo_err err = wait_spin(w, poll, ctx, deadline);
        if (err != CMO_AGAIN) return err;
        atomic_store_explicit(w->asleep, 1, memory_order_relaxed);
        atomic_thread_fence(memory_order_seq_cst); /* the sleeper's half of the pairing described in wait.h */
        uint64_t progress = *w->progress;
        err = poll(ctx);
        /* A poll that moved something may have made way for more (the next call of a queue): nobody would ring for
         * that. */
        if (err == CMO_AGAIN && *w->progress == progress) {
            int64_t left = deadline - cmo_now();
            if (left <= 0) err = cmo_fail(CMO_ETIMEOUT, "the deadline passed");
            else {
                struct epoll_event events[EVENTS];
                int n = 0, woken = wait_sleep(w, left < slice ? left : slice, events, &n);
                atomic_store_explicit(w->asleep, 0, memory_order_relaxed);
                if (slept) slept(ctx, events, n);
                /* A signal ends the sleep with -1. Asking is dear (it may take an interpreter's lock), so not after
                 * each event. */
                bool ask = w->interrupted && (woken <= 0 || sleeps % SLEEPS_PER_QUESTION == 0);
                if (ask && w->interrupted(w->interrupt_ctx)) err = cmo_fail(CMO_EINTERRUPT, "interrupted");
            }
        }
        atomic_store_explicit(w->asleep, 0, memory_order_relaxed);
        if (err != CMO_AGAIN) return err;
    }
}

void cmo_futex_wait(_Atomic uint32_t *word, uint32_t expected, int64_t deadline)
{
    int64_t left = deadline == CMO_NEVER ? slice : deadline - cmo_now();
    if (left <= 0) return;
    if (left > slice) left = slice;
    struct timespec t = {.tv_sec = left / CMO_SECOND, .tv_nsec = left % CMO_SECOND};
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, &t, NULL, 0);
}

void cmo_futex_wake(_Atomic uint32_t *word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0); }
