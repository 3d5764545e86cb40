/* Time and chance of the simulation: the heap of events, the ranks that have something to do, the generator. */
#include "transport/sim_internal.h"

#include <stdlib.h>

/* ------------------------------------------------------------------ chance */

/* S. Vigna's splitmix64. */
static uint64_t sim_draw(cmo_sim *s)
{
    uint64_t z = s->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

uint64_t cmo_sim_random(cmo_sim *s, uint64_t bound) { return bound ? sim_draw(s) % bound : 0; }

int64_t cmo_sim_delay(cmo_sim *s)
{
    return s->settings.latency_ns + (int64_t)cmo_sim_random(s, (uint64_t)s->settings.jitter_ns + 1);
}

size_t cmo_sim_share(cmo_sim *s, size_t n)
{
    if (n < 2 || s->settings.short_moves <= 0) return n;
    bool whole = (double)(sim_draw(s) >> 11) * 0x1p-53 >= s->settings.short_moves;
    return whole ? n : 1 + (size_t)cmo_sim_random(s, n - 1);
}

/* ------------------------------------------------------------------ events */

static bool sim_before(const sim_event *a, const sim_event *b)
{
    return a->at != b->at ? a->at < b->at : a->number < b->number;
}

cmo_err cmo_sim_push(cmo_sim *s, sim_event e)
{
    if (s->nheap == s->heap_room) {
        size_t room = s->heap_room ? 2 * s->heap_room : 64;
        sim_event *heap = realloc(s->heap, room * sizeof *heap);
        if (!heap) return cmo_fail(CMO_ENOMEM, "%zu simulated events", room);
        s->heap = heap;
        s->heap_room = room;
    }
    e.number = s->nevents++;
    size_t i = s->nheap++;
    for (size_t up = (i - 1) / 2; i && sim_before(&e, &s->heap[up]); up = (i - 1) / 2) {
        s->heap[i] = s->heap[up];
        i = up;
    }
    s->heap[i] = e;
    return CMO_OK;
}

static sim_event sim_pop(cmo_sim *s)
{
    sim_event top = s->heap[0], e = s->heap[--s->nheap];
    size_t i = 0;
    for (size_t down = 1; down < s->nheap; down = 2 * i + 1) {
        if (down + 1 < s->nheap && sim_before(&s->heap[down + 1], &s->heap[down])) down++;
        if (!sim_before(&s->heap[down], &e)) break;
        s->heap[i] = s->heap[down];
        i = down;
    }
    s->heap[i] = e;
    return top;
}

void cmo_sim_wake(cmo_sim *s, int rank)
{
    sim_rank *r = &s->ranks[rank];
    if (r->place >= 0) return;
    r->place = s->nready;
    s->ready[s->nready++] = rank;
}

int cmo_sim_take(cmo_sim *s)
{
    if (!s->nready) return -1;
    int i = (int)cmo_sim_random(s, (uint64_t)s->nready), rank = s->ready[i];
    int moved = s->ready[i] = s->ready[--s->nready];
    s->ranks[moved].place = i;
    s->ranks[rank].place = -1;
    return rank;
}

cmo_err cmo_sim_alarm(cmo_sim *s, int rank, int64_t at)
{
    return cmo_sim_push(s, (sim_event){.at = at > s->now ? at : s->now, .rank = rank});
}

static void sim_happen(cmo_sim *s)
{
    sim_event e = sim_pop(s);
    if (e.at > s->now) s->now = e.at;
    if (e.end) cmo_sim_arrive(s, e.end);
    else cmo_sim_wake(s, e.rank);
}

bool cmo_sim_advance(cmo_sim *s)
{
    if (!s->nheap) return false;
    sim_happen(s);
    while (s->nheap && s->heap[0].at == s->now) sim_happen(s);
    return true;
}

void cmo_sim_sleep(cmo_sim *s, int64_t until)
{
    while (s->nheap && s->heap[0].at <= until) sim_happen(s);
    if (until > s->now) s->now = until;
}

int64_t cmo_sim_now(void *sim) { return ((cmo_sim *)sim)->now; }
