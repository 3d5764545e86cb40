/* What the files of the TCP transport share. For no one else.
 *
 *     tcp.c            the streams, and the table of functions
 *     tcp_connect.c    reaching a peer at its addresses
 *     tcp_accept.c     letting in who connects to us
 *     tcp_handshake.c  each side's progress through HELLO, ANSWER, PROOF, WELCOME
 *     tcp_choose.c     which connection becomes the link, and how a link ends
 *     tcp_tick.c       what the passing of time does to all of these
 *     tcp_fate.c       whether a peer whose link has ended has ended itself
 *     tcp_socket.c     sockets and the timer
 *     tls.h            what goes through a socket when TLS was asked for */
#ifndef CMO_TCP_NET_H
#define CMO_TCP_NET_H

#include "base/clock.h"
#include "base/list.h"
#include "transport/address.h"
#include "transport/handshake.h"
#include "transport/tcp.h"

#define CMO_MILLISECOND (CMO_SECOND / 1000)

typedef enum {
    LISTENING,
    CONNECTING, AWAIT_ANSWER, AWAIT_WELCOME, /* made here */
    AWAIT_HELLO, AWAIT_PROOF,                /* made to us */
    PROBING,                                 /* made here, to a peer whose link has ended; tcp_fate.c */
    REFUSING,                                /* made to us: an ANSWER other than ACCEPTED is on its way out */
    CHOSEN,                                  /* only our own last message is still to be sent */
    LIVE,
    CLOSED                                   /* to be freed at the end of a poll: epoll may still have named it */
} tcp_stage;

typedef struct tcp_socket {
    cmo_node node; /* in the net's listening, pending, live or closed */
    int fd;
    tcp_stage stage;
    bool inbound;
    bool proven;            /* client: the server has shown that it holds the token, and is the peer */
    uint32_t watched;       /* epoll events asked for */
    cmo_tls_session *tls;   /* what goes over the socket goes through this; NULL: as it is. Owned */
    struct tcp_link *link;  /* client: always; server: whom an acceptable HELLO claims to be */
    cmo_address address;    /* of the other end */
    int64_t born, deadline; /* until LIVE; CMO_NEVER: as long as it takes */
    uint8_t in[CMO_HELLO_BYTES], out[CMO_HELLO_BYTES];             /* the message that comes, and the one that goes */
    size_t got, expected, sent, queued;                            /* their bytes so far, and in all */
    uint8_t hello[CMO_HELLO_BYTES], answer[CMO_ANSWER_BYTES];      /* as they went over the wire: codes cover them */
} tcp_socket;
_Static_assert(CMO_ANSWER_BYTES <= CMO_HELLO_BYTES && CMO_PROOF_BYTES <= CMO_HELLO_BYTES,
               "every message fits in and out");

enum { TCP_WHY_BYTES = 256 };

typedef struct tcp_link {
    cmo_link link; /* first: a cmo_link * is a tcp_link * */
    enum { IDLE, WANTED, HAS_CHOSEN, UP, DEAD } state;
    int naddresses;
    const char *addresses;   /* in the net's text */
    tcp_socket *socket;      /* HAS_CHOSEN, UP: the connection chosen */
    char *why;               /* DEAD: the reason; before, what came of this round's attempts. Owned; NULL: nothing */
    cmo_err err;             /* DEAD: the same as a code */

    /* WANTED: rounds of attempts, tcp_connect.c */
    cmo_err final;           /* this round: an error that another round would not change */
    cmo_node plan;           /* in the net's planned: an address, or a round, is to be begun at plan_at */
    int64_t plan_at;
    int64_t give_up_at;      /* until when connecting may go unanswered; later if anybody has answered */
    const char *next;        /* in addresses: those that this round has not tried */
    int attempts;            /* connections that we have begun with the peer, and not closed */
    int rounds, failures;    /* rounds begun; rounds in a row in which nothing at all was to be found */
    bool starved;            /* this round: there was no descriptor for an attempt */
    bool silent;             /* this round: somebody has accepted and said nothing; the peer, if it is busy */

    /* DEAD */
    enum { NOT_ASKED, IS_ASKED, IS_KNOWN } inquiry;
    cmo_fate fate;           /* IS_KNOWN */
    const char *unprobed;    /* IS_ASKED: addresses that have not been tried */
    const char *probing;     /* from the one that is being tried on */

    /* UP */
    bool wants_write;
    int write_errno;         /* why writing failed; the error is told when all has been read */
    int64_t acknowledged_at; /* nothing has been unacknowledged since before this time */
} tcp_link;

typedef struct tcp_net {
    cmo_net net;
    int size;
    int timer;              /* a timerfd, in the net's epoll descriptor */
    tcp_link *links;        /* [size] */
    char *text;             /* all addresses */
    cmo_hello own;          /* what we say of ourselves; dst and nonce are those of a connection */
    bool (*mac)(void *ctx, const uint8_t *data, size_t n, uint8_t out[32]);
    void *mac_ctx;
    int64_t handshake_ns, heartbeat_ns; /* see cmo_tcp_config */
    int64_t reach_ns;       /* for which a host may leave connecting unanswered: the less of the two */
    int64_t check_ns;       /* between two of tcp_check; 0: there are none */
    int socket_bytes;
    cmo_tls *tls;           /* NULL: there is none; owned */
    cmo_node listening, pending, live, closed; /* sockets: every one is in one of these, by its stage */
    cmo_node planned;       /* links with an attempt to be begun */
    int strangers;          /* inbound sockets in pending */
    uint64_t refused;       /* connections of strangers that did not prove to be a rank of the job … */
    cmo_address refused_last; /* … and from where the last of them came */
    bool accepting;         /* whether epoll tells of new connections */
    bool starved;           /* a link was given up for want of descriptors; the next poll tells */
    int64_t accept_at;      /* when to accept again, out of descriptors; CMO_NEVER: when a stranger has gone */
    int64_t check_at;       /* of the next tcp_check; CMO_NEVER: no link is up */
    int64_t due;            /* what the timer is set to */
} tcp_net;

static inline tcp_net *net_of(const tcp_link *l) { return (tcp_net *)l->link.net; }
static inline bool is_lower(const tcp_net *n, const tcp_link *l) { return (int)n->own.src < l->link.peer; }
static inline const char *why_of(const tcp_link *l) { return l->why ? l->why : "no more is known"; }
static inline tcp_socket *socket_at(cmo_node *node) { return CMO_ENTRY(node, tcp_socket, node); }

/* tcp_socket.c */

/* Have the timer run out at `when`, or before. */
void cmo_tcp_schedule(tcp_net *n, int64_t when);
/* Make a socket of a descriptor, which is taken on success; NULL, with errno, where that fails. */
tcp_socket *cmo_tcp_adopt(tcp_net *n, int fd, tcp_stage stage, uint32_t events);
void cmo_tcp_watch(tcp_net *n, tcp_socket *s, uint32_t events); /* have epoll tell of these events and no others */
void cmo_tcp_set_buffers(const tcp_net *n, int fd);
void cmo_tcp_set_options(const tcp_net *n, int fd);             /* what every connection has */
void cmo_tcp_set_local(int fd);                                 /* what one between ranks of this machine has */
void cmo_tcp_discard(tcp_net *n, tcp_socket *s);                /* close it; what is left stays until the poll ends */

/* As send and recv do: bytes, or -1 with an errno, of which cmo_tcp_why says what it means. */
ssize_t cmo_tcp_send(tcp_socket *s, const void *bytes, size_t n);
ssize_t cmo_tcp_receive(tcp_socket *s, void *bytes, size_t n);
const char *cmo_tcp_why(const tcp_socket *s, int error);
bool cmo_tcp_begin_tls(tcp_net *n, tcp_socket *s); /* if the net has TLS; false: no memory */

/* tcp_connect.c */

void cmo_tcp_try(tcp_net *n, tcp_link *l); /* begin the next address or the next round of a wanted link */
/* Close the attempts of ours to reach the peer, but `keep`, and plan none. Those of the peer go on. */
void cmo_tcp_stop_trying(tcp_net *n, tcp_link *l, const tcp_socket *keep);
/* A socket that is not live has failed. `final`: an error that trying the same address again would not change. */
void cmo_tcp_fail(tcp_net *n, tcp_socket *s, cmo_err final, const char *what);

/* tcp_accept.c */

void cmo_tcp_accept(tcp_net *n, const tcp_socket *listener); /* whoever is waiting */
void cmo_tcp_note_stranger(tcp_net *n, const tcp_socket *s); /* count it */
void cmo_tcp_refuse(tcp_net *n, tcp_socket *s);              /* close an inbound socket that is no peer's; count it */
void cmo_tcp_stranger_left(tcp_net *n);                      /* an inbound socket is closed, or has become a link */
void cmo_tcp_accept_due(tcp_net *n, int64_t now);            /* make room for others, or begin to accept again */

/* tcp_handshake.c */

void cmo_tcp_advance(tcp_net *n, tcp_socket *s); /* as far as it goes now: connection and handshake */

/* tcp_choose.c */

void cmo_tcp_choose(tcp_net *n, tcp_socket *s);  /* the lower rank chooses this one, or the higher takes the choice */
void cmo_tcp_go_live(tcp_net *n, tcp_socket *s); /* the chosen one is the link from now on */
/* End a link for good: close what there is of it, and keep the reason for its readers, who know who "it" is. */
void cmo_tcp_break(tcp_link *l, cmo_err err, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* tcp_fate.c */

cmo_fate cmo_tcp_fate(cmo_net *net, int peer);       /* the net's */
void cmo_tcp_probed(tcp_net *n, tcp_socket *s);      /* something has become of a socket that is PROBING */

/* tcp_tick.c */

void cmo_tcp_tick(tcp_net *n); /* do what is due; the timer has run out */

#endif
