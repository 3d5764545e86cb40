/* The one wait. Every thread of the core that waits for another rank does so here.
 *
 * It polls while there is hope that the answer is near, then sleeps in epoll until a descriptor says that something
 * moved: the doorbell that local peers ring, the sockets, the descriptors by which the kernel tells of a peer's death.
 *
 * No wake-up is lost, by this order. The sleeper: (1) stores asleep = 1, (2) full fence, (3) polls once
 * more, (4) sleeps if that moved nothing. The waker: (1) stores what the sleeper waits for, (2) full fence,
 * (3) loads asleep and, if 1, rings. Either the sleeper's poll sees the store, or the waker sees asleep = 1
 * and the doorbell ends the sleep. */
#ifndef CMO_WAIT_H
#define CMO_WAIT_H

#include "base/error.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

typedef struct cmo_waiter {
    int epoll;                     /* borrowed; what ends a sleep, as does … */
    int sockets;                   /* … this, -1: nothing. Not in the epoll: each packet would cost a call of it, though
                                      nobody sleeps */
    _Atomic uint32_t *asleep;      /* the word that wakers read */
    int64_t spin;                  /* nanoseconds without progress to spin before sleeping */
    const uint64_t *progress;      /* polls change it when something has moved, though not all that is waited for */
    bool crowded;                  /* more local ranks than cores: give the core away between polls */
    bool (*shares_core)(void *);   /* does a rank that may be waited for stand on the core of this thread? Asked now and
                                      then while spinning; if so, give the core away too. NULL: never */
    void *shares_core_ctx;
    bool (*interrupted)(void *);   /* asked after each sleep; true ends the wait. NULL: never */
    void *interrupt_ctx;
} cmo_waiter;

typedef void (*cmo_slept)(void *ctx, const struct epoll_event *events, int n);

/* Poll until `poll(ctx)` returns something other than CMO_AGAIN, and return that; CMO_ETIMEOUT when the deadline passes
 * first; CMO_EINTERRUPT when `interrupted` says so. `slept(ctx, events, n)` is called after each sleep, before the next
 * poll, with what ended it (n = 0: nothing did): it empties the doorbell and looks who died. Blocks; must be called by
 * one thread at a time per waiter. */
cmo_err cmo_wait(cmo_waiter *w, cmo_err (*poll)(void *), cmo_slept slept, void *ctx, int64_t deadline);

/* Sleep while *word == expected, at most until the deadline; may return early. For threads of one process. */
void cmo_futex_wait(_Atomic uint32_t *word, uint32_t expected, int64_t deadline);
void cmo_futex_wake(_Atomic uint32_t *word);

#endif
