/* Frames from one peer, and the channel that they come over; those to the peer are in channel_send.c. Bytes are read
 * ahead into a small buffer for headers and small messages; the payload of a large one is read straight to where it
 * belongs. Whatever a peer says is checked against what was agreed with it. */
#include "comm/agree.h"
#include "comm/internal.h"

#include <stdlib.h>
#include <string.h>

enum { READ_AHEAD = 20 << 10 }; /* a message of 16 KiB comes in one read */

cmo_err cmo_channel_broken(cmo_channel *c, cmo_err err)
{
    if (err == CMO_OK || err == CMO_AGAIN) return err;
    char cause[CMO_TEXT];
    memcpy(cause, cmo_reason(), sizeof cause);
    c->gone = true;
    if (!c->parted) cmo_peer_lost(c->engine, c->peer, false, cause);
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

void cmo_channel_free(cmo_channel *c)
{
    cmo_channel_drop_frames(c);
    CMO_EACH(n, &c->control) free(CMO_ENTRY(n, cmo_control, node));
    cmo_list_remove(&c->node);
    c->engine->channel[c->peer] = NULL;
    free(c->rx_buffer);
    free(c->rx_news);
    free(c->doing);
    free(c);
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
    c->link->large_in = x->length >= (uint64_t)c->engine->tunables.around_bytes;
    return CMO_OK;
}

/* A message comes unasked. All of them together stay within what the peer was granted, so that it cannot make us keep
 * more than that, whatever has gone wrong with it. */
static cmo_err rx_unasked(cmo_channel *c, const cmo_header *h)
{
    const uint64_t window = (uint64_t)c->engine->tunables.eager_window, cost = h->length + CMO_EAGER_OVERHEAD;
    if (cost > window || c->taken > window - cost)
        return cmo_fail(CMO_EPROTO, "rank %d sends %llu bytes unasked", c->peer, (unsigned long long)h->length);
    c->taken += cost;
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
    c->link->large_in = false;
    c->rx_left = h->kind == CMO_RTS ? 0 : h->length;
    if (h->generation != c->engine->generation) return CMO_OK; /* of a world that is no more */
    switch ((cmo_frame_kind)h->kind) {
    case CMO_EAGER:
    case CMO_RTS:
        if (h->ndim) CMO_TRY(cmo_shape_parse(shape, shape_bytes, h->ndim, cmo_dtype_size(h->dtype), h->length));
        if (h->kind == CMO_EAGER) CMO_TRY(rx_unasked(c, h));
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
    case CMO_DOING:
    case CMO_AGREE:
        if (h->kind == CMO_AGREE) CMO_TRY(cmo_agree_check(h, c->engine->size));
        free(c->rx_news);
        c->rx_news = c->rx_payload = malloc(h->length + 1);
        if (!c->rx_news) return cmo_fail(CMO_ENOMEM, "what rank %d says", c->peer);
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
        if (h->space == CMO_POINT) cmo_ask_heard(c);
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
    if (h->kind == CMO_AGREE) {
        if (!cmo_match_keep(c, h, c->rx_news)) cmo_agree_heard(c, h, c->rx_news);
        free(c->rx_news);
        c->rx_news = NULL;
    }
    if (h->kind == CMO_DOING) {
        free(c->doing);
        c->doing = (char *)c->rx_news;
        c->doing[CMO_DOING_BYTES - 1] = 0;
        c->answered = cmo_engine_now(c->engine);
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
        c->rx_quiet = !got;
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
    if (cmo_channel_broken(c, channel_receive(c, &moved)) != CMO_OK) return true;
    if (c->link->up) cmo_channel_broken(c, cmo_channel_send(c, &moved));
    return moved;
}
