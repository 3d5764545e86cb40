/* A connection is a pair of ends, one a rank. Each end holds the bytes that its peer has written and it has not read:
 *
 *       head                  head + arrived          head + held
 *        | may be read now     | under way: in chunks,  |
 *        v                     v each with its time     v
 *     [ .#####################.########################.      ]   a ring of `room` bytes
 *
 * Only the first chunk under way of each end stands in the heap of events, so the heap is as large as the number of
 * ends that wait, and a step costs its logarithm. */
#include "transport/sim_internal.h"

#include <stdlib.h>
#include <string.h>

enum { DEFAULT_CAPACITY = 64 << 10, LEAST_ROOM = 256 };

/* ------------------------------------------------------------------ what happens at an end */

static sim_end *other_end(sim_end *e)
{
    sim_pair *pair = (sim_pair *)(e->link.peer > e->rank ? e : e - 1); /* end[0] is the lower rank's */
    return &pair->end[e == &pair->end[0]];
}

static void end_stop(cmo_sim *s, sim_end *e)
{
    e->ended = true;
    e->link.readable = true; /* so that its owner reads, and learns of the end */
    cmo_sim_wake(s, e->rank);
}

/* See to it that what comes next at this end stands in the heap. */
static cmo_err end_schedule(cmo_sim *s, sim_end *e, int64_t at)
{
    if (e->scheduled) return CMO_OK;
    e->scheduled = true;
    cmo_err err = cmo_sim_push(s, (sim_event){.at = at, .end = e});
    if (err) e->scheduled = false;
    return err;
}

/* Take in what has arrived by now, then wait for the next. */
void cmo_sim_arrive(cmo_sim *s, sim_end *e)
{
    e->scheduled = false;
    if (e->ended) return;
    if (!e->connected) {
        sim_end *o = other_end(e);
        e->connected = o->connected = true;
        e->link.up = o->link.up = true;
        e->next_knock = s->ranks[e->rank].knocks;
        s->ranks[e->rank].knocks = e;
        cmo_sim_wake(s, o->rank);
    }
    while (e->nchunks && e->chunks[e->first].at <= s->now) {
        e->arrived += e->chunks[e->first++].bytes;
        if (!--e->nchunks) e->first = 0;
    }
    e->link.readable = e->arrived > 0;
    cmo_sim_wake(s, e->rank);
    if (e->nchunks) end_schedule(s, e, e->chunks[e->first].at); /* cannot fail: an event was taken out just now */
    else if (e->closing) end_stop(s, e);
}

/* ------------------------------------------------------------------ ends */

/* Where rank `a` keeps its end of the link to `b`, or NULL without memory. */
static sim_end **end_slot(cmo_sim *s, int a, int b)
{
    sim_page **page = &s->ranks[a].pages[b / PAGE_PEERS];
    if (!*page) *page = calloc(1, sizeof **page);
    return *page ? &(*page)->end[b % PAGE_PEERS] : NULL;
}

static cmo_err pair_make(cmo_sim *s, int a, int b)
{
    int low = a < b ? a : b, high = a < b ? b : a;
    sim_end **slot_low = end_slot(s, low, high), **slot_high = end_slot(s, high, low);
    sim_pair *pair = calloc(1, sizeof *pair);
    if (!slot_low || !slot_high || !pair) {
        free(pair);
        return cmo_fail(CMO_ENOMEM, "a simulated link");
    }
    pair->end[0] = (sim_end){.link = {.peer = high}, .rank = low, .owner = s->ranks[low].net};
    pair->end[1] = (sim_end){.link = {.peer = low}, .rank = high, .owner = s->ranks[high].net};
    for (int i = 0; i < 2; i++)
        if (pair->end[i].owner) pair->end[i].link.net = &pair->end[i].owner->net;
    pair->next = s->pairs;
    s->pairs = pair;
    *slot_low = &pair->end[0];
    *slot_high = &pair->end[1];
    return CMO_OK;
}

static cmo_err end_grow(cmo_sim *s, sim_end *e, size_t more)
{
    size_t room = e->room ? e->room : LEAST_ROOM;
    while (room < e->held + more) room *= 2;
    if (room > s->settings.capacity) room = s->settings.capacity;
    if (room > e->room) {
        unsigned char *ring = malloc(room);
        if (!ring) return cmo_fail(CMO_ENOMEM, "%zu bytes of a simulated link", room);
        size_t front = e->room - e->head < e->held ? e->room - e->head : e->held;
        if (front) memcpy(ring, e->ring + e->head, front);
        if (e->held > front) memcpy(ring + front, e->ring, e->held - front);
        free(e->ring);
        e->ring = ring;
        e->room = room;
        e->head = 0;
    }
    if (e->first + e->nchunks == e->chunk_room) {
        if (e->first) {
            memmove(e->chunks, e->chunks + e->first, e->nchunks * sizeof *e->chunks);
            e->first = 0;
        } else {
            size_t n = e->chunk_room ? 2 * e->chunk_room : 4;
            sim_chunk *chunks = realloc(e->chunks, n * sizeof *chunks);
            if (!chunks) return cmo_fail(CMO_ENOMEM, "%zu writes on a simulated link", n);
            e->chunks = chunks;
            e->chunk_room = n;
        }
    }
    return CMO_OK;
}

/* Idle links keep no memory: at a thousand ranks there may be half a million of them. */
static void end_shrink(sim_end *e)
{
    free(e->ring);
    free(e->chunks);
    e->ring = NULL;
    e->chunks = NULL;
    e->room = e->head = e->held = e->arrived = 0;
    e->first = e->nchunks = e->chunk_room = 0;
}

static void end_lose(sim_end *e, size_t keep)
{
    e->held = e->arrived = keep;
    e->first = e->nchunks = 0;
    if (!keep) end_shrink(e);
}

/* ------------------------------------------------------------------ the transport's functions */

static cmo_err sim_open(cmo_net *net, int peer, cmo_link **out)
{
    sim_net *n = (sim_net *)net;
    cmo_sim *s = n->sim;
    if (peer < 0 || peer >= s->size || peer == n->rank)
        return cmo_fail(CMO_EINVAL, "rank %d has no link to rank %d", n->rank, peer);
    sim_end **slot = end_slot(s, n->rank, peer);
    if (!slot) return cmo_fail(CMO_ENOMEM, "a simulated link");
    if (!*slot) {
        CMO_TRY(pair_make(s, n->rank, peer));
        /* A round trip is over when the peer's end connects; that its end exists before is nobody's to see. */
        if (!s->ranks[peer].dead) CMO_TRY(end_schedule(s, other_end(*slot), s->now + cmo_sim_delay(s)));
        else end_stop(s, *slot);
    }
    (*slot)->opened = true;
    *out = &(*slot)->link;
    return CMO_OK;
}

static cmo_err sim_poll(cmo_net *net)
{
    sim_net *n = (sim_net *)net;
    sim_rank *r = &n->sim->ranks[n->rank];
    for (sim_end *e; (e = r->knocks);) {
        r->knocks = e->next_knock;
        if (e->opened) continue;
        e->opened = true;
        if (net->on_link) net->on_link(net->ctx, &e->link);
    }
    return CMO_OK;
}

/* Whether anything at all can move on this end, and if not, why. */
static cmo_err end_check(const cmo_sim *s, const sim_end *e)
{
    if (s->ranks[e->rank].dead) return cmo_fail(CMO_EPEERLOST, "rank %d is dead itself", e->rank);
    if (e->ended && !e->arrived) return cmo_fail(CMO_EPEERLOST, "rank %d has gone", e->link.peer);
    return CMO_OK;
}

static cmo_err sim_write(cmo_link *link, const struct iovec *iov, int n, size_t *moved)
{
    sim_end *from = (sim_end *)link, *to = other_end(from);
    cmo_sim *s = from->owner->sim;
    *moved = 0;
    CMO_TRY(end_check(s, from));
    if (!link->up || from->ended) return CMO_OK;
    size_t wanted = 0, space = s->settings.capacity - to->held;
    for (int i = 0; i < n; i++) wanted += iov[i].iov_len;
    size_t bytes = cmo_sim_share(s, wanted < space ? wanted : space);
    if (!bytes) return CMO_OK;
    CMO_TRY(end_grow(s, to, bytes));
    size_t at = (to->head + to->held) % to->room, left = bytes;
    for (int i = 0; left; i++) {
        const unsigned char *src = iov[i].iov_base;
        size_t part = iov[i].iov_len < left ? iov[i].iov_len : left;
        size_t front = to->room - at < part ? to->room - at : part;
        if (front) memcpy(to->ring + at, src, front);
        if (part > front) memcpy(to->ring, src + front, part - front);
        if (s->tap && part) s->tap(s->tap_ctx, from->rank, to->rank, src, part);
        at = (at + part) % to->room;
        left -= part;
    }
    sim_rank *r = &s->ranks[from->rank];
    r->port = (r->port > s->now ? r->port : s->now) + (int64_t)((double)bytes * s->settings.ns_per_byte);
    int64_t arrives = r->port + cmo_sim_delay(s);
    if (arrives < to->last) arrives = to->last;
    to->last = arrives;
    to->held += bytes;
    to->chunks[to->first + to->nchunks++] = (sim_chunk){arrives, bytes};
    r->traffic.sent += bytes;
    r->traffic.writes++;
    *moved = bytes;
    return end_schedule(s, to, to->chunks[to->first].at);
}

static cmo_err sim_read(cmo_link *link, const struct iovec *iov, int n, size_t *moved)
{
    sim_end *e = (sim_end *)link;
    cmo_sim *s = e->owner->sim;
    *moved = 0;
    CMO_TRY(end_check(s, e));
    size_t wanted = 0;
    for (int i = 0; i < n; i++) wanted += iov[i].iov_len;
    size_t bytes = cmo_sim_share(s, wanted < e->arrived ? wanted : e->arrived), left = bytes;
    for (int i = 0; left; i++) {
        unsigned char *dst = iov[i].iov_base;
        size_t part = iov[i].iov_len < left ? iov[i].iov_len : left;
        size_t front = e->room - e->head < part ? e->room - e->head : part;
        if (front) memcpy(dst, e->ring + e->head, front);
        if (part > front) memcpy(dst + front, e->ring, part - front);
        e->head = (e->head + part) % e->room;
        left -= part;
    }
    if (bytes) {
        e->held -= bytes;
        e->arrived -= bytes;
        s->ranks[e->rank].traffic.received += bytes;
        s->ranks[e->rank].traffic.last = s->now;
        cmo_sim_wake(s, e->link.peer); /* it may have been waiting for room */
        if (e->arrived || e->ended) cmo_sim_wake(s, e->rank);
        if (!e->held) end_shrink(e);
    }
    link->readable = e->arrived || e->ended;
    *moved = bytes;
    return CMO_OK;
}

/* The stream from this end's owner to its peer is over, after what has been written. */
static void end_close(cmo_sim *s, sim_end *e)
{
    sim_end *o = other_end(e);
    e->ended = true;
    if (o->ended) return;
    o->closing = true;
    if (!o->scheduled) end_schedule(s, o, s->now + cmo_sim_delay(s));
}

static void sim_drop(cmo_link *link)
{
    sim_end *e = (sim_end *)link, *o = other_end(e);
    cmo_sim *s = e->owner->sim;
    end_lose(e, 0);
    e->ended = true;
    link->up = link->readable = false;
    if (o->ended) return;
    end_lose(o, o->arrived);
    end_close(s, e);
}

/* Apply to each end that a rank has. */
static void each_end(cmo_sim *s, int rank, void (*apply)(cmo_sim *, sim_end *))
{
    for (int p = 0; p < s->npages; p++)
        for (int i = 0; s->ranks[rank].pages[p] && i < PAGE_PEERS; i++)
            if (s->ranks[rank].pages[p]->end[i]) apply(s, s->ranks[rank].pages[p]->end[i]);
}

static void end_adopt(cmo_sim *s, sim_end *e)
{
    e->owner = s->ranks[e->rank].net;
    e->link.net = &e->owner->net;
}

static void end_disown(cmo_sim *s, sim_end *e)
{
    end_close(s, e);
    end_lose(e, 0);
    e->owner = NULL;
    e->link.net = NULL;
}

static void sim_close(cmo_net *net)
{
    sim_net *n = (sim_net *)net;
    n->sim->ranks[n->rank].net = NULL;
    n->sim->ranks[n->rank].dead = true;
    each_end(n->sim, n->rank, end_disown);
    free(n);
}

/* A broken link proves nothing, and who is on the other side of one cannot be asked. */
static cmo_fate sim_fate(cmo_net *net, int peer)
{
    sim_net *n = (sim_net *)net;
    sim_end **slot = end_slot(n->sim, n->rank, peer);
    const bool reached = !slot || !*slot || !(*slot)->cut;
    return reached && n->sim->ranks[peer].dead ? CMO_FATE_ENDED : CMO_FATE_UNKNOWN;
}

static const cmo_net_ops sim_ops = {
    .name = "sim",
    .open = sim_open,
    .poll = sim_poll,
    .write = sim_write,
    .read = sim_read,
    .drop = sim_drop,
    .fate = sim_fate,
    .close = sim_close,
};

cmo_err cmo_sim_net(cmo_sim *s, int rank, cmo_net **out)
{
    if (rank < 0 || rank >= s->size || s->ranks[rank].net || s->ranks[rank].dead)
        return cmo_fail(CMO_EINVAL, "rank %d of %d has had its net, or is none", rank, s->size);
    sim_net *n = calloc(1, sizeof *n);
    if (!n) return cmo_fail(CMO_ENOMEM, "a simulated net");
    *n = (sim_net){.net = {.ops = &sim_ops, .fd = -1}, .sim = s, .rank = rank};
    s->ranks[rank].net = n;
    each_end(s, rank, end_adopt); /* peers may have been first */
    *out = &n->net;
    return CMO_OK;
}

/* ------------------------------------------------------------------ faults and measurements */

cmo_err cmo_sim_kill(cmo_sim *s, int rank)
{
    if (rank < 0 || rank >= s->size) return cmo_fail(CMO_EINVAL, "there is no rank %d to kill", rank);
    s->ranks[rank].dead = true;
    each_end(s, rank, end_close);
    return CMO_OK;
}

cmo_err cmo_sim_cut(cmo_sim *s, int a, int b)
{
    sim_end **slot = a >= 0 && b >= 0 && a < s->size && b < s->size && a != b ? end_slot(s, a, b) : NULL;
    if (!slot) return cmo_fail(CMO_EINVAL, "there is no link from rank %d to rank %d to cut", a, b);
    if (!*slot) CMO_TRY(pair_make(s, a, b));
    sim_end *ends[2] = {*slot, other_end(*slot)};
    for (int i = 0; i < 2; i++) {
        end_lose(ends[i], ends[i]->arrived);
        end_stop(s, ends[i]);
        ends[i]->cut = true;
    }
    return CMO_OK;
}

const cmo_sim_traffic *cmo_sim_traffic_of(const cmo_sim *s, int rank) { return &s->ranks[rank].traffic; }

void cmo_sim_tap(cmo_sim *s, void (*tap)(void *, int, int, const void *, size_t), void *ctx)
{
    s->tap = tap;
    s->tap_ctx = ctx;
}

cmo_err cmo_sim_create(cmo_sim **out, int size, uint64_t seed, const cmo_sim_settings *settings)
{
    if (size < 1) return cmo_fail(CMO_EINVAL, "a simulation of %d ranks", size);
    cmo_sim *s = calloc(1, sizeof *s);
    if (!s) goto fail;
    *s = (cmo_sim){.size = size, .npages = (size + PAGE_PEERS - 1) / PAGE_PEERS, .random = seed, .settings = *settings};
    if (!s->settings.capacity) s->settings.capacity = DEFAULT_CAPACITY;
    s->ranks = calloc((size_t)size, sizeof *s->ranks);
    s->ready = calloc((size_t)size, sizeof *s->ready);
    if (!s->ranks || !s->ready) goto fail;
    for (int r = 0; r < size; r++) {
        s->ranks[r].place = -1;
        s->ranks[r].pages = calloc((size_t)s->npages, sizeof(sim_page *));
        if (!s->ranks[r].pages) goto fail;
    }
    *out = s;
    return CMO_OK;
fail:
    cmo_sim_destroy(s);
    return cmo_fail(CMO_ENOMEM, "a simulation of %d ranks", size);
}

void cmo_sim_destroy(cmo_sim *s)
{
    if (!s) return;
    for (sim_pair *pair = s->pairs, *next; pair; pair = next) {
        next = pair->next;
        end_shrink(&pair->end[0]);
        end_shrink(&pair->end[1]);
        free(pair);
    }
    for (int r = 0; s->ranks && r < s->size; r++) {
        for (int p = 0; s->ranks[r].pages && p < s->npages; p++) free(s->ranks[r].pages[p]);
        free(s->ranks[r].pages);
    }
    free(s->ranks);
    free(s->ready);
    free(s->heap);
    free(s);
}
