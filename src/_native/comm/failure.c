/* What happens when something goes wrong between ranks.
 *
 * The first rank that notices breaks the communicator: it tells every member why, and every member that learns it tells
 * all the others where it stands itself, so that each can say which ranks had made which call. On a host that is a
 * verdict in shared memory and a look at the others' records; between hosts, a FAIL frame each way. A broken communicator stays broken. */
#include "comm/internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const int64_t settle_time = CMO_SECOND; /* how long a failure waits for the others to say where they are */

static cmo_comm *outermost(cmo_comm *c) { return c->outer ? c->outer : c; }
static cmo_comm *with_pieces(cmo_comm *c) { return c->local_comm ? c->local_comm : c; }

static void describe(char *out, size_t n, cmo_kind kind, cmo_redop op, cmo_dtype dtype, uint64_t count, int root)
{
    char what[64] = "", at[32] = "";
    bool reduces = kind == CMO_ALLREDUCE || kind == CMO_REDUCE || kind == CMO_REDUCE_SCATTER || kind == CMO_SCAN || kind == CMO_EXSCAN;
    bool rooted = kind == CMO_BROADCAST || kind == CMO_REDUCE || kind == CMO_SCATTER || kind == CMO_GATHER;
    if (kind != CMO_BARRIER)
        snprintf(what, sizeof what, "%" PRIu64 " × %s%s%s", count, cmo_dtype_name(dtype), reduces ? ", op=" : "",
                 reduces ? cmo_redop_name(op) : "");
    if (rooted) snprintf(at, sizeof at, ", root=%d", root);
    snprintf(out, n, "%s(%s%s)", cmo_kind_name(kind), what, at);
}

/* The collective that this rank is in, innermost or outermost does not matter to a reader: the one that was called. */
static cmo_op *current(cmo_comm *c)
{
    cmo_node *first = c->queue.next;
    if (first == &c->queue) return NULL;
    cmo_op *op = CMO_ENTRY(first, cmo_op, node);
    return op->step ? op : NULL;
}

static void own_position(cmo_comm *c, cmo_told *told)
{
    cmo_op *op = current(c);
    *told = (cmo_told){.heard = true, .in_call = op != NULL, .seq = op ? op->seq : c->seq};
    if (op) describe(told->call, sizeof told->call, op->call.kind, op->call.op, op->call.dtype, op->call.count, op->call.root);
}

/* What the others are told: an error of this rank's own is to them a communicator that broke. */
static cmo_err as_told(cmo_err err)
{
    return err == CMO_EMISMATCH || err == CMO_ETIMEOUT || err == CMO_EPEERLOST ? err : CMO_EREVOKED;
}

/* Tell every member on another host why, and where we stand. */
static void tell_remote(cmo_comm *c)
{
    cmo_engine *e = c->engine;
    cmo_told own;
    char text[CMO_TEXT + sizeof own.call];
    own_position(c, &own);
    int n = snprintf(text, sizeof text, "%s%c%s", c->failed_text, '\n', own.call);
    int lost = -1;
    for (int r = 0; r < c->size; r++)
        if (c->lost[r]) lost = r;
    cmo_header h = {.kind = CMO_FAIL, .comm = c->id, .seq = own.seq, .tag = own.in_call, .id = as_told(c->failed), .aux = (uint64_t)(lost + 1), .length = (uint64_t)n};
    for (int r = 0; r < c->size; r++) {
        if (r == c->rank || e->neighbour_of[c->world[r]] >= 0 || c->lost[r] || c->left[r]) continue;
        cmo_channel *channel = cmo_channel_to(e, c->world[r]);
        if (channel) cmo_channel_control(channel, &h, text, (size_t)n);
    }
}

static void tell_local(cmo_comm *c)
{
    cmo_comm *p = with_pieces(c);
    if (!p->piece) return;
    cmo_verdict *v = &p->piece[p->local]->verdict;
    v->lost = -1;
    for (int i = 0; i < p->nlocal; i++)
        if (p->lost[i]) v->lost = i;
    snprintf(v->text, sizeof v->text, "%s", c->failed_text);
    v->err = as_told(c->failed);
    for (int i = 0; i < p->nlocal; i++) {
        uint64_t none = 0;
        if (i == p->local) continue;
        /* Release: whoever sees the word sees the verdict. */
        atomic_compare_exchange_strong_explicit(&p->piece[i]->abort, &none, 1 + (uint64_t)p->local, memory_order_release,
                                                memory_order_relaxed);
        cmo_ring(p->neighbour[i]);
    }
}

void cmo_comm_fail(cmo_comm *comm, cmo_err err, const char *text)
{
    cmo_comm *c = outermost(comm);
    cmo_engine *e = c->engine;
    if (c->failed || c->closed) return;
    c->failed = err;
    cmo_op *op = current(c);
    c->failed_seq = op ? op->seq : c->seq + 1;
    snprintf(c->failed_text, sizeof c->failed_text, "%s", text);
    c->told = calloc((size_t)c->size, sizeof *c->told);
    bool tells = err == CMO_EMISMATCH || err == CMO_ETIMEOUT;
    c->settle = cmo_engine_now(e) + (tells && c->told ? settle_time : 0);
    if (c->local_comm) c->local_comm->failed = err;
    if (c->cross_comm) c->cross_comm->failed = err;
    tell_local(c);
    tell_remote(c);
    e->moved = e->look = true;
}

void cmo_failure_heard(cmo_channel *channel, const cmo_header *h, const char *text)
{
    cmo_comm *c = cmo_engine_find(channel->engine, h->comm);
    int rank = c ? cmo_comm_rank_of(c, channel->peer) : -1;
    if (rank < 0 || c->outer) return;
    const char *call = strchr(text, '\n');
    char cause[CMO_TEXT];
    snprintf(cause, sizeof cause, "%.*s", call ? (int)(call - text) : (int)strlen(text), text);
    cmo_err err = h->id > CMO_AGAIN && h->id < CMO_NERRORS ? (cmo_err)h->id : CMO_EREVOKED;
    if (h->aux && h->aux <= (uint64_t)c->size && err == CMO_EPEERLOST) c->lost[h->aux - 1] = 1;
    cmo_comm_fail(c, err, cause);
    if (!c->told) return;
    cmo_told *told = &c->told[rank];
    told->heard = true;
    told->in_call = h->tag != 0;
    told->seq = h->seq;
    snprintf(told->call, sizeof told->call, "%s", call ? call + 1 : "");
    channel->engine->moved = true;
}

static void member_left(cmo_comm *c, int rank)
{
    if (c->left[rank]) return;
    c->left[rank] = 1;
    char text[CMO_TEXT];
    snprintf(text, sizeof text, "rank %d has closed the communicator", rank);
    cmo_op *op = current(c);
    /* Its messages all came before this, so what is still expected of it will never come. */
    if (op)
        CMO_EACH(n, &op->xfers) {
            cmo_xfer *x = CMO_ENTRY(n, cmo_xfer, of_op);
            if (x->peer == rank && x->state == CMO_X_WAITING) cmo_comm_fail(c, CMO_EPEERLOST, text);
        }
    CMO_EACH(n, &c->engine->points) {
        cmo_op *p = CMO_ENTRY(n, cmo_op, node);
        if (p->comm != c) continue;
        CMO_EACH(m, &p->xfers) {
            cmo_xfer *x = CMO_ENTRY(m, cmo_xfer, of_op);
            if (x->peer == rank && x->state == CMO_X_WAITING) cmo_xfer_fail(x, CMO_EPEERLOST, text);
        }
    }
    if (c->failed == CMO_EPEERLOST && op) c->lost[rank] = 1;
}

void cmo_bye_heard(cmo_channel *channel, const cmo_header *h)
{
    cmo_engine *e = channel->engine;
    cmo_comm *c = cmo_engine_find(e, h->comm);
    if (h->comm == e->world->id) channel->parted = true;
    int rank = c ? cmo_comm_rank_of(c, channel->peer) : -1;
    if (rank < 0) return;
    member_left(c, rank);
    int local = c->local_comm ? cmo_comm_rank_of(c->local_comm, channel->peer) : -1;
    int cross = c->cross_comm ? cmo_comm_rank_of(c->cross_comm, channel->peer) : -1;
    if (local >= 0) member_left(c->local_comm, local);
    if (cross >= 0) member_left(c->cross_comm, cross);
}

/* Look into shared memory: has somebody broken the communicator, or closed it before the collective that we are in? */
void cmo_failure_look(cmo_comm *p)
{
    cmo_comm *c = outermost(p);
    if (!p->piece || c->failed) return;
    uint64_t abort = atomic_load_explicit(&p->piece[p->local]->abort, memory_order_acquire);
    if (abort && abort <= (uint64_t)p->nlocal) {
        const cmo_verdict *v = &p->piece[abort - 1]->verdict;
        char text[CMO_TEXT];
        memcpy(text, v->text, sizeof text);
        text[sizeof text - 1] = 0;
        cmo_err err = v->err > CMO_AGAIN && v->err < CMO_NERRORS ? (cmo_err)v->err : CMO_EREVOKED;
        if (err == CMO_EPEERLOST && v->lost >= 0 && v->lost < p->nlocal) {
            p->lost[v->lost] = 1;
            c->lost[cmo_comm_rank_of(c, p->world[v->lost])] = 1;
        }
        cmo_comm_fail(c, err, text);
        return;
    }
    cmo_op *op = current(c);
    while (op && op->comm != p && op->child) op = op->child;
    if (!op || op->comm != p || !op->step) return;
    for (int i = 0; i < p->nlocal; i++) {
        if (i == p->local || !atomic_load_explicit(&p->piece[i]->closed, memory_order_acquire)) continue;
        if (atomic_load_explicit(&p->piece[i]->post[op->seq % CMO_POSTS].seq, memory_order_acquire) >= op->seq) continue;
        char text[CMO_TEXT];
        int rank = cmo_comm_rank_of(c, p->world[p->locals[i]]);
        snprintf(text, sizeof text, "rank %d has closed the communicator", rank);
        p->lost[i] = 1;
        c->lost[rank] = 1;
        cmo_comm_fail(c, CMO_EPEERLOST, text);
        return;
    }
}

void cmo_peer_lost(cmo_engine *e, int world, const char *cause)
{
    if (e->dead[world]) return;
    e->dead[world] = 1;
    e->look = e->moved = true;
    if (e->channel[world] && e->neighbour_of[world] < 0) e->channel[world]->gone = true;
    CMO_EACH(n, &e->comms) {
        cmo_comm *c = CMO_ENTRY(n, cmo_comm, node);
        int rank = cmo_comm_rank_of(c, world);
        if (rank < 0) continue;
        bool shares = c->piece && c->host[rank] == c->host[c->rank];
        int place = 0;
        while (shares && c->locals[place] != rank) place++;
        bool left = c->left[rank] || (shares && atomic_load_explicit(&c->piece[place]->closed, memory_order_acquire));
        if (left) continue; /* it had closed this one: it is not missed */
        c->lost[rank] = 1;
        if (c->outer) {
            c->outer->lost[cmo_comm_rank_of(c->outer, world)] = 1;
            continue; /* the outer communicator's turn comes, or was */
        }
        cmo_comm_fail(c, CMO_EPEERLOST, cause);
    }
}

/* ------------------------------------------------------------------ the message */

static cmo_told local_position(cmo_comm *p, int i)
{
    cmo_told told = {.heard = true};
    uint64_t last = 0;
    int at = 0;
    for (int k = 0; k < CMO_POSTS; k++) {
        uint64_t seq = atomic_load_explicit(&p->piece[i]->post[k].seq, memory_order_acquire);
        if (seq > last) last = seq, at = k;
    }
    told.seq = last;
    told.in_call = last > atomic_load_explicit(&p->piece[i]->finished, memory_order_acquire);
    const cmo_record *r = &p->piece[i]->record[at];
    if (last && r->kind < CMO_NKINDS && r->op < CMO_NOPS && r->dtype < CMO_NDTYPES)
        describe(told.call, sizeof told.call, r->kind, r->op, r->dtype, r->count, r->root);
    return told;
}

static cmo_told position(cmo_comm *c, int rank)
{
    cmo_told told = {0};
    if (rank == c->rank) own_position(c, &told);
    else if (c->piece) told = local_position(c, rank);
    else if (c->told) told = c->told[rank];
    return told;
}

bool cmo_failure_settled(cmo_comm *comm)
{
    cmo_comm *c = outermost(comm);
    if (c->settle == 0 || cmo_engine_now(c->engine) >= c->settle) return true;
    cmo_op *op = current(c);
    for (int r = 0; r < c->size; r++) {
        cmo_told told = position(c, r);
        bool here = told.heard && (!op || !c->piece || told.seq >= op->seq);
        bool reachable = c->piece || c->host[r] != c->host[c->rank];
        if (!here && !c->lost[r] && !c->left[r] && reachable) return false;
    }
    return true;
}

/* One clause a rank, for calls number `seq`. */
static void list_positions(cmo_comm *c, uint64_t seq, char *out, size_t n)
{
    size_t at = 0;
    for (int r = 0; r < c->size && at + 1 < n; r++) {
        cmo_told told = position(c, r);
        const char *separator = r ? "; " : "";
        if (!told.heard) at += (size_t)snprintf(out + at, n - at, "%srank %d: no answer", separator, r);
        else if (told.in_call && told.seq >= seq) at += (size_t)snprintf(out + at, n - at, "%srank %d: %s", separator, r, told.call);
        else if (told.seq >= seq) at += (size_t)snprintf(out + at, n - at, "%srank %d: went on after %s", separator, r, told.call[0] ? told.call : "it");
        else at += (size_t)snprintf(out + at, n - at, "%srank %d: has not arrived", separator, r);
    }
}

static void list_ranks(cmo_comm *c, uint64_t seq, bool arrived, char *out, size_t n)
{
    size_t at = 0;
    out[0] = 0;
    for (int r = 0; r < c->size && at + 1 < n; r++) {
        cmo_told told = position(c, r);
        if ((told.heard && told.seq >= seq) != arrived) continue;
        at += (size_t)snprintf(out + at, n - at, "%s%d", at ? ", " : "", r);
    }
    if (!at) snprintf(out, n, "none");
}

void cmo_failure_text(cmo_comm *comm, char *out, size_t n)
{
    cmo_comm *c = outermost(comm);
    char a[CMO_TEXT], b[CMO_TEXT];
    uint64_t seq = c->failed_seq;
    if (c->failed == CMO_EMISMATCH && c->told) {
        list_positions(c, seq, a, sizeof a);
        snprintf(out, n, "ranks made different calls as number %" PRIu64 ": %s", seq, a);
    } else if (c->failed == CMO_ETIMEOUT && c->told) {
        list_ranks(c, seq, true, a, sizeof a);
        list_ranks(c, seq, false, b, sizeof b);
        snprintf(out, n, "%.200s; arrived: %.120s; missing: %.120s", c->failed_text, a, b);
    } else {
        snprintf(out, n, "%s", c->failed_text);
    }
}
