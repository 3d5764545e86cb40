/* How TCP connections come about: making them, authenticating them, and choosing the one that becomes the link
 * between two ranks.
 *
 * Which connection wins. Both ranks may be connecting to each other at once, so there may be several connections in
 * the making; one becomes the link. The lower rank chooses: on a connection that it made by sending PROOF, on one
 * that was made to it by sending WELCOME. It chooses one at a time: from then on its link is HAS_CHOSEN, its other
 * connections with that peer are closed, and a HELLO of the peer is answered with DUPLICATE. The higher rank never
 * chooses. It takes the first connection on which such a message comes, is UP, and closes its others.
 *
 * In whatever order things happen, both end with the same connection or both without one:
 * - The message that chooses is authenticated, so only the lower rank can have sent it. HELLO and ANSWER decide
 *   nothing; a stranger, who can send no more than those, changes nothing.
 * - What the higher rank closes when it takes the chosen one, the lower has given up before.
 * - What the lower rank closes when it chooses is, for the higher, an attempt that failed. It tries again and is told
 *   DUPLICATE: wait, the choice is on its way.
 * - As a client, the lower rank is UP only when WELCOME says that the higher has taken its choice. Should the
 *   connection fail before (the higher may have grown tired of waiting for PROOF), the choice is taken back: no frame
 *   has gone out on it. The next attempt is ACCEPTED if the higher rank never saw PROOF. Else that one had the link
 *   and has lost it: DUPLICATE until it notices, then GONE, which ends the link here too.
 * - A link that was UP and broke is DEAD for good: bytes may be lost, so no other connection can take its place.
 *   HELLO is answered with GONE.
 *
 * A handshake message is read with exactly its length; frames that follow the last one in the same segment stay in
 * the socket and are the first that the link reads.
 *
 * Patience. A rank polls when it is in a call and may compute for minutes between two. So a peer whose kernel has
 * accepted a connection is waited for, and a message that came in time is heard even if nobody polled before its
 * deadline. Only what has failed for sure breaks a link. Whoever connects to us has handshake_ns.
 *
 * Why TCP_USER_TIMEOUT is not set. The kernel applies it to a peer whose window is closed as well, although that
 * peer's host acknowledges every probe: a rank that computes for longer than the limit, with data waiting for it,
 * would lose its connections. So the same limit is kept here (tcp_check), for hosts that acknowledge nothing. */
#include "transport/tcp_net.h"

#include <errno.h>
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
    KEEPALIVE_IDLE_S = 10, KEEPALIVE_INTERVAL_S = 5, KEEPALIVE_COUNT = 3
};

/* ------------------------------------------------------------------ sockets */

static void tcp_schedule(tcp_net *n, int64_t when)
{
    if (when >= n->due) return;
    n->due = when;
    struct itimerspec t = {.it_value = {.tv_sec = when / CMO_SECOND, .tv_nsec = when % CMO_SECOND}};
    timerfd_settime(n->timer, TFD_TIMER_ABSTIME, &t, NULL); /* cannot fail with these arguments */
}

void cmo_tcp_watch(tcp_net *n, tcp_socket *s, uint32_t events)
{
    if (s->watched == events) return;
    struct epoll_event e = {.events = events, .data.ptr = s};
    s->watched = events;
    epoll_ctl(n->net.fd, EPOLL_CTL_MOD, s->fd, &e); /* takes no memory, so it does not fail */
}

static void tcp_accept_more(tcp_net *n, bool yes)
{
    n->accepting = yes;
    n->accept_at = CMO_NEVER;
    CMO_EACH(node, &n->listening) cmo_tcp_watch(n, socket_at(node), yes ? EPOLLIN : 0);
}

static void tcp_stranger_left(tcp_net *n)
{
    n->strangers--;
    if (!n->accepting && n->accept_at == CMO_NEVER) tcp_accept_more(n, true);
}

/* Close a socket. What is left of it stays until the poll ends. */
static void tcp_discard(tcp_net *n, tcp_socket *s)
{
    if (s->stage == CLOSED) return;
    /* Taken out by hand, since a child process may hold the descriptor open, and epoll would go on naming it. */
    epoll_ctl(n->net.fd, EPOLL_CTL_DEL, s->fd, NULL);
    close(s->fd);
    if (s->inbound && s->stage != LIVE) {
        tcp_stranger_left(n);
    }
    s->fd = -1;
    s->stage = CLOSED;
    cmo_list_remove(&s->node);
    cmo_list_append(&n->closed, &s->node);
}

/* Make a tcp_socket of a descriptor, which is taken on success. */
tcp_socket *cmo_tcp_adopt(tcp_net *n, int fd, tcp_stage stage, uint32_t events)
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

void cmo_tcp_set_buffers(const tcp_net *n, int fd)
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
    cmo_list_remove(&l->retry);
}

void cmo_tcp_break(tcp_link *l, cmo_err err, const char *format, ...)
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

/* The lower rank chooses this connection, or the higher one takes the choice. */
static void tcp_choose(tcp_net *n, tcp_socket *s)
{
    tcp_link *l = s->link;
    tcp_abandon(n, l, s);
    l->state = HAS_CHOSEN;
    l->socket = s;
}

static void tcp_go_live(tcp_net *n, tcp_socket *s)
{
    tcp_link *l = s->link;
    if (s->inbound) tcp_stranger_left(n);
    s->stage = LIVE;
    s->deadline = CMO_NEVER;
    cmo_list_remove(&s->node);
    cmo_list_append(&n->live, &s->node);
    cmo_tcp_watch(n, s, EPOLLIN | (l->wants_write ? EPOLLOUT : 0));
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
    cmo_tcp_set_buffers(n, fd);
    tcp_set_options(fd);
    int rc;
    do rc = connect(fd, &address->any, address->length);
    while (rc && errno == EINTR);
    tcp_socket *s = NULL;
    if (rc == 0 || errno == EINPROGRESS) s = cmo_tcp_adopt(n, fd, CONNECTING, EPOLLOUT);
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
    return 0;
}

static void tcp_end_round(tcp_net *n, tcp_link *l)
{
    if (l->final == CMO_EAUTH) {
        cmo_tcp_break(l, CMO_EAUTH, "rank %d did not prove that it holds the token (%s)", l->link.peer, l->why);
        return;
    }
    if (l->alive) {
        l->failures = 0;
    } else if (l->final || ++l->failures == ROUNDS) {
        cmo_tcp_break(l, CMO_EPEERLOST, "rank %d cannot be reached (%s)", l->link.peer, l->why);
        return;
    }
    int64_t delay = (int64_t)FIRST_DELAY_MS << (l->rounds < 8 ? l->rounds - 1 : 7);
    l->retry_at = cmo_now() + (delay < MAX_DELAY_MS ? delay : MAX_DELAY_MS) * CMO_MILLISECOND;
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

void cmo_tcp_begin_round(tcp_net *n, tcp_link *l)
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
        cmo_tcp_break(l, CMO_EPEERLOST, "connection to rank %d was lost while it was made: %s", l->link.peer, what);
    } else if (s->inbound) {
        tcp_discard(n, s);
    } else {
        if (l->socket == s) { /* a choice of ours that the peer may not know of */
            l->socket = NULL;
            l->state = WANTED;
        }
        tcp_note(l, &s->address, what);
        if (s->proven) l->alive = true;
        /* Only addresses at which nobody is to be found use up the time. */
        if (s->stage != CONNECTING) l->give_up_at = cmo_now() + n->handshake_ns;
        if (final && l->final != CMO_EAUTH) l->final = final;
        tcp_discard(n, s);
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
    memcpy(s->answer, s->in, sizeof s->answer);
    if (cmo_answer_parse(&a, s->answer)) {
        tcp_fail_socket(n, s, CMO_EPROTO, cmo_reason());
        return;
    }
    s->proven = tcp_server_code(n, s, code) && cmo_mac_equal(code, a.mac);
    const bool peer = a.status == CMO_VERDICT_ACCEPTED || a.status == CMO_VERDICT_DUPLICATE ||
                      a.status == CMO_VERDICT_GONE; /* else: not the rank that we want, whoever it is */
    if (!peer) {
        s->proven = false;
        tcp_fail_socket(n, s, CMO_EPEERLOST, cmo_verdict_text(a.status));
    } else if (!s->proven || !tcp_client_code(n, s, code)) {
        s->proven = false;
        tcp_fail_socket(n, s, CMO_EAUTH, "its code does not fit");
    } else if (a.status == CMO_VERDICT_GONE) {
        cmo_tcp_break(l, CMO_EPEERLOST, "rank %d has given up its connection to this rank", l->link.peer);
    } else if (a.status == CMO_VERDICT_DUPLICATE) {
        tcp_fail_socket(n, s, CMO_OK, cmo_verdict_text(a.status)); /* it is there, so there will be another attempt */
    } else {
        tcp_send(s, code, sizeof code);
        tcp_expect(s, AWAIT_WELCOME, CMO_WELCOME_BYTES);
        s->deadline = CMO_NEVER; /* this is the peer, so there is nothing better to try */
        if (is_lower(n, l)) tcp_choose(n, s);
    }
}

static void tcp_on_proof(tcp_net *n, tcp_socket *s)
{
    uint8_t code[CMO_MAC_BYTES];
    if (!tcp_client_code(n, s, code) || !cmo_mac_equal(code, s->in)) {
        tcp_discard(n, s);
        return;
    }
    uint8_t welcome[CMO_WELCOME_BYTES];
    cmo_welcome_write(welcome);
    tcp_send(s, welcome, sizeof welcome);
    tcp_choose(n, s); /* had another been chosen since the ANSWER, this socket would have been closed then */
    s->stage = CHOSEN;
}

static void tcp_on_welcome(tcp_net *n, tcp_socket *s)
{
    if (cmo_welcome_parse(s->in)) {
        tcp_fail_socket(n, s, CMO_EPROTO, cmo_reason());
        return;
    }
    tcp_choose(n, s);
    s->stage = CHOSEN;
}

/* Send what is queued. False while that is not done, and where the socket has failed. */
static bool tcp_flush(tcp_net *n, tcp_socket *s)
{
    while (s->sent < s->queued) {
        ssize_t k = send(s->fd, s->out + s->sent, s->queued - s->sent, MSG_NOSIGNAL);
        if (k >= 0) {
            s->sent += (size_t)k;
        } else if (errno == EAGAIN) {
            cmo_tcp_watch(n, s, EPOLLOUT);
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
            cmo_tcp_watch(n, s, EPOLLIN);
            return false;
        } else if (errno != EINTR) {
            tcp_fail_socket(n, s, CMO_OK, strerror(errno));
            return false;
        }
    }
    return true;
}

/* Take a socket as far through its handshake as it goes now. */
void cmo_tcp_advance(tcp_net *n, tcp_socket *s)
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

void cmo_tcp_accept(tcp_net *n, const tcp_socket *listener)
{
    while (n->accepting) {
        cmo_address address = {.length = sizeof address.v6};
        int fd = accept4(listener->fd, &address.any, &address.length, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EINTR || errno == ECONNABORTED) continue;
            if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
                tcp_accept_more(n, false); /* or epoll would not let anyone sleep */
                n->accept_at = cmo_now() + 100 * CMO_MILLISECOND;
                tcp_schedule(n, n->accept_at);
            }
            return; /* else: nobody is waiting, or a connection that broke before it was taken */
        }
        tcp_set_options(fd);
        tcp_socket *s = cmo_tcp_adopt(n, fd, AWAIT_HELLO, EPOLLIN);
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
        cmo_tcp_advance(n, s); /* mostly its HELLO is there already */
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
    if (s->stage != CONNECTING) cmo_tcp_advance(n, s);
    if (s->stage == CLOSED || s->stage == LIVE || cmo_now() < s->deadline) return;
    if (s->stage == CONNECTING) { /* unlike those who refuse, whoever swallows packets is asked for the whole time */
        tcp_fail_socket(n, s, s->deadline < s->link->give_up_at ? CMO_OK : CMO_EPEERLOST, "no answer");
    } else {
        if (!s->inbound) s->link->alive = true;
        tcp_fail_socket(n, s, CMO_OK, "it has accepted the connection, and is silent");
    }
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
        const int64_t since = info.tcpi_last_ack_recv * CMO_MILLISECOND;
        if (away || !outstanding || since < now - l->acknowledged_at) l->acknowledged_at = now;
        else if (now - l->acknowledged_at >= n->user_timeout_ns) l->write_errno = ETIMEDOUT, l->link.readable = true;
    }
}

void cmo_tcp_tick(tcp_net *n)
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
        cmo_tcp_begin_round(n, first);
    }
    tcp_make_room(n, now);
    if (n->accept_at <= now) tcp_accept_more(n, true);
    if (n->check_at <= now) tcp_check(n, now);
    CMO_EACH(node, &n->pending) tcp_schedule(n, socket_at(node)->deadline);
    tcp_schedule(n, n->accept_at);
    tcp_schedule(n, n->check_at);
}
