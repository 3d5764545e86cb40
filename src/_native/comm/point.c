/* Point to point: an op with one transfer, which lives in its inline state. */
#include "comm/agree.h"
#include "comm/internal.h"

#include <stdio.h>
#include <string.h>

_Static_assert(sizeof(cmo_xfer) <= CMO_OP_INLINE_STATE, "a transfer fits into the op");

cmo_xfer *cmo_point_transfer(cmo_op *op) { return (cmo_xfer *)(void *)op->inline_state; }

static void status_of(cmo_status *s, int source, const cmo_header *h, const uint64_t *shape)
{
    *s = (cmo_status){.source = source, .tag = h->tag, .bytes = h->length, .dtype = h->dtype,
                      .extra = (uint32_t)h->fingerprint, .ndim = h->ndim};
    if (h->ndim) memcpy(s->shape, shape, h->ndim * sizeof *shape);
}

void cmo_point_describe(const cmo_op *op, char *out, size_t n)
{
    const cmo_xfer *x = (const cmo_xfer *)(const void *)op->inline_state;
    const cmo_comm *c = op->comm;
    char who[24] = "no rank", tag[24] = "any tag";
    if (x->peer >= 0) snprintf(who, sizeof who, "rank %d", x->peer);
    if (x->header.tag >= 0) snprintf(tag, sizeof tag, "tag %lld", (long long)x->header.tag);
    const char *how = x->sends ? "did not receive a message of" : x->peer < 0 ? "has sent a message of"
                                                                              : "has sent no message of";
    size_t at = (size_t)snprintf(out, n, "%s %s %s within %g s", who, how, tag, op->timeout);
    enum { MOST = 4 }; /* ranks of which it is told what they do */
    for (int r = 0, told = 0; r < c->size && told < MOST && at < n; r++) {
        char doing[300] = "";
        if (r == c->rank || (x->peer >= 0 && r != x->peer)) continue;
        cmo_ask_answer(op, r, doing, sizeof doing);
        if (!doing[0]) continue;
        if (x->peer < 0) snprintf(who, sizeof who, "rank %d", r);
        at += (size_t)snprintf(out + at, n - at, "; %s %s", x->peer < 0 ? who : "it", doing);
        told++;
    }
}

static void point_post(cmo_op *op)
{
    cmo_comm *c = op->comm;
    cmo_xfer *x = cmo_point_transfer(op);
    cmo_list_init(&x->node);
    cmo_list_append(&op->xfers, &x->of_op);
    x->state = CMO_X_WAITING;
    if (x->sends) cmo_xfer_send(x);
    else cmo_match_posted(c, x);
    cmo_xfer_expect(x);
}

static cmo_err send_or_recv(cmo_op *op)
{
    cmo_xfer *x = cmo_point_transfer(op);
    if (op->pc == 0) {
        op->pc = 1;
        op->comm->engine->unposted--;
        op->comm->engine->moved = true;
        point_post(op);
    }
    if (op->err || !cmo_moved(x)) return CMO_AGAIN;
    if (op->status) status_of(op->status, x->peer, &x->header, x->got_shape);
    return CMO_OK;
}

static cmo_err probe(cmo_op *op)
{
    cmo_xfer *x = cmo_point_transfer(op);
    cmo_comm *c = op->comm;
    cmo_unexpected *m = cmo_match_find(c, x->peer, x->header.tag);
    if (m) {
        status_of(op->status, cmo_comm_rank_of(c, m->channel->peer), &m->header, m->shape);
        return CMO_OK;
    }
    if (x->peer >= 0 && (c->lost[x->peer] || c->left[x->peer])) {
        op->lost = x->peer;
        cmo_op_fail(op, CMO_EPEERLOST, c->lost[x->peer] ? "it is gone" : "it has closed the communicator");
    }
    return CMO_AGAIN;
}

void cmo_point_end(cmo_op *op)
{
    if (op->endures) {
        cmo_agree_ended(op);
        return;
    }
    CMO_EACH(n, &op->xfers) cmo_xfer_cancel(CMO_ENTRY(n, cmo_xfer, of_op));
    cmo_xfer_cancel(cmo_point_transfer(op));
}

static cmo_xfer *point_prepare(cmo_op *op, cmo_comm *comm, int peer, int64_t tag, double timeout, cmo_status *status,
                               cmo_err (*step)(cmo_op *), bool blocking)
{
    cmo_point_prepare(op, comm, timeout, !blocking);
    op->step = step;
    op->status = status;
    cmo_xfer *x = cmo_point_transfer(op);
    x->op = op;
    x->peer = peer;
    x->header = (cmo_header){.space = CMO_POINT, .comm = comm->id, .tag = tag};
    return x;
}

static void send_prepare(cmo_op *op, cmo_comm *comm, const cmo_message *m, double timeout, bool blocking)
{
    cmo_xfer *x = point_prepare(op, comm, m->peer, m->tag, timeout, NULL, send_or_recv, blocking);
    x->sends = true;
    op->known_as = CMO_FLIGHT_SEND;
    op->apart = !blocking && !m->waits;
    x->buffer = (uint8_t *)(uintptr_t)m->buffer;
    x->parts = m->parts;
    x->length = x->ready = x->header.length = m->bytes;
    x->header.dtype = (uint8_t)m->dtype;
    x->header.fingerprint = m->extra;
    x->header.ndim = (uint8_t)m->ndim;
    x->shape = m->shape;
}

static void recv_prepare(cmo_op *op, cmo_comm *comm, const cmo_message *m, double timeout, cmo_status *status,
                         bool blocking)
{
    cmo_xfer *x = point_prepare(op, comm, m->peer, m->tag, timeout, status, send_or_recv, blocking);
    x->allocate = m->allocate;
    x->allocate_ctx = m->allocate_ctx;
    op->known_as = CMO_FLIGHT_RECV;
    op->apart = !blocking && !m->waits;
}

cmo_err cmo_send_start(cmo_op *op, cmo_comm *comm, const cmo_message *m, double timeout)
{
    CMO_TRY(cmo_comm_usable(op, comm, NULL));
    send_prepare(op, comm, m, timeout, false);
    cmo_op_launch(op);
    return CMO_OK;
}

cmo_err cmo_recv_start(cmo_op *op, cmo_comm *comm, const cmo_message *m, double timeout, cmo_status *status)
{
    CMO_TRY(cmo_comm_usable(op, comm, NULL));
    recv_prepare(op, comm, m, timeout, status, false);
    cmo_op_launch(op);
    return CMO_OK;
}

cmo_err cmo_send_now(cmo_comm *comm, const cmo_message *m, bool *rest)
{
    cmo_engine *e = comm->engine;
    cmo_err err = CMO_AGAIN;
    *rest = false;
    if (!cmo_comm_healthy(comm) || !cmo_role_try(e)) return CMO_AGAIN;
    cmo_channel *c = e->channel[comm->world[m->peer]];
    /* From time to time one goes the way of others, which looks at what else there is: whoever sends without end leaves
     * the progress thread no chance to. What was handed over to a driver who has left since goes first. */
    if (c && !cmo_engine_look_due(e) && !comm->failed && !comm->closed && !comm->left[m->peer] &&
        !comm->lost[m->peer] && !e->unposted &&
        !atomic_load_explicit(&e->nsubmitted, memory_order_relaxed)) {
        const cmo_header h = {.kind = CMO_EAGER, .space = CMO_POINT, .comm = comm->id, .tag = m->tag,
                              .length = m->bytes, .dtype = (uint8_t)m->dtype, .fingerprint = m->extra,
                              .ndim = (uint8_t)m->ndim};
        const int64_t start = e->recorder.exact ? cmo_now() : 0;
        err = cmo_channel_send_now(c, &h, m->shape, m->buffer, rest);
        if (err == CMO_OK && !*rest) cmo_record_sent(e, comm, m, start);
    }
    if (!*rest) cmo_role_drop(e, false);
    return err;
}

void cmo_send_rest(cmo_op *op, cmo_comm *comm, const cmo_message *m, double timeout)
{
    cmo_channel *c = comm->engine->channel[comm->world[m->peer]];
    send_prepare(op, comm, m, timeout, false);
    op->pc = 1;
    cmo_xfer *x = cmo_point_transfer(op);
    cmo_list_init(&x->node);
    cmo_list_append(&op->xfers, &x->of_op);
    x->state = CMO_X_MOVING;
    x->channel = c;
    x->framed = x->length;
    c->frames[c->first_frame % CMO_FRAMES].xfer = x;
    cmo_op_launch_driving(op, true);
}

cmo_err cmo_recv_now(cmo_op *op, cmo_comm *comm, const cmo_message *m, double timeout, cmo_status *status)
{
    if (!cmo_comm_healthy(comm) || !cmo_role_try(comm->engine)) return CMO_AGAIN;
    recv_prepare(op, comm, m, timeout, status, false);
    cmo_op_launch_driving(op, true);
    return CMO_OK;
}

cmo_err cmo_send_begin(cmo_op *op, cmo_comm *comm, const cmo_message *m, double timeout, bool light)
{
    send_prepare(op, comm, m, timeout, true);
    op->on_done = NULL;
    return cmo_op_begin(op, light);
}

cmo_err cmo_recv_begin(cmo_op *op, cmo_comm *comm, const cmo_message *m, double timeout, cmo_status *status,
                       bool light)
{
    recv_prepare(op, comm, m, timeout, status, true);
    op->on_done = NULL;
    return cmo_op_begin(op, light);
}

cmo_err cmo_probe_start(cmo_op *op, cmo_comm *comm, int source, int64_t tag, double timeout, cmo_status *status)
{
    CMO_TRY(cmo_comm_usable(op, comm, NULL));
    point_prepare(op, comm, source, tag, timeout, status, probe, false);
    op->known_as = CMO_FLIGHT_PROBE;
    op->apart = false; /* there is no other */
    op->pc = 1; /* it posts nothing that others would have to wait for */
    cmo_op_launch(op);
    return CMO_OK;
}

cmo_err cmo_probe_now(cmo_op *op, cmo_comm *comm, int source, int64_t tag, cmo_status *status)
{
    cmo_engine *e = comm->engine;
    op->lost = -1;
    cmo_engine_enter(e);
    if (!comm->closed) cmo_engine_poll(e);
    cmo_unexpected *m = comm->closed ? NULL : cmo_match_find(comm, source, tag);
    if (m) {
        status_of(status, cmo_comm_rank_of(comm, m->channel->peer), &m->header, m->shape);
    } else if (!comm->closed) { /* who looks again and again must hear of a loss, though it never sleeps */
        cmo_engine_take_ends(e);
        cmo_failure_look(comm);
    }
    const bool broken = !m && (comm->closed || comm->failed);
    const bool left = !m && !broken && source >= 0 && (comm->lost[source] || comm->left[source]);
    cmo_engine_leave(e);
    if (m) return CMO_OK;
    if (broken) return cmo_comm_usable(op, comm, NULL);
    if (!left) return CMO_AGAIN;
    op->lost = source;
    return cmo_fail(CMO_EPEERLOST, "rank %d has closed the communicator, or is gone", source);
}
