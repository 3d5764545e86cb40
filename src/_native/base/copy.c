/* A line that a peer has read is dear to write again: an ordinary store must first take it back from the peer's cache.
 * How dear depends on where the two cores stand. With one last-level cache for both, and more memory in rotation than
 * the peer's own cache holds, it costs 1 to 6 ns a line; from another cache 11 to 35, which no prefetch hides. Stores
 * that go around the caches cost 3 to 9 ns everywhere, and the reader must fetch from memory what they wrote.
 *
 * The cores may change while the program runs, where a hypervisor or the scheduler moves them. So both ways are timed
 * now and then as they are used, and the stores go around the caches where ordinary ones are several times as dear. For
 * a message that caches hold less is enough: its sender has it there, and the way to memory is free. */
#include "base/copy.h"

#include "base/clock.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __SSE2__
#include <immintrin.h>

enum {
    LINE = 64,
    PAGE = 4096,
    LEAST = 4096,  /* bytes that are worth a decision, and of which a part is timed */
    SAMPLE = 16,   /* copies from one that is timed to the next */
    TRIAL = 256,   /* copies from one trial of the other way to the next; a multiple of SAMPLE */
    DEAR = 8000    /* picoseconds for a line, more than it costs within one last-level cache (bench/NOTES.md) */
};

/* The C library copies what is long by `rep movsb`, which on these processors takes up to twice as long where the
 * addresses differ by 16 bytes modulo a page, as those of NumPy's arrays and of whole pages do, and in caches a fifth
 * longer at any distance. */
__attribute__((target("avx2"))) static void copy_avx2(char *t, const char *f, size_t bytes)
{
    enum { VECTOR = sizeof(__m256i), STEP = 4 * VECTOR };
    memcpy(t, f, LINE); /* up to the first whole line, and more */
    size_t at = (LINE - (uintptr_t)t % LINE) % LINE;
    for (; at + STEP <= bytes; at += STEP) {
        const __m256i *from = (const __m256i *)(const void *)(f + at);
        const __m256i a = _mm256_loadu_si256(from), b = _mm256_loadu_si256(from + 1), c = _mm256_loadu_si256(from + 2),
                      d = _mm256_loadu_si256(from + 3);
        __m256i *to = (__m256i *)(void *)(t + at);
        _mm256_store_si256(to, a);
        _mm256_store_si256(to + 1, b);
        _mm256_store_si256(to + 2, c);
        _mm256_store_si256(to + 3, d);
    }
    memcpy(t + at, f + at, bytes - at);
}

void cmo_copy_long(void *to, const void *from, size_t bytes)
{
    if (__builtin_cpu_supports("avx2")) copy_avx2(to, from, bytes);
    else memcpy(to, from, bytes);
}

/* Picoseconds for a line in either way, lately. Of the whole process; races between threads only blur them. Stores go
 * around the caches where ordinary ones cost more than `least`, and than `halves` half times as much. */
typedef struct prices {
    _Atomic uint32_t ordinary, around;
    _Atomic uint32_t copies;
    uint32_t least, halves;
} prices;

static prices prices_of_most = {.halves = 6}, prices_of_messages = {.least = DEAR, .halves = 3};

/* Store a line around the caches. All of it is read first: a read behind a store waits for it where the lowest 12 bits
 * of their addresses agree, and a store around the caches is long on its way. */
static void line_around(char *to, const char *from)
{
    const __m128i *f = (const __m128i *)(const void *)from;
    const __m128i a = _mm_loadu_si128(f), b = _mm_loadu_si128(f + 1), c = _mm_loadu_si128(f + 2),
                  d = _mm_loadu_si128(f + 3);
    __m128i *t = (__m128i *)(void *)to;
    _mm_stream_si128(t, a);
    _mm_stream_si128(t + 1, b);
    _mm_stream_si128(t + 2, c);
    _mm_stream_si128(t + 3, d);
}

void cmo_copy_around(void *to, const void *from, size_t bytes)
{
    char *t = to;
    const char *f = from;
    size_t head = (LINE - (uintptr_t)t % LINE) % LINE;
    if (bytes < head + LINE) {
        cmo_copy(to, from, bytes);
        return;
    }
    const size_t lines = (bytes - head) / LINE;
    cmo_copy(t, f, head);
    t += head;
    f += head;
    /* In the direction in which no read follows a store to such an address: two arrays of the heap are often 16 bytes
     * from being a multiple of a page apart, which made this copy take up to 5 times as long. */
    const bool down = ((uintptr_t)t - (uintptr_t)f) % PAGE < PAGE / 2;
    for (size_t i = 0; i < lines; i++) {
        const size_t at = (down ? lines - 1 - i : i) * LINE;
        line_around(t + at, f + at);
    }
    cmo_copy(t + lines * LINE, f + lines * LINE, bytes - head - lines * LINE);
    _mm_sfence(); /* a release store does not order these stores by itself */
}

/* Copy, and note what a line has cost. Down at once, up slowly: a page touched for the first time, or a thread that was
 * put aside, says nothing. */
static void copy_timed(prices *p, bool around, void *to, const void *from, size_t bytes)
{
    _Atomic uint32_t *price = around ? &p->around : &p->ordinary;
    const int64_t begin = cmo_now();
    if (around) cmo_copy_around(to, from, bytes);
    else cmo_copy(to, from, bytes);
    uint64_t found = (uint64_t)(cmo_now() - begin) * 1000 * LINE / bytes;
    const uint64_t old = atomic_load_explicit(price, memory_order_relaxed);
    if (found > 4 * old + 4000) found = 4 * old + 4000;
    atomic_store_explicit(price, (uint32_t)(found < old ? found : (3 * old + found) / 4), memory_order_relaxed);
}

static bool around_is_cheaper(const prices *p)
{
    const uint64_t ordinary = atomic_load_explicit(&p->ordinary, memory_order_relaxed);
    const uint64_t around = atomic_load_explicit(&p->around, memory_order_relaxed);
    return ordinary > p->least && 2 * ordinary > p->halves * around;
}

static void stage(prices *p, void *to, const void *from, size_t bytes)
{
    if (bytes < LEAST) {
        cmo_copy(to, from, bytes);
        return;
    }
    const bool around = around_is_cheaper(p);
    const uint32_t number = atomic_fetch_add_explicit(&p->copies, 1, memory_order_relaxed);
    if (number % SAMPLE == 0) {
        copy_timed(p, number % TRIAL == 0 ? !around : around, to, from, LEAST);
        to = (char *)to + LEAST;
        from = (const char *)from + LEAST;
        bytes -= LEAST;
    }
    if (around) cmo_copy_around(to, from, bytes);
    else cmo_copy(to, from, bytes);
}

void cmo_stage(void *to, const void *from, size_t bytes) { stage(&prices_of_most, to, from, bytes); }
void cmo_stage_message(void *to, const void *from, size_t bytes) { stage(&prices_of_messages, to, from, bytes); }

#else

void cmo_copy_long(void *to, const void *from, size_t bytes) { memcpy(to, from, bytes); }
void cmo_copy_around(void *to, const void *from, size_t bytes) { cmo_copy(to, from, bytes); }
void cmo_stage(void *to, const void *from, size_t bytes) { cmo_copy(to, from, bytes); }
void cmo_stage_message(void *to, const void *from, size_t bytes) { cmo_copy(to, from, bytes); }

#endif
