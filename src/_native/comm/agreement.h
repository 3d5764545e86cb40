/* The state of an agreement, which agreement.c moves on as the members' messages and losses have it, and the calls of
 * agree.c enter. For these two alone; the protocol is told in agree.h. */
#ifndef CMO_AGREEMENT_H
#define CMO_AGREEMENT_H

#include "comm/agree.h"
#include "comm/internal.h"

typedef struct cmo_stand { /* what a rank said of itself when it asked for this agreement */
    uint8_t kind;            /* 1 + cmo_agree_kind; 0: it did not */
    uint64_t called;         /* 1 + the number of its last collective; 0: the communicator has failed there */
} cmo_stand;

enum { CMO_SILENT = 1, CMO_REFUSES }; /* in `mute`: it does not answer; it does, and may not decide */

typedef struct cmo_agreement {
    cmo_comm *comm;
    uint64_t number;         /* of the agreement that comes, or is under way */
    uint64_t seen;           /* of the last whose end this rank's callers have seen */
    bool entered;            /* a call of this rank is in it */
    bool tried;              /* a call of this rank is, or was until its time was up */
    cmo_vote own;
    int64_t patience;        /* for who does not answer; CMO_NEVER: nobody is left behind */
    int64_t recall;          /* between two calls for votes; see call() */
    int coordinator;         /* to whom this rank has sent its vote; -1: nobody */
    int64_t since;           /* when, or when it became the coordinator itself */
    uint64_t reserved;       /* piece for the communicator of those who go on; 0: none */
    uint64_t promised;       /* what is proposed in a lower ballot is not accepted */
    cmo_proposal taken;      /* accepted in ballot own.accepted */
    bool refused;            /* this side may not decide */

    bool leads, proposing;   /* as its coordinator: */
    int64_t proposed_at;
    uint64_t round, ballot;
    bool inherited;          /* it was accepted in an earlier ballot, and may have been decided */
    cmo_proposal proposal;
    cmo_vote *votes;         /* [size] without their sets and proposals */
    uint8_t *cuts;           /* [size][cmo_set_bytes] whom each of them does not reach; NULL: they reach each other */
    uint64_t best_ballot;    /* the highest in which a voter has accepted something … */
    cmo_proposal best;       /* … and what that was */

    uint8_t *has_voted, *has_accepted; /* [size] for this coordinator */
    uint8_t *missing;        /* [size] have not, as the coordinator says */
    int calls;               /* that it has made */
    cmo_stand *stands;       /* [size] */
    uint8_t *asks;           /* [size] has asked for a vote that it did not get: wants the decision */
    uint8_t *mute;           /* [size] left behind: does not answer, or may not decide */
    uint8_t *ended;          /* [size] has ended, as somebody can prove */
    uint8_t *unreached;      /* [size] has not, as far as is known here, and there is no way to it */
    uint8_t *alive;          /* [size] of this pass */

    uint64_t decided;        /* number of the last agreement decided; 0: none */
    cmo_proposal decision;
    uint8_t *scratch;        /* [scratch_bytes] a payload that goes out */
    cmo_vote heard;          /* the one that has just come */
} cmo_agreement;

/* The others have gone on without this rank: fails the communicator here, and says nothing to them. */
void cmo_agreement_left_out(cmo_comm *comm);
extern const char cmo_left_out_text[];

/* That of a communicator, made when it is first asked for. */
cmo_err cmo_agreement_of(cmo_comm *comm, cmo_agreement **out);

/* Look who is alive, and do what the lowest of them, this rank or another, is owed: collect votes and propose, or vote.
 * To be called again when something has moved, until `decided` is the number or `refused` is set. */
void cmo_agreement_pass(cmo_agreement *a);

#endif
