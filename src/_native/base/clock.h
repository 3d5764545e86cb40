/* Time: nanoseconds of the monotonic clock, and deadlines in the same unit. */
#ifndef CMO_CLOCK_H
#define CMO_CLOCK_H

#include <stdint.h>
#include <time.h>

#define CMO_NEVER INT64_MAX /* the deadline of what may take for ever */
#define CMO_SECOND INT64_C(1000000000)

static inline int64_t cmo_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * CMO_SECOND + t.tv_nsec;
}

/* Seconds from now to a deadline; a negative number of seconds means never. */
/* Nanoseconds; CMO_NEVER for negative ones, and for centuries. */
static inline int64_t cmo_time_of(double seconds)
{
    return seconds < 0 || seconds > 1e9 ? CMO_NEVER : (int64_t)(seconds * 1e9);
}

static inline int64_t cmo_deadline(double seconds)
{
    const int64_t time = cmo_time_of(seconds);
    return time == CMO_NEVER ? CMO_NEVER : cmo_now() + time;
}

/* Tell the processor that this is a spin loop. */
static inline void cmo_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

#endif
