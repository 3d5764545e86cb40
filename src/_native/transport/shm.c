/* Byte streams between the ranks of one host: a ring of bytes in the sender's window for each pair that talks.
 *
 * Invariant of a pipe: head and tail count bytes ever written and read, tail ≤ head ≤ tail + size. Only the sender
 * stores head (release, after the bytes), only the receiver stores tail (release, after having copied them out); each
 * reads the other's with acquire. So bytes in [tail, head) are the receiver's to read and the rest the sender's to
 * write. Each keeps the other's counter as it last saw it and looks again only when that does not suffice, since a look
 * costs a cache line's journey. */
#include "transport/shm.h"

#include "base/copy.h"

#include <stdlib.h>
#include <string.h>

typedef struct shm_pipe {
    _Alignas(CMO_LINE) _Atomic uint64_t head;
    uint64_t size; /* of data, in bytes; written before the pipe is published */
    _Alignas(CMO_LINE) _Atomic uint64_t tail;
    _Alignas(CMO_LINE) char data[];
} shm_pipe;

typedef struct shm_link {
    cmo_link link; /* first: a cmo_link * is a shm_link * */
    int neighbour;
    shm_pipe *out, *in;
    uint64_t out_offset, out_size, in_size;
    uint64_t written, read;         /* our own counters */
    uint64_t seen_tail, seen_head;  /* the peer's, as last seen */
} shm_link;

typedef struct shm_net {
    cmo_net net;
    cmo_window *own;
    const cmo_neighbour *neighbours;
    const int *world;
    int nlocal, self;
    size_t pipe_bytes;
    uint64_t seen_opened;
    shm_link *links; /* [nlocal] */
} shm_net;

enum {
    /* Bytes after which the other side is shown what there is, to copy while this side does: few where the copy is soon
     * over, many where the counters' journeys cost more. */
    SHM_CHUNK = 8 << 10, SHM_LARGE = 128 << 10, SHM_LARGE_CHUNK = 32 << 10,
    SHM_PIPES = 8 << 20, /* most bytes of all pipes of a rank, … */
    SHM_LEAST = 64 << 10 /* … while each has this much: of long pipes few lines are in the peer's cache (base/copy.c) */
};

static size_t chunk_of(size_t bytes) { return bytes < SHM_LARGE ? SHM_CHUNK : SHM_LARGE_CHUNK; }

static shm_net *net_of(shm_link *l) { return (shm_net *)l->link.net; }

/* A pipe of *size bytes, or of as many as there are. */
static cmo_err shm_alloc(cmo_window *own, uint64_t *size, uint64_t *offset)
{
    for (;; *size /= 2) {
        cmo_err err = cmo_window_alloc(own, sizeof(shm_pipe) + *size, offset);
        if (err != CMO_ENOMEM || *size <= SHM_LEAST) return err;
    }
}

static cmo_err shm_open(cmo_net *net, int peer, cmo_link **out)
{
    shm_net *n = (shm_net *)net;
    int i = 0;
    while (i < n->nlocal && n->world[i] != peer) i++;
    if (i == n->nlocal) return cmo_fail(CMO_EINVAL, "rank %d is not on this host", peer);
    shm_link *l = &n->links[i];
    if (!l->out) {
        l->out_size = n->pipe_bytes;
        CMO_TRY(shm_alloc(n->own, &l->out_size, &l->out_offset));
        l->out = (shm_pipe *)((char *)cmo_window_base(n->own) + l->out_offset);
        l->out->size = l->out_size;
        l->link.up = true;
        /* Release: whoever sees the offset sees the size. */
        atomic_store_explicit(&cmo_window_base(n->own)->pipe[i], l->out_offset, memory_order_release);
        /* Release: whoever sees the count sees the offset. */
        atomic_fetch_add_explicit(&n->neighbours[i].head->opened, 1, memory_order_release);
    }
    *out = &l->link;
    return CMO_OK;
}

/* Take up the pipe that neighbour i has made for us, if it has. Offset and size are a peer's, hence checked. */
static cmo_err shm_attach(shm_net *n, int i)
{
    shm_link *l = &n->links[i];
    const cmo_neighbour *other = &n->neighbours[i];
    uint64_t offset = atomic_load_explicit(&other->head->pipe[n->self], memory_order_acquire);
    if (!offset) return CMO_OK;
    shm_pipe *pipe = cmo_window_at(other, offset, sizeof(shm_pipe));
    if (!pipe || !pipe->size || !cmo_window_at(other, offset, sizeof(shm_pipe) + pipe->size))
        return cmo_fail(CMO_EPROTO, "rank %d offers a pipe outside its window", n->world[i]);
    l->in_size = pipe->size;
    l->in = pipe;
    l->link.readable = true;
    if (n->net.on_link) n->net.on_link(n->net.ctx, &l->link);
    return CMO_OK;
}

static cmo_err shm_poll(cmo_net *net)
{
    shm_net *n = (shm_net *)net;
    uint64_t opened = atomic_load_explicit(&cmo_window_base(n->own)->opened, memory_order_acquire);
    if (opened == n->seen_opened) return CMO_OK;
    for (int i = 0; i < n->nlocal; i++)
        if (!n->links[i].in) CMO_TRY(shm_attach(n, i));
    n->seen_opened = opened; /* one that has been counted since makes it differ again */
    return CMO_OK;
}

static cmo_err shm_write(cmo_link *link, const struct iovec *iov, int niov, size_t *moved)
{
    shm_link *l = (shm_link *)link;
    uint64_t start = l->written;
    for (int i = 0; i < niov; i++) {
        const size_t chunk = chunk_of(iov[i].iov_len);
        size_t done = 0;
        while (done < iov[i].iov_len) {
            uint64_t space = l->out_size - (l->written - l->seen_tail);
            if (!space) {
                l->seen_tail = atomic_load_explicit(&l->out->tail, memory_order_acquire);
                if (l->seen_tail > l->written || l->written - l->seen_tail > l->out_size)
                    return cmo_fail(CMO_EPROTO, "rank %d has read more than was sent", link->peer);
                space = l->out_size - (l->written - l->seen_tail);
                if (!space) goto full;
            }
            size_t at = (size_t)(l->written % l->out_size), part = iov[i].iov_len - done;
            if (part > space) part = (size_t)space;
            if (part > l->out_size - at) part = (size_t)(l->out_size - at);
            if (part > chunk) part = chunk;
            const char *from = (char *)iov[i].iov_base + done;
            if (!link->large_out) cmo_stage_message(l->out->data + at, from, part);
            else cmo_stage(l->out->data + at, from, part);
            done += part;
            l->written += part;
            if (part == chunk) atomic_store_explicit(&l->out->head, l->written, memory_order_release);
        }
    }
full:
    *moved = (size_t)(l->written - start);
    if (*moved) {
        atomic_store_explicit(&l->out->head, l->written, memory_order_release);
        cmo_ring(&net_of(l)->neighbours[l->neighbour]);
    }
    return CMO_OK;
}

static cmo_err shm_read(cmo_link *link, const struct iovec *iov, int niov, size_t *moved)
{
    shm_link *l = (shm_link *)link;
    *moved = 0;
    if (!l->in) return CMO_OK;
    uint64_t start = l->read;
    for (int i = 0; i < niov; i++) {
        const size_t chunk = chunk_of(iov[i].iov_len);
        size_t done = 0;
        while (done < iov[i].iov_len) {
            if (l->seen_head == l->read) {
                l->seen_head = atomic_load_explicit(&l->in->head, memory_order_acquire);
                if (l->seen_head < l->read || l->seen_head - l->read > l->in_size)
                    return cmo_fail(CMO_EPROTO, "rank %d has sent more than its pipe holds", link->peer);
                if (l->seen_head == l->read) goto empty;
            }
            size_t at = (size_t)(l->read % l->in_size), part = iov[i].iov_len - done;
            if (part > l->seen_head - l->read) part = (size_t)(l->seen_head - l->read);
            if (part > l->in_size - at) part = (size_t)(l->in_size - at);
            if (part > chunk) part = chunk;
            if (link->large_in) cmo_copy_around((char *)iov[i].iov_base + done, l->in->data + at, part);
            else cmo_copy((char *)iov[i].iov_base + done, l->in->data + at, part);
            done += part;
            l->read += part;
            if (part == chunk) atomic_store_explicit(&l->in->tail, l->read, memory_order_release);
        }
    }
empty:
    *moved = (size_t)(l->read - start);
    if (*moved) {
        atomic_store_explicit(&l->in->tail, l->read, memory_order_release);
        cmo_ring(&net_of(l)->neighbours[l->neighbour]); /* it may be waiting for room */
    }
    return CMO_OK;
}

static void shm_drop(cmo_link *link)
{
    link->readable = false;
    link->up = false;
}

/* What was written stays in the window for a reader that has not even looked for the pipe yet: the pipe's offset is
 * left where it is, and the memory lives as long as somebody maps the window. */
static void shm_close(cmo_net *net)
{
    shm_net *n = (shm_net *)net;
    free(n->links);
    free(n);
}

static const cmo_net_ops shm_ops = {
    .name = "shm",
    .open = shm_open,
    .poll = shm_poll,
    .write = shm_write,
    .read = shm_read,
    .drop = shm_drop,
    .close = shm_close,
};

size_t cmo_shm_pipe_bytes(int nlocal, size_t wanted)
{
    size_t share = SHM_PIPES / (size_t)nlocal;
    if (share < SHM_LEAST) share = SHM_LEAST;
    return wanted > share ? share / CMO_LINE * CMO_LINE : wanted;
}

cmo_err cmo_shm_net(cmo_net **out, cmo_window *own, const cmo_neighbour *neighbours, const int *world, int nlocal,
                    int self, size_t pipe_bytes)
{
    shm_net *n = calloc(1, sizeof *n);
    shm_link *links = calloc((size_t)nlocal, sizeof *links);
    if (!n || !links) {
        free(n);
        free(links);
        return cmo_fail(CMO_ENOMEM, "links to %d local ranks", nlocal);
    }
    *n = (shm_net){.net = {.ops = &shm_ops, .fd = -1}, .own = own, .neighbours = neighbours, .world = world,
                   .nlocal = nlocal, .self = self, .pipe_bytes = cmo_shm_pipe_bytes(nlocal, pipe_bytes),
                   .links = links};
    for (int i = 0; i < nlocal; i++) links[i] = (shm_link){.link = {.net = &n->net, .peer = world[i]}, .neighbour = i};
    *out = &n->net;
    return CMO_OK;
}
