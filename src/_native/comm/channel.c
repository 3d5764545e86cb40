/* Frames to and from one peer. Sending: control frames first, then messages in the order in which they were posted are
 * announced
 * (or sent whole, if small), then the bytes of announced messages whose receiver has answered, a frame of each in turn,
 * so that none starves another. Receiving: bytes are read ahead into a small buffer for headers and small messages; the
 * payload of a large one is read straight to where it belongs. Whatever a peer says is checked against what was agreed
 * with it. */
#include "comm/internal.h"

#include <stdlib.h>
#include <string.h>

enum { READ_AHEAD = 16 << 10, EAGER_OVERHEAD = CMO_HEADER_BYTES };

static cmo_err channel_broken(cmo_channel *c, cmo_err err)
{
    if (err == CMO_OK || err == CMO_AGAIN) return err;
    char cause[CMO_TEXT];
    memcpy(cause, cmo_reason(), sizeof cause);
    c->gone = true;
    if (!c->parted) cmo_peer_lost(c->engine, c->peer, cause);
    return err;
}

static cmo_channel *channel_new(cmo_engine *e, int peer, cmo_link *link)
{
    cmo_channel *c = calloc(1, sizeof *c);
    if (!c) {
        cmo_fail(CMO_ENOMEM, "a channel to rank %d", peer);
        return NULL;
    }
    c->engine = e;
    c->peer = peer;
    c->link = link;
    /* A copy costs shared memory more than a second look */
    c->rx_capacity = link->net == e->shm ? CMO_HEADER_BYTES : READ_AHEAD;
    cmo_list_init(&c->control);
    cmo_list_init(&c->sends);
    cmo_list_init(&c->moving);
    cmo_list_append(&e->channels, &c->node);
    e->channel[peer] = c;
    return c;
}

cmo_channel *cmo_channel_to(cmo_engine *e, int peer)
{
    cmo_channel *c = e->channel[peer];
    if (c && (c->gone || c->link->up)) return c;
    cmo_net *net = e->neighbour_of[peer] >= 0 ? e->shm : e->remote;
    cmo_link *link;
    if (!net) {
        cmo_fail(CMO_EINVAL, "no way to rank %d", peer);
        return NULL;
    }
    if (net->ops->open(net, peer, &link) != CMO_OK) return NULL;
    return c ? c : channel_new(e, peer, link);
}

void cmo_channel_adopt(void *engine, cmo_link *link)
{
    cmo_engine *e = engine;
    if (!e->channel[link->peer]) channel_new(e, link->peer, link);
}

static void tx_drop(cmo_channel *c)
{
    free(c->tx_control);
    free(c->tx_orphan);
    c->tx_control = NULL;
    c->tx_orphan = NULL;
    c->tx_xfer = NULL;
}

void cmo_channel_free(cmo_channel *c)
{
    tx_drop(c);
    CMO_EACH(n, &c->control) free(CMO_ENTRY(n, cmo_control, node));
    cmo_list_remove(&c->node);
    c->engine->channel[c->peer] = NULL;
    free(c->rx_buffer);
    free(c->rx_news);
    free(c);
}

bool cmo_channel_idle(const cmo_channel *c)
{
    return c->gone || (cmo_list_empty(&c->control) && cmo_list_empty(&c->sends) && cmo_list_empty(&c->moving) &&
                       c->tx_head_done == c->tx_head_bytes && !c->tx_left);
}

/* ------------------------------------------------------------------ sending */

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
}

void cmo_channel_credit(cmo_channel *c, const cmo_header *h)
{
    c->owed += h->length + EAGER_OVERHEAD;
    if (c->owed < (uint64_t)c->engine->tunables.eager_window / 2) return;
    cmo_channel_control(c, &(cmo_header){.kind = CMO_CREDIT, .aux = c->owed}, NULL, 0);
    c->owed = 0;
}

static void tx_frame(cmo_channel *c, const cmo_header *h, const uint64_t *shape, cmo_xfer *x, const uint8_t *payload,
                     uint64_t bytes)
{
    cmo_header full = *h;
    full.generation = c->engine->generation;
    cmo_header_write(c->tx_head, &full);
    if (full.ndim) cmo_shape_write(c->tx_head + CMO_HEADER_BYTES, shape, full.ndim);
    c->tx_head_bytes = CMO_HEADER_BYTES + 8 * (size_t)full.ndim;
    c->tx_head_done = 0;
    c->tx_payload = payload;
    c->tx_left = c->tx_bytes = bytes;
    c->tx_xfer = x;
}

/* The next message that can be announced: all of it if it is small and there is room at the peer, else the fact of
 * it. */
static bool tx_announce(cmo_channel *c)
{
    cmo_engine *e = c->engine;
    CMO_EACH(n, &c->sends) {
        cmo_xfer *x = CMO_ENTRY(n, cmo_xfer, node);
        cmo_header h = x->header;
        uint64_t cost = x->length + EAGER_OVERHEAD;
        if (x->length <= (uint64_t)e->tunables.eager_bytes && c->window + cost <= (uint64_t)e->tunables.eager_window) {
            if (x->ready < x->length) continue;
            h.kind = CMO_EAGER;
            c->window += cost;
            cmo_list_remove(&x->node);
            x->state = CMO_X_MOVING;
            x->framed = x->length;
            tx_frame(c, &h, x->shape, x, x->buffer, x->length);
            return true;
        }
        if (!(x->id = cmo_xfer_register(e, x))) {
            cmo_xfer_fail(x, CMO_ENOMEM, cmo_reason());
            continue;
        }
        h.kind = CMO_RTS;
        h.id = x->id;
        cmo_list_remove(&x->node); /* known by its id until the receiver answers */
        tx_frame(c, &h, x->shape, NULL, NULL, 0);
        return true;
    }
    return false;
}

static bool tx_data(cmo_channel *c)
{
    CMO_EACH(n, &c->moving) {
        cmo_xfer *x = CMO_ENTRY(n, cmo_xfer, node);
        uint64_t bytes = x->ready - x->framed;
        if (!bytes) continue;
        if (bytes > (uint64_t)c->engine->tunables.frame_bytes) bytes = (uint64_t)c->engine->tunables.frame_bytes;
        cmo_header h = {.kind = CMO_DATA, .comm = x->header.comm, .length = bytes, .id = x->remote_id,
                        .aux = x->framed};
        tx_frame(c, &h, NULL, x, x->buffer + x->framed, bytes);
        x->framed += bytes;
        cmo_list_remove(&x->node); /* to the back: every message gets its turn */
        cmo_list_append(&c->moving, &x->node);
        return true;
    }
    return false;
}

static bool tx_next(cmo_channel *c)
{
    if (!cmo_list_empty(&c->control)) {
        cmo_control *k = CMO_ENTRY(c->control.next, cmo_control, node);
        cmo_list_remove(&k->node);
        c->tx_control = k;
        c->tx_head_bytes = c->tx_head_done = 0;
        c->tx_payload = k->data;
        c->tx_left = c->tx_bytes = k->bytes;
        return true;
    }
    return tx_announce(c) || tx_data(c);
}

static void tx_whole(cmo_channel *c)
{
    cmo_xfer *x = c->tx_xfer;
    uint64_t bytes = c->tx_bytes;
    tx_drop(c);
    if (!x) return;
    x->done += bytes;
    if (x->done == x->length) cmo_xfer_done(x);
}

/* A transfer is taken back while its frame is half written: the frame must be completed, but its buffer will go. */
void cmo_channel_forget(cmo_channel *c, const cmo_xfer *x)
{
    if (c->tx_xfer == x) {
        c->tx_xfer = NULL;
        c->tx_orphan = c->tx_left ? malloc(c->tx_left) : NULL;
        if (c->tx_orphan) memcpy(c->tx_orphan, c->tx_payload, c->tx_left);
        else if (c->tx_left) channel_broken(c, cmo_fail(CMO_ENOMEM, "the rest of a frame"));
        c->tx_payload = c->tx_orphan;
    }
    if (c->rx_xfer == x) { /* what is still to come of this frame goes nowhere */
        c->rx_xfer = NULL;
        c->rx_payload = NULL;
    }
}

static cmo_err channel_send(cmo_channel *c, bool *moved)
{
    const cmo_net_ops *ops = c->link->net->ops;
    for (;;) {
        if (c->tx_head_done == c->tx_head_bytes && !c->tx_left && !tx_next(c)) break;
        struct iovec iov[2];
        int n = 0;
        if (c->tx_head_done < c->tx_head_bytes)
            iov[n++] = (struct iovec){c->tx_head + c->tx_head_done, c->tx_head_bytes - c->tx_head_done};
        if (c->tx_left) iov[n++] = (struct iovec){(void *)(uintptr_t)c->tx_payload, c->tx_left};
        size_t sent = 0;
        if (n) CMO_TRY(ops->write(c->link, iov, n, &sent));
        if (sent) *moved = true;
        size_t head = c->tx_head_bytes - c->tx_head_done;
        if (head > sent) head = sent;
        c->tx_head_done += head;
        c->tx_payload += sent - head;
        c->tx_left -= sent - head;
        if (c->tx_head_done < c->tx_head_bytes || c->tx_left) {
            if (ops->want_write && !c->tx_blocked) ops->want_write(c->link, true);
            c->tx_blocked = true;
            return CMO_OK;
        }
        tx_whole(c);
    }
    if (c->tx_blocked && ops->want_write) ops->want_write(c->link, false);
    c->tx_blocked = false;
    return CMO_OK;
}

/* ------------------------------------------------------------------ receiving */

static cmo_err rx_cts(cmo_channel *c, const cmo_header *h)
{
    cmo_xfer *x = cmo_xfer_by_id(c->engine, h->id);
    if (!x) return CMO_OK; /* taken back since it was announced */
    if (!x->sends || x->channel != c || x->state != CMO_X_WAITING)
        return cmo_fail(CMO_EPROTO, "rank %d asks for a message that was not offered to it", c->peer);
    x->remote_id = h->aux;
    x->state = CMO_X_MOVING;
    if (x->length) cmo_list_append(&c->moving, &x->node);
    else cmo_xfer_done(x); /* it has no bytes that could end it */
    return CMO_OK;
}

static cmo_err rx_data(cmo_channel *c, const cmo_header *h)
{
    cmo_xfer *x = cmo_xfer_by_id(c->engine, h->id);
    c->rx_xfer = x;
    if (!x) return CMO_OK; /* taken back: the bytes go nowhere */
    if (x->sends || x->channel != c || h->aux != x->done || h->length > x->length - x->done)
        return cmo_fail(CMO_EPROTO, "rank %d sends bytes that were not asked for", c->peer);
    c->rx_payload = x->buffer + x->done;
    return CMO_OK;
}

/* A header, with its shape, has come. */
static cmo_err rx_begin(cmo_channel *c, const uint8_t *shape_bytes)
{
    cmo_header *h = &c->rx_header;
    uint64_t shape[CMO_MAX_DIMS];
    c->rx_payload = NULL;
    c->rx_xfer = NULL;
    c->rx_unexpected = NULL;
    c->rx_left = h->kind == CMO_RTS ? 0 : h->length;
    if (h->generation != c->engine->generation) return CMO_OK; /* of a world that is no more */
    switch ((cmo_frame_kind)h->kind) {
    case CMO_EAGER:
    case CMO_RTS:
        if (h->ndim) CMO_TRY(cmo_shape_parse(shape, shape_bytes, h->ndim, cmo_dtype_size(h->dtype), h->length));
        if (h->kind == CMO_EAGER && h->length > (uint64_t)c->engine->tunables.eager_window)
            return cmo_fail(CMO_EPROTO, "rank %d sends %llu bytes unasked", c->peer, (unsigned long long)h->length);
        cmo_match_arrived(c, h, shape, &c->rx_xfer, &c->rx_unexpected);
        if (h->kind == CMO_EAGER)
            c->rx_payload = c->rx_xfer ? c->rx_xfer->buffer : c->rx_unexpected ? c->rx_unexpected->data : NULL;
        else c->rx_xfer = NULL;
        break;
    case CMO_CTS: return rx_cts(c, h);
    case CMO_DATA: return rx_data(c, h);
    case CMO_CREDIT:
        if (h->aux > c->window) return cmo_fail(CMO_EPROTO, "rank %d returns more than it was given", c->peer);
        c->window -= h->aux;
        break;
    case CMO_FAIL:
        free(c->rx_news);
        c->rx_news = c->rx_payload = malloc(CMO_MAX_FAIL_BYTES);
        if (!c->rx_news) return cmo_fail(CMO_ENOMEM, "what rank %d tells of a failure", c->peer);
        break;
    case CMO_BYE:
        if (!cmo_match_keep(c, h, NULL)) cmo_bye_heard(c, h);
        break;
    case CMO_ASK:
        if (h->tag != CMO_ASK_TAG)
            return cmo_fail(CMO_EPROTO, "rank %d asks what is no question", c->peer);
        cmo_match_arrived(c, h, NULL, &c->rx_xfer, &c->rx_unexpected);
        c->rx_xfer = NULL;
        c->rx_unexpected = NULL;
        break;
    case CMO_NFRAMES: break;
    }
    return CMO_OK;
}

static void rx_moved(cmo_channel *c, uint64_t bytes)
{
    c->rx_left -= bytes;
    if (c->rx_payload) c->rx_payload += bytes;
    if (c->rx_xfer) c->rx_xfer->done += bytes;
    if (c->rx_unexpected) c->rx_unexpected->have += bytes;
}

static cmo_err rx_whole(cmo_channel *c)
{
    cmo_header *h = &c->rx_header;
    c->rx_in_payload = false;
    if (h->generation != c->engine->generation) return CMO_OK;
    if (h->kind == CMO_EAGER && !c->rx_unexpected) cmo_channel_credit(c, h); /* else when the receive takes it */
    if (c->rx_xfer && c->rx_xfer->done == c->rx_xfer->length) cmo_xfer_done(c->rx_xfer);
    if (c->rx_unexpected && h->kind == CMO_EAGER) {
        cmo_unexpected *unexpected = c->rx_unexpected;
        c->rx_unexpected = NULL;
        cmo_match_whole(unexpected);
    }
    if (h->kind == CMO_FAIL) {
        cmo_told told;
        CMO_TRY(cmo_failure_parse(h, c->rx_news, &told));
        if (!cmo_match_keep(c, h, c->rx_news)) cmo_failure_heard(c, h, c->rx_news);
        free(c->rx_news);
        c->rx_news = NULL;
    }
    c->rx_xfer = NULL;
    c->rx_unexpected = NULL;
    return CMO_OK;
}

/* Use up what has been read ahead, down to less than a header and its shape. */
static cmo_err rx_consume(cmo_channel *c)
{
    for (;;) {
        size_t have = c->rx_end - c->rx_start;
        uint8_t *at = c->rx_buffer + c->rx_start;
        if (!c->rx_in_payload) {
            if (have < CMO_HEADER_BYTES) return CMO_OK;
            CMO_TRY(cmo_header_parse(&c->rx_header, at));
            if (c->rx_header.dtype >= CMO_NDTYPES)
                return cmo_fail(CMO_EPROTO, "rank %d sends an unknown dtype %u", c->peer, c->rx_header.dtype);
            size_t head = CMO_HEADER_BYTES + 8 * (size_t)c->rx_header.ndim;
            if (have < head) return CMO_OK;
            c->rx_start += head;
            CMO_TRY(rx_begin(c, at + CMO_HEADER_BYTES));
            c->rx_in_payload = true;
            continue;
        }
        if (c->rx_left && !have) return CMO_OK;
        size_t part = have < c->rx_left ? have : (size_t)c->rx_left;
        if (part && c->rx_payload) memcpy(c->rx_payload, at, part);
        c->rx_start += part;
        rx_moved(c, part);
        if (!c->rx_left) CMO_TRY(rx_whole(c));
    }
}

static cmo_err channel_receive(cmo_channel *c, bool *moved)
{
    const cmo_net_ops *ops = c->link->net->ops;
    if (!c->link->readable) return CMO_OK;
    if (!c->rx_buffer && !(c->rx_buffer = malloc(c->rx_capacity)))
        return cmo_fail(CMO_ENOMEM, "what rank %d sends", c->peer);
    for (int reads = 0; reads < 8 && c->link->readable; reads++) { /* then others get their turn */
        if (c->rx_start) { /* what is left of the buffer is less than a header, or nothing */
            memmove(c->rx_buffer, c->rx_buffer + c->rx_start, c->rx_end - c->rx_start);
            c->rx_end -= c->rx_start;
            c->rx_start = 0;
        }
        size_t want = c->rx_capacity - c->rx_end;
        if (!c->rx_in_payload && c->rx_end >= CMO_HEADER_BYTES && want == 0) { /* a shape that does not fit */
            uint8_t *more = realloc(c->rx_buffer, CMO_FRAME_HEAD);
            if (!more) return cmo_fail(CMO_ENOMEM, "a header from rank %d", c->peer);
            c->rx_buffer = more;
            c->rx_capacity = CMO_FRAME_HEAD;
            want = c->rx_capacity - c->rx_end;
        }
        uint8_t nowhere[4096];
        struct iovec iov[2];
        int n = 0;
        size_t direct = 0, got;
        if (c->rx_in_payload && c->rx_left) {
            bool fits = c->rx_payload || c->rx_left < sizeof nowhere;
            direct = fits ? (size_t)c->rx_left : sizeof nowhere;
            iov[n++] = (struct iovec){c->rx_payload ? c->rx_payload : nowhere, direct};
        }
        if (direct == c->rx_left || !direct) iov[n++] = (struct iovec){c->rx_buffer + c->rx_end, want};
        CMO_TRY(ops->read(c->link, iov, n, &got));
        if (!got) return CMO_OK;
        *moved = true;
        size_t taken = got < direct ? got : direct;
        if (taken) rx_moved(c, taken);
        c->rx_end += got - taken;
        if (c->rx_in_payload && !c->rx_left) CMO_TRY(rx_whole(c));
        CMO_TRY(rx_consume(c));
    }
    return CMO_OK;
}

bool cmo_channel_pump(cmo_channel *c)
{
    bool moved = false;
    if (c->gone) return false;
    if (channel_broken(c, channel_receive(c, &moved)) != CMO_OK) return true;
    if (c->link->up) channel_broken(c, channel_send(c, &moved));
    return moved;
}
