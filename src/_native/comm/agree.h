/* Agreement among the members of a communicator that are left, also of one that has failed.
 *
 * Members enter an agreement by a call each, and all who return from it return the same, though more of them die
 * meanwhile, and whatever a partition separates. It is a Paxos of one decision, in which a proposal must be accepted by
 * all who are alive, not by most: so whoever is left knows what may have been decided, however many die.
 *
 *     5 ranks, of which 0 has died; 3 dies meanwhile
 *
 *     rank 1          2          3         4
 *      |<-- VOTE -----|          |         |    each to whom it takes for the lowest rank alive,
 *      |<-- VOTE ----------------|         |    and promises not to accept what a lower one proposes
 *      |<-- VOTE --------------------------|
 *      |--- PROPOSE 1.1: 1 2 3 4 goes on ->|    when all who are alive have voted, if they may decide (ballot.h)
 *      |<-- ACCEPT ---|          X         |
 *      |<-- ACCEPT ------------------------|
 *      |--- PROPOSE 1.2: 1 2 4 goes on --->|    anew, because one has died who had not accepted
 *      |<-- ACCEPT ------------------------|
 *      |--- DECIDE -->|                    |    when all who are alive have accepted
 *
 * Steps: 4 messages in a row where nobody dies; bytes: 10 a rank in each, apart from headers.
 *
 * Why all who decide decide the same:
 * - A ballot has one proposer and one proposal. Ballots of a higher rank are higher; a rank accepts none below what it
 *   has promised or accepted.
 * - Let a proposal p be decided in ballot b: all who were alive, as its proposer saw it, had accepted it, and they were
 *   so many that they might decide. Let b' be the next higher ballot that is proposed. Its proposer has had votes, and
 *   promises to accept nothing lower, of all whom it takes for alive, and they too were so many. If somebody is in
 *   both sets, he accepted p before he voted for b' (after it, he could not), so his vote told of p, and p is proposed
 *   again, since it is the proposal of the highest ballot that votes tell of. If nobody is: then all who accepted p are
 *   dead, or both sides were allowed to decide, which cmo_may_decide excludes.
 * - The same proposer proposes something else in its next ballot only if it has not decided the one before.
 *
 * Whom a rank cannot reach, it takes for gone, and what another says of a third it believes only if that third has
 * ended for certain. So ranks may differ about who is alive; then they vote for different coordinators, of which one
 * gets the votes of all whom it sees. Connections have two ends: who is not reached hears of it at last.
 *
 * Who has decided answers who has not with the decision. In a shrink, who keeps the others waiting for half of the time
 * allowed is left behind. */
#ifndef CMO_AGREE_H
#define CMO_AGREE_H

#include "comm/ballot.h"
#include "comm/engine.h"

/* Enter the next agreement of the communicator, which may have failed. The op is as in cmo_call_start. `leaves`: who
 * keeps the others waiting for half of the time is left behind, as in a shrink. When it has ended well, cmo_agree_flag,
 * cmo_agree_build give what was agreed.
 *
 * It ends with CMO_EMISMATCH where others have entered another kind; CMO_EREVOKED where the others go on without this
 * rank; CMO_EPEERLOST on a side that may not decide; CMO_ENOMEM where a member has no memory for what is to come;
 * CMO_ETIMEOUT, after which it may be entered again: also where those who have come may not decide without others that
 * live, and have not. */
cmo_err cmo_agree_start(cmo_op *op, cmo_comm *comm, uint64_t flag, bool leaves, double timeout);
cmo_err cmo_shrink_start(cmo_op *op, cmo_comm *comm, double timeout);

void cmo_agree_cancel(cmo_op *op);           /* its caller gives up, and may enter again */
uint64_t cmo_agree_flag(const cmo_op *op);   /* what was agreed, of one that has ended well */
bool cmo_agree_whole(const cmo_op *op);      /* whether all members took part in that */

/* The communicator of those who go on, after a shrink. Between cmo_engine_enter and cmo_engine_leave. */
cmo_err cmo_agree_build(cmo_comm *comm, cmo_comm **out);

/* For the rest of the room. */
void cmo_agree_heard(struct cmo_channel *channel, const cmo_header *h, const uint8_t *payload); /* an AGREE frame */
cmo_err cmo_agree_check(const cmo_header *h, int ranks); /* CMO_EPROTO for what none of so many ranks sends */
/* This rank stands in a collective. Does somebody ask for an agreement who has not called it, though the communicator
 * is whole there? Then neither will end. Asks it whether it is still there, and if it says so fails the communicator
 * with CMO_EORDER. Who is in the agreement stays in it, so that all can come to it when their calls have failed. Not
 * said of one that this rank has been in itself. */
void cmo_agree_compare(cmo_comm *comm);
void cmo_agree_ended(cmo_op *op);
void cmo_agree_describe(const cmo_op *op, char *out, size_t n); /* for whom it waited in vain */
void cmo_agree_release(cmo_comm *comm); /* give back what was reserved for a communicator that has not come to be */
void cmo_agree_free(cmo_comm *comm);

#endif
