/* Frames to one peer: control frames first, then messages in the order in which they were posted are announced (or sent
 * whole, if small), then the bytes of announced messages whose receiver has answered, a frame of each in turn, so that
 * none starves another. Small frames that follow each other are written together. */
#include "comm/internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    BATCH_BYTES = 16 << 10, /* a frame with more is the last of those that are written together */
    INLINE_BYTES = 128      /* of payload that are copied behind the header, which is less than a second buffer costs */
};

static void frame_drop(cmo_frame *f)
{
    free(f->control);
    free(f->orphan);
    f->control = NULL;
    f->orphan = NULL;
    f->xfer = NULL;
}

void cmo_channel_drop_frames(cmo_channel *c)
{
    for (; c->nframes; c->nframes--) frame_drop(&c->frames[c->first_frame++ % CMO_FRAMES]);
}

static cmo_frame *frame_at(cmo_channel *c, unsigned i) { return &c->frames[(c->first_frame + i) % CMO_FRAMES]; }

bool cmo_channel_idle(const cmo_channel *c)
{
    return c->gone || (cmo_list_empty(&c->control) && cmo_list_empty(&c->sends) && cmo_list_empty(&c->moving) &&
                       !c->nframes && !c->link->unsent);
}

void cmo_channel_control(cmo_channel *c, const cmo_header *h, const void *payload, size_t bytes)
{
    /* A peer that only receives has no pipe of its own yet, since links between local ranks go one way each. */
    if (!c->gone && !c->link->up) cmo_channel_to(c->engine, c->peer);
    cmo_control *k = malloc(sizeof *k + CMO_HEADER_BYTES + bytes);
    if (!k) return; /* no memory for a note to a peer: it will find out by its deadline */
    cmo_header full = *h;
    full.generation = c->engine->generation;
    k->bytes = CMO_HEADER_BYTES + bytes;
    cmo_header_write(k->data, &full);
    if (bytes) memcpy(k->data + CMO_HEADER_BYTES, payload, bytes);
    cmo_list_append(&c->control, &k->node);
    c->engine->has_control = true;
}

void cmo_channel_credit(cmo_channel *c, const cmo_header *h)
{
    c->owed += h->length + CMO_EAGER_OVERHEAD;
    if (c->owed < (uint64_t)c->engine->tunables.eager_window / 2) return;
    cmo_channel_control(c, &(cmo_header){.kind = CMO_CREDIT, .aux = c->owed}, NULL, 0);
    c->taken -= c->owed;
    c->owed = 0;
}

static void frame_fill(cmo_channel *c, cmo_frame *f, const cmo_header *h, const uint64_t *shape, cmo_xfer *x,
                       const uint8_t *payload, uint64_t bytes)
{
    cmo_header full = *h;
    full.generation = c->engine->generation;
    cmo_header_write(f->head, &full);
    if (full.ndim) cmo_shape_write(f->head + CMO_HEADER_BYTES, shape, full.ndim);
    f->head_left = CMO_HEADER_BYTES + 8 * (size_t)full.ndim;
    f->head_at = f->head;
    f->payload = payload;
    f->left = f->bytes = bytes;
    f->xfer = x;
    if (bytes && bytes <= INLINE_BYTES && f->head_left + bytes <= sizeof f->head)
        f->payload = memcpy(f->head + f->head_left, payload, bytes);
}

/* The next message that can be announced: all of it if it is small and there is room at the peer, else the fact of
 * it. */
static bool frame_announce(cmo_channel *c, cmo_frame *f)
{
    cmo_engine *e = c->engine;
    CMO_EACH(n, &c->sends) {
        cmo_xfer *x = CMO_ENTRY(n, cmo_xfer, node);
        cmo_header h = x->header;
        uint64_t cost = x->length + CMO_EAGER_OVERHEAD;
        if (!x->parts && x->length <= (uint64_t)e->tunables.eager_bytes &&
            c->window + cost <= (uint64_t)e->tunables.eager_window) {
            if (x->ready < x->length) continue;
            h.kind = CMO_EAGER;
            c->window += cost;
            cmo_list_remove(&x->node);
            x->state = CMO_X_MOVING;
            x->framed = x->length;
            frame_fill(c, f, &h, x->shape, x, x->buffer, x->length);
            return true;
        }
        if (!(x->id = cmo_xfer_register(e, x))) {
            cmo_xfer_fail(x, CMO_ENOMEM, cmo_reason());
            continue;
        }
        h.kind = CMO_RTS;
        h.id = x->id;
        cmo_list_remove(&x->node); /* known by its id until the receiver answers */
        frame_fill(c, f, &h, x->shape, NULL, NULL, 0);
        return true;
    }
    return false;
}

/* Where the bytes are that go next, and how many of *bytes lie there end to end. */
static const uint8_t *data_at(cmo_xfer *x, uint64_t *bytes)
{
    if (!x->parts) return x->buffer + x->framed;
    if (x->framed - x->part_start == x->parts->iov_len) x->part_start += x->parts++->iov_len;
    uint64_t into = x->framed - x->part_start, left = x->parts->iov_len - into;
    if (*bytes > left) *bytes = left;
    return (const uint8_t *)x->parts->iov_base + into;
}

static bool frame_data(cmo_channel *c, cmo_frame *f)
{
    CMO_EACH(n, &c->moving) {
        cmo_xfer *x = CMO_ENTRY(n, cmo_xfer, node);
        uint64_t bytes = x->ready - x->framed;
        if (!bytes) continue;
        if (bytes > (uint64_t)c->engine->tunables.frame_bytes) bytes = (uint64_t)c->engine->tunables.frame_bytes;
        const uint8_t *at = data_at(x, &bytes);
        cmo_header h = {.kind = CMO_DATA, .comm = x->header.comm, .length = bytes, .id = x->remote_id,
                        .aux = x->framed};
        frame_fill(c, f, &h, NULL, x, at, bytes);
        x->framed += bytes;
        cmo_list_remove(&x->node); /* to the back: every message gets its turn */
        cmo_list_append(&c->moving, &x->node);
        return true;
    }
    return false;
}

static bool frame_next(cmo_channel *c, cmo_frame *f)
{
    if (!cmo_list_empty(&c->control)) {
        cmo_control *k = CMO_ENTRY(c->control.next, cmo_control, node);
        cmo_list_remove(&k->node);
        f->control = k;
        f->head_at = f->head; /* of which it has nothing; but nothing is added to a pointer that is none */
        f->head_left = 0;
        f->payload = k->data;
        f->left = f->bytes = k->bytes;
        return true;
    }
    return frame_announce(c, f) || frame_data(c, f);
}

static void frame_sent(cmo_frame *f)
{
    cmo_xfer *x = f->xfer;
    frame_drop(f);
    if (!x) return;
    x->done += f->bytes;
    if (x->done == x->length) cmo_xfer_done(x);
}

/* A transfer is taken back while frames of it wait: they must be completed, but its buffer will go. */
void cmo_channel_forget(cmo_channel *c, const cmo_xfer *x)
{
    for (unsigned i = 0; i < c->nframes; i++) {
        cmo_frame *f = frame_at(c, i);
        if (f->xfer != x) continue;
        f->xfer = NULL;
        if (f->payload >= f->head && f->payload < f->head + sizeof f->head) continue; /* it is a copy already */
        f->orphan = f->left ? malloc(f->left) : NULL;
        if (f->orphan) memcpy(f->orphan, f->payload, f->left);
        else if (f->left) cmo_channel_broken(c, cmo_fail(CMO_ENOMEM, "the rest of a frame"));
        f->payload = f->orphan;
    }
    if (c->rx_xfer == x) { /* what is still to come of this frame goes nowhere */
        c->rx_xfer = NULL;
        c->rx_payload = NULL;
    }
}

cmo_err cmo_channel_send_now(cmo_channel *c, const cmo_header *h, const uint64_t *shape, const void *payload,
                             bool *rest)
{
    const cmo_tunables *tunables = &c->engine->tunables;
    const uint64_t cost = h->length + CMO_EAGER_OVERHEAD;
    const unsigned first = c->first_frame;
    bool moved;
    if (c->gone || !c->link->up || c->nframes || c->tx_blocked || !cmo_list_empty(&c->control) ||
        !cmo_list_empty(&c->sends) || h->length > (uint64_t)tunables->eager_bytes ||
        c->window + cost > (uint64_t)tunables->eager_window)
        return CMO_AGAIN;
    frame_fill(c, frame_at(c, 0), h, shape, NULL, payload, h->length);
    c->nframes = 1;
    c->window += cost;
    if (cmo_channel_broken(c, cmo_channel_send(c, &moved)) != CMO_OK) return CMO_AGAIN; /* it will be said why */
    *rest = c->first_frame == first;
    return *rest ? CMO_AGAIN : CMO_OK;
}

/* Fill frames, up to one that is large. */
static void frames_gather(cmo_channel *c)
{
    while (c->nframes < CMO_FRAMES && (!c->nframes || frame_at(c, c->nframes - 1)->left <= BATCH_BYTES)) {
        if (!frame_next(c, frame_at(c, c->nframes))) return;
        c->nframes++;
    }
}

static void iov_add(struct iovec *iov, int *n, const uint8_t *at, size_t bytes)
{
    if (!bytes) return;
    if (*n && (const uint8_t *)iov[*n - 1].iov_base + iov[*n - 1].iov_len == at) iov[*n - 1].iov_len += bytes;
    else iov[(*n)++] = (struct iovec){(void *)(uintptr_t)at, bytes};
}

/* `sent` bytes have gone: end the frames that are whole. */
static void frames_advance(cmo_channel *c, size_t sent)
{
    while (c->nframes) {
        cmo_frame *f = frame_at(c, 0);
        size_t head = f->head_left < sent ? f->head_left : sent;
        size_t payload = f->left < sent - head ? (size_t)f->left : sent - head;
        f->head_at += head;
        f->head_left -= head;
        if (payload) f->payload += payload; /* NULL where there is none */
        f->left -= payload;
        sent -= head + payload;
        if (f->head_left || f->left) return;
        c->first_frame++;
        c->nframes--;
        frame_sent(f);
    }
}

cmo_err cmo_channel_send(cmo_channel *c, bool *moved)
{
    const cmo_net_ops *ops = c->link->net->ops;
    for (;;) {
        struct iovec iov[2 * CMO_FRAMES];
        int n = 0;
        frames_gather(c);
        if (!c->nframes) break;
        for (unsigned i = 0; i < c->nframes; i++) {
            iov_add(iov, &n, frame_at(c, i)->head_at, frame_at(c, i)->head_left);
            iov_add(iov, &n, frame_at(c, i)->payload, frame_at(c, i)->left);
        }
        const cmo_xfer *last = frame_at(c, c->nframes - 1)->xfer; /* no other frame here is large */
        c->link->large_out = last && last->length >= (uint64_t)c->engine->tunables.around_bytes;
        size_t sent = 0, wanted = 0;
        for (int i = 0; i < n; i++) wanted += iov[i].iov_len;
        if (n) CMO_TRY(ops->write(c->link, iov, n, &sent));
        if (sent) *moved = true;
        frames_advance(c, sent);
        if (sent < wanted) {
            if (ops->want_write && !c->tx_blocked) ops->want_write(c->link, true);
            c->tx_blocked = true;
            return CMO_OK;
        }
    }
    if (c->tx_blocked && ops->want_write) ops->want_write(c->link, false);
    c->tx_blocked = false;
    return CMO_OK;
}
