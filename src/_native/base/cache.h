/* The processor's caches, as far as the library must know them. */
#ifndef CMO_CACHE_H
#define CMO_CACHE_H

#include <stdint.h>

/* Bytes of the last-level cache that cores have in common. What the system tells is taken up to 32 MiB: hypervisors
 * tell of more than a guest has. 32 MiB where it tells nothing. Thread-safe; reads a file each time. */
uint64_t cmo_cache_bytes(void);

#endif
