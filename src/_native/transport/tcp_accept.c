/* Letting in who connects to us. Until it has proven that it is a rank of the job, it is a stranger. */
#include "transport/tcp_net.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_STRANGERS = 128 };

static void tcp_accept_more(tcp_net *n, bool yes)
{
    n->accepting = yes;
    n->accept_at = CMO_NEVER;
    CMO_EACH(node, &n->listening) cmo_tcp_watch(n, socket_at(node), yes ? EPOLLIN : 0);
}

void cmo_tcp_note_stranger(tcp_net *n, const tcp_socket *s)
{
    n->refused++;
    n->refused_last = s->address;
}

void cmo_tcp_refuse(tcp_net *n, tcp_socket *s)
{
    cmo_tcp_note_stranger(n, s);
    cmo_tcp_discard(n, s);
}

void cmo_tcp_stranger_left(tcp_net *n)
{
    n->strangers--;
    if (!n->accepting && n->accept_at == CMO_NEVER) tcp_accept_more(n, true);
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
                cmo_tcp_schedule(n, n->accept_at);
            }
            return; /* else: nobody is waiting, or a connection that broke before it was taken */
        }
        cmo_tcp_set_options(n, fd);
        tcp_socket *s = cmo_tcp_adopt(n, fd, AWAIT_HELLO, EPOLLIN);
        if (!s) {
            close(fd);
            continue;
        }
        s->inbound = true;
        s->address = address;
        s->expected = CMO_HELLO_BYTES;
        s->deadline = s->born + n->handshake_ns;
        cmo_tcp_schedule(n, s->deadline);
        if (++n->strangers == MAX_STRANGERS) {
            tcp_accept_more(n, false);
            cmo_tcp_schedule(n, cmo_now()); /* tcp_make_room says when */
        }
        if (!cmo_tcp_begin_tls(n, s)) cmo_tcp_discard(n, s);
        else cmo_tcp_advance(n, s); /* mostly its HELLO is there already */
    }
}

/* Room for others, where strangers fill the table and the oldest has had time enough. */
static void tcp_make_room(tcp_net *n, int64_t now)
{
    /* Enough for a peer across an ocean; and the less it is, the sooner a peer has its turn behind many strangers */
    const int64_t grace = n->handshake_ns / 64;
    CMO_EACH(node, &n->pending) {
        tcp_socket *s = socket_at(node);
        if (n->strangers < MAX_STRANGERS || !s->inbound || s->stage == CHOSEN) continue;
        if (now - s->born >= grace) cmo_tcp_refuse(n, s);
        else cmo_tcp_schedule(n, s->born + grace);
        return;
    }
}

void cmo_tcp_accept_due(tcp_net *n, int64_t now)
{
    tcp_make_room(n, now);
    if (n->accept_at <= now) tcp_accept_more(n, true);
    cmo_tcp_schedule(n, n->accept_at);
}
