/* The fast path: a blocking call, made while nothing else is in progress here, is tried in a tight loop of its own
 * steps, in which nothing is looked at but what its transfers go over. Passes over the engine cost a small call more
 * than all the rest. When it does not end here soon, and where anything is out of the ordinary, it goes on in the
 * passes, from where it stands.
 *
 * What is done with the call is what op_steps of engine.c does, but for what cannot be here: a broken communicator. A
 * change to one belongs in the other. */
#include "base/clock.h"
#include "comm/internal.h"

#include <sched.h>

/* Looks at which nothing has moved before a call leaves the fast path, and those at which something has after which it
 * does in any case: other threads, messages and news of failures wait meanwhile. With more ranks than cores each look
 * gives the core away (YIELDS of them): the peers get on meanwhile, so that fewer looks tell as much, and each costs a
 * turn of theirs. */
enum { LOOKS = 256, YIELDS = 32, ADVANCES = 64 };

/* The same for a brief try, whose caller holds a lock: a microsecond or two. */
enum { BRIEF_LOOKS = 64, BRIEF_YIELDS = 2, BRIEF_ADVANCES = 4 };

enum { LOOKS_PER_QUESTION = 32 }; /* … whether a peer stands on this core, where one must give way as well */

enum { CHANNELS = 8 }; /* more than these would be looked at through the passes' epoll at less cost */

typedef struct channels {
    cmo_channel *at[CHANNELS];
    int n;
} channels;

/* Only while nothing else is in progress here, and nobody has broken the communicator. */
static bool may_run_fast(cmo_engine *e, cmo_comm *c)
{
    const cmo_comm *p = cmo_comm_with_pieces(c);
    return e->running == 1 && !c->failed && !c->doomed && !e->threadless &&
           !atomic_load_explicit(&e->nsubmitted, memory_order_relaxed) &&
           !(p->piece && atomic_load_explicit(&p->piece[p->local]->abort, memory_order_relaxed));
}

/* False: there is none, or no room. */
static bool channels_add(channels *list, cmo_channel *channel)
{
    if (!channel || !(channel->link->up || channel->link->readable)) return false;
    for (int i = 0; i < list->n; i++)
        if (list->at[i] == channel) return true;
    if (list->n == CHANNELS) return false;
    list->at[list->n++] = channel;
    return true;
}

/* What the call's transfers go over. False: not all of that is connected, or it is too much. */
static bool channels_of(cmo_engine *e, cmo_op *op, channels *list)
{
    list->n = 0;
    if (op->point && cmo_point_transfer(op)->peer < 0) {
        CMO_EACH(n, &e->channels)
            if (!channels_add(list, CMO_ENTRY(n, cmo_channel, node))) return false;
        return list->n > 0;
    }
    for (; op; op = op->child)
        CMO_EACH(n, &op->xfers) {
            const cmo_xfer *x = CMO_ENTRY(n, cmo_xfer, of_op);
            if (x->peer < 0 || !channels_add(list, e->channel[op->comm->world[x->peer]])) return false;
        }
    return true;
}

/* Send what the call has to send, and read what has come for it. An empty read costs twice what a look through epoll
 * does (0.3 µs), but finds bytes 1.5 µs earlier. */
static bool channels_move(cmo_engine *e, const channels *list, bool reads)
{
    bool moved = false;
    for (int i = 0; i < list->n; i++) {
        cmo_link *link = list->at[i]->link;
        if (reads && link->net == e->remote) link->readable = true;
        moved |= cmo_channel_pump(list->at[i]);
    }
    return moved;
}

void cmo_flush_control(cmo_engine *e)
{
    CMO_EACH(n, &e->channels) {
        cmo_channel *channel = CMO_ENTRY(n, cmo_channel, node);
        if (!cmo_list_empty(&channel->control)) cmo_channel_pump(channel);
    }
    e->has_control = false;
}

void cmo_run_fast(cmo_engine *e, cmo_op *op, bool brief)
{
    cmo_comm *c = op->comm;
    cmo_err err = CMO_OK;
    const bool crowded = e->waiter.crowded;
    const int looks = brief ? (crowded ? BRIEF_YIELDS : BRIEF_LOOKS) : crowded ? YIELDS : LOOKS;
    const int most = brief ? BRIEF_ADVANCES : ADVANCES;
    if (op->err || !may_run_fast(e, c)) return;
    /* Where one small call follows the other, nobody else makes passes: the progress thread keeps out of their way. */
    if (op->way == CMO_WAY_OPEN) op->way = cmo_engine_look_due(e) ? CMO_WAY_PASSES : CMO_WAY_FAST;
    if (op->way == CMO_WAY_PASSES) return;
    if (!op->step) {
        cmo_call call = op->call;
        err = e->collectives->start(op, c, &call);
        if (op->recorded) cmo_record_started(e, op);
    }
    unsigned last = op->advanced;
    for (int n = 0, advances = 0; err == CMO_OK && n < looks && advances < most && !c->failed; n++) {
        channels list;
        bool moved = false;
        op->brief = brief;
        err = op->step(op);
        op->brief = false;
        if (err == CMO_OK && !op->err) {
            if (e->has_control) cmo_flush_control(e);
            cmo_op_end(e, op, CMO_OK, NULL);
            return;
        }
        if (err != CMO_AGAIN || op->err || atomic_load_explicit(&e->nwanting, memory_order_relaxed)) break;
        err = CMO_OK;
        if (!cmo_list_empty(&op->xfers) || op->child) {
            if (!channels_of(e, op, &list)) break;
            moved = channels_move(e, &list, n > 0);
        }
        if (op->advanced != last || moved) {
            n = 0;
            advances++;
            last = op->advanced;
        } else if (crowded || (n % LOOKS_PER_QUESTION == LOOKS_PER_QUESTION - 1 && cmo_engine_shares_core(e))) {
            if (!brief) sched_yield();
        } else {
            cmo_relax();
        }
    }
    if (err != CMO_OK && err != CMO_AGAIN && !op->err) cmo_op_fail(op, err, cmo_reason());
}
