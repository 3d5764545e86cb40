/* Messages between ranks of a communicator, over links: matching, eager and rendezvous transfer, partial progress.
 *
 * A message up to `eager_bytes` is sent at once, within a window of bytes that the receiver is known to have room for;
 * a larger one is announced (RTS), and its bytes go, straight from the sender's buffer into the receiver's, when the
 * receiver has said where (CTS). So what arrives before its receive never takes unbounded memory.
 *
 * A transfer makes partial progress: the sender may post it before all of its bytes are there and raise `ready` as
 * they come; `done` says how many have been sent or received, in order. A ring or a tree forwards a message while it is
 * still arriving. */
#ifndef CMO_MESSAGE_H
#define CMO_MESSAGE_H

#include "base/list.h"
#include "comm/call.h"
#include "transport/wire.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct cmo_op;
struct cmo_comm;
struct cmo_channel;

enum { CMO_ANY = -1 };

typedef enum { CMO_X_IDLE, CMO_X_WAITING, CMO_X_MOVING, CMO_X_DONE } cmo_xfer_state;

/* One message on its way. Zeroed by its owner before the first post; lives in the owner's state until it is done or
 * the op that posted it is canceled; may be posted again when done. */
typedef struct cmo_xfer {
    cmo_node node;               /* in a list of the matcher or of the channel */
    cmo_node of_op;              /* in op->xfers, so that the op can cancel it */
    struct cmo_op *op;           /* whose `err` is set if the transfer fails */
    struct cmo_channel *channel; /* NULL: a receive from any source that has not matched */
    cmo_xfer_state state;
    bool sends;
    int peer;                    /* rank in the communicator; for receives, CMO_ANY until matched */
    uint8_t *buffer;
    const struct iovec *parts;   /* send: where the bytes are, end to end, in place of `buffer`: the part whose turn it
                                    is; borrowed, none is empty. Such a message is never sent unasked */
    uint64_t part_start;         /* bytes of the message before that part */
    uint64_t length, ready, done;
    uint64_t framed;             /* send: bytes already put in frames */
    uint64_t id, remote_id;      /* rendezvous: ours and the other side's number of this transfer */
    cmo_header header;           /* what was sent, or is matched; after a match, the sender's */
    const uint64_t *shape;       /* send: [header.ndim], borrowed */
    uint64_t *got_shape;         /* receive: [header.ndim] of the message, owned by the transfer until it is posted
                                    again or canceled */
    cmo_allocate allocate;       /* receive: asked for the buffer at the match; NULL: buffer and length are given and
                                    must fit exactly */
    void *allocate_ctx;
    bool learns;                 /* receive without allocate: length is the most, the message may be shorter
                                    (collectives only) */
} cmo_xfer;

/* For the algorithms: messages of the collective `op`, matched by (op->seq, source, step). They cannot fail here: what
 * goes wrong ends the op. `ready` is how many of the bytes may be sent now; a message not longer than eager_bytes goes
 * when all are. */
void cmo_post_send(struct cmo_op *op, cmo_xfer *x, int dest, uint64_t step, const void *buffer, uint64_t bytes,
                   uint64_t ready);
void cmo_post_recv(struct cmo_op *op, cmo_xfer *x, int source, uint64_t step, void *buffer, uint64_t bytes);
/* The same with a shape that the receiver learns (header.dtype, header.ndim, got_shape), for BROADCAST and SCATTER. */
void cmo_post_send_shaped(struct cmo_op *op, cmo_xfer *x, int dest, uint64_t step, const void *buffer, uint64_t bytes,
                          uint64_t ready, cmo_dtype dtype, int ndim, const uint64_t *shape);
void cmo_post_recv_shaped(struct cmo_op *op, cmo_xfer *x, int source, uint64_t step, cmo_allocate allocate, void *ctx);
void cmo_send_ready(cmo_xfer *x, uint64_t ready); /* raise `ready` */
static inline bool cmo_moved(const cmo_xfer *x) { return x->state == CMO_X_DONE; }
/* A receive whose sender's header is known. */
static inline bool cmo_matched(const cmo_xfer *x) { return x->state >= CMO_X_MOVING; }

/* A collective has got its fingerprint: does a message that came before it belong to another call? Then the
 * communicator fails. */
void cmo_check_unexpected(struct cmo_op *op);

/* Take a transfer back, in whatever state: its buffer is not touched afterwards. */
void cmo_xfer_cancel(cmo_xfer *x);

#endif
