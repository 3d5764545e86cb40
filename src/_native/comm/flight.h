/* The flight recorder: a rank's last calls, in memory that outlives its process and that others may read at any time.
 *
 * It is a piece of the rank's window, or, where there are no neighbours to share that with, of a small window of its
 * own; the window's head says where (transport/window.h). So it lives as long as one rank of the host does, neighbours
 * read it to say what a lost rank was doing, and `commops top` finds it by the window's descriptor (commops/flight.py,
 * which reads this layout too: whoever changes it raises CMO_FLIGHT_VERSION).
 *
 * Who writes: the rank alone, and in it one thread at a time. A call is recorded when it enters the engine's lists,
 * when it starts and when it ends; all three are done by the driver, or by who keeps the driver out (engine.h). The
 * texts of call sites are written under the interpreter's lock, each before its number is used. `inside` is counted by
 * whatever thread.
 *
 * Who reads: anybody, without a lock, also in the middle of a write and after the writer was killed in one. An entry's
 * `number` is 0 while another call takes its place: it is zeroed before (a release fence keeps the order) and stored
 * last (release). A reader that finds the same number, not 0, before (acquire) and after (an acquire fence) it has
 * copied the rest has an entry of one call. Of that call only `seq`, `count`, `peer` and `end` change, each before the
 * `what` (release) that says so. All that is read comes from another process, and is checked. */
#ifndef CMO_FLIGHT_H
#define CMO_FLIGHT_H

#include "comm/call.h"
#include "transport/window.h"

#include <time.h>

enum { CMO_FLIGHT_VERSION = 1, CMO_FLIGHT_SITES = 256, CMO_FLIGHT_SITE_BYTES = 128, CMO_FLIGHT_HOST_BYTES = 64 };

/* What is recorded beside the kinds of collectives. */
enum { CMO_FLIGHT_SEND = CMO_NKINDS, CMO_FLIGHT_RECV, CMO_FLIGHT_PROBE, CMO_FLIGHT_AGREE, CMO_FLIGHT_SHRINK };

/* CALLED: it waits for those before it. BRIEF: it has ended well, at once, and its end was not timed; its start is as
 * exact as a tick of the system (cmo_flight_tick), because clocks cost as much as all else in such a call. */
enum { CMO_FLIGHT_CALLED, CMO_FLIGHT_RUNNING, CMO_FLIGHT_DONE, CMO_FLIGHT_BRIEF, CMO_FLIGHT_FAILED };

typedef struct cmo_flight_entry {
    _Alignas(CMO_LINE) _Atomic uint64_t number; /* of the call among all that are recorded, from 1 */
    _Atomic uint64_t comm;    /* id of its communicator; 1: that of all ranks */
    _Atomic uint64_t seq;     /* of a collective: its number in the communicator, 0: not started. Messages: the tag */
    _Atomic uint64_t count;   /* elements, as in the call; of a message, when it is known */
    _Atomic int64_t start, end; /* CLOCK_MONOTONIC, in nanoseconds */
    _Atomic uint32_t site;    /* where it was called; 0: not known */
    _Atomic int32_t peer;     /* or root; -1: any */
    _Atomic uint64_t what;    /* bits 0: kind, 8: op, 16: dtype, 24: state, 32: error, 40: 1 if nobody waits in it */
} cmo_flight_entry;

/* All offsets are from its start. What does not say _Atomic is written before anybody can find it. */
typedef struct cmo_flight {
    uint64_t magic;
    uint32_t version, entry_bytes;
    uint64_t entries_at, entries; /* how many: a power of two; number n is at [(n - 1) % entries] */
    uint64_t sites_at;
    uint32_t sites, site_bytes;   /* "path:line:function", ended by 0; number n is at [n - 1] */
    int32_t rank, size;
    uint32_t generation;
    int32_t pid;
    int64_t created;              /* CLOCK_MONOTONIC */
    int64_t realtime;             /* what the clock that may be set was beyond that, then */
    int64_t tick;                 /* nanoseconds by which the start of a BRIEF call may be too early */
    uint8_t job[16];
    char host[CMO_FLIGHT_HOST_BYTES];
    _Alignas(CMO_LINE) _Atomic uint64_t next; /* the number of the latest entry */
    _Atomic uint64_t bytes;       /* of all calls recorded; of receives when they have ended */
    _Atomic uint32_t nsites;
    _Atomic uint32_t inside;      /* threads that wait in a call */
    _Atomic uint32_t closed;      /* 1: the rank has left the job */
} cmo_flight;

/* What a rank writes by. Zeroed: nothing is recorded. */
typedef struct cmo_recorder {
    cmo_flight *flight;
    cmo_flight_entry *entries;
    uint64_t mask, next, bytes;
    cmo_window *own;              /* the window that was made for it; owned; NULL: it is in the rank's */
    bool exact;                   /* times all calls exactly */
} cmo_recorder;

/* Where the calls that this thread makes next come from: a number of cmo_flight_site, 0: not known. */
extern _Thread_local uint32_t cmo_flight_caller __attribute__((tls_model("initial-exec")));

typedef struct cmo_flight_identity {
    int rank, size;
    uint32_t generation;
    const uint8_t *job;           /* [16]; NULL: zeros */
    const char *host;             /* NULL: none */
} cmo_flight_identity;

/* Make room for `entries` calls (rounded up to a power of two; 0: record nothing). In `window`, or in one of its own
 * where the memory of that is private and `alone`. */
cmo_err cmo_flight_open(cmo_recorder *r, cmo_window *window, bool alone, const cmo_flight_identity *who,
                        int64_t entries);
uint64_t cmo_flight_bytes(const cmo_flight *own); /* how much memory one's own takes */
void cmo_flight_close(cmo_recorder *r); /* nothing more is recorded; what was stays there as long as its window */

/* A number for a call site, written down once. 0: there is no room for more. Not thread-safe. */
uint32_t cmo_flight_site(cmo_flight *flight, const char *file, int line, const char *function);

/* ------------------------------------------------------------------ writing */

static inline int64_t cmo_flight_tick(void) /* as exact as a tick of the system, in a tenth of the time */
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return (int64_t)t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static inline uint64_t cmo_flight_what(unsigned kind, unsigned op, unsigned dtype, unsigned state, unsigned err,
                                       bool apart)
{
    return kind | op << 8 | dtype << 16 | state << 24 | (uint64_t)(err & 0xff) << 32 | (uint64_t)apart << 40;
}

static inline cmo_flight_entry *cmo_flight_at(const cmo_recorder *r, uint64_t number)
{
    return &r->entries[(number - 1) & r->mask];
}

#define CMO_FLIGHT_SET(field, value) atomic_store_explicit(&(field), (value), memory_order_relaxed)

/* The next entry, for a call of this many bytes. */
static inline uint64_t cmo_flight_record(cmo_recorder *r, uint64_t comm, uint64_t seq, uint64_t count, uint64_t bytes,
                                         int64_t start, uint32_t site, int with, uint64_t what)
{
    const uint64_t number = ++r->next;
    cmo_flight_entry *e = cmo_flight_at(r, number);
    CMO_FLIGHT_SET(e->number, 0);
    atomic_thread_fence(memory_order_release); /* before all below */
    CMO_FLIGHT_SET(e->comm, comm);
    CMO_FLIGHT_SET(e->seq, seq);
    CMO_FLIGHT_SET(e->count, count);
    CMO_FLIGHT_SET(e->start, start);
    CMO_FLIGHT_SET(e->end, 0);
    CMO_FLIGHT_SET(e->site, site);
    CMO_FLIGHT_SET(e->peer, with);
    CMO_FLIGHT_SET(e->what, what);
    atomic_store_explicit(&e->number, number, memory_order_release);
    CMO_FLIGHT_SET(r->flight->bytes, r->bytes += bytes);
    atomic_store_explicit(&r->flight->next, number, memory_order_release);
    return number;
}

/* The entry of a call; NULL: it has none, or so many were made since that another has its place. */
static inline cmo_flight_entry *cmo_flight_of(const cmo_recorder *r, uint64_t number)
{
    return number && r->next - number <= r->mask ? cmo_flight_at(r, number) : NULL;
}

static inline void cmo_flight_state(cmo_flight_entry *e, unsigned state, unsigned err)
{
    uint64_t what = atomic_load_explicit(&e->what, memory_order_relaxed) & ~(UINT64_C(0xffff) << 24);
    atomic_store_explicit(&e->what, what | (uint64_t)state << 24 | (uint64_t)(err & 0xff) << 32, memory_order_release);
}

static inline void cmo_flight_inside(const cmo_recorder *r, bool enters)
{
    if (r->flight) atomic_fetch_add_explicit(&r->flight->inside, enters ? 1 : UINT32_MAX, memory_order_relaxed);
}

/* ------------------------------------------------------------------ reading */

typedef struct cmo_flight_call { /* an entry that was copied whole */
    uint64_t number, comm, seq, count;
    int64_t start, end;
    uint32_t site;
    int peer;
    unsigned kind, op, dtype, state, err;
    bool apart;
} cmo_flight_call;

/* The recorder of a rank of this host, whose window is mapped here; NULL: it has none, or none that makes sense. */
const cmo_flight *cmo_flight_look(const cmo_neighbour *n);
/* Copy the entry of this number. False: it is not there (any more). */
bool cmo_flight_copy(const cmo_flight *f, uint64_t number, cmo_flight_call *out);
/* The call that the rank is in now, or else the one that it made last. *in: which. False: none. */
bool cmo_flight_latest(const cmo_flight *f, cmo_flight_call *out, bool *in);
/* The text of a site, at most n bytes with its end. */
void cmo_flight_site_text(const cmo_flight *f, uint32_t site, char *out, size_t n);

#endif
