/* The calls that enter an agreement, and what becomes of them. */
#include "comm/agreement.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct agree_call { /* in the op's state */
    uint8_t kind, error;
    bool leaves;         /* behind who does not answer */
    bool whole;          /* when it has ended well: all members took part */
    uint64_t flag, offset;
} agree_call;

static agree_call *call_of(cmo_op *op) { return (agree_call *)(void *)op->inline_state; }

static const char *name_of(const cmo_op *op)
{
    return ((const agree_call *)(const void *)op->inline_state)->kind == CMO_AGREE_SHRINK ? "shrink" : "agree";
}

/* Take part in the agreement that comes for this op's caller. */
static void cast(cmo_op *op)
{
    cmo_agreement *a = op->comm->agreement;
    const agree_call *call = call_of(op);
    op->seq = a->seen + 1;
    a->own.kind = call->kind;
    a->own.error = call->error;
    a->own.flag = call->flag;
    a->own.offset = call->offset;
    a->patience = CMO_NEVER;
    const int64_t time = cmo_time_of(op->timeout);
    a->recall = time / 4;
    if (call->leaves && time != CMO_NEVER) a->patience = time / 2;
    a->refused = a->leads = a->proposing = false;
    a->tried = true;
    a->coordinator = -1; /* a vote that was sent before a time-out is sent again */
    for (int r = 0; r < op->comm->size; r++) a->mute[r] = 0; /* there is time for them again */
}

void cmo_agree_release(cmo_comm *c)
{
    cmo_agreement *a = c->agreement;
    if (a && a->reserved) cmo_window_free(c->engine->window, a->reserved, cmo_comm_piece_bytes(c->engine));
    if (a) a->reserved = 0;
}

/* What has come of the agreement that this op is in; CMO_AGAIN: nothing for this call, but the next one may be. */
static cmo_err outcome(cmo_op *op)
{
    cmo_agreement *a = op->comm->agreement;
    const cmo_proposal *p = &a->decision;
    a->seen = a->decided;
    if (a->decided > op->seq && p->error) return CMO_AGAIN; /* nobody has gone on by that */
    if (a->decided == op->seq && !p->error && p->member[op->comm->rank]) {
        if (p->kind != call_of(op)->kind) return CMO_AGAIN; /* it was called for before this rank's time was up */
        call_of(op)->flag = p->flag;
        call_of(op)->whole = true;
        for (int r = 0; r < op->comm->size; r++) call_of(op)->whole &= p->member[r];
        return CMO_OK;
    }
    if (a->decided == op->seq) cmo_agree_release(op->comm); /* else somebody may look there */
    if (!p->error) cmo_agreement_left_out(a->comm);
    if (op->comm->left_out) return cmo_fail(CMO_EREVOKED, "%s", cmo_left_out_text);
    if (p->error == CMO_EMISMATCH) return cmo_fail(CMO_EMISMATCH, "some ranks have called agree and others shrink");
    return cmo_fail((cmo_err)p->error, "a rank cannot reserve shared memory for the new communicator");
}

/* Has it been left out, though it may be alive? */
static bool is_left_out(const cmo_agreement *a, int r)
{
    return a->mute[r] != CMO_REFUSES && !a->alive[r] && !a->ended[r];
}

/* Whose vote is waited for. */
static bool is_awaited(const cmo_agreement *a, int r)
{
    const uint8_t *has = a->proposing ? a->has_accepted : a->has_voted;
    return a->leads ? a->alive[r] && !has[r] : a->missing[r];
}

static void list(const cmo_agreement *a, bool (*which)(const cmo_agreement *, int), char *out, size_t n)
{
    size_t at = 0;
    out[0] = 0;
    for (int r = 0; r < a->comm->size && at + 16 < n; r++)
        if (which(a, r)) at += (size_t)snprintf(out + at, n - at, "%s%d", at ? ", " : "", r);
}

/* What the first of them do. */
static void list_doing(const cmo_op *op, bool (*which)(const cmo_agreement *, int), char *out, size_t n)
{
    enum { MOST = 4 };
    const cmo_agreement *a = op->comm->agreement;
    size_t at = 0;
    out[0] = 0;
    for (int r = 0, told = 0; r < op->comm->size && told < MOST && at < n; r++) {
        char doing[300] = "";
        if (which(a, r)) cmo_ask_answer(op, r, doing, sizeof doing);
        if (!doing[0]) continue;
        at += (size_t)snprintf(out + at, n - at, "; rank %d %s", r, doing);
        told++;
    }
}

/* This side may not decide: without ranks that it cannot reach, or without some that live and have not called. */
static cmo_err refusal(cmo_op *op)
{
    const cmo_agreement *a = op->comm->agreement;
    cmo_comm *c = a->comm;
    char ranks[CMO_TEXT / 4], doing[CMO_TEXT / 2];
    const char *cause = NULL;
    int left = 0;
    bool reaches = true;
    for (int r = 0; r < c->size; r++) {
        left += a->alive[r] || a->mute[r] == CMO_REFUSES;
        if (!is_left_out(a, r)) continue;
        reaches &= !c->engine->dead[c->world[r]];
        if (!cause) cause = c->engine->cause[c->world[r]];
    }
    list(a, is_left_out, ranks, sizeof ranks);
    list_doing(op, is_left_out, doing, sizeof doing);
    if (reaches)
        return cmo_fail(CMO_ETIMEOUT,
                        "%s: no agreement within %g s, half of the time allowed; missing: %s, without which %d of %d "
                        "ranks may not go on%s", name_of(op), op->timeout / 2, ranks, left, c->size, doing);
    for (int r = 0; r < c->size; r++)
        if (!a->alive[r] && a->mute[r] != CMO_REFUSES) c->lost[r] = 1;
    return cmo_fail(CMO_EPEERLOST,
                    "of %d ranks those that are left here, %d, may not go on: ranks %s cannot be reached (%.100s), and "
                    "may do so elsewhere", c->size, left, ranks, cause ? cause : "no answer");
}

static cmo_err agree_step(cmo_op *op)
{
    cmo_agreement *a = op->comm->agreement;
    for (;;) {
        if (a->decided < op->seq) cmo_agreement_pass(a);
        if (a->decided < op->seq) return a->refused ? refusal(op) : CMO_AGAIN;
        cmo_err err = outcome(op);
        if (err != CMO_AGAIN) return err;
        cast(op);
    }
}

void cmo_agree_describe(const cmo_op *op, char *out, size_t n)
{
    const cmo_agreement *a = op->comm->agreement;
    char ranks[CMO_TEXT / 4], doing[CMO_TEXT / 2];
    list(a, is_awaited, ranks, sizeof ranks);
    list_doing(op, is_awaited, doing, sizeof doing);
    if (!ranks[0]) snprintf(ranks, sizeof ranks, "%d, which has to collect the votes", a->coordinator);
    snprintf(out, n, "%s: no agreement within %g s; missing: %s%s", name_of(op), op->timeout, ranks, doing);
}

static cmo_err enter(cmo_op *op, cmo_comm *c, cmo_agree_kind kind, uint64_t flag, double timeout, bool leaves)
{
    cmo_engine *e = c->engine;
    cmo_agreement *a;
    cmo_engine_enter(e);
    cmo_err err = c->closed ? cmo_fail(CMO_EREVOKED, "the communicator is closed") : cmo_agreement_of(c, &a);
    if (!err && c->left_out) err = cmo_fail(CMO_EREVOKED, "%s", cmo_left_out_text);
    if (!err && a->entered) err = cmo_fail(CMO_EINVAL, "another thread of this rank is in agree or shrink");
    if (!err) {
        cmo_member own = {.piece_offset = 0};
        /* A piece that was reserved before a time-out may have been told of already */
        if (kind == CMO_AGREE_SHRINK && !a->reserved) {
            cmo_comm_offer(c, 0, c->rank, &own);
            a->reserved = own.piece_offset;
        }
        cmo_point_prepare(op, c, timeout, true);
        op->step = agree_step;
        op->pc = 1; /* it posts no transfer */
        op->endures = true;
        op->apart = false;
        op->known_as = kind == CMO_AGREE_SHRINK ? CMO_FLIGHT_SHRINK : CMO_FLIGHT_AGREE;
        *call_of(op) = (agree_call){.kind = (uint8_t)kind, .error = (uint8_t)own.error, .leaves = leaves, .flag = flag,
                                    .offset = a->reserved};
        a->entered = true;
        cast(op);
    }
    cmo_engine_leave(e);
    if (!err) cmo_op_launch(op);
    return err;
}

cmo_err cmo_agree_start(cmo_op *op, cmo_comm *c, uint64_t flag, bool leaves, double timeout)
{
    return enter(op, c, CMO_AGREE_FLAG, flag, timeout, leaves);
}

cmo_err cmo_shrink_start(cmo_op *op, cmo_comm *c, double timeout)
{
    return enter(op, c, CMO_AGREE_SHRINK, UINT64_MAX, timeout, true);
}

void cmo_agree_ended(cmo_op *op)
{
    op->comm->agreement->entered = false;
}

void cmo_agree_cancel(cmo_op *op)
{
    cmo_engine *e = op->engine;
    cmo_engine_enter(e);
    cmo_engine_take_submitted(e);
    if (!cmo_op_ended(op)) cmo_op_end(e, op, CMO_EINTERRUPT, "interrupted");
    cmo_engine_leave(e);
}

uint64_t cmo_agree_flag(const cmo_op *op) { return ((const agree_call *)(const void *)op->inline_state)->flag; }
bool cmo_agree_whole(const cmo_op *op) { return ((const agree_call *)(const void *)op->inline_state)->whole; }

cmo_err cmo_agree_build(cmo_comm *c, cmo_comm **out)
{
    cmo_agreement *a = c->agreement;
    if (c->closed) return cmo_fail(CMO_EREVOKED, "the communicator is closed");
    cmo_member *members = calloc((size_t)c->size, sizeof *members);
    if (!members) return cmo_fail(CMO_ENOMEM, "the %d ranks of a communicator", c->size);
    for (int r = 0; r < c->size; r++)
        members[r] = (cmo_member){.color = a->decision.member[r] ? 0 : -1, .key = r,
                                  .piece_offset = a->decision.offset[r]};
    cmo_err err = cmo_comm_build_agreed(c, members, a->decided, out);
    a->reserved = 0; /* the new communicator's, or given back */
    free(members);
    return err;
}
