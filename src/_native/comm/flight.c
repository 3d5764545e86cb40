#include "comm/flight.h"

#include "base/clock.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const uint64_t flight_magic = UINT64_C(0x746867696c666d63); /* "cmflight" */

_Thread_local uint32_t cmo_flight_caller;

_Static_assert(sizeof(cmo_flight_entry) == CMO_LINE, "an entry is one cache line");
/* Where commops/flight.py looks */
_Static_assert(offsetof(cmo_window_head, flight) == 48 && sizeof(cmo_flight) == 256 &&
               offsetof(cmo_flight, rank) == 48 && offsetof(cmo_flight, host) == 104 &&
               offsetof(cmo_flight, next) == 192 && offsetof(cmo_flight, closed) == 216, "as in commops/flight.py");

static size_t head_bytes(void) { return (sizeof(cmo_flight) + CMO_LINE - 1) / CMO_LINE * CMO_LINE; }

static int64_t realtime_offset(void)
{
    struct timespec real;
    const int64_t before = cmo_now();
    clock_gettime(CLOCK_REALTIME, &real);
    return (int64_t)real.tv_sec * CMO_SECOND + real.tv_nsec - (before + cmo_now()) / 2;
}

/* Of bytes that are zero. */
static void flight_init(cmo_flight *f, const cmo_flight_identity *who, uint64_t entries)
{
    struct timespec tick = {.tv_nsec = 0};
    clock_getres(CLOCK_MONOTONIC_COARSE, &tick);
    f->version = CMO_FLIGHT_VERSION;
    f->entry_bytes = sizeof(cmo_flight_entry);
    f->entries_at = head_bytes();
    f->entries = entries;
    f->sites_at = f->entries_at + entries * sizeof(cmo_flight_entry);
    f->sites = CMO_FLIGHT_SITES;
    f->site_bytes = CMO_FLIGHT_SITE_BYTES;
    f->rank = who->rank;
    f->size = who->size;
    f->generation = who->generation;
    f->pid = (int32_t)getpid();
    f->created = cmo_now();
    f->realtime = realtime_offset();
    f->tick = (int64_t)tick.tv_sec * CMO_SECOND + tick.tv_nsec;
    if (who->job) memcpy(f->job, who->job, sizeof f->job);
    if (who->host) snprintf(f->host, sizeof f->host, "%s", who->host);
    f->magic = flight_magic;
}

cmo_err cmo_flight_open(cmo_recorder *r, cmo_window *window, bool alone, const cmo_flight_identity *who,
                        int64_t entries)
{
    uint64_t n = 1, at;
    *r = (cmo_recorder){.flight = NULL};
    if (entries <= 0) return CMO_OK;
    while (n < (uint64_t)entries) n *= 2;
    const size_t bytes = head_bytes() + n * sizeof(cmo_flight_entry) + CMO_FLIGHT_SITES * CMO_FLIGHT_SITE_BYTES;
    if (alone && cmo_window_fd(window) < 0) {
        CMO_TRY(cmo_window_create(&r->own, 1, bytes + 2 * CMO_PAGE, false));
        window = r->own;
    }
    cmo_err err = cmo_window_alloc(window, bytes, &at);
    if (err) {
        cmo_window_destroy(r->own);
        r->own = NULL;
        return err;
    }
    cmo_window_head *head = cmo_window_base(window);
    r->flight = (cmo_flight *)(void *)((char *)head + at);
    r->entries = (cmo_flight_entry *)(void *)((char *)r->flight + head_bytes());
    r->mask = n - 1;
    flight_init(r->flight, who, n);
    atomic_store_explicit(&head->flight, at, memory_order_release); /* whoever finds it, finds all of the above */
    return CMO_OK;
}

uint64_t cmo_flight_bytes(const cmo_flight *own) { return own->sites_at + CMO_FLIGHT_SITES * CMO_FLIGHT_SITE_BYTES; }

void cmo_flight_close(cmo_recorder *r)
{
    if (r->flight) atomic_store_explicit(&r->flight->closed, 1, memory_order_relaxed);
    cmo_window_destroy(r->own);
    *r = (cmo_recorder){.flight = NULL};
}

uint32_t cmo_flight_site(cmo_flight *f, const char *file, int line, const char *function)
{
    const uint32_t n = atomic_load_explicit(&f->nsites, memory_order_relaxed);
    if (n == CMO_FLIGHT_SITES) return 0;
    char *text = (char *)f + f->sites_at + (size_t)n * CMO_FLIGHT_SITE_BYTES;
    /* Of what is too long, the end of the path says most. */
    char at[96];
    const int tail = snprintf(at, sizeof at, ":%d:%s", line, function);
    const int used = tail < (int)sizeof at ? tail : (int)sizeof at - 1;
    const int room = CMO_FLIGHT_SITE_BYTES - 1 - used, length = (int)strlen(file);
    snprintf(text, CMO_FLIGHT_SITE_BYTES, "%s%s", length > room ? file + length - room : file, at);
    atomic_store_explicit(&f->nsites, n + 1, memory_order_release); /* who sees the number sees its text */
    return n + 1;
}

/* ------------------------------------------------------------------ reading */

/* Within these bytes, which come from another process? Its numbers are looked at once. */
static bool fits(const cmo_flight *f, uint64_t bytes)
{
    const uint64_t entries = f->entries, sites_at = f->sites_at;
    return f->magic == flight_magic && f->version == CMO_FLIGHT_VERSION && f->entries_at == head_bytes() && entries &&
           !(entries & (entries - 1)) && entries <= (bytes - head_bytes()) / sizeof(cmo_flight_entry) &&
           sites_at == head_bytes() + entries * sizeof(cmo_flight_entry) &&
           bytes - sites_at >= CMO_FLIGHT_SITES * CMO_FLIGHT_SITE_BYTES;
}

const cmo_flight *cmo_flight_look(const cmo_neighbour *n)
{
    if (!n->head) return NULL;
    const uint64_t at = atomic_load_explicit(&n->head->flight, memory_order_acquire);
    const cmo_flight *f = at ? cmo_window_at(n, at, head_bytes()) : NULL;
    return f && fits(f, n->size - at) ? f : NULL;
}

#define GET(field) atomic_load_explicit(&(field), memory_order_relaxed)

bool cmo_flight_copy(const cmo_flight *f, uint64_t number, cmo_flight_call *out)
{
    const uint64_t entries = f->entries;
    if (!number || !entries || entries & (entries - 1)) return false; /* it may have changed since it was looked at */
    const cmo_flight_entry *e = (const cmo_flight_entry *)(const void *)((const char *)f + head_bytes()) +
                                ((number - 1) & (entries - 1));
    if (atomic_load_explicit(&e->number, memory_order_acquire) != number) return false;
    const uint64_t what = atomic_load_explicit(&e->what, memory_order_acquire);
    *out = (cmo_flight_call){.number = number, .comm = GET(e->comm), .seq = GET(e->seq), .count = GET(e->count),
                             .start = GET(e->start), .end = GET(e->end), .site = GET(e->site), .peer = GET(e->peer),
                             .kind = what & 0xff, .op = what >> 8 & 0xff, .dtype = what >> 16 & 0xff,
                             .state = what >> 24 & 0xff, .err = what >> 32 & 0xff, .apart = what >> 40 & 1};
    atomic_thread_fence(memory_order_acquire);
    return GET(e->number) == number;
}

static bool runs(const cmo_flight_call *c)
{
    return c->state == CMO_FLIGHT_CALLED || c->state == CMO_FLIGHT_RUNNING;
}

bool cmo_flight_latest(const cmo_flight *f, cmo_flight_call *out, bool *in)
{
    const uint64_t next = atomic_load_explicit(&f->next, memory_order_acquire), entries = f->entries;
    const bool inside = atomic_load_explicit(&f->inside, memory_order_relaxed) != 0;
    bool found = false;
    *in = false;
    for (uint64_t n = next; n && next - n < entries; n--) {
        cmo_flight_call call;
        if (!cmo_flight_copy(f, n, &call)) continue;
        if (!found) *out = call;
        /* Whoever waits for a call that goes on by itself waits in one of those in progress: the latest, say. */
        if (runs(&call) && (!call.apart || inside)) {
            *out = call;
            return *in = true;
        }
        found = true;
        if (!inside) break;
    }
    return found;
}

void cmo_flight_site_text(const cmo_flight *f, uint32_t site, char *out, size_t n)
{
    out[0] = 0;
    if (!site || site > CMO_FLIGHT_SITES || site > atomic_load_explicit(&f->nsites, memory_order_acquire)) return;
    const char *text = (const char *)f + f->sites_at + (size_t)(site - 1) * CMO_FLIGHT_SITE_BYTES;
    snprintf(out, n, "%.*s", CMO_FLIGHT_SITE_BYTES - 1, text);
    for (char *c = out; *c; c++)
        if ((unsigned char)*c < ' ') *c = '?'; /* it is shown on terminals */
}
