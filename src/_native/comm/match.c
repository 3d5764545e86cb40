/* Messages meet receives. A collective's message is for exactly one receive, named by (number of the collective,
 * source, step); a point-to-point message goes to the first posted receive, in order of posting, whose source and tag
 * fit, and a receive takes the first fitting message in order of arrival. Links keep the order of one sender, so order
 * per (source, tag) holds. */
#include "comm/agree.h"
#include "comm/internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_news(const cmo_header *h)
{
    return h->kind == CMO_FAIL || h->kind == CMO_BYE || h->kind == CMO_ASK || h->kind == CMO_AGREE;
}

void cmo_unexpected_free(cmo_unexpected *m)
{
    cmo_channel *c = m->channel;
    c->news -= is_news(&m->header);
    if (c->rx_unexpected == m) { /* the rest of it goes nowhere */
        c->rx_unexpected = NULL;
        c->rx_payload = NULL;
    } else if (m->header.kind == CMO_EAGER) {
        cmo_channel_credit(c, &m->header);
    }
    cmo_list_remove(&m->node);
    free(m->data);
    free(m);
}

/* ------------------------------------------------------------------ transfers by number */

uint64_t cmo_xfer_register(cmo_engine *e, cmo_xfer *x)
{
    uint32_t i = e->free_xfer_hint;
    while (i < e->nxfers && e->xfers[i]) i++;
    if (i == e->nxfers) {
        uint32_t more = e->nxfers ? 2 * e->nxfers : 16;
        cmo_xfer **xfers = realloc(e->xfers, more * sizeof *xfers);
        if (xfers) e->xfers = xfers;
        uint32_t *generation = realloc(e->xfer_generation, more * sizeof *generation);
        if (generation) e->xfer_generation = generation;
        if (!xfers || !generation) {
            cmo_fail(CMO_ENOMEM, "the table of transfers");
            return 0;
        }
        memset(e->xfers + e->nxfers, 0, (more - e->nxfers) * sizeof *xfers);
        memset(e->xfer_generation + e->nxfers, 0, (more - e->nxfers) * sizeof *generation);
        e->nxfers = more;
    }
    e->xfers[i] = x;
    e->free_xfer_hint = i + 1;
    /* The high half changes with each use, so that a late frame never reaches a slot's next tenant. 31 bits: ids fit an
     * int64. */
    e->xfer_generation[i] = (e->xfer_generation[i] + 1) & INT32_MAX;
    return (uint64_t)e->xfer_generation[i] << 32 | (i + 1);
}

cmo_xfer *cmo_xfer_by_id(cmo_engine *e, uint64_t id)
{
    uint32_t i = (uint32_t)id - 1;
    return i < e->nxfers && e->xfers[i] && e->xfers[i]->id == id ? e->xfers[i] : NULL;
}

static void xfer_unregister(cmo_engine *e, cmo_xfer *x)
{
    uint32_t i = (uint32_t)x->id - 1;
    if (!x->id) return;
    e->xfers[i] = NULL;
    if (i < e->free_xfer_hint) e->free_xfer_hint = i;
    x->id = 0;
}

static void xfer_leave(cmo_xfer *x)
{
    xfer_unregister(x->op->comm->engine, x);
    cmo_list_remove(&x->node);
    cmo_list_remove(&x->of_op);
    x->state = CMO_X_DONE;
}

void cmo_xfer_done(cmo_xfer *x)
{
    x->op->comm->engine->moved = true;
    xfer_leave(x);
}

void cmo_xfer_fail(cmo_xfer *x, cmo_err err, const char *text)
{
    cmo_op *op = x->op;
    cmo_xfer_cancel(x);
    cmo_op_fail(op, err, text);
}

void cmo_xfer_cancel(cmo_xfer *x)
{
    if (x->state == CMO_X_WAITING || x->state == CMO_X_MOVING) {
        if (x->channel) cmo_channel_forget(x->channel, x);
        CMO_EACH(n, &x->op->comm->unexpected) {
            cmo_unexpected *m = CMO_ENTRY(n, cmo_unexpected, node);
            if (m->claimed == x) cmo_unexpected_free(m);
        }
        xfer_leave(x);
    }
    x->state = CMO_X_IDLE;
    free(x->got_shape);
    x->got_shape = NULL;
}

/* ------------------------------------------------------------------ a match */

static bool match_fits(const cmo_xfer *x, const cmo_header *h, int source)
{
    if (x->header.space != h->space || (x->peer != CMO_ANY && x->peer != source)) return false;
    if (h->space == CMO_POINT) return x->header.tag == CMO_ANY || x->header.tag == h->tag;
    return x->header.seq == h->seq && x->header.tag == h->tag;
}

/* Let the receive decide where this message goes, or that it does not take it. */
static cmo_err match_buffer(cmo_xfer *x, const cmo_header *h, const uint64_t *shape, int source)
{
    free(x->got_shape);
    x->got_shape = NULL;
    /* Who posts a collective's receive without `allocate` expects no shape, and would not free one. */
    if (h->ndim && (x->allocate || h->space == CMO_POINT)) {
        x->got_shape = malloc(h->ndim * sizeof *shape);
        if (!x->got_shape) return cmo_fail(CMO_ENOMEM, "the shape of a message");
        memcpy(x->got_shape, shape, h->ndim * sizeof *shape);
    }
    if (x->allocate) {
        /* A shape was compared with the length when it came; without one there is a single element. */
        if (!h->ndim && h->length != cmo_dtype_size(h->dtype))
            return cmo_fail(CMO_EPROTO, "rank %d sends %" PRIu64 " bytes as one element", source, h->length);
        cmo_layout layout = {.dtype = h->dtype, .ndim = h->ndim, .shape = x->got_shape,
                             .extra = (uint32_t)h->fingerprint, .source = source, .tag = h->tag};
        void *address = NULL;
        CMO_TRY(x->allocate(x->allocate_ctx, &layout, &address));
        x->buffer = address;
        x->length = h->length;
    } else if (x->learns ? h->length > x->length : h->length != x->length) {
        return cmo_fail(CMO_EMISMATCH, "rank %d sends %" PRIu64 " bytes where %" PRIu64 " are expected", source,
                        h->length, x->length);
    } else {
        x->length = h->length;
    }
    return CMO_OK;
}

/* Give message (h, from c) to the receive x. False: x has refused it and failed, the message is still to be had. */
static bool match_take(cmo_xfer *x, cmo_channel *c, const cmo_header *h, const uint64_t *shape, int source)
{
    cmo_err err = match_buffer(x, h, shape, source);
    if (err != CMO_OK) {
        cmo_xfer_fail(x, err, cmo_reason());
        return false;
    }
    cmo_list_remove(&x->node);
    x->channel = c;
    x->header = *h;
    x->peer = source;
    x->state = CMO_X_MOVING;
    x->done = 0;
    if (h->kind == CMO_RTS) {
        x->id = cmo_xfer_register(c->engine, x);
        if (!x->id) {
            cmo_xfer_fail(x, CMO_ENOMEM, cmo_reason());
            return false;
        }
        cmo_channel_control(c, &(cmo_header){.kind = CMO_CTS, .comm = h->comm, .id = h->id, .aux = x->id}, NULL, 0);
        if (!x->length) cmo_xfer_done(x); /* nothing follows */
    }
    return true;
}

static void unexpected_copy(cmo_unexpected *m, cmo_xfer *x)
{
    if (x->length) memcpy(x->buffer, m->data, x->length);
    x->done = x->length;
    cmo_unexpected_free(m);
    cmo_xfer_done(x);
}

void cmo_match_whole(cmo_unexpected *m)
{
    if (m->claimed) unexpected_copy(m, m->claimed);
}

/* Make room for news of a communicator that does not exist here: of one peer no more than so much is kept. */
static void match_forget_oldest_news(cmo_channel *c)
{
    if (c->news < CMO_MOST_NEWS) return;
    CMO_EACH(n, &c->engine->orphans) {
        cmo_unexpected *m = CMO_ENTRY(n, cmo_unexpected, node);
        if (m->channel != c || !is_news(&m->header)) continue;
        cmo_unexpected_free(m);
        return;
    }
}

static cmo_unexpected *unexpected_new(cmo_channel *c, const cmo_header *h, const uint64_t *shape)
{
    cmo_unexpected *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    if (h->kind == CMO_EAGER && h->length && !(m->data = malloc(h->length))) {
        free(m);
        return NULL;
    }
    m->channel = c;
    m->header = *h;
    c->news += is_news(h);
    if (shape) memcpy(m->shape, shape, h->ndim * sizeof *shape);
    return m;
}

/* Does a collective's message belong to a call that this rank has made otherwise? */
static bool match_disagrees(cmo_comm *comm, const cmo_header *h, int source)
{
    return cmo_failure_compare(comm, source, h->seq, h->fingerprint);
}

/* A question that is still kept, and older than this one, says nothing that this one does not say. */
static void match_forget_ask(cmo_node *list, const cmo_channel *c, uint64_t comm)
{
    CMO_EACH(n, list) {
        cmo_unexpected *m = CMO_ENTRY(n, cmo_unexpected, node);
        if (m->header.kind == CMO_ASK && m->channel == c && m->header.comm == comm) cmo_unexpected_free(m);
    }
}

static bool is_closed(const cmo_engine *e, uint64_t id)
{
    for (int i = 0; i < CMO_CLOSED_IDS; i++)
        if (e->closed_ids[i] == id) return true;
    return false;
}

/* Who asks again before the answer has gone gets it once: it may ask without end, and read nothing. */
static void match_answer_bye(cmo_channel *c, uint64_t comm)
{
    CMO_EACH(n, &c->control) {
        const cmo_control *k = CMO_ENTRY(n, cmo_control, node);
        if (k->data[0] == CMO_BYE && cmo_wire_get(k->data + 8, 8) == comm) return;
    }
    cmo_channel_control(c, &(cmo_header){.kind = CMO_BYE, .comm = comm}, NULL, 0);
}

void cmo_match_arrived(cmo_channel *c, const cmo_header *h, const uint64_t *shape, cmo_xfer **x,
                       cmo_unexpected **unexpected)
{
    cmo_engine *e = c->engine;
    cmo_comm *comm = cmo_engine_find(e, h->comm);
    cmo_node *where = &e->orphans;
    *x = NULL;
    *unexpected = NULL;
    /* Nothing to compare: that we have closed is the only answer there is. Closing later, we say BYE unasked. */
    if (h->kind == CMO_ASK && h->space == CMO_POINT && !is_closed(e, h->comm)) return;
    if (comm) {
        int source = cmo_comm_rank_of(comm, c->peer);
        /* Others disagree, and this one may have been in no call yet in which to say what it called; it is waited
         * for. */
        if (source >= 0 && comm->failed && h->kind == CMO_ASK) match_disagrees(comm, h, source);
        if (source < 0 || comm->failed || comm->closed) return;
        if (h->space == CMO_COLLECTIVE && match_disagrees(comm, h, source)) return;
        CMO_EACH(n, &comm->posted) {
            cmo_xfer *p = CMO_ENTRY(n, cmo_xfer, node);
            if (match_fits(p, h, source) && match_take(p, c, h, shape, source)) {
                *x = p;
                return;
            }
        }
        if (h->kind == CMO_ASK && h->seq <= comm->seq) return; /* it is compared */
        where = &comm->unexpected;
    } else if (is_closed(e, h->comm)) {
        /* It waits for what will never come, and may have had no connection by which to hear that we have left. */
        if (h->kind == CMO_ASK) match_answer_bye(c, h->comm);
        return;
    }
    if (h->kind == CMO_ASK) match_forget_ask(where, c, h->comm);
    if (h->kind == CMO_ASK && !comm) match_forget_oldest_news(c);
    cmo_unexpected *m = unexpected_new(c, h, shape);
    if (!m) {
        if (comm) cmo_comm_fail(comm, CMO_ENOMEM, "no memory for a message that came before its receive");
        return;
    }
    cmo_list_append(where, &m->node);
    e->moved = true;
    *unexpected = m;
}

/* Messages that came before this rank made their call have waited unlooked at. */
void cmo_check_unexpected(cmo_op *op)
{
    cmo_comm *comm = op->comm;
    CMO_EACH(n, &comm->unexpected) {
        cmo_unexpected *m = CMO_ENTRY(n, cmo_unexpected, node);
        if (m->header.space != CMO_COLLECTIVE || m->header.seq != op->seq) continue;
        const cmo_header h = m->header;
        int source = cmo_comm_rank_of(comm, m->channel->peer);
        if (h.kind == CMO_ASK) cmo_unexpected_free(m); /* it has waited for this comparison only */
        if (match_disagrees(comm, &h, source)) return;
    }
}

void cmo_match_posted(cmo_comm *comm, cmo_xfer *x)
{
    CMO_EACH(n, &comm->unexpected) {
        cmo_unexpected *m = CMO_ENTRY(n, cmo_unexpected, node);
        int source = m->claimed ? -1 : cmo_comm_rank_of(comm, m->channel->peer);
        if (m->claimed || !match_fits(x, &m->header, source)) continue;
        if (!match_take(x, m->channel, &m->header, m->shape, source)) return;
        if (m->header.kind == CMO_RTS) cmo_unexpected_free(m);
        else if (m->have == m->header.length) unexpected_copy(m, x);
        else m->claimed = x;
        return;
    }
    cmo_list_append(&comm->posted, &x->node);
}

cmo_unexpected *cmo_match_find(cmo_comm *comm, int source, int64_t tag)
{
    cmo_xfer wanted = {.peer = source, .header = {.space = CMO_POINT, .tag = tag}};
    CMO_EACH(n, &comm->unexpected) {
        cmo_unexpected *m = CMO_ENTRY(n, cmo_unexpected, node);
        if (!m->claimed && match_fits(&wanted, &m->header, cmo_comm_rank_of(comm, m->channel->peer))) return m;
    }
    return NULL;
}

bool cmo_match_keep(cmo_channel *c, const cmo_header *h, const void *payload)
{
    cmo_engine *e = c->engine;
    if (cmo_engine_find(e, h->comm) || is_closed(e, h->comm)) return false;
    match_forget_oldest_news(c);
    cmo_unexpected *m = unexpected_new(c, h, NULL);
    if (m && h->length && (m->data = malloc(h->length))) memcpy(m->data, payload, h->length);
    if (m) cmo_list_append(&e->orphans, &m->node);
    return m != NULL;
}

void cmo_match_orphans(cmo_engine *e, cmo_comm *comm)
{
    CMO_EACH(n, &e->orphans) {
        cmo_unexpected *m = CMO_ENTRY(n, cmo_unexpected, node);
        if (m->header.comm != comm->id || cmo_comm_rank_of(comm, m->channel->peer) < 0) continue;
        cmo_list_remove(n);
        if (m->header.kind == CMO_FAIL || m->header.kind == CMO_BYE || m->header.kind == CMO_AGREE) {
            if (m->header.kind == CMO_BYE) cmo_bye_heard(m->channel, &m->header);
            else if (m->header.kind == CMO_AGREE) cmo_agree_heard(m->channel, &m->header, m->data);
            else if (m->data) cmo_failure_heard(m->channel, &m->header, m->data);
            cmo_unexpected_free(m);
        } else {
            cmo_list_append(&comm->unexpected, n);
        }
    }
}

/* ------------------------------------------------------------------ posted by the algorithms */

static void xfer_begin(cmo_op *op, cmo_xfer *x, int peer, uint64_t step, const void *buffer, uint64_t bytes)
{
    free(x->got_shape);
    *x = (cmo_xfer){.op = op, .peer = peer, .buffer = (uint8_t *)(uintptr_t)buffer, .length = bytes,
                    .state = CMO_X_WAITING};
    x->header = (cmo_header){.space = CMO_COLLECTIVE, .comm = op->comm->id, .seq = op->seq, .tag = (int64_t)step,
                             .length = bytes, .fingerprint = op->fingerprint};
    cmo_list_init(&x->node);
    cmo_list_append(&op->xfers, &x->of_op);
}

void cmo_xfer_send(cmo_xfer *x)
{
    cmo_comm *c = x->op->comm;
    x->channel = cmo_channel_to(c->engine, c->world[x->peer]);
    if (x->channel && !x->channel->gone) {
        cmo_list_append(&x->channel->sends, &x->node);
        return;
    }
    cmo_comm *outer = cmo_comm_outermost(c);
    const int rank = cmo_comm_rank_of(outer, c->world[x->peer]);
    char text[CMO_TEXT];
    if (!x->channel) snprintf(text, sizeof text, "%s", cmo_reason());
    else if (x->channel->parted) snprintf(text, sizeof text, "rank %d has closed its communicators", rank);
    else snprintf(text, sizeof text, "the connection to rank %d is gone", rank);
    if (x->op->point) x->op->lost = rank;
    else if (!outer->failed) outer->lost[rank] = 1;
    cmo_xfer_fail(x, CMO_EPEERLOST, text);
}

void cmo_post_send_shaped(cmo_op *op, cmo_xfer *x, int dest, uint64_t step, const void *buffer, uint64_t bytes,
                          uint64_t ready, cmo_dtype dtype, int ndim, const uint64_t *shape)
{
    xfer_begin(op, x, dest, step, buffer, bytes);
    x->sends = true;
    x->ready = ready;
    x->header.dtype = (uint8_t)dtype;
    x->header.ndim = (uint8_t)ndim;
    x->shape = shape;
    cmo_xfer_send(x);
    cmo_xfer_expect(x);
}

void cmo_post_send(cmo_op *op, cmo_xfer *x, int dest, uint64_t step, const void *buffer, uint64_t bytes, uint64_t ready)
{
    cmo_post_send_shaped(op, x, dest, step, buffer, bytes, ready, op->call.dtype, 0, NULL);
}

void cmo_post_recv(cmo_op *op, cmo_xfer *x, int source, uint64_t step, void *buffer, uint64_t bytes)
{
    xfer_begin(op, x, source, step, buffer, bytes);
    cmo_match_posted(op->comm, x);
    cmo_xfer_expect(x);
}

void cmo_post_recv_shaped(cmo_op *op, cmo_xfer *x, int source, uint64_t step, cmo_allocate allocate, void *ctx)
{
    xfer_begin(op, x, source, step, NULL, 0);
    x->allocate = allocate;
    x->allocate_ctx = ctx;
    cmo_match_posted(op->comm, x);
    cmo_xfer_expect(x);
}

void cmo_send_ready(cmo_xfer *x, uint64_t ready)
{
    if (ready > x->ready) x->ready = ready;
}
