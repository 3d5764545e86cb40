#include "base/cache.h"

#include <stdatomic.h>
#include <stdio.h>

/* Not sysconf: the C library counts the last-level caches of the whole package. */
static int64_t cache_read(const char *path, int64_t most)
{
    FILE *file = fopen(path, "re");
    unsigned kib = 0;
    char unit = 0;
    const int found = file ? fscanf(file, "%7u%c", &kib, &unit) : 0;
    if (file) fclose(file);
    if (found != 2 || unit != 'K' || !kib) return most;
    while (most >> 10 > (int64_t)kib) most /= 2;
    return most;
}

/* Threads that ask at once find the same. */
static int64_t cache_bytes(_Atomic int64_t *known, const char *path, int64_t most)
{
    int64_t bytes = atomic_load_explicit(known, memory_order_relaxed);
    if (bytes) return bytes;
    bytes = cache_read(path, most);
    atomic_store_explicit(known, bytes, memory_order_relaxed);
    return bytes;
}

int64_t cmo_cache_own(void)
{
    static _Atomic int64_t known;
    return cache_bytes(&known, "/sys/devices/system/cpu/cpu0/cache/index2/size", 1 << 20);
}

int64_t cmo_cache_shared(void)
{
    static _Atomic int64_t known;
    return cache_bytes(&known, "/sys/devices/system/cpu/cpu0/cache/index3/size", 32 << 20);
}
