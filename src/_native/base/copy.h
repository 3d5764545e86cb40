/* Copies to and from memory that processes share.
 *
 * On x86 there are two ways to store: through the caches, and around them ("non-temporal"), which is ordered like any
 * store before a release here. All of these take null pointers with no bytes; any thread may call them. */
#ifndef CMO_COPY_H
#define CMO_COPY_H

#include <stddef.h>
#include <string.h>

enum { CMO_COPY_LONG = 2 << 10 };

/* What cmo_copy does from CMO_COPY_LONG bytes on. */
void cmo_copy_long(void *to, const void *from, size_t bytes);

/* memcpy that allows null pointers with no bytes, and is faster where the arrays are not aligned. */
static inline void cmo_copy(void *to, const void *from, size_t bytes)
{
    if (bytes >= CMO_COPY_LONG) cmo_copy_long(to, from, bytes);
    else if (bytes) memcpy(to, from, bytes);
}

/* The same, around the caches: for what is too large to be there when it is used. */
void cmo_copy_around(void *to, const void *from, size_t bytes);

/* For memory that another process reads and this one writes again and again: in the way that is cheaper at present. */
void cmo_stage(void *to, const void *from, size_t bytes);

/* The same for a part of a message that is not too large for the caches. */
void cmo_stage_message(void *to, const void *from, size_t bytes);

#endif
