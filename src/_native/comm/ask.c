/* Who waits too long asks.
 *
 * Ranks that have made different calls may all wait for each other, so that nothing moves which could show it. So a
 * rank whose collective has not moved for a while says which call it is in, as (number, fingerprint): in an ASK frame
 * to each rank that one of its transfers waits for, and in its piece to all ranks of its host. Who hears of a call that
 * it has made compares it with its own; of one that it has yet to make, when it makes it (comm/match.c). Nobody
 * answers.
 *
 *      gather of 3 ranks      rank 0, to root 0      waits for the blocks of 1 and 2; asks both
 *                             rank 1, to root 1      has the block of 2, waits for that of 0; asks 0
 *                             rank 2, to root 1      has sent its block to 1 and is done; no message will come to it
 *
 * It is enough to tell those that one waits for. Let rank i wait in its call number n(i), and let nobody have noticed
 * anything. Go from i to a rank j that it waits for, from there to one that j waits for, and so on.
 *
 * - If n(j) ≥ n(i), then j has made a call number n(i), has heard of i's, and they are the same call. So n(j) = n(i):
 *   had j gone on, it would have done its part, and i would not wait for it.
 * - So the numbers never rise on the way, and it does not lead back to where it began, unless all the ranks on it are
 *   in the same call; but an algorithm does not wait in a circle.
 * - Hence the way ends, in a rank that waits for nobody: that one is late, or at work, and not in a wrong call.
 *
 * A fingerprint is of a call and all before it, so one comparison is enough. No time passes for a decision, only for
 * asking: however late a rank comes, it is no mismatch.
 *
 * A rank that asks for an agreement instead of making our call is in no call to compare, and says itself after which
 * one it is (comm/agreement.c).
 *
 * A message between two ranks may be waited for in vain too: from or to a rank that has closed the communicator, and
 * had no connection by which to say so. It is asked in an ASK frame of space POINT, which has no call to compare. Who
 * has closed answers with BYE; who closes later says BYE over the connection that there is now, and who dies ends it.
 * Everybody else answers what it does, in a DOING frame. For a message from anybody, everybody is asked.
 *
 * That is done once, and again shortly before the deadline, so that the error can tell what who is waited for does. A
 * rank in an agreement asks for this only. */
#include "comm/agree.h"
#include "comm/internal.h"

#include <stdio.h>

static const int64_t patience = CMO_SECOND / 4; /* how long a call stands still before it is asked about */
static const int64_t prompt = CMO_SECOND / 20;  /* who has not answered for so long does not */

/* A number that changes when the call gets on. */
static uint64_t progress_of(const cmo_op *op)
{
    uint64_t h = 0;
    for (; op; op = op->child) {
        h = h * 31 + op->advanced;
        CMO_EACH(n, &op->xfers) {
            const cmo_xfer *x = CMO_ENTRY(n, cmo_xfer, of_op);
            h = h * 31 + x->done + x->framed + (uint64_t)x->state;
        }
    }
    return h;
}

/* Each peer once, however many transfers wait for it. */
static void ask_peers(const cmo_comm *c, const cmo_op *op)
{
    cmo_engine *e = c->engine;
    const cmo_header h = {.kind = CMO_ASK, .space = CMO_COLLECTIVE, .comm = c->id, .seq = c->seq,
                          .tag = CMO_ASK_TAG, .fingerprint = c->chain};
    e->asks++;
    for (; op; op = op->child)
        CMO_EACH(n, &op->xfers) {
            const cmo_xfer *x = CMO_ENTRY(n, cmo_xfer, of_op);
            cmo_channel *channel = x->peer < 0 ? NULL : cmo_channel_to(e, op->comm->world[x->peer]);
            if (!channel || channel->gone || channel->asked == e->asks) continue;
            channel->asked = e->asks;
            cmo_channel_control(channel, &h, NULL, 0);
            e->moved = true;
        }
}

static void ask_in_point(const cmo_comm *c, int rank)
{
    /* Whose memory we share shows there what it does, and says that it has closed */
    if (rank == c->rank || c->host[rank] == c->host[c->rank] || c->lost[rank] || c->left[rank]) return;
    cmo_channel *channel = cmo_channel_to(c->engine, c->world[rank]);
    if (!channel || channel->gone) return;
    cmo_channel_control(channel, &(cmo_header){.kind = CMO_ASK, .space = CMO_POINT, .comm = c->id, .tag = CMO_ASK_TAG},
                        NULL, 0);
    c->engine->moved = true;
}

/* How long before the time is up who is waited for is asked what it does. Who waits looks every tenth of a second. */
static int64_t lead_of(const cmo_op *op)
{
    const int64_t part = cmo_time_of(op->timeout) / (op->endures ? 4 : 2); /* half of what an agreement may have */
    return part < patience ? part : patience;
}

void cmo_ask_point(cmo_op *op, int64_t now)
{
    const cmo_comm *c = op->comm;
    const int peer = op->endures ? -1 : cmo_point_transfer(op)->peer;
    const bool ends = op->deadline != CMO_NEVER;
    const int64_t last = ends ? op->deadline - lead_of(op) : CMO_NEVER;
    if (c->failed && !op->endures) return;
    if (!op->ask_at) { /* an agreement may be given up when half of the time has passed */
        const int64_t first = !op->endures ? now + patience : ends ? last - cmo_time_of(op->timeout) / 2 : CMO_NEVER;
        op->ask_at = first < last ? first : last;
    }
    if (now < op->ask_at) return;
    op->ask_at = now < last ? last : CMO_NEVER;
    op->asked_at = now;
    for (int r = 0; r < c->size; r++)
        if (peer < 0 || peer == r) ask_in_point(c, r);
}

void cmo_ask_answer(const cmo_op *op, int rank, char *out, size_t n)
{
    cmo_engine *e = op->engine;
    const cmo_comm *c = op->comm;
    const cmo_channel *channel = e->channel[c->world[rank]];
    out[0] = 0;
    if (c->left[rank]) snprintf(out, n, "has closed the communicator");
    if (c->left[rank] || c->lost[rank]) return;
    cmo_describe_missing(e, c->world[rank], out, n);
    const bool asked = op->asked_at && channel && !channel->gone && c->host[rank] != c->host[c->rank];
    if (out[0] || !asked) return;
    if (channel->doing && channel->answered >= op->asked_at) snprintf(out, n, "%s", channel->doing);
    else if (cmo_engine_now(e) - op->asked_at >= prompt) snprintf(out, n, "does not answer");
}

/* Who asks again before the answer has gone gets it once: it may ask without end, and read nothing. */
void cmo_ask_heard(cmo_channel *channel)
{
    char doing[CMO_DOING_BYTES] = "";
    CMO_EACH(n, &channel->control)
        if (CMO_ENTRY(n, cmo_control, node)->data[0] == CMO_DOING) return;
    cmo_describe_own(channel->engine, doing, sizeof doing);
    cmo_channel_control(channel, &(cmo_header){.kind = CMO_DOING, .length = sizeof doing}, doing, sizeof doing);
    channel->engine->moved = true;
}

/* ------------------------------------------------------------------ in shared memory */

/* Say in our piece what we have called last. Its members are two words, read by others meanwhile: `seq` is 0 while they
 * do not belong together. */
static void stand(cmo_piece *own, uint64_t seq, uint64_t fingerprint)
{
    if (atomic_load_explicit(&own->waits_seq, memory_order_relaxed) == seq) return;
    atomic_store_explicit(&own->waits_seq, 0, memory_order_relaxed);
    atomic_thread_fence(memory_order_release); /* who sees the new fingerprint sees the 0, or what comes after it */
    atomic_store_explicit(&own->waits_fingerprint, fingerprint, memory_order_relaxed);
    atomic_store_explicit(&own->waits_seq, seq, memory_order_release);
}

/* In which call does this member wait, or did it when it last waited long? */
static bool stands(const cmo_piece *piece, uint64_t *seq, uint64_t *fingerprint)
{
    *seq = atomic_load_explicit(&piece->waits_seq, memory_order_acquire);
    *fingerprint = atomic_load_explicit(&piece->waits_fingerprint, memory_order_relaxed);
    atomic_thread_fence(memory_order_acquire); /* the fingerprint, then the number again */
    return *seq && atomic_load_explicit(&piece->waits_seq, memory_order_relaxed) == *seq;
}

/* Has member i announced another call in place of this one? Until we have finished ours, its announcement stays. */
static bool announced_another(const cmo_op *op, int i)
{
    const cmo_comm *c = op->comm;
    if (!c->piece) return false;
    const uint64_t slot = op->seq % CMO_ANNOUNCEMENTS;
    const cmo_announcement *own = &c->piece[c->local]->announcement[slot], *theirs = &c->piece[i]->announcement[slot];
    if (atomic_load_explicit(&own->seq, memory_order_relaxed) != op->seq) return false; /* ours is not there yet */
    return atomic_load_explicit(&theirs->seq, memory_order_acquire) == op->seq &&
           theirs->fingerprint != op->fingerprint;
}

bool cmo_ask_compare(cmo_comm *c, int i)
{
    const cmo_comm *p = cmo_comm_with_pieces(c);
    uint64_t seq, fingerprint;
    if (!stands(p->piece[i], &seq, &fingerprint)) return false;
    return cmo_failure_compare(c, cmo_comm_rank_of(c, p->world[p->locals[i]]), seq, fingerprint);
}

/* Compare ourselves with the ranks of our host. */
static void look_around(cmo_comm *c, const cmo_op *op)
{
    cmo_comm *p = cmo_comm_with_pieces(c);
    if (!p->piece) return;
    stand(p->piece[p->local], c->seq, c->chain);
    for (int i = 0; i < p->nlocal && !c->failed; i++) {
        if (i == p->local || cmo_ask_compare(c, i)) continue;
        for (const cmo_op *o = op; o && !c->failed; o = o->child)
            if (announced_another(o, i))
                cmo_failure_differs(c, cmo_comm_rank_of(c, p->world[p->locals[i]]), c->seq);
    }
}

/* Calls that wait for nobody, a broadcast on its root say, end well whatever the others have called; who makes another
 * call afterwards hears of it there. This is for who makes none: whoever closes says what it has called last, in its
 * piece and with BYE (comm.c), and compares it with what is there. So of two that differ the later one hears of it. */
void cmo_ask_last(cmo_comm *c)
{
    cmo_comm *p = cmo_comm_with_pieces(c);
    if (!p->piece) return;
    stand(p->piece[p->local], c->seq, c->chain);
    atomic_thread_fence(memory_order_seq_cst); /* of two who come here at once, one sees the other's words */
    for (int i = 0; i < p->nlocal && !c->failed; i++)
        if (i != p->local) cmo_ask_compare(c, i);
}

/* ------------------------------------------------------------------ when */

void cmo_ask_look(cmo_comm *c, int64_t now)
{
    const cmo_op *op = CMO_ENTRY(c->queue.next, cmo_op, node);
    if (c->failed || !op->step) return;
    if (c->watched.seq == c->seq && now < c->watched.at) return;
    uint64_t progress = progress_of(op);
    if (c->watched.seq != c->seq || c->watched.progress != progress) {
        c->watched.seq = c->seq;
        c->watched.progress = progress;
        c->watched.patience = patience;
    } else {
        cmo_agree_compare(c);
        look_around(c, op);
        if (!c->failed) ask_peers(c, op);
        c->watched.patience *= 2; /* what was said stands; again, for peers that have come to be waited for since */
    }
    c->watched.at = now + c->watched.patience;
}
