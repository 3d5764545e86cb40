/* Links over TCP: the streams, and the table of functions. tcp_net.h says where the connections come from. A poll is an
 * epoll_wait, which looks at all of them; who waits for one link alone may read that without (comm/fast.c). */
#include "base/process.h"
#include "transport/tcp_net.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum {
    EVENTS = 64,    /* taken from epoll at a time */
    MAX_IOV = 1024  /* the kernel's own limit (UIO_MAXIOV) */
};

static cmo_err tcp_lost(const tcp_link *l) { return cmo_fail(l->err, "%s", why_of(l)); }

static cmo_err tcp_open(cmo_net *net, int peer, cmo_link **out)
{
    tcp_net *n = (tcp_net *)net;
    if (peer < 0 || peer >= n->size || peer == (int)n->own.src)
        return cmo_fail(CMO_EINVAL, "there is no link over TCP from rank %u to rank %d of %d", n->own.src, peer,
                        n->size);
    tcp_link *l = &n->links[peer];
    if (l->state == IDLE) {
        l->state = WANTED;
        l->give_up_at = cmo_now() + n->reach_ns;
        if (l->naddresses) cmo_tcp_try(n, l);
        else cmo_tcp_break(l, CMO_EPEERLOST, "it has no address");
    }
    *out = &l->link;
    return CMO_OK;
}

/* Have epoll tell of what a live link waits for. */
static void tcp_watch(tcp_link *l)
{
    if (l->socket->tls) l->link.unsent = cmo_tls_holds(l->socket->tls);
    cmo_tcp_watch(net_of(l), l->socket, EPOLLIN | (l->wants_write || l->link.unsent ? EPOLLOUT : 0));
}

/* Epoll has told of a live link. */
static void tcp_told(tcp_socket *s, uint32_t events)
{
    tcp_link *l = s->link;
    l->link.readable |= (events & ~(uint32_t)EPOLLOUT) != 0;
    if (!l->link.unsent) return;
    cmo_tls_flush(s->tls);
    tcp_watch(l);
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
        else if (s->stage == LIVE) tcp_told(s, events[i].events);
        else if (s->stage == LISTENING) cmo_tcp_accept(n, s);
        else if (s->stage == PROBING) cmo_tcp_probed(n, s);
        else cmo_tcp_advance(n, s);
    }
    if (tick) cmo_tcp_tick(n); /* after all else, so that nobody expires who has answered */
    CMO_EACH(node, &n->closed) free(socket_at(node));
    cmo_list_init(&n->closed);
    if (!n->starved) return CMO_OK;
    struct rlimit most = {0};
    n->starved = false;
    getrlimit(RLIMIT_NOFILE, &most);
    return cmo_fail(CMO_ESYS, "it has no descriptor left for a connection: Too many open files (`ulimit -n` is %llu)",
                    (unsigned long long)most.rlim_cur);
}

static struct msghdr tcp_message(const struct iovec *iov, int niov)
{
    return (struct msghdr){.msg_iov = (struct iovec *)(uintptr_t)iov, /* sendmsg and recvmsg leave it as it is */
                           .msg_iovlen = (size_t)(niov < MAX_IOV ? niov : MAX_IOV)};
}

static cmo_err tcp_write(cmo_link *link, const struct iovec *iov, int niov, size_t *moved)
{
    tcp_link *l = (tcp_link *)link;
    *moved = 0;
    if (l->state == DEAD) return tcp_lost(l);
    if (l->state != UP || l->write_errno) return CMO_OK;
    struct msghdr m = tcp_message(iov, niov);
    cmo_tls_session *tls = l->socket->tls;
    ssize_t k;
    /* Of one buffer, the kernel need not read what `m` points to */
    do k = tls         ? cmo_tls_send(tls, iov, (int)m.msg_iovlen)
           : niov == 1 ? send(l->socket->fd, iov->iov_base, iov->iov_len, MSG_NOSIGNAL)
                       : sendmsg(l->socket->fd, &m, MSG_NOSIGNAL);
    while (k < 0 && errno == EINTR);
    if (k >= 0) {
        *moved = (size_t)k;
    } else if (errno != EAGAIN && errno != ENOBUFS && errno != ENOMEM) {
        l->write_errno = errno;
        link->readable = true; /* reading tells, after what has arrived */
    }
    if (tls) tcp_watch(l);
    return CMO_OK;
}

/* The stream has ended; `error` is 0 where the peer has ended it. */
static cmo_err tcp_end(tcp_link *l, int error)
{
    char where[CMO_ADDRESS_TEXT];
    cmo_address_format(where, &l->socket->address);
    if (!error) error = l->write_errno;
    if (!error)
        cmo_tcp_break(l, CMO_EPEERLOST, "it closed its connection");
    else if (error == ECONNRESET || error == EPIPE)
        cmo_tcp_break(l, CMO_EPEERLOST, "the connection to it (%s) was reset", where);
    else
        cmo_tcp_break(l, CMO_EPEERLOST, "the connection to it (%s) broke: %s", where, cmo_tcp_why(l->socket, error));
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
    struct msghdr m = tcp_message(iov, niov);
    const size_t wanted = iov_bytes(iov, m.msg_iovlen);
    if (!wanted) return CMO_OK; /* for which recvmsg says what it says at the end of a stream */
    cmo_tls_session *tls = l->socket->tls;
    bool more = false;
    ssize_t k;
    do k = tls         ? cmo_tls_receive(tls, iov, (int)m.msg_iovlen, &more)
           : niov == 1 ? recv(l->socket->fd, iov->iov_base, iov->iov_len, 0)
                       : recvmsg(l->socket->fd, &m, 0);
    while (k < 0 && errno == EINTR);
    if (tls) tcp_watch(l); /* it may have had to answer */
    if (k > 0) {
        *moved = (size_t)k;
        /* What TLS has read ahead the socket does not tell of: the timer does, if the link's owner goes to sleep. */
        if (more) cmo_tcp_schedule(net_of(l), cmo_now());
        /* A short read has emptied the socket, mostly; if not, or if the end follows, the next poll says so. */
        else if ((size_t)k < wanted && !l->write_errno) link->readable = false;
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
    if (l->state == UP) tcp_watch(l);
}

static void tcp_drop(cmo_link *link)
{
    tcp_link *l = (tcp_link *)link;
    if (l->state != DEAD) cmo_tcp_break(l, CMO_EPEERLOST, "the connection to it was given up here");
    link->readable = false;
}

/* End a stream so that the peer can still read all that was written: closing a socket that holds unread bytes would
 * reset the connection and take back what is on its way. */
static void tcp_finish(tcp_socket *s)
{
    char sink[16384];
    if (s->tls) cmo_tls_farewell(s->tls);
    shutdown(s->fd, SHUT_WR);
    for (int i = 0; i < 1024 && recv(s->fd, sink, sizeof sink, 0) > 0; i++) {}
}

static void tcp_free_all(cmo_node *list)
{
    CMO_EACH(node, list) {
        tcp_socket *s = socket_at(node);
        if (s->stage == LIVE) tcp_finish(s);
        if (s->fd >= 0) {
            cmo_process_keeps(s->fd, false);
            close(s->fd);
        }
        cmo_tls_end(s->tls);
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
    for (int i = 0; n->links && i < n->size; i++) free(n->links[i].why);
    cmo_tls_close(n->tls);
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
    .fate = cmo_tcp_fate,
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
        cmo_list_init(&l->plan);
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
        const int fd = listeners[i], flags = fcntl(fd, F_GETFL);
        if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) || !cmo_tcp_adopt(n, fd, LISTENING, EPOLLIN))
            return cmo_fail(CMO_ESYS, "listening socket %d: %s", fd, strerror(errno));
        cmo_tcp_set_buffers(n, fd); /* what it accepts inherits them; later is too late for the window's scale */
    }
    return CMO_OK;
}

uint64_t cmo_tcp_refused(const cmo_net *net, char *last)
{
    const tcp_net *n = (const tcp_net *)net;
    last[0] = 0;
    if (n->refused) cmo_address_format(last, &n->refused_last);
    return n->refused;
}

bool cmo_tcp_offloaded(const cmo_net *net)
{
    const tcp_net *n = (const tcp_net *)net;
    for (const cmo_node *node = n->live.next; node != &n->live; node = node->next) {
        const tcp_socket *s = (const tcp_socket *)node; /* its first member */
        if (s->tls && cmo_tls_offloaded(s->tls)) return true;
    }
    return false;
}

cmo_err cmo_tcp_net(cmo_net **out, const cmo_tcp_config *c)
{
    if (c->size < 1 || c->rank < 0 || c->rank >= c->size || c->nlisteners < 0 || !c->mac || c->handshake_ns < 1)
        return cmo_fail(CMO_EINVAL, "rank %d of %d with %d listening sockets", c->rank, c->size, c->nlisteners);
    cmo_err err = CMO_ENOMEM;
    tcp_net *n = calloc(1, sizeof *n);
    if (!n) return cmo_fail(CMO_ENOMEM, "a net");
    *n = (tcp_net){.net = {.ops = &tcp_ops, .fd = -1}, .size = c->size, .timer = -1, .mac = c->mac,
                   .mac_ctx = c->mac_ctx,
                   .own = {.version = CMO_HANDSHAKE_VERSION, .src = (uint32_t)c->rank, .size = (uint32_t)c->size,
                           .generation = c->generation},
                   .handshake_ns = c->handshake_ns, .heartbeat_ns = c->heartbeat_ms * CMO_MILLISECOND,
                   .socket_bytes = c->socket_bytes < INT_MAX ? (int)c->socket_bytes : INT_MAX, .accepting = true,
                   .accept_at = CMO_NEVER, .check_at = CMO_NEVER, .due = CMO_NEVER};
    memcpy(n->own.job, c->job, sizeof n->own.job);
    n->reach_ns = c->heartbeat_ms > 0 && n->heartbeat_ns < n->handshake_ns ? n->heartbeat_ns : n->handshake_ns;
    if (c->heartbeat_ms > 0) n->check_ns = n->heartbeat_ns < 4 * CMO_SECOND ? n->heartbeat_ns / 4 : CMO_SECOND;
    cmo_list_init(&n->listening);
    cmo_list_init(&n->pending);
    cmo_list_init(&n->live);
    cmo_list_init(&n->closed);
    cmo_list_init(&n->planned);
    n->links = calloc((size_t)c->size, sizeof *n->links);
    if (!n->links) {
        cmo_fail(err, "links to %d ranks", c->size);
        goto fail;
    }
    err = tcp_take_addresses(n, c->addresses);
    if (!err && c->tls.pem) err = cmo_tls_open(&n->tls, &c->tls);
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
