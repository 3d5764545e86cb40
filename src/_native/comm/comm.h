/* A communicator: a group of ranks, numbered from 0, with a context of its own for messages and shared memory. */
#ifndef CMO_COMM_H
#define CMO_COMM_H

#include "comm/op.h"
#include "comm/piece.h"
#include "comm/told.h"

typedef struct cmo_engine cmo_engine;
typedef struct cmo_comm cmo_comm;
struct cmo_agreement;

/* Staging slots that are used in turn, and how many of them the largest round has. */
typedef struct cmo_rotation {
    uint64_t slots, widest;
} cmo_rotation;

enum { CMO_FINGERPRINTS = 64 }; /* kept of the last collectives, to compare messages that come late with */

struct cmo_comm {
    cmo_engine *engine;
    cmo_node node;              /* in the engine's list of communicators */
    cmo_node busy;              /* in the engine's list of those whose queue is not empty */
    uint64_t id;                /* alike on all members; of a child, made from its parent's and its number there */
    uint64_t children;          /* communicators made from this one */
    int rank, size;
    int *world;                 /* [size] world rank of each member; owned */
    int *host;                  /* [size] host of each member, 0 … nhosts-1 by first appearance; owned */
    int nhosts;

    int local, nlocal;          /* this rank's place among the members on its host, and how many they are */
    int *locals;                /* [nlocal] their ranks, ascending; owned */
    cmo_piece **piece;          /* [nlocal] each one's piece; NULL where nlocal is 1 or there is no shared memory;
                                   owned */
    unsigned char **staging;    /* [nlocal] each one's staging slots; owned */
    const cmo_neighbour **neighbour; /* [nlocal] each one's window and doorbell; owned */
    uint64_t slot_bytes;
    cmo_rotation all, some;     /* the staging slots in use; see coll/shm_rounds.h */
    uint64_t around_bytes;      /* results of this size or more go around the caches */
    uint64_t attach_bytes;      /* what makes arrays worth copying once (cmo_shm_offer_copy); UINT64_MAX: nothing */
    uint64_t piece_offset, piece_bytes; /* of our own piece, in our own window */

    uint64_t seq;               /* of the last collective started here */
    uint64_t chain;             /* its fingerprint */
    cmo_recent_call recent[CMO_RECENT]; /* the latest collectives called here, for error messages; at
                                   [seq % CMO_RECENT] */
    uint64_t fingerprints[CMO_FINGERPRINTS]; /* fingerprint of collective seq at [seq % CMO_FINGERPRINTS] */
    uint64_t used;              /* staging slots that past collectives have used, of each member, ever */
    uint64_t turning;           /* the slots through which the collective under way, or the last, goes … */
    uint64_t turning_since;     /* … and those after this use: before it, another number of them */
    uint64_t safe_seq;          /* every member is known to have finished this collective */
    uint64_t safe_slots;        /* every member is known to have consumed this many slots */

    /* Several hosts: the members on this host, and those with the same place as this rank on every host that has one.
     * Both are communicators with ids of their own, used only by collectives of this one. NULL where they make no
     * sense. */
    cmo_comm *local_comm, *cross_comm;
    int least_local;            /* members of the host that has fewest */

    cmo_node queue;             /* collectives not yet ended; the first is the one that is stepped */
    cmo_node posted;            /* receives that have not matched */
    cmo_node unexpected;        /* messages that have not matched, in order of arrival */
    struct {                    /* is the collective getting on? See comm/ask.c */
        uint64_t seq, progress;
        int64_t at, patience;   /* when to look again, and how long after that */
    } watched;
    struct {                    /* members of this host that have closed */
        uint64_t seen, heard;   /* of how many this rank knows; of how many it has taken note */
        int64_t at;             /* when to take note of those seen */
    } parted;

    cmo_err failed;             /* CMO_OK, or why nothing works any more */
    char failed_text[CMO_TEXT];
    bool left_out;              /* the others have gone on without this rank, which tells them nothing more */
    bool explained;             /* a call of this rank has ended with it, and told why */
    bool given_up;              /* CMO_EREVOKED here: the others gave up on us, at a deadline of which the text tells */
    struct {                    /* of a lost rank: whose word failed_text is; all choose the same */
        bool first_hand;        /* of a rank of the lost one's host, which the system has told of its end */
        int author;
        bool given;             /* to a caller: it stays as it is */
    } word;
    uint64_t failed_seq;        /* the collective in which, or before which, it broke for this rank */
    uint8_t *lost;              /* [size] 1: gone; owned */
    uint8_t *left;              /* [size] 1: has closed the communicator; owned */
    cmo_told *told;             /* [size] after a failure: where each rank stood; NULL before; owned */
    bool doomed;                /* others disagree about a collective that is still to come here; `told` says who and
                                   why */
    bool has_told;              /* the others know where this rank stood */
    bool has_called;            /* what this rank wanted to call when the others had disagreed has been said */
    int64_t settle;             /* after a failure: no longer wait for ranks to tell */
    struct cmo_agreement *agreement; /* agree.c; owned; NULL: there has been none */
    bool closed;
    bool retired;               /* closed, and its piece given back */
    _Atomic bool held;          /* its user may still pass it: the struct must stay, to say that it is closed */
    cmo_comm *outer;            /* of a local_comm or cross_comm: the communicator whose part it is; else NULL */
};

static inline bool cmo_comm_shares_memory(const cmo_comm *c) { return c->nhosts == 1 && c->piece; }

/* The part of it whose members share memory with this rank: itself, where all are on this host. Its `piece` is NULL
 * where there is no such memory. */
static inline cmo_comm *cmo_comm_with_pieces(cmo_comm *c) { return c->local_comm ? c->local_comm : c; }

/* ------------------------------------------------------------------ making and ending; between cmo_engine_enter
 * and cmo_engine_leave */

/* What each member contributes to making a child communicator, exchanged by an allgather that the caller makes. */
typedef struct cmo_member {
    int64_t color, key;      /* color < 0: this rank will not be a member of any child */
    uint64_t piece_offset;   /* of the piece reserved for the child in this rank's window; 0: none */
    int64_t error;           /* cmo_err of the reservation */
} cmo_member;

/* Reserve what a child needs here and fill in `own`. */
cmo_err cmo_comm_offer(cmo_comm *parent, int64_t color, int64_t key, cmo_member *own);
/* Build the child from all members' contributions ([parent->size], in rank order). *out is NULL for a color < 0. Frees
 * the reservation on failure. */
cmo_err cmo_comm_build(cmo_comm *parent, const cmo_member *members, cmo_comm **out);
/* No more calls from this rank; those in progress, and those that other threads are about to make, end with
 * CMO_EREVOKED. Peers that still wait for it are told. The struct is freed by the engine, when it is not `held`.
 * CMO_EMISMATCH, all the same closed: this rank has made another call than others, and no call of its own has told. */
cmo_err cmo_comm_close(cmo_comm *comm);

/* Say whether its user may still pass it to calls; so it is not to begin with. Any thread. */
static inline void cmo_comm_hold(cmo_comm *comm, bool held)
{
    atomic_store_explicit(&comm->held, held, memory_order_release);
}

/* Break it for all members, at the wish of this one: their calls, in progress and later, fail with CMO_EREVOKED. */
void cmo_comm_revoke(cmo_comm *comm);

/* Break the communicator: every call of every member in it fails with this error. For the driver. */
void cmo_comm_fail(cmo_comm *comm, cmo_err err, const char *text);

#endif
