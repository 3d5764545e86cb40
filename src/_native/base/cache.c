#include "base/cache.h"

#include <stdio.h>

enum { MOST = 32 << 20 };

uint64_t cmo_cache_bytes(void)
{
    /* Not sysconf: the C library counts the caches of the whole package. */
    FILE *file = fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "re");
    unsigned kib = 0;
    char unit = 0;
    const int found = file ? fscanf(file, "%7u%c", &kib, &unit) : 0;
    if (file) fclose(file);
    const uint64_t bytes = (uint64_t)kib << 10;
    return found == 2 && unit == 'K' && bytes && bytes < MOST ? bytes : MOST;
}
