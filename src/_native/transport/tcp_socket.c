/* A socket of the TCP transport from its descriptor to its end, and the timer that all of them share. */
#include "base/process.h"
#include "transport/tcp_net.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

void cmo_tcp_schedule(tcp_net *n, int64_t when)
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

tcp_socket *cmo_tcp_adopt(tcp_net *n, int fd, tcp_stage stage, uint32_t events)
{
    tcp_socket *s = calloc(1, sizeof *s);
    struct epoll_event e = {.events = events, .data.ptr = s};
    if (!s || epoll_ctl(n->net.fd, EPOLL_CTL_ADD, fd, &e)) {
        free(s);
        return NULL;
    }
    cmo_process_keeps(fd, true); /* a child that lives on must not keep a connection alive */
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

/* The heartbeat of a connection on which nothing moves: systems ask each other, whatever their ranks are doing. A
 * quarter of the time after the last packet, and each quarter again; the kernel counts in whole seconds. Where
 * something is to be acknowledged it does not ask: see tcp_check. */
static void tcp_set_heartbeat(const tcp_net *n, int fd)
{
    const int on = 1, seconds = (int)((n->heartbeat_ns + CMO_SECOND - 1) / CMO_SECOND);
    const int quarter = seconds / 4 > 0 ? seconds / 4 : 1, count = (seconds - quarter) / quarter;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    if (!seconds) return;
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &quarter, sizeof quarter);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &quarter, sizeof quarter);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, count ? &count : &on, sizeof count);
}

/* None of it is needed for being right, so a refusal of the kernel is no error. */
void cmo_tcp_set_options(const tcp_net *n, int fd)
{
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    tcp_set_heartbeat(n, fd);
}

static bool same_address(const cmo_address *a, const cmo_address *b)
{
    if (a->any.sa_family != b->any.sa_family) return false;
    if (a->any.sa_family == AF_INET6) return !memcmp(&a->v6.sin6_addr, &b->v6.sin6_addr, sizeof a->v6.sin6_addr);
    return a->v4.sin_addr.s_addr == b->v4.sin_addr.s_addr;
}

/* Both ends on this machine: nothing is lost on the way, and nothing is to be shared fairly. A control that sends at a
 * measured pace, as bbr does, only makes pauses there: 4 MiB took twice as long. Every kernel has reno, for every
 * user. */
void cmo_tcp_set_local(int fd)
{
    cmo_address here = {.length = sizeof here.v6}, there = {.length = sizeof there.v6};
    if (getsockname(fd, &here.any, &here.length) || getpeername(fd, &there.any, &there.length)) return;
    if (same_address(&here, &there)) setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", sizeof "reno" - 1);
}

bool cmo_tcp_begin_tls(tcp_net *n, tcp_socket *s)
{
    if (n->tls) s->tls = cmo_tls_begin(n->tls, s->fd, s->inbound);
    return !n->tls || s->tls;
}

ssize_t cmo_tcp_send(tcp_socket *s, const void *bytes, size_t n)
{
    const struct iovec iov = {(void *)(uintptr_t)bytes, n};
    return s->tls ? cmo_tls_send(s->tls, &iov, 1) : send(s->fd, bytes, n, MSG_NOSIGNAL);
}

ssize_t cmo_tcp_receive(tcp_socket *s, void *bytes, size_t n)
{
    const struct iovec iov = {bytes, n};
    bool more;
    return s->tls ? cmo_tls_receive(s->tls, &iov, 1, &more) : recv(s->fd, bytes, n, 0);
}

const char *cmo_tcp_why(const tcp_socket *s, int error)
{
    return s->tls ? cmo_tls_why(s->tls, error) : strerror(error);
}

void cmo_tcp_discard(tcp_net *n, tcp_socket *s)
{
    if (s->stage == CLOSED) return;
    /* Taken out by hand, since a child process may hold the descriptor open, and epoll would go on naming it. */
    epoll_ctl(n->net.fd, EPOLL_CTL_DEL, s->fd, NULL);
    cmo_process_keeps(s->fd, false);
    close(s->fd);
    cmo_tls_end(s->tls);
    s->tls = NULL;
    if (s->inbound && s->stage != LIVE) cmo_tcp_stranger_left(n);
    if (!s->inbound && s->link) s->link->attempts--;
    s->fd = -1;
    s->stage = CLOSED;
    cmo_list_remove(&s->node);
    cmo_list_append(&n->closed, &s->node);
}
