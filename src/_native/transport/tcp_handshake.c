/* The handshake of a connection, on both sides. What is said in it, and why, is in handshake.h.
 *
 * A message is read with exactly its length: frames that follow the last one in the same segment stay in the socket
 * and are the first that the link reads. */
#include "transport/tcp_net.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>

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

/* With TLS, codes cover what this session alone has: passed on from another one they do not fit. */
static bool tcp_code(tcp_net *n, const tcp_socket *s, uint8_t text[CMO_SIGNED_BYTES + CMO_TLS_BINDING_BYTES],
                     uint8_t out[CMO_MAC_BYTES])
{
    if (!s->tls) return n->mac(n->mac_ctx, text, CMO_SIGNED_BYTES, out);
    return cmo_tls_binding(s->tls, text + CMO_SIGNED_BYTES) &&
           n->mac(n->mac_ctx, text, CMO_SIGNED_BYTES + CMO_TLS_BINDING_BYTES, out);
}

static bool tcp_server_code(tcp_net *n, const tcp_socket *s, uint8_t out[CMO_MAC_BYTES])
{
    uint8_t text[CMO_SIGNED_BYTES + CMO_TLS_BINDING_BYTES];
    cmo_server_signed(text, s->hello, s->answer);
    return tcp_code(n, s, text, out);
}

static bool tcp_client_code(tcp_net *n, const tcp_socket *s, uint8_t out[CMO_MAC_BYTES])
{
    uint8_t text[CMO_SIGNED_BYTES + CMO_TLS_BINDING_BYTES];
    cmo_client_signed(text, s->hello, s->answer);
    return tcp_code(n, s, text, out);
}

static void tcp_on_connect(tcp_net *n, tcp_socket *s)
{
    int error = 0;
    socklen_t length = sizeof error;
    if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &length)) error = errno;
    if (error) {
        cmo_tcp_fail(n, s, CMO_OK, strerror(error));
        return;
    }
    if (!cmo_tcp_begin_tls(n, s)) {
        cmo_tcp_fail(n, s, CMO_OK, "no memory for TLS");
        return;
    }
    cmo_hello h = n->own;
    h.dst = (uint32_t)s->link->link.peer;
    if (!tcp_nonce(h.nonce)) {
        cmo_tcp_fail(n, s, CMO_OK, "no random numbers");
        return;
    }
    cmo_hello_write(s->hello, &h);
    tcp_send(s, s->hello, sizeof s->hello);
    tcp_expect(s, AWAIT_ANSWER, CMO_ANSWER_BYTES);
    s->deadline = cmo_now() + n->handshake_ns; /* its kernel has answered; the rank may be busy: see tcp_expire */
    cmo_tcp_schedule(n, s->deadline);
}

static void tcp_on_hello(tcp_net *n, tcp_socket *s)
{
    cmo_hello h;
    cmo_answer a = {.version = CMO_HANDSHAKE_VERSION};
    memcpy(s->hello, s->in, sizeof s->hello);
    if (cmo_hello_parse(&h, s->hello) || !tcp_nonce(a.nonce)) {
        cmo_tcp_refuse(n, s);
        return;
    }
    a.status = cmo_hello_judge(&h, &n->own);
    if (a.status == CMO_ANSWER_ACCEPTED) {
        s->link = &n->links[h.src];
        if (s->link->state == DEAD) a.status = CMO_ANSWER_GONE;
        else if (s->link->state >= HAS_CHOSEN) a.status = CMO_ANSWER_DUPLICATE;
    }
    cmo_answer_write(s->answer, &a);
    if (!tcp_server_code(n, s, a.mac)) {
        cmo_tcp_discard(n, s);
        return;
    }
    cmo_answer_write(s->answer, &a);
    tcp_send(s, s->answer, sizeof s->answer);
    if (a.status == CMO_ANSWER_ACCEPTED) {
        tcp_expect(s, AWAIT_PROOF, CMO_PROOF_BYTES);
    } else {
        if (!s->link) cmo_tcp_note_stranger(n, s); /* else a peer, that has another connection or none any more */
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
        cmo_tcp_fail(n, s, CMO_EPROTO, cmo_reason());
        return;
    }
    s->proven = tcp_server_code(n, s, code) && cmo_mac_equal(code, a.mac);
    const bool peer = a.status == CMO_ANSWER_ACCEPTED || a.status == CMO_ANSWER_DUPLICATE ||
                      a.status == CMO_ANSWER_GONE; /* else: not the rank that we want, whoever it is */
    if (!peer) {
        s->proven = false;
        cmo_tcp_fail(n, s, CMO_EPEERLOST, cmo_answer_text(a.status));
    } else if (!s->proven || !tcp_client_code(n, s, code)) {
        s->proven = false;
        cmo_tcp_fail(n, s, CMO_EAUTH, "its code does not fit");
    } else if (a.status == CMO_ANSWER_GONE) {
        cmo_tcp_break(l, CMO_EPEERLOST, "it has given up its connection to this rank");
    } else if (a.status == CMO_ANSWER_DUPLICATE) {
        cmo_tcp_fail(n, s, CMO_OK, cmo_answer_text(a.status)); /* it is there, so there will be another attempt */
    } else {
        tcp_send(s, code, sizeof code);
        tcp_expect(s, AWAIT_WELCOME, CMO_WELCOME_BYTES);
        s->deadline = CMO_NEVER; /* this is the peer, so there is nothing better to try */
        cmo_tcp_stop_trying(n, l, s);
        if (is_lower(n, l)) cmo_tcp_choose(n, s);
    }
}

static void tcp_on_proof(tcp_net *n, tcp_socket *s)
{
    uint8_t code[CMO_MAC_BYTES];
    if (!tcp_client_code(n, s, code) || !cmo_mac_equal(code, s->in)) {
        cmo_tcp_refuse(n, s);
        return;
    }
    uint8_t welcome[CMO_WELCOME_BYTES];
    cmo_welcome_write(welcome);
    tcp_send(s, welcome, sizeof welcome);
    cmo_tcp_choose(n, s); /* had another been chosen since the ANSWER, this socket would have been closed then */
    s->stage = CHOSEN;
}

static void tcp_on_welcome(tcp_net *n, tcp_socket *s)
{
    if (cmo_welcome_parse(s->in)) {
        cmo_tcp_fail(n, s, CMO_EPROTO, cmo_reason());
        return;
    }
    cmo_tcp_choose(n, s);
    s->stage = CHOSEN;
}

/* The socket has failed, or TLS in it. */
static void tcp_broke(tcp_net *n, tcp_socket *s, int error)
{
    const cmo_err final = error == EKEYREJECTED ? CMO_EAUTH : error == EPROTO ? CMO_EPROTO : CMO_OK;
    if (final && s->stage == AWAIT_HELLO) cmo_tcp_refuse(n, s); /* by its certificate, or for what is no TLS */
    else cmo_tcp_fail(n, s, final, cmo_tcp_why(s, error));
}

/* Wait for room to send, or for bytes: either may be what TLS needs for its handshake. */
static void tcp_await(tcp_net *n, tcp_socket *s, uint32_t events)
{
    if (s->tls) events = EPOLLIN | (cmo_tls_holds(s->tls) ? EPOLLOUT : 0);
    cmo_tcp_watch(n, s, events);
}

/* Send what is queued. False while that is not done, and where the socket has failed. */
static bool tcp_flush(tcp_net *n, tcp_socket *s)
{
    while (s->sent < s->queued) {
        ssize_t k = cmo_tcp_send(s, s->out + s->sent, s->queued - s->sent);
        if (k >= 0) {
            s->sent += (size_t)k;
        } else if (errno == EAGAIN) {
            tcp_await(n, s, EPOLLOUT);
            return false;
        } else if (errno != EINTR) {
            tcp_broke(n, s, errno);
            return false;
        }
    }
    if (!s->tls) return true;
    cmo_tls_flush(s->tls);
    if (cmo_tls_holds(s->tls)) tcp_await(n, s, EPOLLOUT);
    return !cmo_tls_holds(s->tls);
}

/* Receive what is expected, and nothing beyond it. False while that is not done, and where the socket has failed. */
static bool tcp_fill(tcp_net *n, tcp_socket *s)
{
    while (s->got < s->expected) {
        ssize_t k = cmo_tcp_receive(s, s->in + s->got, s->expected - s->got);
        if (k > 0) {
            s->got += (size_t)k;
            if (s->stage == AWAIT_HELLO && !cmo_hello_begins(s->in, s->got)) {
                cmo_tcp_refuse(n, s);
                return false;
            }
        } else if (k == 0) {
            cmo_tcp_fail(n, s, CMO_OK, "it closed the connection during the handshake");
            return false;
        } else if (errno == EAGAIN) {
            tcp_await(n, s, EPOLLIN);
            return false;
        } else if (errno != EINTR) {
            tcp_broke(n, s, errno);
            return false;
        }
    }
    return true;
}

void cmo_tcp_advance(tcp_net *n, tcp_socket *s)
{
    if (s->stage == CONNECTING) tcp_on_connect(n, s);
    while (s->stage != CLOSED && tcp_flush(n, s)) {
        if (s->stage == REFUSING) cmo_tcp_discard(n, s);
        else if (s->stage == CHOSEN) cmo_tcp_go_live(n, s);
        if (s->stage == CLOSED || s->stage == LIVE || !tcp_fill(n, s)) return;
        switch (s->stage) {
        case AWAIT_HELLO: tcp_on_hello(n, s); break;
        case AWAIT_PROOF: tcp_on_proof(n, s); break;
        case AWAIT_ANSWER: tcp_on_answer(n, s); break;
        default: tcp_on_welcome(n, s); break;
        }
    }
}
