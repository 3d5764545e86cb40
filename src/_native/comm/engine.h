/* A rank's engine: its links, its communicators, the calls in progress, and who drives them.
 *
 * All state of an engine is touched by one thread at a time, the driver. A thread that makes a blocking call becomes
 * the driver if there is none, and steps every call in progress, its own among them, until its own has ended; if there
 * is a driver it hands its call over and sleeps until it is told that the call has ended, or that it is to drive now.
 * The progress thread drives the calls that nobody waits for. A small call may end before any pass is made, on the fast
 * path (fast.c). In simulation there are no threads: the scheduler calls cmo_engine_poll. */
#ifndef CMO_ENGINE_H
#define CMO_ENGINE_H

#include "base/tunable.h"
#include "comm/comm.h"
#include "comm/flight.h"
#include "transport/transport.h"

typedef struct cmo_world {
    int rank, size;
    uint32_t generation;
    const int *host;             /* [size] host of each rank, any numbers; borrowed */
    const char *const *host_names; /* [size] for people; copied; NULL: none */
    cmo_window *window;          /* our own; borrowed until the engine is destroyed */
    const cmo_neighbour *neighbours; /* [nlocal] the ranks with our host number, in rank order, ourselves included;
                                        copied, descriptors taken on success */
    int nlocal;
    bool share;                  /* collectives may use the windows; else every rank counts as a host of its own */
    cmo_net *remote;             /* to the other ranks; taken on success; NULL where there are none */
    const cmo_collectives *collectives; /* &cmo_coll of coll/coll.h */
    cmo_tunables tunables;
    const uint8_t *job;          /* [16] what the job is known by, for the flight recorder; NULL: zeros */
    bool exact;                  /* the recorder times every call (comm/flight.h) */
    int64_t (*now)(void *);      /* the clock; NULL: cmo_now. Simulation has its own */
    void *now_ctx;
    bool keeps_mappings;         /* the neighbours' windows belong to somebody else in this process: do not unmap
                                    them */
    bool threadless;             /* no progress thread, no epoll: simulation */
    int tells_all;               /* among so many ranks each who decides an agreement tells all; 0: the usual number */
    bool (*interrupted)(void *); /* see base/wait.h */
    void *interrupt_ctx;
} cmo_world;

cmo_err cmo_engine_create(cmo_engine **out, const cmo_world *world);

/* Close every communicator: calls in progress end with CMO_EREVOKED, on whatever thread. CMO_EMISMATCH is the first
 * that a cmo_comm_close has returned. */
cmo_err cmo_engine_close(cmo_engine *e);

/* Ends the progress thread, closes every communicator and link. Not to be called while another thread is in a call. */
void cmo_engine_destroy(cmo_engine *e);

cmo_comm *cmo_engine_world(cmo_engine *e); /* the communicator of all ranks; the engine's */
const cmo_tunables *cmo_engine_tunables(const cmo_engine *e);
cmo_flight *cmo_engine_flight(const cmo_engine *e); /* what it records in (comm/flight.h); NULL: nothing */

/* Do, without waiting, what can be done now: move bytes, step every call that can be stepped. For the simulator. True
 * if anything moved. */
bool cmo_engine_poll(cmo_engine *e);

/* ------------------------------------------------------------------ calls in progress */

enum { CMO_OP_RUNNING, CMO_OP_DRIVE, CMO_OP_ENDED };

/* Acquire: what it has received is there. */
static inline bool cmo_op_ended(const cmo_op *op)
{
    return atomic_load_explicit(&op->signal, memory_order_acquire) == CMO_OP_ENDED;
}

/* A blocking call is made in two halves. The first (…_begin) never waits for another thread, takes a microsecond or
 * two, and is for callers that hold a lock which others want, such as an interpreter's: most small calls end in it.
 * `light` says that the call may be made there at all, because it moves little. CMO_AGAIN: the second (cmo_op_finish)
 * must follow, by the same thread and without that lock; it sees the call to its end. Anything else is how the call
 * has ended, its reason recorded (cmo_reason) on failure.
 *
 * The op is the caller's, need not be initialized, and may be on the stack. timeout in seconds, negative: for ever. */
cmo_err cmo_call_begin(cmo_op *op, cmo_comm *comm, const cmo_call *call, double timeout, bool light);
cmo_err cmo_op_finish(cmo_op *op);

/* Make the call and return at once. The op stays in use until it has ended (signal == CMO_OP_ENDED). op->on_done may
 * have been set. */
cmo_err cmo_call_start(cmo_op *op, cmo_comm *comm, const cmo_call *call, double timeout);

/* Let go of an op made by a _start or _now function that has no on_done. True: it is in progress, and on_done will be
 * called; false: it has ended, and nobody uses it any more. */
bool cmo_op_drop(cmo_op *op, void (*on_done)(void *), void *ctx);

/* Wait for an op made by a _start function. CMO_ETIMEOUT after `seconds` leaves the op as it is; otherwise op->err,
 * reason recorded. */
cmo_err cmo_op_wait(cmo_op *op, double seconds);

/* Point to point. The op's only transfer is in its state. tag ≥ 0; CMO_ANY for source and tag in receives and
 * probes. */
typedef struct cmo_message {
    int peer;                /* destination, source, or CMO_ANY */
    int64_t tag;
    cmo_dtype dtype;
    uint32_t extra;
    int ndim;
    const uint64_t *shape;   /* send: [ndim], borrowed */
    const void *buffer;      /* send: borrowed */
    const struct iovec *parts; /* send: where the bytes are, end to end, in place of `buffer`; NULL: there. Borrowed
                                  until the op has ended; none is empty */
    uint64_t bytes;
    cmo_allocate allocate;   /* receive: asked for the buffer; its refusal leaves the message where it is */
    void *allocate_ctx;
    bool waits;              /* of a _start function: who calls it will wait for its end at once; for the recorder */
} cmo_message;

struct cmo_status { /* of a received or probed message */
    int source;
    int64_t tag;
    uint64_t bytes;
    cmo_dtype dtype;
    uint32_t extra;
    int ndim;
    uint64_t shape[CMO_MAX_DIMS];
};

/* Blocking, in two halves. */
cmo_err cmo_send_begin(cmo_op *op, cmo_comm *comm, const cmo_message *m, double timeout, bool light);
cmo_err cmo_recv_begin(cmo_op *op, cmo_comm *comm, const cmo_message *m, double timeout, cmo_status *status,
                       bool light);
cmo_err cmo_send_start(cmo_op *op, cmo_comm *comm, const cmo_message *m, double timeout);
cmo_err cmo_recv_start(cmo_op *op, cmo_comm *comm, const cmo_message *m, double timeout, cmo_status *status);
/* The same for callers that hold a lock which others want. CMO_AGAIN: not now, and nothing was done.
 *
 * A send that returns CMO_OK has ended: its buffer may be used again. CMO_AGAIN with *rest: a part of it has gone, the
 * engine is kept, and cmo_send_rest must follow, by the same thread, with an op for the rest. */
cmo_err cmo_send_now(cmo_comm *comm, const cmo_message *m, bool *rest);
void cmo_send_rest(cmo_op *op, cmo_comm *comm, const cmo_message *m, double timeout);
cmo_err cmo_recv_now(cmo_op *op, cmo_comm *comm, const cmo_message *m, double timeout, cmo_status *status);
/* Ends when a message that fits is there; it stays there. */
cmo_err cmo_probe_start(cmo_op *op, cmo_comm *comm, int source, int64_t tag, double timeout, cmo_status *status);
/* Look without waiting. CMO_AGAIN: no such message. Of the op, which is the caller's, only `lost` is set. */
cmo_err cmo_probe_now(cmo_op *op, cmo_comm *comm, int source, int64_t tag, cmo_status *status);

/* Keep the driver, if there is one, between two passes: around changes to communicators. Any thread; waits for the end
 * of a pass. */
void cmo_engine_enter(cmo_engine *e);
void cmo_engine_leave(cmo_engine *e);

#endif
