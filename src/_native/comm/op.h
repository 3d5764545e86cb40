/* A call in progress.
 *
 * An algorithm is a resumable step: a function that does what it can without waiting and returns CMO_AGAIN, to be
 * called again, or CMO_OK when this rank's part is done, or an error. Who calls it does not matter: a blocking call's
 * thread, the progress thread, the simulator. `pc` is where it goes on (coll/coll.h has the notation); whatever it must
 * remember is in `state`. */
#ifndef CMO_OP_H
#define CMO_OP_H

#include "base/list.h"
#include "comm/message.h"
#include "comm/told.h"

#include <stdatomic.h>

struct cmo_comm;
struct cmo_engine;
struct cmo_algorithm;
typedef struct cmo_op cmo_op;
typedef struct cmo_status cmo_status;

enum { CMO_OP_INLINE_STATE = 512 };

enum { CMO_WAY_OPEN, CMO_WAY_FAST, CMO_WAY_PASSES }; /* comm/fast.c */

enum {
    CMO_BEGUN_NOT,    /* nothing has been done */
    CMO_BEGUN_ROLE,   /* the role of the driver is its thread's, but `driving` must still be taken */
    CMO_BEGUN_DRIVES  /* its thread drives, and the op is queued; it may have ended */
};

struct cmo_op {
    cmo_call call;
    struct cmo_engine *engine;
    struct cmo_comm *comm;      /* may be freed once the op has ended */
    cmo_err (*step)(cmo_op *);
    void (*finish)(cmo_op *);   /* frees what the state owns, once, however the op ended; may be NULL */
    const struct cmo_algorithm *algorithm;
    uint64_t seq;               /* number of this collective in its communicator, from 1 */
    uint64_t fingerprint;       /* of this call and all before it in the communicator */
    int pc;
    unsigned advanced;          /* waits that it has passed: whether it is getting on */
    void *state;                /* zeroed at the start; inline_state or heap */
    cmo_op *child;              /* a collective that this one makes, in this or another communicator */
    cmo_node xfers;             /* transfers posted and not done */
    cmo_err err;                /* set by a transfer that failed; ends the op */
    int lost;                   /* with CMO_EPEERLOST: the rank, -1: the communicator knows */
    char text[CMO_TEXT];        /* why */

    /* The engine's. */
    cmo_node node;              /* in the queue of its communicator, or of the engine's other operations */
    int64_t deadline;
    int64_t called;             /* when; 0: not yet known */
    uint64_t recorded;          /* its number in the flight recorder; 0: it is in none */
    uint32_t caller;            /* where it was called (comm/flight.h) */
    bool apart;                 /* who made it has not waited for it: an i… call */
    uint8_t known_as;           /* point to point: CMO_FLIGHT_… */
    double timeout;             /* seconds, for the message */
    int64_t ask_at;             /* not a collective: when to ask whom it waits for (ask.c); 0: not decided */
    int64_t asked_at;           /* when that was done last; 0: never */
    bool given;                 /* the role was handed to the thread that sleeps for it; under the engine's lock */
    bool overslept;             /* its deadline had long passed when anybody looked: this process stood still */
    bool timed;                 /* its start has been, exactly, and its end will be: in `called` */
    bool brief;                 /* in the brief half of the fast path: it copies little at a time (coll/shm_rounds.h) */
    bool waited;                /* a thread sleeps on `signal`; under the engine's lock */
    bool shared;                /* another thread than the driver may look at it: it ends under the engine's lock */
    cmo_status *status;         /* point to point: what was received; borrowed */
    _Atomic uint32_t signal;    /* CMO_OP_RUNNING, then CMO_OP_ENDED; see comm/engine.h */
    uint8_t way;                /* CMO_WAY_… : whether it may be made on the fast path */
    uint8_t begun;              /* CMO_BEGUN_… : how far cmo_op_begin has come */
    bool point;                 /* point to point: in the engine's list, not in a communicator's queue */
    bool endures;               /* goes on though its communicator has failed: an agreement (agree.h). It is in the list
                                   of `point`, and has no transfer */
    void (*on_done)(void *);    /* called once by whoever ends it, after signal; NULL: none */
    void *on_done_ctx;
    _Alignas(16) unsigned char inline_state[CMO_OP_INLINE_STATE];
};

/* How collectives are told apart and started, and how what they hold is given back: the room of the algorithms, as the
 * engine sees it. */
typedef struct cmo_collectives {
    /* What this call will be known as, if it is the next of the communicator. */
    void (*next)(const struct cmo_comm *comm, const cmo_call *call, cmo_recent_call *next);
    cmo_err (*start)(cmo_op *op, struct cmo_comm *comm, const cmo_call *call);
    void (*end)(cmo_op *op);
} cmo_collectives;

/* Set the first error and its explanation; for transfers and matching. */
void cmo_op_fail(cmo_op *op, cmo_err err, const char *text);

#endif
