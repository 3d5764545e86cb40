/* How much memory this process may still take. A system that has none left kills processes, where a caller would rather
 * hear of it. */
#ifndef CMO_MEMORY_H
#define CMO_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/* Bytes that the system, and every control group in which this process is, have left, with what they would take back
 * from caches of files: UINT64_MAX where neither says. `limit`: whose bound that is, as in "the memory limit of control
 * group /job7". Takes some 50 µs. */
uint64_t cmo_memory_left(char *limit, size_t n);

/* The same, of the files below `root`: "" is the system's own; others are for tests. */
uint64_t cmo_memory_left_below(const char *root, char *limit, size_t n);

#endif
