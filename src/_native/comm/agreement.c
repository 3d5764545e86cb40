#include "comm/agreement.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ making and ending */

static bool proposal_make(cmo_proposal *p, int size)
{
    p->member = calloc((size_t)size, 1);
    p->offset = calloc((size_t)size, sizeof *p->offset);
    return p->member && p->offset;
}

static void proposal_free(cmo_proposal *p)
{
    free(p->member);
    free(p->offset);
}

static void proposal_copy(cmo_proposal *to, const cmo_proposal *from, int size)
{
    to->kind = from->kind;
    to->error = from->error;
    to->flag = from->flag;
    memcpy(to->member, from->member, (size_t)size);
    memcpy(to->offset, from->offset, (size_t)size * sizeof *to->offset);
}

void cmo_agree_free(cmo_comm *c)
{
    cmo_agreement *a = c->agreement;
    if (!a) return;
    cmo_proposal *proposals[] = {&a->taken, &a->proposal, &a->best, &a->decision, &a->heard.proposal};
    for (size_t i = 0; i < sizeof proposals / sizeof *proposals; i++) proposal_free(proposals[i]);
    uint8_t *sets[] = {a->has_voted, a->has_accepted, a->missing, a->asks, a->mute, a->ended, a->alive, a->unreached,
                       a->heard.ended, a->heard.unreached, a->cuts};
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) free(sets[i]);
    free(a->votes);
    free(a->stands);
    free(a->scratch);
    free(a);
    c->agreement = NULL;
}

/* The next one begins. Who has ended stays so. */
static void agreement_reset(cmo_agreement *a)
{
    const size_t n = (size_t)a->comm->size;
    a->number = a->decided + 1;
    a->refused = a->leads = a->proposing = a->inherited = a->tried = false;
    a->calls = 0;
    a->coordinator = -1;
    a->promised = a->round = a->ballot = a->best_ballot = 0;
    a->own = (cmo_vote){.ended = a->ended, .unreached = a->unreached};
    free(a->cuts);
    a->cuts = NULL;
    memset(a->has_voted, 0, n);
    memset(a->has_accepted, 0, n);
    memset(a->missing, 0, n);
    memset(a->asks, 0, n);
    memset(a->mute, 0, n);
    memset(a->stands, 0, n * sizeof *a->stands);
}

cmo_err cmo_agreement_of(cmo_comm *c, cmo_agreement **out)
{
    cmo_agreement *a = c->agreement;
    if (!a) {
        const size_t n = (size_t)c->size;
        a = c->agreement = calloc(1, sizeof *a);
        if (!a) return cmo_fail(CMO_ENOMEM, "an agreement of %d ranks", c->size);
        a->comm = c;
        cmo_proposal *proposals[] = {&a->taken, &a->proposal, &a->best, &a->decision, &a->heard.proposal};
        bool whole = true;
        for (size_t i = 0; i < sizeof proposals / sizeof *proposals; i++) whole &= proposal_make(proposals[i], c->size);
        uint8_t **sets[] = {&a->has_voted, &a->has_accepted, &a->missing, &a->asks, &a->mute, &a->ended, &a->alive,
                            &a->unreached, &a->heard.ended, &a->heard.unreached};
        for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) whole &= (*sets[i] = calloc(n, 1)) != NULL;
        a->votes = calloc(n, sizeof *a->votes);
        a->stands = calloc(n, sizeof *a->stands);
        a->scratch = malloc(cmo_vote_bytes(c->size, true));
        if (!whole || !a->votes || !a->stands || !a->scratch) {
            cmo_agree_free(c);
            return cmo_fail(CMO_ENOMEM, "an agreement of %d ranks", c->size);
        }
        agreement_reset(a);
    }
    *out = a;
    return CMO_OK;
}

/* ------------------------------------------------------------------ who is alive */

/* Does this rank still count on another? */
static bool is_alive(const cmo_agreement *a, int r)
{
    const cmo_comm *c = a->comm;
    return r == c->rank || !(c->engine->dead[c->world[r]] || c->left[r] || a->mute[r] || a->ended[r]);
}

/* Look who is alive and who has ended for certain. False: of somebody it is still being found out. */
static bool look_around(cmo_agreement *a)
{
    cmo_comm *c = a->comm;
    bool known = true;
    cmo_failure_look_left(c);
    for (int r = 0; r < c->size; r++) {
        if (r != c->rank && c->left[r]) a->ended[r] = 1; /* it does nothing more here */
        if (r != c->rank && !a->ended[r] && c->engine->dead[c->world[r]]) {
            const cmo_fate fate = cmo_engine_fate(c->engine, c->world[r]);
            if (fate == CMO_FATE_ENDED) a->ended[r] = 1;
            known &= fate != CMO_FATE_ASKED;
        }
        a->alive[r] = is_alive(a, r);
        a->unreached[r] = r != c->rank && !a->ended[r] && c->engine->dead[c->world[r]];
    }
    return known;
}

/* ------------------------------------------------------------------ telling */

/* The number of the last collective that this rank has called; it may wait for those before it. */
static uint64_t last_called(const cmo_comm *c)
{
    uint64_t number = c->seq;
    CMO_EACH(n, &c->queue) number += !CMO_ENTRY(n, cmo_op, node)->step;
    return number;
}

static void tell(const cmo_agreement *a, int to, int what, uint64_t number, uint64_t ballot, size_t bytes)
{
    cmo_comm *c = a->comm;
    if (to == c->rank || c->engine->dead[c->world[to]]) return;
    cmo_channel *channel = cmo_channel_to(c->engine, c->world[to]);
    if (!channel || channel->gone) return;
    const cmo_header h = {.kind = CMO_AGREE, .comm = c->id, .seq = number, .tag = what, .aux = ballot,
                          .length = bytes, .id = a->entered ? 1 + (uint64_t)a->own.kind : 0,
                          .fingerprint = c->failed ? 0 : 1 + last_called(c)};
    cmo_channel_control(channel, &h, a->scratch, bytes);
    c->engine->moved = true;
}

static size_t with_proposal(const cmo_agreement *a, const cmo_proposal *p)
{
    cmo_proposal_write(a->scratch, p, a->comm->size);
    return cmo_proposal_bytes(a->comm->size);
}

static void tell_decision(const cmo_agreement *a, int to)
{
    tell(a, to, CMO_AGREE_DECIDE, a->decided, 0, with_proposal(a, &a->decision));
}

static void vote_for(cmo_agreement *a, int coordinator)
{
    a->coordinator = coordinator;
    a->since = cmo_engine_now(a->comm->engine);
    const uint64_t promise = ((uint64_t)coordinator + 1) << 32;
    if (promise > a->promised) a->promised = promise;
    cmo_vote v = a->own;
    v.proposal = a->taken;
    cmo_vote_write(a->scratch, &v, a->comm->size);
    tell(a, coordinator, CMO_AGREE_VOTE, a->number, 0, cmo_vote_bytes(a->comm->size, v.accepted));
}

/* ------------------------------------------------------------------ the coordinator */

const char cmo_left_out_text[] = "the other ranks have gone on without this one, which they could not reach, or which "
                                 "had not answered in time";

void cmo_agreement_left_out(cmo_comm *comm)
{
    comm->left_out = true;
    cmo_comm_fail(comm, CMO_EREVOKED, cmo_left_out_text);
}

static void decide(cmo_agreement *a, uint64_t number, const cmo_proposal *p, bool coordinates)
{
    const int size = a->comm->size, rank = a->comm->rank;
    proposal_copy(&a->decision, p, size);
    a->decided = number;
    /* In case that the coordinator dies before it has told them; beyond so many ranks only those that are 1, 2, 4, …
     * further. Who is told by nobody asks the next coordinator. But whom nobody tells that others have gone on in a
     * shrink, and who hears them close, would take itself for the last one. */
    const bool to_all = coordinates || size <= a->comm->engine->tells_all || p->kind == CMO_AGREE_SHRINK;
    for (int r = 0; r < size; r++) {
        const int distance = (r - rank + size) % size;
        if (to_all || !(distance & (distance - 1)) || a->asks[r]) tell_decision(a, r);
    }
    agreement_reset(a);
    a->comm->engine->moved = true;
    if (!p->error && !p->member[rank]) cmo_agreement_left_out(a->comm); /* it may be in another call, and never ask */
}

/* Ask for the votes that are missing: at first those who owe one, and again, with all the others, who may have to say
 * for whom they waited. */
static void call(cmo_agreement *a)
{
    enum { CALLS = 3 };
    cmo_comm *c = a->comm;
    const int64_t waited = cmo_engine_now(c->engine) - a->since;
    if (a->proposing || a->calls == CALLS || waited < a->calls * a->recall) return;
    for (int r = 0; r < c->size; r++) a->missing[r] = a->alive[r] && !a->has_voted[r];
    cmo_set_write(a->scratch, a->missing, c->size);
    const size_t bytes = cmo_set_bytes(c->size);
    for (int r = 0; r < c->size; r++)
        if (a->alive[r] && (a->missing[r] || a->calls)) tell(a, r, CMO_AGREE_CALL, a->number, 0, bytes);
    a->calls++;
}

/* Must what was accepted in this ballot be proposed again, because it may have been decided? Not what this rank itself
 * has proposed and not decided. */
static bool binds(const cmo_agreement *a, uint64_t ballot)
{
    return ballot > a->best_ballot && ballot >> 32 != (uint64_t)a->comm->rank + 1;
}

static bool is_cut(const cmo_agreement *a, int i, int j)
{
    const size_t row = cmo_set_bytes(a->comm->size);
    const uint8_t *of_i = a->cuts + (size_t)i * row, *of_j = a->cuts + (size_t)j * row;
    return (of_i[j / 8] >> j % 8 & 1) || (of_j[i / 8] >> i % 8 & 1);
}

/* Members who do not reach each other, though this rank reaches both, cannot go on together. Leave out who lacks the
 * most others, of equals the one with the highest number, until all reach all. */
static void leave_out(const cmo_agreement *a, cmo_proposal *p)
{
    const int size = a->comm->size;
    int *lacks = a->cuts ? calloc((size_t)size, sizeof *lacks) : NULL;
    if (!lacks) return; /* without memory they find out in their first call, and shrink again */
    for (int i = 0; i < size; i++)
        for (int j = 0; j < size; j++) lacks[i] += p->member[i] && p->member[j] && is_cut(a, i, j);
    for (;;) {
        int worst = 0;
        for (int i = 1; i < size; i++)
            if (lacks[i] >= lacks[worst]) worst = i;
        if (!lacks[worst]) break;
        p->member[worst] = 0;
        p->offset[worst] = 0;
        lacks[worst] = 0;
        for (int j = 0; j < size; j++) lacks[j] -= p->member[j] && is_cut(a, worst, j);
    }
    free(lacks);
}

static void propose(cmo_agreement *a)
{
    const int size = a->comm->size;
    cmo_proposal *p = &a->proposal;
    a->inherited = a->best_ballot != 0;
    if (a->inherited) {
        proposal_copy(p, &a->best, size);
    } else {
        p->kind = a->own.kind;
        p->error = CMO_OK;
        p->flag = UINT64_MAX;
        for (int r = 0; r < size; r++) {
            const cmo_vote *v = &a->votes[r];
            p->member[r] = a->alive[r];
            p->offset[r] = a->alive[r] ? v->offset : 0;
            if (!a->alive[r]) continue;
            p->flag &= v->flag;
            if (v->error && !p->error) p->error = v->error;
            if (v->kind != a->own.kind) p->error = CMO_EMISMATCH;
        }
        if (p->kind == CMO_AGREE_SHRINK) leave_out(a, p);
    }
    a->ballot = ((uint64_t)a->comm->rank + 1) << 32 | ++a->round;
    a->proposing = true;
    a->proposed_at = cmo_engine_now(a->comm->engine);
    memset(a->has_accepted, 0, (size_t)size);
    const size_t bytes = with_proposal(a, p);
    for (int r = 0; r < size; r++)
        if (a->alive[r]) tell(a, r, CMO_AGREE_PROPOSE, a->number, a->ballot, bytes);
    a->has_accepted[a->comm->rank] = 1;
    a->promised = a->own.accepted = a->ballot;
    proposal_copy(&a->taken, p, size);
}

static void refuse(cmo_agreement *a)
{
    for (int r = 0; r < a->comm->size; r++)
        if (a->alive[r]) tell(a, r, CMO_AGREE_REFUSE, a->number, 0, 0);
    a->refused = true;
}

/* Of those alive, does everybody have it? Who keeps the others waiting longer than `until` is left behind. */
static bool all_have(cmo_agreement *a, const uint8_t *has, int64_t since)
{
    const bool waits = a->patience == CMO_NEVER || cmo_engine_now(a->comm->engine) - since < a->patience;
    bool all = true;
    for (int r = 0; r < a->comm->size; r++) {
        if (!a->alive[r] || has[r]) continue;
        if (!waits) a->mute[r] = CMO_SILENT;
        all = false;
    }
    return all;
}

static void coordinate(cmo_agreement *a, bool known)
{
    const cmo_comm *c = a->comm;
    if (!a->leads) a->since = cmo_engine_now(c->engine);
    a->leads = true;
    a->votes[c->rank] = a->own;
    a->has_voted[c->rank] = 1;
    if (binds(a, a->own.accepted)) {
        a->best_ballot = a->own.accepted;
        proposal_copy(&a->best, &a->taken, c->size);
    }
    /* It promises nothing to itself before it proposes: until then it may accept what a lower rank does, and what it
     * has accepted counts here. */
    call(a);
    /* Whom it was proposed to, and who has died before accepting, is to be no member */
    for (int r = 0; r < c->size && a->proposing && !a->inherited; r++)
        if (a->proposal.member[r] && !a->alive[r] && !a->has_accepted[r]) a->proposing = false;
    if (a->proposing ? !all_have(a, a->has_accepted, a->proposed_at) : !all_have(a, a->has_voted, a->since)) return;
    if (!known) return;
    if (!cmo_may_decide(c->size, a->alive, a->ended)) refuse(a);
    else if (!a->proposing) propose(a);
    else decide(a, a->number, &a->proposal, true);
}

void cmo_agreement_pass(cmo_agreement *a)
{
    const int64_t now = cmo_engine_now(a->comm->engine);
    for (;;) {
        const bool known = look_around(a);
        int lead = 0;
        while (!a->alive[lead]) lead++; /* this rank itself is */
        if (lead == a->comm->rank) {
            coordinate(a, known);
            return;
        }
        if (a->coordinator != lead) vote_for(a, lead);
        /* Half as long again as a coordinator waits for votes; of what is left then, as much for the next one */
        if (a->patience == CMO_NEVER || now - a->since < a->patience + a->patience / 2) return;
        a->mute[lead] = CMO_SILENT;
        a->patience /= 4;
    }
}

/* ------------------------------------------------------------------ hearing */

cmo_err cmo_agree_check(const cmo_header *h, int ranks)
{
    const bool bare = h->tag == CMO_AGREE_ACCEPT || h->tag == CMO_AGREE_REFUSE || h->tag == CMO_AGREE_ASK ||
                      h->tag == CMO_AGREE_STAND;
    if (h->tag < 0 || h->tag >= CMO_AGREE_WHATS || !h->seq || bare == (h->length > 0) ||
        h->length > cmo_vote_bytes(ranks, true))
        return cmo_fail(CMO_EPROTO, "an agreement in %llu bytes of kind %lld", (unsigned long long)h->length,
                        (long long)h->tag);
    return CMO_OK;
}

static void heard_stand(cmo_agreement *a, int from, const cmo_header *h)
{
    if (h->id <= CMO_AGREE_KINDS) a->stands[from] = (cmo_stand){.kind = (uint8_t)h->id, .called = h->fingerprint};
}

/* Could this rank's collective wait for one that is, as far as is known, in this agreement instead? */
static bool stands_apart(const cmo_agreement *a, int r)
{
    const cmo_comm *c = a->comm;
    const cmo_stand *theirs = &a->stands[r];
    return !c->failed && !a->tried && theirs->kind && theirs->called && theirs->called <= c->seq;
}

void cmo_agree_compare(cmo_comm *c)
{
    const cmo_agreement *a = c->agreement;
    for (int r = 0; a && r < c->size; r++)
        if (stands_apart(a, r)) tell(a, r, CMO_AGREE_ASK, a->number, 0, 0); /* its time may have been up since */
}

/* The answer. What is in progress here is a collective that `from` has not made before it came to the agreement. */
static void heard_answer(cmo_agreement *a, int from, const cmo_header *h)
{
    cmo_comm *c = a->comm;
    char text[CMO_TEXT], call[256];
    heard_stand(a, from, h);
    const bool in_call = !cmo_list_empty(&c->queue) && CMO_ENTRY(c->queue.next, cmo_op, node)->step;
    if (!in_call || !stands_apart(a, from)) return;
    cmo_describe_call(call, sizeof call, &c->recent[c->seq % CMO_RECENT]);
    snprintf(text, sizeof text, "rank %d is in %s after its collective number %llu of this communicator, and rank %d "
             "in number %llu, %.250s", from, a->stands[from].kind == 1 + CMO_AGREE_SHRINK ? "shrink" : "agree",
             (unsigned long long)a->stands[from].called - 1, c->rank, (unsigned long long)c->seq, call);
    cmo_comm_fail(c, CMO_EORDER, text);
}

static void heard_call(cmo_agreement *a, int from, const cmo_header *h, const uint8_t *payload)
{
    a->asks[from] = 1;
    heard_stand(a, from, h);
    if (!a->entered || a->coordinator != from || cmo_set_parse(a->missing, payload, h->length, a->comm->size)) return;
    if (a->missing[a->comm->rank]) vote_for(a, from); /* it had not come so far when the first one came */
}

/* Note whom a voter does not reach. Without memory for that it counts as reaching all. */
static void note_cuts(cmo_agreement *a, int from, const uint8_t *unreached)
{
    const int size = a->comm->size;
    const size_t row = cmo_set_bytes(size);
    bool any = false;
    for (int r = 0; r < size; r++) any |= unreached[r];
    if (any && !a->cuts) a->cuts = calloc((size_t)size, row);
    if (a->cuts) cmo_set_write(a->cuts + (size_t)from * row, unreached, size);
}

static void heard_vote(cmo_agreement *a, int from, const cmo_header *h, const uint8_t *payload)
{
    cmo_vote *v = &a->heard;
    const int size = a->comm->size;
    if (cmo_vote_parse(v, payload, h->length, size)) return;
    for (int r = 0; r < size; r++)
        if (v->ended[r] && r != a->comm->rank) a->ended[r] = 1;
    a->votes[from] = *v;
    a->has_voted[from] = 1;
    note_cuts(a, from, v->unreached);
    heard_stand(a, from, h);
    if (binds(a, v->accepted)) {
        a->best_ballot = v->accepted;
        proposal_copy(&a->best, &v->proposal, size);
    }
}

static void heard_proposal(cmo_agreement *a, int from, const cmo_header *h, const uint8_t *payload)
{
    cmo_proposal *p = &a->heard.proposal;
    /* Only whom this rank has voted for has a reason to propose anything */
    if (a->coordinator < 0 || h->aux < a->promised || h->aux >> 32 != (uint64_t)from + 1 ||
        cmo_proposal_parse(p, payload, h->length, a->comm->size))
        return;
    a->promised = a->own.accepted = h->aux;
    proposal_copy(&a->taken, p, a->comm->size);
    tell(a, from, CMO_AGREE_ACCEPT, a->number, h->aux, 0);
}

/* Of an agreement that is decided here. */
static void heard_late(const cmo_agreement *a, int from, const cmo_header *h)
{
    if (h->tag == CMO_AGREE_DECIDE || h->tag == CMO_AGREE_ACCEPT || h->tag == CMO_AGREE_REFUSE ||
        h->tag == CMO_AGREE_STAND)
        return;
    tell_decision(a, from); /* if it is a later one, the sender learns that the others have gone on */
}

void cmo_agree_heard(cmo_channel *channel, const cmo_header *h, const uint8_t *payload)
{
    cmo_comm *c = cmo_engine_find(channel->engine, h->comm);
    const int from = c ? cmo_comm_rank_of(c, channel->peer) : -1;
    cmo_agreement *a;
    if (from < 0 || c->outer || cmo_agreement_of(c, &a) != CMO_OK) return;
    channel->engine->moved = true;
    if (h->seq <= a->decided) {
        heard_late(a, from, h);
        return;
    }
    if (h->tag == CMO_AGREE_DECIDE) {
        if (!cmo_proposal_parse(&a->heard.proposal, payload, h->length, c->size))
            decide(a, h->seq, &a->heard.proposal, false);
        return;
    }
    if (h->seq != a->number) return; /* this rank will ask again when it has come there */
    switch ((int)h->tag) {
    case CMO_AGREE_CALL: heard_call(a, from, h, payload); break;
    case CMO_AGREE_VOTE: heard_vote(a, from, h, payload); break;
    case CMO_AGREE_PROPOSE: heard_proposal(a, from, h, payload); break;
    case CMO_AGREE_ASK: tell(a, from, CMO_AGREE_STAND, a->number, 0, 0); break;
    case CMO_AGREE_STAND: heard_answer(a, from, h); break;
    case CMO_AGREE_ACCEPT:
        if (a->proposing && h->aux == a->ballot) a->has_accepted[from] = 1;
        break;
    default: /* REFUSE */
        if (from == a->coordinator) a->mute[from] = CMO_REFUSES;
    }
}
