/* TCP links. The sockets of a net, from their making to their end, and which of them becomes the link between two ranks.
 *
 * Which connection wins. Between two ranks there may be any number of connections being made, by both at once; one becomes
 * the link. The lower rank chooses, and it chooses by the last message of the handshake that it sends: PROOF on a
 * connection that it made, WELCOME on one that was made to it. It sends one such message per peer in the life of a net: from
 * then on the link is TCP_CHOSEN, its other connections with that peer are closed, and a HELLO is answered with
 * DUPLICATE. The higher rank never chooses: it takes the first connection on which such a message comes, and closes its others.
 *
 * Both therefore end with the same connection, in whatever order things happen:
 * - The message that chooses is authenticated, so only the lower rank can have sent it, and there is one of it. So the
 *   higher rank can take no other connection than the chosen one.
 * - What the higher rank closes on taking it, the lower has already given up; closing what the other side may still be working on
 *   looks there like a failed attempt. The higher rank tries again and is told DUPLICATE (wait: the choice is on its way) or GONE (the lower rank
 *   has lost what it had chosen, and so has the pair). The lower rank has attempts of its own only while it has not chosen.
 * - A HELLO or an ANSWER decides nothing, so a stranger who can send those changes nothing.
 * A handshake message is read with exactly its length; frames that follow the last one in the same segment stay in the
 * socket and are the first that the link reads.
 *
 * Why TCP_USER_TIMEOUT is not set. The kernel applies it to a peer whose window is closed as well, although that peer's host
 * acknowledges every probe: a rank that computes for longer than the limit, with data waiting for it, would lose its
 * connections. So the same limit is kept here (tcp_check), for hosts that acknowledge nothing.
 *
 * Why a poll is an epoll_wait even for one link: where there is nothing it takes half the time of an empty recv
 * (160 against 320 ns), and a spinning wait is mostly that. */
#include "transport/tcp.h"

#include "base/clock.h"
#include "base/list.h"
#include "transport/address.h"
#include "transport/handshake.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum {
    MAX_STRANGERS = 64,    /* inbound sockets that have not authenticated */
    ROUNDS = 5,            /* over all addresses of a peer, before it counts as unreachable */
    FIRST_DELAY_MS = 10,   /* between rounds; doubles */
    MAX_DELAY_MS = 1000,
    EVENTS = 64,           /* taken from epoll at a time */
    MAX_IOV = 1024,        /* the kernel's own limit (UIO_MAXIOV) */
    KEEPALIVE_IDLE_S = 10, KEEPALIVE_INTERVAL_S = 5, KEEPALIVE_COUNT = 3
};
static const int64_t millisecond = 1000000;

typedef enum {
    LISTENING,
    CONNECTING, AWAIT_ANSWER, AWAIT_WELCOME,  /* made here */
    AWAIT_HELLO, AWAIT_PROOF, REFUSING,       /* made to us; REFUSING: an ANSWER other than ACCEPTED is on its way out */
    CHOSEN,                                   /* only our own last message is still to be sent */
    LIVE,
    CLOSED                                    /* to be freed at the end of a poll: epoll may still have named it */
} tcp_stage;

typedef struct tcp_socket {
    cmo_node node; /* in the net's listening, pending, live or closed */
    int fd;
    tcp_stage stage;
    bool inbound;
    bool proven;            /* client: the server has shown that it holds the token */
    uint32_t watched;       /* epoll events asked for */
    struct tcp_link *link;  /* client: always; server: from an acceptable HELLO on, which may still be a stranger's */
    cmo_address address;    /* of the other end */
    int64_t born, deadline;
    uint8_t in[CMO_HELLO_BYTES], out[CMO_HELLO_BYTES];
    size_t got, expected, sent, queued;
    uint8_t hello[CMO_HELLO_BYTES], answer[CMO_ANSWER_BYTES];
} tcp_socket;
_Static_assert(CMO_ANSWER_BYTES <= CMO_HELLO_BYTES && CMO_PROOF_BYTES <= CMO_HELLO_BYTES, "every message fits in and out");

typedef struct tcp_link {
    cmo_link link; /* first: a cmo_link * is a tcp_link * */
    enum { IDLE, WANTED, HAS_CHOSEN, UP, DEAD } state;
    const char *addresses;  /* in the net's text */
    int naddresses;
    tcp_socket *socket;     /* from HAS_CHOSEN on */
    tcp_socket *attempt;    /* WANTED: our own connection in the making */
    cmo_node retry;         /* WANTED: in the net's retries, until retry_at */
    int64_t retry_at, give_up_at;
    const char *next;       /* in addresses: those that this round has not tried */
    int rounds, failures;   /* rounds begun; rounds in a row in which nothing at all was to be found */
    bool alive;             /* this round: the peer is there, only not ready for us */
    cmo_err final;          /* this round: an error that another round would not change */
    bool wants_write;
    int write_errno;        /* why writing failed; the error is told when all has been read */
    int64_t acknowledged_at; /* nothing has been unacknowledged since before this time */
    cmo_err err;            /* DEAD: why */
    char why[256];          /* DEAD: the same as text; before, what came of this round's attempts */
} tcp_link;

typedef struct tcp_net {
    cmo_net net;
    int size, timer;
    tcp_link *links;        /* [size] */
    char *text;             /* all addresses */
    cmo_hello own;
    bool (*mac)(void *ctx, const uint8_t *data, size_t n, uint8_t out[32]);
    void *mac_ctx;
    int64_t handshake_ns, user_timeout_ns, check_ns;
    int socket_bytes;
    cmo_node listening, pending, live, closed, retries;
    int strangers;          /* inbound sockets in pending */
    bool accepting;
    int64_t accept_at;      /* when to accept again after running out of descriptors; CMO_NEVER: when a stranger has gone */
    int64_t check_at;       /* of the next tcp_check; CMO_NEVER: no link is up */
    int64_t due;            /* what the timer is set to */
} tcp_net;

static tcp_net *net_of(tcp_link *l) { return (tcp_net *)l->link.net; }
static tcp_socket *socket_at(cmo_node *node) { return CMO_ENTRY(node, tcp_socket, node); }

/* ------------------------------------------------------------------ sockets */

static void tcp_schedule(tcp_net *n, int64_t when)
{
    if (when >= n->due) return;
    n->due = when;
    struct itimerspec t = {.it_value = {.tv_sec = when / CMO_SECOND, .tv_nsec = when % CMO_SECOND}};
    timerfd_settime(n->timer, TFD_TIMER_ABSTIME, &t, NULL); /* cannot fail with these arguments */
}

static int tcp_watch(tcp_net *n, tcp_socket *s, uint32_t events)
{
    if (s->watched == events) return 0;
    struct epoll_event e = {.events = events, .data.ptr = s};
    s->watched = events;
    return epoll_ctl(n->net.fd, EPOLL_CTL_MOD, s->fd, &e);
}

static void tcp_accept_more(tcp_net *n, bool yes)
{
    n->accepting = yes;
    n->accept_at = CMO_NEVER;
    CMO_EACH(node, &n->listening) tcp_watch(n, socket_at(node), yes ? EPOLLIN : 0);
}

static void tcp_discard(tcp_net *n, tcp_socket *s)
{
    if (s->stage == CLOSED) return;
    /* Taken out by hand, since a child process may hold the descriptor open, and epoll would go on naming it. */
    epoll_ctl(n->net.fd, EPOLL_CTL_DEL, s->fd, NULL);
    close(s->fd);
    if (s->inbound && s->stage != LIVE) {
        n->strangers--;
        if (!n->accepting && n->accept_at == CMO_NEVER) tcp_accept_more(n, true);
    }
    s->fd = -1;
    s->stage = CLOSED;
    cmo_list_remove(&s->node);
    cmo_list_append(&n->closed, &s->node);
}

/* Make a tcp_socket of a descriptor, which is taken on success. */
static tcp_socket *tcp_adopt(tcp_net *n, int fd, tcp_stage stage, uint32_t events)
{
    tcp_socket *s = calloc(1, sizeof *s);
    struct epoll_event e = {.events = events, .data.ptr = s};
    if (!s || epoll_ctl(n->net.fd, EPOLL_CTL_ADD, fd, &e)) {
        free(s);
        return NULL;
    }
    s->fd = fd;
    s->stage = stage;
    s->watched = events;
    s->born = cmo_now();
    s->deadline = CMO_NEVER;
    cmo_list_append(stage == LISTENING ? &n->listening : &n->pending, &s->node);
    return s;
}

static void tcp_set_buffers(const tcp_net *n, int fd)
{
    if (!n->socket_bytes) return;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &n->socket_bytes, sizeof n->socket_bytes);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &n->socket_bytes, sizeof n->socket_bytes);
}

/* What every connection has. None of it is needed for being right, so a refusal of the kernel is no error. */
static void tcp_set_options(int fd)
{
    const int on = 1, idle = KEEPALIVE_IDLE_S, interval = KEEPALIVE_INTERVAL_S, count = KEEPALIVE_COUNT;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
}

/* ------------------------------------------------------------------ which connection becomes the link */

/* Close every connection that is being made with the link's peer, but `keep`. */
static void tcp_abandon(tcp_net *n, tcp_link *l, const tcp_socket *keep)
{
    CMO_EACH(node, &n->pending)
        if (socket_at(node)->link == l && socket_at(node) != keep) tcp_discard(n, socket_at(node));
    l->attempt = NULL;
    cmo_list_remove(&l->retry);
}

__attribute__((format(printf, 3, 4))) static void tcp_break(tcp_link *l, cmo_err err, const char *format, ...)
{
    tcp_net *n = net_of(l);
    va_list args;
    va_start(args, format);
    char why[sizeof l->why]; /* the arguments may be the old text */
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    memcpy(l->why, why, sizeof why);
    tcp_abandon(n, l, NULL);
    if (l->socket) tcp_discard(n, l->socket);
    l->socket = NULL;
    l->state = DEAD;
    l->err = err;
    l->link.up = false;
    l->link.readable = true; /* reading tells */
}

static cmo_err tcp_lost(const tcp_link *l) { return cmo_fail(l->err, "%s", l->why); }

/* The lower rank chooses this connection, or the higher one learns that it has been chosen. */
static void tcp_choose(tcp_net *n, tcp_socket *s)
{
    tcp_link *l = s->link;
    tcp_abandon(n, l, s);
    l->state = HAS_CHOSEN;
    l->socket = s;
    s->stage = CHOSEN;
}

static void tcp_go_live(tcp_net *n, tcp_socket *s)
{
    tcp_link *l = s->link;
    if (s->inbound) n->strangers--;
    s->stage = LIVE;
    s->deadline = CMO_NEVER;
    cmo_list_remove(&s->node);
    cmo_list_append(&n->live, &s->node);
    tcp_watch(n, s, EPOLLIN | (l->wants_write ? EPOLLOUT : 0));
    if (s->inbound && !n->accepting && n->accept_at == CMO_NEVER) tcp_accept_more(n, true);
    l->state = UP;
    l->link.up = true;
    l->link.readable = true; /* frames may have come with the handshake */
    l->acknowledged_at = cmo_now();
    if (n->check_ns && n->check_at == CMO_NEVER) {
        n->check_at = l->acknowledged_at + n->check_ns;
        tcp_schedule(n, n->check_at);
    }
    if (s->inbound && n->net.on_link) n->net.on_link(n->net.ctx, &l->link);
}

/* ------------------------------------------------------------------ connecting */

/* Note what came of an attempt, for the text of the error that may follow. */
static void tcp_note(tcp_link *l, const cmo_address *address, const char *what)
{
    char where[CMO_ADDRESS_TEXT];
    cmo_address_format(where, address);
    const size_t n = strlen(l->why);
    snprintf(l->why + n, sizeof l->why - n, "%s%s: %s", n ? "; " : "", where, what);
}

/* Start a connection to one address; an errno on failure. */
static int tcp_connect(tcp_net *n, tcp_link *l, const cmo_address *address)
{
    int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return errno;
    tcp_set_buffers(n, fd);
    tcp_set_options(fd);
    int rc;
    do rc = connect(fd, &address->any, address->length);
    while (rc && errno == EINTR);
    tcp_socket *s = NULL;
    if (rc == 0 || errno == EINPROGRESS) s = tcp_adopt(n, fd, CONNECTING, EPOLLOUT);
    if (!s) {
        rc = errno;
        close(fd);
        return rc;
    }
    s->link = l;
    s->address = *address;
    /* Where there are several addresses, one that swallows packets may not take all the time: longer in each round. */
    const int64_t patience = l->naddresses > 1 && l->rounds < 4 ? n->handshake_ns / 16 << l->rounds : n->handshake_ns;
    s->deadline = s->born + patience < l->give_up_at ? s->born + patience : l->give_up_at;
    tcp_schedule(n, s->deadline);
    l->attempt = s;
    return 0;
}

static void tcp_end_round(tcp_net *n, tcp_link *l)
{
    const int64_t now = cmo_now();
    if (l->alive) {
        l->failures = 0;
        l->give_up_at = now + n->handshake_ns;
    } else if (l->final == CMO_EAUTH) {
        tcp_break(l, CMO_EAUTH, "rank %d did not prove that it holds the token (%s)", l->link.peer, l->why);
        return;
    } else if (l->final || ++l->failures == ROUNDS || now >= l->give_up_at) {
        tcp_break(l, CMO_EPEERLOST, "rank %d cannot be reached (%s)", l->link.peer, l->why);
        return;
    }
    int64_t delay = (int64_t)FIRST_DELAY_MS << (l->rounds < 8 ? l->rounds - 1 : 7);
    l->retry_at = now + (delay < MAX_DELAY_MS ? delay : MAX_DELAY_MS) * millisecond;
    cmo_list_append(&n->retries, &l->retry);
    tcp_schedule(n, l->retry_at);
}

/* Try the addresses that this round has left. */
static void tcp_connect_next(tcp_net *n, tcp_link *l)
{
    const char *word;
    size_t length;
    while (cmo_address_next(&l->next, &word, &length)) {
        cmo_address address;
        if (cmo_address_parse(&address, word, length)) continue; /* parsed before; an interface may have gone since */
        const int error = tcp_connect(n, l, &address);
        if (!error) return;
        tcp_note(l, &address, strerror(error));
    }
    tcp_end_round(n, l);
}

static void tcp_begin_round(tcp_net *n, tcp_link *l)
{
    cmo_list_remove(&l->retry);
    l->next = l->addresses;
    l->rounds++;
    l->alive = false;
    l->final = CMO_OK;
    l->why[0] = 0;
    tcp_connect_next(n, l);
}

/* A socket that is not live has failed. `final`: an error that trying the same address again would not change. */
static void tcp_fail_socket(tcp_net *n, tcp_socket *s, cmo_err final, const char *what)
{
    tcp_link *l = s->link;
    if (s->stage == CHOSEN) {
        tcp_break(l, CMO_EPEERLOST, "connection to rank %d was lost while it was made: %s", l->link.peer, what);
    } else if (s->inbound) {
        tcp_discard(n, s);
    } else {
        tcp_note(l, &s->address, what);
        if (s->proven) l->alive = true;
        if (final && l->final != CMO_EAUTH) l->final = final;
        tcp_discard(n, s);
        l->attempt = NULL;
        tcp_connect_next(n, l);
    }
}

/* ------------------------------------------------------------------ the handshake */

static void tcp_send(tcp_socket *s, const uint8_t *message, size_t n)
{
    memcpy(s->out, message, n);
    s->queued = n;
    s->sent = 0;
}

static void tcp_expect(tcp_socket *s, tcp_stage stage, size_t n)
{
    s->stage = stage;
    s->expected = n;
    s->got = 0;
}

static bool tcp_nonce(uint8_t out[CMO_NONCE_BYTES])
{
    return getrandom(out, CMO_NONCE_BYTES, GRND_NONBLOCK) == CMO_NONCE_BYTES;
}

static bool tcp_server_code(tcp_net *n, const tcp_socket *s, uint8_t out[CMO_MAC_BYTES])
{
    uint8_t text[CMO_SIGNED_BYTES];
    cmo_server_signed(text, s->hello, s->answer);
    return n->mac(n->mac_ctx, text, sizeof text, out);
}

static bool tcp_client_code(tcp_net *n, const tcp_socket *s, uint8_t out[CMO_MAC_BYTES])
{
    uint8_t text[CMO_SIGNED_BYTES];
    cmo_client_signed(text, s->hello, s->answer);
    return n->mac(n->mac_ctx, text, sizeof text, out);
}

static void tcp_on_connect(tcp_net *n, tcp_socket *s)
{
    tcp_link *l = s->link;
    int error = 0;
    socklen_t length = sizeof error;
    if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &length)) error = errno;
    if (error) {
        tcp_fail_socket(n, s, CMO_OK, strerror(error));
        return;
    }
    cmo_hello h = n->own;
    h.dst = (uint32_t)l->link.peer;
    if (!tcp_nonce(h.nonce)) {
        tcp_fail_socket(n, s, CMO_OK, "no random numbers");
        return;
    }
    cmo_hello_write(s->hello, &h);
    tcp_send(s, s->hello, sizeof s->hello);
    tcp_expect(s, AWAIT_ANSWER, CMO_ANSWER_BYTES);
    /* Its kernel has answered; the rank itself may be busy. Only another address to try is a reason not to wait here. */
    s->deadline = l->naddresses > 1 ? cmo_now() + n->handshake_ns : CMO_NEVER;
    tcp_schedule(n, s->deadline);
}

static void tcp_on_hello(tcp_net *n, tcp_socket *s)
{
    cmo_hello h;
    cmo_answer a = {.version = CMO_HANDSHAKE_VERSION};
    memcpy(s->hello, s->in, sizeof s->hello);
    if (cmo_hello_parse(&h, s->hello) || !tcp_nonce(a.nonce)) {
        tcp_discard(n, s);
        return;
    }
    a.status = cmo_hello_judge(&h, &n->own);
    if (a.status == CMO_VERDICT_ACCEPTED) {
        s->link = &n->links[h.src];
        if (s->link->state == DEAD) a.status = CMO_VERDICT_GONE;
        else if (s->link->state >= HAS_CHOSEN) a.status = CMO_VERDICT_DUPLICATE;
    }
    cmo_answer_write(s->answer, &a);
    if (!tcp_server_code(n, s, a.mac)) {
        tcp_discard(n, s);
        return;
    }
    cmo_answer_write(s->answer, &a);
    tcp_send(s, s->answer, sizeof s->answer);
    if (a.status == CMO_VERDICT_ACCEPTED) {
        tcp_expect(s, AWAIT_PROOF, CMO_PROOF_BYTES);
    } else {
        s->stage = REFUSING;
        s->link = NULL;
    }
}

static void tcp_on_answer(tcp_net *n, tcp_socket *s)
{
    tcp_link *l = s->link;
    cmo_answer a;
    uint8_t code[CMO_MAC_BYTES];
    const bool lower = l->link.peer > (int)n->own.src;
    memcpy(s->answer, s->in, sizeof s->answer);
    if (cmo_answer_parse(&a, s->answer)) {
        tcp_fail_socket(n, s, CMO_EPROTO, cmo_reason());
        return;
    }
    s->proven = tcp_server_code(n, s, code) && cmo_mac_equal(code, a.mac);
    if (a.status == CMO_VERDICT_ACCEPTED && s->proven && tcp_client_code(n, s, code)) {
        tcp_send(s, code, sizeof code);
        if (lower) tcp_choose(n, s);
        else tcp_expect(s, AWAIT_WELCOME, CMO_WELCOME_BYTES);
    } else if (a.status == CMO_VERDICT_ACCEPTED) {
        tcp_fail_socket(n, s, CMO_EAUTH, "its code does not fit");
    } else if (a.status == CMO_VERDICT_GONE && s->proven) {
        tcp_break(l, CMO_EPEERLOST, "rank %d has given up its connection to this rank", l->link.peer);
    } else {
        /* DUPLICATE says to a higher rank: wait for what I have chosen. A lower one would know. */
        if (a.status != CMO_VERDICT_DUPLICATE || lower) s->proven = false;
        tcp_fail_socket(n, s, s->proven ? CMO_OK : CMO_EPEERLOST, cmo_verdict_text(a.status));
    }
}

static void tcp_on_proof(tcp_net *n, tcp_socket *s)
{
    uint8_t code[CMO_MAC_BYTES];
    if (!tcp_client_code(n, s, code) || !cmo_mac_equal(code, s->in)) {
        tcp_discard(n, s);
        return;
    }
    if ((int)n->own.src < s->link->link.peer) {
        uint8_t welcome[CMO_WELCOME_BYTES];
        cmo_welcome_write(welcome);
        tcp_send(s, welcome, sizeof welcome);
    }
    tcp_choose(n, s); /* had another been chosen since the ANSWER, this socket would have been closed then */
}

static void tcp_on_welcome(tcp_net *n, tcp_socket *s)
{
    if (cmo_welcome_parse(s->in)) tcp_fail_socket(n, s, CMO_EPROTO, cmo_reason());
    else tcp_choose(n, s);
}

/* Send what is queued. False while that is not done, and where the socket has failed. */
static bool tcp_flush(tcp_net *n, tcp_socket *s)
{
    while (s->sent < s->queued) {
        ssize_t k = send(s->fd, s->out + s->sent, s->queued - s->sent, MSG_NOSIGNAL);
        if (k >= 0) {
            s->sent += (size_t)k;
        } else if (errno == EAGAIN) {
            tcp_watch(n, s, EPOLLOUT);
            return false;
        } else if (errno != EINTR) {
            tcp_fail_socket(n, s, CMO_OK, strerror(errno));
            return false;
        }
    }
    return true;
}

/* Receive what is expected, and nothing beyond it. False while that is not done, and where the socket has failed. */
static bool tcp_fill(tcp_net *n, tcp_socket *s)
{
    while (s->got < s->expected) {
        ssize_t k = recv(s->fd, s->in + s->got, s->expected - s->got, 0);
        if (k > 0) {
            s->got += (size_t)k;
            if (s->stage == AWAIT_HELLO && !cmo_hello_begins(s->in, s->got)) {
                tcp_discard(n, s);
                return false;
            }
        } else if (k == 0) {
            tcp_fail_socket(n, s, CMO_OK, "it closed the connection during the handshake");
            return false;
        } else if (errno == EAGAIN) {
            tcp_watch(n, s, EPOLLIN);
            return false;
        } else if (errno != EINTR) {
            tcp_fail_socket(n, s, CMO_OK, strerror(errno));
            return false;
        }
    }
    return true;
}

/* Take a socket as far through its handshake as it goes now. */
static void tcp_advance(tcp_net *n, tcp_socket *s)
{
    if (s->stage == CONNECTING) tcp_on_connect(n, s);
    while (s->stage != CLOSED && tcp_flush(n, s)) {
        if (s->stage == REFUSING) tcp_discard(n, s);
        else if (s->stage == CHOSEN) tcp_go_live(n, s);
        if (s->stage == CLOSED || s->stage == LIVE || !tcp_fill(n, s)) return;
        switch (s->stage) {
        case AWAIT_HELLO: tcp_on_hello(n, s); break;
        case AWAIT_PROOF: tcp_on_proof(n, s); break;
        case AWAIT_ANSWER: tcp_on_answer(n, s); break;
        default: tcp_on_welcome(n, s); break;
        }
    }
}

static void tcp_accept(tcp_net *n, const tcp_socket *listener)
{
    while (n->accepting) {
        cmo_address address = {.length = sizeof address.v6};
        int fd = accept4(listener->fd, &address.any, &address.length, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EINTR || errno == ECONNABORTED) continue;
            if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
                tcp_accept_more(n, false); /* or epoll would not let anyone sleep */
                n->accept_at = cmo_now() + 100 * millisecond;
                tcp_schedule(n, n->accept_at);
            }
            return; /* else: nobody is waiting, or a connection that broke before it was taken */
        }
        tcp_set_options(fd);
        tcp_socket *s = tcp_adopt(n, fd, AWAIT_HELLO, EPOLLIN);
        if (!s) {
            close(fd);
            continue;
        }
        s->inbound = true;
        s->address = address;
        s->expected = CMO_HELLO_BYTES;
        s->deadline = s->born + n->handshake_ns;
        tcp_schedule(n, s->deadline);
        if (++n->strangers == MAX_STRANGERS) {
            tcp_accept_more(n, false);
            tcp_schedule(n, cmo_now()); /* tcp_make_room says when */
        }
        tcp_advance(n, s); /* mostly its HELLO is there already */
    }
}

/* ------------------------------------------------------------------ time */

/* Room for others, where strangers fill the table and the oldest has had time enough. */
static void tcp_make_room(tcp_net *n, int64_t now)
{
    const int64_t grace = n->handshake_ns / 16;
    CMO_EACH(node, &n->pending) {
        tcp_socket *s = socket_at(node);
        if (n->strangers < MAX_STRANGERS || !s->inbound || s->stage == CHOSEN) continue;
        if (now - s->born >= grace) tcp_discard(n, s);
        else tcp_schedule(n, s->born + grace);
        return;
    }
}

static void tcp_expire(tcp_net *n, tcp_socket *s)
{
    /* What came while nobody polled counts as in time. */
    if (s->stage != CONNECTING) tcp_advance(n, s);
    if (s->stage == CLOSED || s->stage == LIVE || cmo_now() < s->deadline) return;
    if (!s->inbound && s->stage != CONNECTING) s->link->alive = true;
    tcp_fail_socket(n, s, CMO_OK, s->stage == CONNECTING ? "no answer" : "it has accepted the connection, and is silent");
}

/* Break the links to hosts that acknowledge nothing. What is outstanding is data, or a probe of a closed window that was
 * followed by another one. */
static void tcp_check(tcp_net *n, int64_t now)
{
    const bool away = now - n->check_at > n->check_ns; /* nobody polled: begin anew */
    n->check_at = cmo_list_empty(&n->live) ? CMO_NEVER : now + n->check_ns;
    CMO_EACH(node, &n->live) {
        tcp_link *l = socket_at(node)->link;
        struct tcp_info info;
        socklen_t length = sizeof info;
        memset(&info, 0, sizeof info);
        if (getsockopt(l->socket->fd, IPPROTO_TCP, TCP_INFO, &info, &length)) continue;
        const bool outstanding = info.tcpi_unacked || info.tcpi_probes > 1;
        const int64_t since = info.tcpi_last_ack_recv * millisecond;
        if (away || !outstanding || since < now - l->acknowledged_at) l->acknowledged_at = now;
        else if (now - l->acknowledged_at >= n->user_timeout_ns) l->write_errno = ETIMEDOUT, l->link.readable = true;
    }
}

static void tcp_tick(tcp_net *n)
{
    const int64_t now = cmo_now();
    n->due = CMO_NEVER;
    struct itimerspec none = {.it_value = {0}};
    timerfd_settime(n->timer, 0, &none, NULL);
    for (bool again = true; again;) { /* from the beginning each time: whatever expires may take others along */
        again = false;
        CMO_EACH(node, &n->pending)
            if (socket_at(node)->deadline <= now) {
                tcp_expire(n, socket_at(node));
                again = true;
                break;
            }
    }
    while (!cmo_list_empty(&n->retries)) {
        tcp_link *first = NULL;
        CMO_EACH(node, &n->retries) {
            tcp_link *l = CMO_ENTRY(node, tcp_link, retry);
            if (l->retry_at <= now) first = l;
            else tcp_schedule(n, l->retry_at);
        }
        if (!first) break;
        tcp_begin_round(n, first);
    }
    tcp_make_room(n, now);
    if (n->accept_at <= now) tcp_accept_more(n, true);
    if (n->check_at <= now) tcp_check(n, now);
    CMO_EACH(node, &n->pending) tcp_schedule(n, socket_at(node)->deadline);
    tcp_schedule(n, n->accept_at);
    tcp_schedule(n, n->check_at);
}

/* ------------------------------------------------------------------ the transport */

static cmo_err tcp_open(cmo_net *net, int peer, cmo_link **out)
{
    tcp_net *n = (tcp_net *)net;
    if (peer < 0 || peer >= n->size || peer == (int)n->own.src)
        return cmo_fail(CMO_EINVAL, "there is no link over TCP from rank %u to rank %d of %d", n->own.src, peer, n->size);
    tcp_link *l = &n->links[peer];
    if (l->state == IDLE) {
        l->state = WANTED;
        l->give_up_at = cmo_now() + n->handshake_ns;
        if (l->naddresses) tcp_begin_round(n, l);
        else tcp_break(l, CMO_EPEERLOST, "rank %d cannot be reached (it has no address)", peer);
    }
    *out = &l->link;
    return CMO_OK;
}

static cmo_err tcp_poll(cmo_net *net)
{
    tcp_net *n = (tcp_net *)net;
    struct epoll_event events[EVENTS];
    bool tick = false;
    int k = epoll_wait(net->fd, events, EVENTS, 0);
    if (k < 0) return errno == EINTR ? CMO_OK : cmo_fail(CMO_ESYS, "epoll_wait: %s", strerror(errno));
    for (int i = 0; i < k; i++) {
        tcp_socket *s = events[i].data.ptr;
        if (!s) tick = true;
        else if (s->stage == LIVE) s->link->link.readable |= (events[i].events & ~(uint32_t)EPOLLOUT) != 0;
        else if (s->stage == LISTENING) tcp_accept(n, s);
        else tcp_advance(n, s);
    }
    if (tick) tcp_tick(n); /* after all else, so that nobody expires who has answered */
    CMO_EACH(node, &n->closed) free(socket_at(node));
    cmo_list_init(&n->closed);
    return CMO_OK;
}

static cmo_err tcp_write(cmo_link *link, const struct iovec *iov, int niov, size_t *moved)
{
    tcp_link *l = (tcp_link *)link;
    *moved = 0;
    if (l->state == DEAD) return tcp_lost(l);
    if (l->state != UP || l->write_errno) return CMO_OK;
    struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)(niov < MAX_IOV ? niov : MAX_IOV)};
    ssize_t k;
    do k = sendmsg(l->socket->fd, &m, MSG_NOSIGNAL);
    while (k < 0 && errno == EINTR);
    if (k >= 0) {
        *moved = (size_t)k;
    } else if (errno != EAGAIN && errno != ENOBUFS && errno != ENOMEM) {
        l->write_errno = errno;
        link->readable = true; /* reading tells, after what has arrived */
    }
    return CMO_OK;
}

/* The stream has ended; `error` is 0 where the peer has ended it. */
static cmo_err tcp_end(tcp_link *l, int error)
{
    char where[CMO_ADDRESS_TEXT];
    const int peer = l->link.peer;
    cmo_address_format(where, &l->socket->address);
    if (!error) error = l->write_errno;
    if (!error) tcp_break(l, CMO_EPEERLOST, "rank %d closed its connection", peer);
    else if (error == ECONNRESET || error == EPIPE) tcp_break(l, CMO_EPEERLOST, "connection to rank %d (%s) was reset", peer, where);
    else tcp_break(l, CMO_EPEERLOST, "connection to rank %d (%s) broke: %s", peer, where, strerror(error));
    return tcp_lost(l);
}

static size_t iov_bytes(const struct iovec *iov, size_t n)
{
    size_t total = 0;
    for (size_t i = 0; i < n; i++) total += iov[i].iov_len;
    return total;
}

static cmo_err tcp_read(cmo_link *link, const struct iovec *iov, int niov, size_t *moved)
{
    tcp_link *l = (tcp_link *)link;
    *moved = 0;
    if (l->state == DEAD) return tcp_lost(l);
    if (l->state != UP) {
        link->readable = false;
        return CMO_OK;
    }
    struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)(niov < MAX_IOV ? niov : MAX_IOV)};
    const size_t wanted = iov_bytes(iov, m.msg_iovlen);
    if (!wanted) return CMO_OK; /* for which recvmsg says what it says at the end of a stream */
    ssize_t k;
    do k = recvmsg(l->socket->fd, &m, 0);
    while (k < 0 && errno == EINTR);
    if (k > 0) {
        *moved = (size_t)k;
        /* A short read has emptied the socket, mostly; if not, or if the end follows, the next poll says so. */
        if ((size_t)k < wanted && !l->write_errno) link->readable = false;
        return CMO_OK;
    }
    if (k == 0) return tcp_end(l, 0);
    if (errno != EAGAIN) return tcp_end(l, errno);
    if (l->write_errno) return tcp_end(l, l->write_errno);
    link->readable = false;
    return CMO_OK;
}

static void tcp_want_write(cmo_link *link, bool yes)
{
    tcp_link *l = (tcp_link *)link;
    if (l->wants_write == yes) return;
    l->wants_write = yes;
    if (l->state == UP) tcp_watch(net_of(l), l->socket, EPOLLIN | (yes ? EPOLLOUT : 0));
}

static void tcp_drop(cmo_link *link)
{
    tcp_link *l = (tcp_link *)link;
    if (l->state != DEAD) tcp_break(l, CMO_EPEERLOST, "the connection to rank %d was given up here", link->peer);
    link->readable = false;
}

/* End a stream so that the peer can still read all that was written: closing a socket that holds unread bytes would
 * reset the connection and take back what is on its way. */
static void tcp_finish(tcp_socket *s)
{
    char sink[16384];
    shutdown(s->fd, SHUT_WR);
    for (int i = 0; i < 1024 && recv(s->fd, sink, sizeof sink, 0) > 0; i++) {}
}

static void tcp_free_all(cmo_node *list)
{
    CMO_EACH(node, list) {
        tcp_socket *s = socket_at(node);
        if (s->stage == LIVE) tcp_finish(s);
        if (s->fd >= 0) close(s->fd);
        free(s);
    }
    cmo_list_init(list);
}

static void tcp_close(cmo_net *net)
{
    tcp_net *n = (tcp_net *)net;
    tcp_free_all(&n->live);
    tcp_free_all(&n->pending);
    tcp_free_all(&n->listening);
    tcp_free_all(&n->closed);
    if (n->timer >= 0) close(n->timer);
    if (net->fd >= 0) close(net->fd);
    free(n->links);
    free(n->text);
    free(n);
}

static const cmo_net_ops tcp_ops = {
    .name = "tcp",
    .open = tcp_open,
    .poll = tcp_poll,
    .write = tcp_write,
    .read = tcp_read,
    .want_write = tcp_want_write,
    .drop = tcp_drop,
    .close = tcp_close,
};

/* Copy everyone's addresses, having looked at each. */
static cmo_err tcp_take_addresses(tcp_net *n, const char *const *addresses)
{
    size_t total = 1;
    for (int i = 0; i < n->size; i++) total += addresses[i] ? strlen(addresses[i]) + 1 : 0;
    n->text = malloc(total);
    if (!n->text) return cmo_fail(CMO_ENOMEM, "the addresses of %d ranks", n->size);
    char *end = n->text;
    for (int i = 0; i < n->size; i++) {
        tcp_link *l = &n->links[i];
        l->link = (cmo_link){.net = &n->net, .peer = i};
        cmo_list_init(&l->retry);
        if (!addresses[i]) continue;
        l->addresses = strcpy(end, addresses[i]);
        end += strlen(end) + 1;
        const char *list = l->addresses, *word;
        size_t length;
        for (; cmo_address_next(&list, &word, &length); l->naddresses++) {
            cmo_address address;
            if (cmo_address_parse(&address, word, length)) {
                char why[CMO_TEXT / 2];
                snprintf(why, sizeof why, "%s", cmo_reason());
                return cmo_fail(CMO_EINVAL, "addresses of rank %d: %s", i, why);
            }
        }
    }
    return CMO_OK;
}

static cmo_err tcp_take_listeners(tcp_net *n, const int *listeners, int count)
{
    for (int i = 0; i < count; i++) {
        const int flags = fcntl(listeners[i], F_GETFL);
        if (flags < 0 || fcntl(listeners[i], F_SETFL, flags | O_NONBLOCK) || !tcp_adopt(n, listeners[i], LISTENING, EPOLLIN))
            return cmo_fail(CMO_ESYS, "listening socket %d: %s", listeners[i], strerror(errno));
        tcp_set_buffers(n, listeners[i]); /* what it accepts inherits them; later would be too late for the window's scale */
    }
    return CMO_OK;
}

cmo_err cmo_tcp_net(cmo_net **out, const cmo_tcp_config *c)
{
    if (c->size < 1 || c->rank < 0 || c->rank >= c->size || c->nlisteners < 0 || !c->mac || c->handshake_ns < 1)
        return cmo_fail(CMO_EINVAL, "rank %d of %d with %d listening sockets", c->rank, c->size, c->nlisteners);
    cmo_err err = CMO_ENOMEM;
    tcp_net *n = calloc(1, sizeof *n);
    if (!n) return cmo_fail(CMO_ENOMEM, "a net");
    *n = (tcp_net){.net = {.ops = &tcp_ops, .fd = -1}, .size = c->size, .timer = -1, .mac = c->mac, .mac_ctx = c->mac_ctx,
                   .own = {.version = CMO_HANDSHAKE_VERSION, .src = (uint32_t)c->rank, .size = (uint32_t)c->size,
                           .generation = c->generation},
                   .handshake_ns = c->handshake_ns, .user_timeout_ns = c->user_timeout_ms * millisecond,
                   .socket_bytes = c->socket_bytes < INT_MAX ? (int)c->socket_bytes : INT_MAX, .accepting = true,
                   .accept_at = CMO_NEVER, .check_at = CMO_NEVER, .due = CMO_NEVER};
    memcpy(n->own.job, c->job, sizeof n->own.job);
    if (c->user_timeout_ms > 0) n->check_ns = n->user_timeout_ns < 4 * CMO_SECOND ? n->user_timeout_ns / 4 : CMO_SECOND;
    cmo_list_init(&n->listening);
    cmo_list_init(&n->pending);
    cmo_list_init(&n->live);
    cmo_list_init(&n->closed);
    cmo_list_init(&n->retries);
    n->links = calloc((size_t)c->size, sizeof *n->links);
    if (!n->links) {
        cmo_fail(err, "links to %d ranks", c->size);
        goto fail;
    }
    err = tcp_take_addresses(n, c->addresses);
    if (err) goto fail;
    n->net.fd = epoll_create1(EPOLL_CLOEXEC);
    n->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    if (n->net.fd < 0 || n->timer < 0 || epoll_ctl(n->net.fd, EPOLL_CTL_ADD, n->timer, &e)) {
        err = cmo_fail(CMO_ESYS, "epoll and timer descriptors: %s", strerror(errno));
        goto fail;
    }
    err = tcp_take_listeners(n, c->listeners, c->nlisteners);
    if (err) goto fail;
    *out = &n->net;
    return CMO_OK;
fail:
    CMO_EACH(node, &n->listening) socket_at(node)->fd = -1; /* they stay the caller's */
    tcp_close(&n->net);
    return err;
}
