/* The processor's caches, as far as the library must know them. */
#ifndef CMO_CACHE_H
#define CMO_CACHE_H

#include <stdint.h>

/* Bytes of a core's own cache (the second level), and of the last level, which cores have in common: the next lower
 * power of two, up to 1 MiB and 32 MiB, since hypervisors tell of more than a guest has, and more has not been
 * measured. These where the system tells nothing. Thread-safe; read once. */
int64_t cmo_cache_own(void);
int64_t cmo_cache_shared(void);

#endif
