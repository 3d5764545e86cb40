/* What happens when something goes wrong between ranks.
 *
 * The first rank that notices breaks the communicator: it tells every member why, and every member that learns of it
 * tells all the others where it stands itself, so that each can say who had made which call. Where all ranks share
 * memory that is a verdict in shared memory and a look at the others' records; elsewhere a FAIL frame from each to
 * each. A broken communicator stays broken. */
#include "base/process.h"
#include "comm/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How long a failure waits, at most, for the others to say where they stand. Those who make different calls are mostly
 * there; of a passed deadline an absence is the likely cause. */
static const int64_t settle_time = CMO_LATE;
/* The same, for ranks of several hosts to say whom they have lost, and how: who only sees a connection end knows less
 * than the ranks of the lost one's host, and all are to tell the same. */
static const int64_t settle_time_lost = CMO_SECOND / 4;
static const int64_t parting_time = CMO_SECOND / 4; /* for what a rank of this host sent before it closed to come */

/* The collective that this rank is in, or NULL. */
static cmo_op *current(cmo_comm *c)
{
    cmo_node *first = c->queue.next;
    if (first == &c->queue) return NULL;
    cmo_op *op = CMO_ENTRY(first, cmo_op, node);
    return op->step ? op : NULL;
}

/* The collective of this communicator, which may be a part, that it is in: the innermost, or NULL. */
static cmo_op *current_in(cmo_comm *c)
{
    cmo_op *op = current(cmo_comm_outermost(c));
    while (op && op->comm != c) op = op->child;
    while (op && op->child && op->child->comm == c) op = op->child;
    return op;
}

/* What the others are told: an error of this rank's own is to them a communicator that broke. */
static cmo_err as_told(cmo_err err)
{
    const bool shared = err == CMO_EMISMATCH || err == CMO_EORDER || err == CMO_ETIMEOUT || err == CMO_EPEERLOST;
    return shared ? err : CMO_EREVOKED;
}

/* Of those who gave up on this rank, one may hear it from here first: to him it is the deadline that has passed. */
static cmo_err tells(const cmo_comm *c) { return c->given_up ? CMO_ETIMEOUT : as_told(c->failed); }

static int lost_rank(const cmo_comm *c)
{
    for (int r = 0; r < c->size; r++)
        if (c->lost[r]) return r;
    return -1;
}

/* ------------------------------------------------------------------ telling */

_Static_assert((int)CMO_FAIL_BYTES <= (int)CMO_MAX_FAIL_BYTES, "a FAIL frame holds what is told");

static void tell_remote(cmo_comm *c)
{
    cmo_engine *e = c->engine;
    uint8_t payload[CMO_FAIL_BYTES];
    if (c->piece || !c->told || c->has_told) return;
    c->has_told = true;
    cmo_told_write(payload, &c->told[c->rank]);
    memcpy(payload + CMO_TOLD_BYTES, c->failed_text, CMO_TEXT);
    memcpy(payload + CMO_TOLD_BYTES + CMO_TEXT, c->told[c->rank].doing, CMO_DOING_BYTES);
    cmo_header h = {.kind = CMO_FAIL, .comm = c->id, .id = tells(c), .aux = (uint64_t)(lost_rank(c) + 1),
                    .fingerprint = (uint64_t)c->word.first_hand << 32 | (uint32_t)c->word.author,
                    .length = sizeof payload};
    for (int r = 0; r < c->size; r++) {
        if (r == c->rank || c->lost[r] || c->left[r]) continue;
        cmo_channel *channel = cmo_channel_to(e, c->world[r]);
        if (channel) cmo_channel_control(channel, &h, payload, sizeof payload);
    }
}

static void tell_local(cmo_comm *c)
{
    cmo_comm *p = cmo_comm_with_pieces(c);
    if (!p->piece) return;
    cmo_verdict *v = &p->piece[p->local]->verdict;
    v->lost = lost_rank(c); /* as numbered in the outermost communicator, which all of them share */
    memcpy(v->text, c->failed_text, sizeof v->text);
    v->first_hand = c->word.first_hand;
    v->author = c->word.author;
    v->at = cmo_engine_now(c->engine);
    atomic_store_explicit(&v->err, tells(c), memory_order_release); /* whoever sees it, sees all of it */
    for (int i = 0; i < p->nlocal; i++) {
        uint64_t none = 0;
        if (i == p->local) continue;
        /* Release: whoever sees the word sees the verdict. */
        atomic_compare_exchange_strong_explicit(&p->piece[i]->abort, &none, 1 + (uint64_t)p->local,
                                                memory_order_release, memory_order_relaxed);
        cmo_ring(p->neighbour[i]);
    }
}

static void comm_fail(cmo_comm *comm, cmo_err err, const char *text, bool first_hand, int author)
{
    cmo_comm *c = cmo_comm_outermost(comm);
    cmo_engine *e = c->engine;
    if (c->failed || c->closed) return;
    c->word.first_hand = first_hand;
    c->word.author = author;
    cmo_op *op = current(c);
    c->failed = err;
    c->failed_seq = op ? op->seq : c->seq + 1;
    snprintf(c->failed_text, sizeof c->failed_text, "%s", text);
    if (c->local_comm) c->local_comm->failed = err;
    if (c->cross_comm) c->cross_comm->failed = err;
    if (c->told || (c->told = calloc((size_t)c->size, sizeof *c->told))) {
        c->told[c->rank] = (cmo_told){.heard = true, .in_call = op != NULL, .seq = c->seq};
        memcpy(c->told[c->rank].recent, c->recent, sizeof c->recent);
        cmo_describe_own(e, c->told[c->rank].doing, CMO_DOING_BYTES);
    }
    int64_t settle = err == CMO_EMISMATCH || err == CMO_ETIMEOUT ? settle_time
                     : err == CMO_EPEERLOST                      ? settle_time_lost : 0;
    c->settle = cmo_engine_now(e) + (c->told ? settle : 0);
    if (!c->left_out) tell_local(c);
    /* A rank that is not there yet, when others disagree, speaks when it is: they want to know what it calls. */
    if (!c->left_out && (op || err != CMO_EMISMATCH)) tell_remote(c);
    e->moved = e->look = true;
}

void cmo_comm_fail(cmo_comm *comm, cmo_err err, const char *text)
{
    comm_fail(comm, err, text, false, cmo_comm_outermost(comm)->rank);
}

void cmo_comm_revoke(cmo_comm *c)
{
    char text[CMO_TEXT];
    snprintf(text, sizeof text, "rank %d has revoked it", c->rank);
    cmo_comm_fail(c, CMO_EREVOKED, text);
    if (!c->engine->threadless) cmo_engine_poll(c->engine); /* the news goes out now */
}

void cmo_failure_differs(cmo_comm *comm, int rank, uint64_t seq)
{
    char text[CMO_TEXT], call[256];
    const cmo_recent_call *own = &comm->recent[seq % CMO_RECENT];
    size_t at = (size_t)snprintf(text, sizeof text, "rank %d made another call as number %llu", rank,
                                 (unsigned long long)seq);
    if (own->seq == seq && !comm->outer) { /* theirs it may tell too late, or not any more */
        cmo_describe_call(call, sizeof call, own);
        snprintf(text + at, sizeof text - at, " than rank %d, which called %s", comm->rank, call);
    }
    cmo_comm_fail(comm, CMO_EMISMATCH, text);
    tell_remote(cmo_comm_outermost(comm)); /* in a call or not: it is about one that we have made */
}

bool cmo_failure_compare(cmo_comm *comm, int rank, uint64_t seq, uint64_t fingerprint)
{
    if (seq > comm->seq || comm->seq - seq >= CMO_FINGERPRINTS) return false;
    if (comm->fingerprints[seq % CMO_FINGERPRINTS] == fingerprint) return false;
    cmo_failure_differs(comm, rank, seq);
    return true;
}

/* This rank calls a communicator that has broken meanwhile: the others may be waiting to hear what it calls. */
void cmo_failure_late(cmo_comm *comm, const cmo_call *call)
{
    cmo_comm *c = cmo_comm_outermost(comm);
    if (!call || c->has_told || !c->told || c->failed != CMO_EMISMATCH) return;
    cmo_recent_call next = {.seq = 0};
    c->engine->collectives->next(c, call, &next);
    cmo_told *own = &c->told[c->rank];
    own->in_call = true;
    own->seq = next.seq;
    own->recent[next.seq % CMO_RECENT] = next;
    tell_remote(c);
    c->settle = cmo_engine_now(c->engine) + settle_time; /* for those who have waited to hear this */
}

/* ------------------------------------------------------------------ hearing */

/* Has this member made the same call as this rank in the collective that it is in, and gone on? Then what it disagrees
 * about is still to come here: this collective ends well, and the next ones up to that. */
static bool is_ahead(cmo_comm *c, const cmo_told *told)
{
    const cmo_op *op = current(c);
    if (!op || told->seq <= op->seq) return false;
    const cmo_recent_call *recent = &told->recent[op->seq % CMO_RECENT];
    return recent->seq == op->seq && recent->fingerprint == op->fingerprint;
}

/* Has this rank come to the collective about which others have disagreed already? */
static bool doom_has_come(cmo_comm *c)
{
    bool come = false;
    for (int r = 0; c->doomed && r < c->size; r++) come |= c->told[r].heard && !is_ahead(c, &c->told[r]);
    return come;
}

cmo_err cmo_failure_parse(const cmo_header *h, const uint8_t *payload, cmo_told *told)
{
    if (h->length != CMO_FAIL_BYTES)
        return cmo_fail(CMO_EPROTO, "a failure told in %llu bytes", (unsigned long long)h->length);
    CMO_TRY(cmo_told_parse(told, payload, CMO_TOLD_BYTES));
    memcpy(told->doing, payload + CMO_TOLD_BYTES + CMO_TEXT, CMO_DOING_BYTES - 1); /* its last byte is 0 */
    return CMO_OK;
}

/* Take note of what others say, and have not said before `since`. A rank that was not in its call then, or has stood
 * still since, or for longer than its own deadline, is the one for which they gave up. */
static void fail_as_told(cmo_comm *c, cmo_err err, const char *text, bool first_hand, int author, int64_t since)
{
    const cmo_op *op = current(c);
    const int64_t late = cmo_engine_now(c->engine) - CMO_LATE;
    const bool was_there = op && op->called <= since && !op->overslept && late < since && late < op->deadline;
    c->given_up = !c->failed && !c->closed && err == CMO_ETIMEOUT && !was_there;
    comm_fail(c, c->given_up ? CMO_EREVOKED : err, text, first_hand, author);
}

/* Before when can what has just come by a socket not have been said? Not before the last look at it, less the time that
 * it takes to read what lay before it: whoever has been in its call for no longer than that was not there. */
static int64_t heard_since(cmo_comm *c)
{
    const cmo_op *op = current(c);
    const int64_t quarter = op ? cmo_time_of(op->timeout) / 4 : 0;
    const int64_t reading = quarter < CMO_SECOND / 10 ? quarter : CMO_SECOND / 10;
    const int64_t read = cmo_engine_now(c->engine) - reading;
    return c->engine->looked < read ? c->engine->looked : read;
}

/* Another word on why the communicator broke. Everybody hears everybody's, and takes the best. */
static void hear_of_loss(cmo_comm *c, const cmo_header *h, bool first_hand, int author, const char *cause)
{
    if (h->aux && h->aux <= (uint64_t)c->size) c->lost[h->aux - 1] = 1;
    if (first_hand != c->word.first_hand ? !first_hand : author >= c->word.author) return;
    c->word.first_hand = first_hand;
    c->word.author = author;
    snprintf(c->failed_text, sizeof c->failed_text, "%s", cause);
}

void cmo_failure_heard(cmo_channel *channel, const cmo_header *h, const uint8_t *payload)
{
    cmo_comm *c = cmo_engine_find(channel->engine, h->comm);
    int rank = c ? cmo_comm_rank_of(c, channel->peer) : -1;
    cmo_told told;
    if (rank < 0 || c->outer || cmo_failure_parse(h, payload, &told) != CMO_OK) return;
    char cause[CMO_TEXT];
    memcpy(cause, payload + CMO_TOLD_BYTES, sizeof cause);
    cause[sizeof cause - 1] = 0;
    cmo_err err = as_told(h->id < CMO_NERRORS ? (cmo_err)h->id : CMO_EREVOKED);
    const bool first_hand = h->fingerprint >> 32;
    const int author = (uint32_t)h->fingerprint < (uint32_t)c->size ? (int)(uint32_t)h->fingerprint : rank;
    if (!c->failed && h->aux && h->aux <= (uint64_t)c->size && err == CMO_EPEERLOST) c->lost[h->aux - 1] = 1;
    if (!c->failed && err == CMO_EMISMATCH && is_ahead(c, &told) &&
        (c->told || (c->told = calloc((size_t)c->size, sizeof *c->told)))) {
        c->doomed = true;
        memcpy(c->failed_text, cause, sizeof c->failed_text);
    } else if (!c->failed) {
        fail_as_told(c, err, cause, first_hand, author, heard_since(c));
    } else if (c->failed == CMO_EPEERLOST && err == CMO_EPEERLOST && !c->word.given) {
        hear_of_loss(c, h, first_hand, author, cause);
    }
    if (!c->told) return;
    c->told[rank] = told;
    /* A rank that is in no call speaks when it is, but at once where what it has called is what others wait to hear. */
    if (c->failed == CMO_EMISMATCH && cmo_failure_differed(c)) tell_remote(c);
    channel->engine->moved = true;
}

static bool all_others_left(const cmo_comm *c)
{
    int gone = 0;
    for (int r = 0; r < c->size; r++) gone += r != c->rank && (c->left[r] || c->lost[r]);
    return gone && gone == c->size - 1;
}

/* Is there still somebody to do its part of this transfer? */
void cmo_xfer_expect(cmo_xfer *x)
{
    cmo_comm *c = x->op->comm;
    if (x->peer < 0 && x->state == CMO_X_WAITING && all_others_left(c)) {
        x->op->lost = c->rank == 0; /* the first of them */
        cmo_xfer_fail(x, CMO_EPEERLOST, "every other rank has closed the communicator, or is gone");
        return;
    }
    if (x->peer < 0 || x->state != CMO_X_WAITING || !(c->left[x->peer] || c->lost[x->peer])) return;
    cmo_comm *outer = cmo_comm_outermost(c);
    char text[CMO_TEXT];
    int rank = cmo_comm_rank_of(outer, c->world[x->peer]);
    snprintf(text, sizeof text, "rank %d %s", rank, c->lost[x->peer] ? "is gone" : "has closed the communicator");
    if (x->op->point) x->op->lost = rank;
    else if (!outer->failed) outer->lost[rank] = 1;
    cmo_xfer_fail(x, CMO_EPEERLOST, text);
}

/* Nothing more comes from this rank: it has closed. Fails what waits for it. */
static void member_left(cmo_comm *c, int rank)
{
    if (c->left[rank]) return;
    c->left[rank] = 1;
    /* Its messages all came before this, so what is still expected of it will never come. */
    for (cmo_op *op = current(cmo_comm_outermost(c)); op; op = op->child)
        if (op->comm == c)
            CMO_EACH(n, &op->xfers) cmo_xfer_expect(CMO_ENTRY(n, cmo_xfer, of_op));
    CMO_EACH(n, &c->engine->points) {
        cmo_op *op = CMO_ENTRY(n, cmo_op, node);
        if (op->comm == c)
            CMO_EACH(m, &op->xfers) cmo_xfer_expect(CMO_ENTRY(m, cmo_xfer, of_op));
    }
}

/* A world rank has closed the communicator, and its parts with it. */
static void has_closed(cmo_comm *c, int world)
{
    cmo_comm *parts[] = {c, c->local_comm, c->cross_comm};
    for (int i = 0; i < 3; i++) {
        int rank = parts[i] ? cmo_comm_rank_of(parts[i], world) : -1;
        if (rank >= 0) member_left(parts[i], rank);
    }
}

void cmo_bye_heard(cmo_channel *channel, const cmo_header *h)
{
    cmo_comm *c = cmo_engine_find(channel->engine, h->comm);
    if (h->comm == CMO_WORLD_ID) channel->parted = true; /* ours may be gone already */
    if (!c) return;
    /* What it has called last is compared now, or when this rank calls as often */
    const cmo_header last = {.kind = CMO_ASK, .space = CMO_COLLECTIVE, .comm = h->comm, .seq = h->seq,
                             .tag = CMO_ASK_TAG, .fingerprint = h->fingerprint};
    cmo_xfer *x;
    cmo_unexpected *m;
    if (h->seq && !c->failed) cmo_match_arrived(channel, &last, NULL, &x, &m);
    has_closed(c, channel->peer);
}

/* Has all that this rank sent been read? It sent it before it closed. Its BYE need not come: if it had sent us nothing
 * before, there was nothing to say it by. */
static bool is_heard_out(const cmo_engine *e, int world)
{
    const cmo_channel *channel = e->channel[world];
    return !channel || channel->gone || !channel->rx_header.kind || channel->rx_quiet;
}

/* Members of this host that have closed, as their memory says, and will not say so otherwise. */
static void look_who_closed(cmo_comm *c, cmo_comm *p)
{
    uint64_t nleft = atomic_load_explicit(&p->piece[p->local]->nleft, memory_order_acquire);
    int64_t now = cmo_engine_now(c->engine);
    if (nleft == p->parted.heard) return;
    if (nleft != p->parted.seen) {
        p->parted.seen = nleft;
        p->parted.at = now + parting_time;
    } else if (now >= p->parted.at) {
        bool all = true;
        for (int i = 0; i < p->nlocal; i++) {
            if (i == p->local || !atomic_load_explicit(&p->piece[i]->closed, memory_order_acquire)) continue;
            if (is_heard_out(c->engine, p->world[p->locals[i]])) has_closed(c, p->world[p->locals[i]]);
            else all = false;
        }
        if (all) p->parted.heard = nleft;
    }
}

/* Has a member of this host given up the collective that this rank is in? Then it does not end well here. */
static bool has_been_quit(cmo_comm *p)
{
    const cmo_op *op = current_in(p);
    for (int i = 0; op && i < p->nlocal; i++)
        if (cmo_piece_quit(p->piece[i], op->seq)) return true;
    return false;
}

static void take_verdict(cmo_comm *p, const cmo_piece *theirs)
{
    cmo_comm *c = cmo_comm_outermost(p);
    const cmo_verdict *v = &theirs->verdict;
    char text[CMO_TEXT];
    memcpy(text, v->text, sizeof text);
    text[sizeof text - 1] = 0;
    const uint32_t code = atomic_load_explicit(&v->err, memory_order_acquire);
    cmo_err err = as_told(code < CMO_NERRORS ? (cmo_err)code : CMO_EREVOKED);
    if (err == CMO_EMISMATCH && !has_been_quit(p)) {
        cmo_told told;
        cmo_told_look(&told, theirs);
        /* Over several hosts the frame that comes too says it better */
        if (c->piece ? is_ahead(c, &told) : current(c) != NULL) return;
    }
    if (err == CMO_EPEERLOST && v->lost >= 0 && v->lost < c->size) c->lost[v->lost] = 1;
    fail_as_told(c, err, text, v->first_hand, v->author >= 0 && v->author < c->size ? v->author : c->rank, v->at);
}

/* Look into shared memory: has somebody broken the communicator, or closed it before the collective that we are in? */
void cmo_failure_look(cmo_comm *comm)
{
    cmo_comm *c = cmo_comm_outermost(comm), *p = cmo_comm_with_pieces(c);
    if (c->failed) return;
    if (doom_has_come(c)) {
        char text[CMO_TEXT];
        memcpy(text, c->failed_text, sizeof text);
        cmo_comm_fail(c, CMO_EMISMATCH, text);
        return;
    }
    if (!p->piece) return;
    uint64_t abort = atomic_load_explicit(&p->piece[p->local]->abort, memory_order_acquire);
    if (abort && abort <= (uint64_t)p->nlocal) {
        take_verdict(p, p->piece[abort - 1]);
        return;
    }
    if (!atomic_load_explicit(&p->piece[p->local]->nleft, memory_order_acquire)) return; /* nobody has: the rule */
    look_who_closed(c, p);
    const cmo_op *op = current_in(p);
    if (!op || !op->step) return;
    for (int i = 0; i < p->nlocal; i++) {
        if (i == p->local || !atomic_load_explicit(&p->piece[i]->closed, memory_order_acquire)) continue;
        const cmo_announcement *theirs = &p->piece[i]->announcement[op->seq % CMO_ANNOUNCEMENTS];
        if (atomic_load_explicit(&theirs->seq, memory_order_acquire) >= op->seq) continue;
        if (cmo_ask_compare(c, i)) return;
        char text[CMO_TEXT];
        int rank = cmo_comm_rank_of(c, p->world[p->locals[i]]);
        snprintf(text, sizeof text, "rank %d has closed the communicator", rank);
        p->lost[i] = 1;
        c->lost[rank] = 1;
        cmo_comm_fail(c, CMO_EPEERLOST, text);
        return;
    }
}

void cmo_failure_look_left(cmo_comm *c)
{
    cmo_comm *p = cmo_comm_with_pieces(c);
    if (p->piece) look_who_closed(c, p);
}

/* Others had it from the end of a connection that this rank was lost; we have it from the system. */
static void know_better(cmo_comm *c, int rank, const char *text)
{
    if (c->outer || c->failed != CMO_EPEERLOST || !c->lost[rank] || c->word.first_hand || c->word.given) return;
    c->word.first_hand = true;
    c->word.author = c->rank;
    snprintf(c->failed_text, sizeof c->failed_text, "%s", text);
    c->has_told = false;
    tell_remote(c);
}

void cmo_peer_lost(cmo_engine *e, int world, bool ended, const char *cause)
{
    const bool again = e->dead[world] == CMO_LOST && ended;
    if (e->dead[world] && !again) return;
    e->dead[world] = ended ? CMO_ENDED : CMO_LOST;
    e->look = e->moved = true;
    if (e->channel[world] && e->neighbour_of[world] < 0) e->channel[world]->gone = true;
    char text[CMO_TEXT], doing[300] = "";
    const char *host = e->host_names ? e->host_names[world] : NULL;
    if (ended) cmo_describe_lost(e, world, doing, sizeof doing); /* its memory is as it left it, so all tell alike */
    snprintf(text, sizeof text, "%.140s%s%.64s%s", cause, host ? " on " : "", host ? host : "", doing);
    free(e->cause[world]);
    e->cause[world] = strdup(text);
    CMO_EACH(n, &e->comms) {
        cmo_comm *c = CMO_ENTRY(n, cmo_comm, node);
        int rank = cmo_comm_rank_of(c, world);
        if (rank >= 0 && c->failed && ended) know_better(c, rank, text);
        if (rank < 0 || c->failed) continue; /* failed: its list of the lost is of the time when it broke */
        bool shares = c->piece && c->host[rank] == c->host[c->rank];
        int place = 0;
        while (shares && c->locals[place] != rank) place++;
        bool left = c->left[rank] || (shares && atomic_load_explicit(&c->piece[place]->closed, memory_order_acquire));
        if (left) continue; /* it had closed this one: it is not missed */
        c->lost[rank] = 1;
        if (c->outer) c->outer->lost[cmo_comm_rank_of(c->outer, world)] = 1;
        comm_fail(c, CMO_EPEERLOST, text, ended, cmo_comm_outermost(c)->rank);
    }
}

void cmo_net_failed(cmo_engine *e, const char *reason)
{
    char why[CMO_TEXT - 32], text[CMO_TEXT];
    snprintf(why, sizeof why, "%s", reason);
    CMO_EACH(n, &e->comms) {
        cmo_comm *c = CMO_ENTRY(n, cmo_comm, node);
        snprintf(text, sizeof text, "rank %d: %s", cmo_comm_outermost(c)->rank, why);
        cmo_comm_fail(c, CMO_ESYS, text);
    }
}

void cmo_engine_neighbour_ended(cmo_engine *e, int which)
{
    cmo_engine_poll(e); /* what it did before it died still counts */
    char how[64];
    cmo_process_end(e->neighbours[which].pidfd, how, sizeof how);
    cmo_peer_lost(e, e->neighbour_world[which], true, how);
}

void cmo_engine_take_ends(cmo_engine *e)
{
    struct epoll_event ends[8];
    const int n = e->epoll < 0 ? 0 : epoll_wait(e->epoll, ends, 8, 0);
    if (n > 0) cmo_engine_slept(e, ends, n);
}
