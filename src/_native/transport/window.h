/* Memory that the ranks of one host share.
 *
 * Each rank owns a window: one unnamed file in memory (memfd), mapped once by every local rank, as large as the
 * machine's memory but empty. The owner, and nobody else, gives out pieces of its window, so allocation needs no lock
 * between processes. A piece's pages are reserved when it is given out (fallocate) and returned to the system when it
 * is freed (a hole is punched); running out is therefore an error at that moment and never a SIGBUS later. A piece is
 * named between ranks by its offset. Nothing here has a name in a file system, so nothing can be left behind. */
#ifndef CMO_WINDOW_H
#define CMO_WINDOW_H

#include "base/error.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CMO_LINE = 64, CMO_PAGE = 4096 };

/* What stands at offset 0 of every window. */
typedef struct cmo_window_head {
    /* Written by the owner before the window is handed over: */
    _Alignas(CMO_LINE) uint64_t magic;
    int64_t pid;                                /* its process; 0: nobody else's memory is read (transport/attach.h) */
    uint64_t word_at, word[2];                  /* where in its own memory something random lies, and what */
    /* Written by the owner later: 1: it can read the memory of every rank of its host */
    _Atomic uint32_t attaches;
    _Atomic uint64_t flight;                    /* offset of the owner's flight recorder (comm/flight.h); 0: none */
    _Alignas(CMO_LINE) _Atomic uint32_t asleep; /* 1 while the owner sleeps and wants its doorbell rung (base/wait.h) */
    _Atomic int32_t core;                       /* 1 + the core on which the owner waited last; 0: it has not yet */
    _Alignas(CMO_LINE) _Atomic uint64_t opened; /* pipes that neighbours have made for the owner; they count it */
    _Alignas(CMO_LINE) _Atomic uint64_t pipe[]; /* [local rank] offset of the owner's pipe to that rank, 0: none yet */
} cmo_window_head;

typedef struct cmo_window cmo_window; /* one's own */

/* A rank of this host, this one included, as seen from here. */
typedef struct cmo_neighbour {
    cmo_window_head *head; /* its window, mapped here; NULL where there is no shared memory */
    size_t size;           /* bytes of the mapping */
    int doorbell;          /* eventfd that ends its sleep; owned; -1: it never sleeps (simulation) */
    int pidfd;             /* readable when its process has ended; owned; -1: none (ourselves) */
    int64_t pid;           /* its process, whose memory may be read here; 0: it may not (transport/attach.h) */
} cmo_neighbour;

/* Make a window for one of `nlocal` ranks. The file descriptor stays the window's; hand a duplicate to the others.
 * `bytes` 0: as much as the machine has memory. `private_memory`: plain memory of this process, for simulation and for
 * ranks without neighbours on their host. */
cmo_err cmo_window_create(cmo_window **out, int nlocal, size_t bytes, bool private_memory);
void cmo_window_destroy(cmo_window *w); /* unmaps; pieces still held elsewhere become invalid here */
int cmo_window_fd(const cmo_window *w); /* borrowed; -1 if private */
cmo_window_head *cmo_window_base(const cmo_window *w);
size_t cmo_window_size(const cmo_window *w);

/* A zeroed piece, aligned to a page. Thread-safe. CMO_ENOMEM when the system has no memory to reserve. */
cmo_err cmo_window_alloc(cmo_window *w, size_t bytes, uint64_t *offset);
void cmo_window_free(cmo_window *w, uint64_t offset, size_t bytes);
size_t cmo_window_used(const cmo_window *w); /* bytes given out now */
bool cmo_window_attaches(const cmo_window *w); /* what its head says */

/* Map another rank's window from its descriptor (borrowed). Checks its size and magic: both come from a peer. */
cmo_err cmo_window_map(int fd, int nlocal, cmo_window_head **head, size_t *size);
void cmo_window_unmap(cmo_window_head *head, size_t size);

/* The address of `bytes` at `offset` of a neighbour's window; NULL where they do not lie
 * in it, behind its first page. */
static inline void *cmo_window_bytes(const cmo_neighbour *n, uint64_t offset, uint64_t bytes)
{
    if (offset < CMO_PAGE || offset > n->size || bytes > n->size - offset) return NULL;
    return (char *)n->head + offset;
}

/* The same for what must start at a cache line. */
static inline void *cmo_window_at(const cmo_neighbour *n, uint64_t offset, uint64_t bytes)
{
    return offset % CMO_LINE ? NULL : cmo_window_bytes(n, offset, bytes);
}

/* The other way round: do `bytes` at `address` lie in the window as it is mapped here, and
 * where? The pointer may be any. */
static inline bool cmo_window_offset(const cmo_neighbour *n, const void *address, uint64_t bytes, uint64_t *offset)
{
    *offset = (uint64_t)((uintptr_t)address - (uintptr_t)n->head); /* of an address in front of the window: too large */
    return n->head && cmo_window_bytes(n, *offset, bytes);
}

/* Wake the neighbour if it sleeps. To be called after the store that it may be waiting for. */
void cmo_window_wake(const cmo_neighbour *n);

static inline void cmo_ring(const cmo_neighbour *n)
{
    atomic_thread_fence(memory_order_seq_cst); /* the waker's half of the pairing described in base/wait.h */
    if (__builtin_expect(atomic_load_explicit(&n->head->asleep, memory_order_relaxed), 0)) cmo_window_wake(n);
}

#endif
