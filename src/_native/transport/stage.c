/* A line that a peer has read is dear to write again: an ordinary store must first take it back from the peer's cache.
 * How dear depends on where the two cores stand. With one last-level cache for both, and more memory in rotation than
 * the peer's own cache holds, it costs little; from another cache some 35 ns a line, which no prefetch hides. Stores that go
 * around the caches ("non-temporal") cost the same everywhere: less than the second, more than the first.
 *
 * The cores may change while the program runs, where a hypervisor moves them. So both ways are timed as they are used,
 * the dearer one only now and then, and the cheaper one is taken. What the reader pays follows the writer: it
 * waits for the slower of the two. */
#include "transport/stage.h"

#include "base/clock.h"

#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>

enum { LINE = 64, LEAST = 4096 /* bytes that are worth a look at the clock */, TRIAL = 256 /* copies from one trial of the dearer way on */ };
typedef enum { ORDINARY, AROUND, WAYS } stage_way;

/* Picoseconds for a line in either way, lately. Of the whole process; races between threads only blur them. */
static _Atomic uint32_t price[WAYS];
static _Atomic uint32_t copies;

static void copy_around(char *to, const char *from, size_t bytes)
{
    size_t head = (LINE - (uintptr_t)to % LINE) % LINE, lines = (bytes - head) / LINE;
    memcpy(to, from, head);
    to += head;
    from += head;
    for (size_t i = 0; i < lines; i++, to += LINE, from += LINE)
        for (int k = 0; k < LINE; k += 16) _mm_stream_si128((__m128i *)(void *)(to + k), _mm_loadu_si128((const __m128i *)(const void *)(from + k)));
    memcpy(to, from, bytes - head - lines * LINE);
    _mm_sfence(); /* a release store does not order these stores by itself */
}

static stage_way cheaper(void)
{
    uint32_t ordinary = atomic_load_explicit(&price[ORDINARY], memory_order_relaxed);
    return ordinary <= atomic_load_explicit(&price[AROUND], memory_order_relaxed) ? ORDINARY : AROUND;
}

void cmo_stage(void *to, const void *from, size_t bytes)
{
    if (bytes < LEAST) {
        if (bytes) memcpy(to, from, bytes);
        return;
    }
    stage_way way = cheaper();
    if (atomic_fetch_add_explicit(&copies, 1, memory_order_relaxed) % TRIAL == 0) way = way == ORDINARY ? AROUND : ORDINARY;
    int64_t begin = cmo_now();
    if (way == AROUND) copy_around(to, from, bytes);
    else memcpy(to, from, bytes);
    uint64_t found = (uint64_t)(cmo_now() - begin) * 1000 * LINE / bytes, old = atomic_load_explicit(&price[way], memory_order_relaxed);
    if (found > 4 * old + 4000) found = 4 * old + 4000; /* a thread that was put aside says nothing of the way */
    atomic_store_explicit(&price[way], (uint32_t)((3 * old + found) / 4), memory_order_relaxed);
}

#else

void cmo_stage(void *to, const void *from, size_t bytes)
{
    if (bytes) memcpy(to, from, bytes);
}

#endif
