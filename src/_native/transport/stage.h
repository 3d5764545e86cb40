/* Copying into memory that other processes read. */
#ifndef CMO_STAGE_H
#define CMO_STAGE_H

#include <stddef.h>

/* memcpy, in the way that is cheaper at present; null pointers are allowed with no bytes. Ordered like any store before
 * a release. Any thread. */
void cmo_stage(void *to, const void *from, size_t bytes);

#endif
