/* What a transport must provide: ordered, reliable byte streams between processes, that never block.
 *
 * A net is one transport as one rank uses it; a link is its stream to and from one peer. Whoever owns the net (the
 * engine of a rank) is one thread at a time, and every function here is called by that thread only.
 *
 * A transport is a file that fills in cmo_net_ops, a header that says how to make its net (shm.h, tcp.h, sim.h), and a
 * row in the conformance tests (tests/native/test_transport.c). */
#ifndef CMO_TRANSPORT_H
#define CMO_TRANSPORT_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

typedef struct cmo_net cmo_net;
typedef struct cmo_link cmo_link;

/* What is known of a peer whose link has ended. */
typedef enum {
    CMO_FATE_ASKED,  /* nothing yet: ask again after a poll */
    CMO_FATE_ENDED,  /* its process is no more, or has given up its place: whatever it did is done */
    CMO_FATE_UNKNOWN /* it may live, and go on with others */
} cmo_fate;

typedef struct cmo_net_ops {
    const char *name;

    /* Start a link to world rank `peer`, or return the one that there is. It may be written from the time its `up` is
     * true. Never waits. The link is the net's; it lives until drop or close. */
    cmo_err (*open)(cmo_net *, int peer, cmo_link **link);

    /* Do what can be done for links that are not up, announce links that peers have opened (cmo_net.on_link), and
     * refresh `readable`. An error is one of the net as a whole; that of a link is found by reading it. */
    cmo_err (*poll)(cmo_net *);

    /* Move bytes now; *moved says how many, 0 where the stream is full or empty. iov is borrowed and left unchanged.
     * CMO_EPEERLOST when the stream has ended, and nothing that the peer sent before is left to be read. */
    cmo_err (*write)(cmo_link *, const struct iovec *iov, int n, size_t *moved);
    cmo_err (*read)(cmo_link *, const struct iovec *iov, int n, size_t *moved);

    /* Say whether to end a sleep when the link can be written again. NULL where readers wake writers by themselves. */
    void (*want_write)(cmo_link *, bool);

    /* Give up a link: whatever is in flight is lost. Safe after any failure. */
    void (*drop)(cmo_link *);

    /* Find out what became of a peer whose link has ended. Only proof counts for CMO_FATE_ENDED, since who is taken for
     * dead and is not may go on as if the others were. Never waits; once told, a fate does not change. NULL where
     * another part of the core learns of ends. */
    cmo_fate (*fate)(cmo_net *, int peer);

    /* Free the net and all its links. */
    void (*close)(cmo_net *);
} cmo_net_ops;

struct cmo_net {
    const cmo_net_ops *ops;
    int fd;                                 /* becomes readable when poll or read may have something to do; -1: none */
    void (*on_link)(void *ctx, cmo_link *); /* a peer has opened a link; set by the owner before the first poll */
    void *ctx;
};

struct cmo_link {
    cmo_net *net;
    int peer;      /* world rank at the other end, proven by the handshake */
    bool up;       /* may be written */
    bool large_in, large_out; /* what is read, written next is too large for the caches; the link's owner says so */
    bool unsent;   /* some of what was written is still in this process; poll sends it */
    bool readable; /* a read may find something; a hint that may be true too often, never false too long */
};

#endif
