/* How OpenSSL reaches a socket: through a BIO of our own, that is its own for sockets but for three things.
 *
 * - Writing never waits and never fails: records are gathered in `out` and leave together (cmo_tls_push). So no call of
 *   OpenSSL's is ever left half done for want of room, and need be repeated with the same bytes.
 * - OpenSSL's own writes with write(2), which raises SIGPIPE when the peer is gone. Python ignores that signal; a
 *   program that embeds it, or is no Python, may not, and to block it around every write costs two system calls. Here
 *   it is send(2) with MSG_NOSIGNAL.
 * - The kernel, where it can (module tls), encrypts what is sent, but does not decrypt what comes: a peer may then
 *   renew its keys, which kernels before 6.14 do not follow. For the same reason who sends through the kernel does not
 *   renew its own: past 2^24.5 records, about 380 GB to one rank, AES-GCM has less of a margin than RFC 8446 wants. */
#include "transport/tls_session.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static cmo_tls_session *session_of(const tls_library *l, const tls_bio *b)
{
    return (cmo_tls_session *)(void *)l->BIO_get_callback_arg(b);
}

/* Add to what is held. False: no memory, and then the stream has a hole. */
static bool tls_hold(cmo_tls_session *s, const uint8_t *data, size_t n)
{
    uint8_t *more = malloc(s->held_bytes + n);
    if (!more) {
        s->send_errno = ENOMEM;
        return false;
    }
    if (s->held_bytes) memcpy(more, s->held + s->held_at, s->held_bytes);
    memcpy(more + s->held_bytes, data, n);
    free(s->held);
    s->held = more;
    s->held_at = 0;
    s->held_bytes += n;
    return true;
}

/* Send as much as the socket takes. */
static size_t tls_send_some(cmo_tls_session *s, const uint8_t *data, size_t n)
{
    size_t sent = 0;
    while (sent < n && !s->send_errno) {
        const ssize_t k = send(s->fd, data + sent, n - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (k >= 0) sent += (size_t)k;
        else if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM) break;
        else if (errno != EINTR) s->send_errno = errno;
    }
    return sent;
}

void cmo_tls_push(cmo_tls_session *s)
{
    cmo_tls *t = s->tls;
    if (s->held_bytes) {
        const size_t sent = tls_send_some(s, s->held + s->held_at, s->held_bytes);
        s->held_at += sent;
        s->held_bytes -= sent;
        if (!s->held_bytes) {
            free(s->held);
            s->held = NULL;
        }
    }
    if (t->out_bytes) {
        const size_t sent = s->held_bytes ? 0 : tls_send_some(s, t->out, t->out_bytes);
        if (sent < t->out_bytes && !s->send_errno) tls_hold(s, t->out + sent, t->out_bytes - sent);
        t->out_bytes = 0;
    }
    if (s->send_errno) { /* nothing more of this stream is of use to the peer */
        free(s->held);
        s->held = NULL;
        s->held_bytes = 0;
    }
}

/* A message of TLS's own while the kernel encrypts: the socket BIO knows how to say what it is, but not how to spare us
 * SIGPIPE. It comes once in a session, at its end. */
static int bio_write_control(const cmo_tls *t, tls_bio *b, const char *data, int n)
{
    sigset_t pipe_signal, before, pending;
    sigemptyset(&pipe_signal);
    sigaddset(&pipe_signal, SIGPIPE);
    sigpending(&pending);
    pthread_sigmask(SIG_BLOCK, &pipe_signal, &before);
    const int written = t->socket_write(b, data, n);
    const struct timespec now = {0, 0};
    if (!sigismember(&pending, SIGPIPE)) sigtimedwait(&pipe_signal, NULL, &now);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return written;
}

static int bio_write(tls_bio *b, const char *data, int n)
{
    const tls_library *l = cmo_tls_library();
    cmo_tls_session *s = session_of(l, b);
    cmo_tls *t = s->tls;
    if (s->offloaded && l->BIO_test_flags(b, BIO_FLAGS_KTLS_TX_CTRL_MSG)) return bio_write_control(t, b, data, n);
    if (t->out_bytes + (size_t)n > sizeof t->out) cmo_tls_push(s);
    if ((size_t)n > sizeof t->out) return tls_hold(s, (const uint8_t *)data, (size_t)n) ? n : -1;
    memcpy(t->out + t->out_bytes, data, (size_t)n);
    t->out_bytes += (size_t)n;
    return n;
}

static int bio_read(tls_bio *b, char *out, int n)
{
    const tls_library *l = cmo_tls_library();
    cmo_tls_session *s = session_of(l, b);
    ssize_t k;
    l->BIO_clear_flags(b, BIO_FLAGS_RETRY);
    do k = recv(s->fd, out, (size_t)n, MSG_DONTWAIT);
    while (k < 0 && errno == EINTR);
    if (k > 0) {
        s->received += (uint64_t)k;
        return (int)k;
    }
    if (k == 0) {
        s->cut = true;
        l->BIO_set_flags(b, BIO_FLAGS_IN_EOF);
        return 0;
    }
    if (errno == EAGAIN) {
        s->starved = true;
        l->BIO_set_flags(b, BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY);
    } else {
        s->receive_errno = errno;
    }
    return -1;
}

static long bio_ctrl(tls_bio *b, int what, long n, void *p)
{
    cmo_tls_session *s = session_of(cmo_tls_library(), b);
    long done;
    switch (what) {
    case BIO_CTRL_FLUSH: /* asked for before the kernel takes over, too: from then on it would encrypt what is here */
        cmo_tls_push(s);
        return !s->held_bytes && !s->send_errno;
    case BIO_CTRL_SET_KTLS: /* n: for what is sent */
        /* SSL_set_fd would have had the kernel's module put into the socket. */
        if (!n || setsockopt(s->fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof "tls")) return 0;
        done = s->tls->socket_ctrl(b, what, n, p);
        if (done > 0) s->offloaded = true;
        return done;
    default: return s->tls->socket_ctrl(b, what, n, p);
    }
}

bool cmo_tls_bio_make(cmo_tls *t)
{
    const tls_library *l = t->ssl;
    const tls_bio_kind *of_sockets = l->BIO_s_socket();
    t->bio = l->BIO_meth_new(BIO_TYPE_SOCKET, "a socket of commops");
    if (!t->bio) return false;
    t->socket_write = l->BIO_meth_get_write(of_sockets);
    t->socket_ctrl = l->BIO_meth_get_ctrl(of_sockets);
    return l->BIO_meth_set_create(t->bio, l->BIO_meth_get_create(of_sockets)) &&
           l->BIO_meth_set_destroy(t->bio, l->BIO_meth_get_destroy(of_sockets)) &&
           l->BIO_meth_set_write(t->bio, bio_write) && l->BIO_meth_set_read(t->bio, bio_read) &&
           l->BIO_meth_set_ctrl(t->bio, bio_ctrl);
}

bool cmo_tls_bio_attach(cmo_tls_session *s)
{
    const tls_library *l = s->tls->ssl;
    tls_bio *b = l->BIO_new(s->tls->bio);
    if (!b) return false;
    l->BIO_set_callback_arg(b, (char *)(void *)s);
    l->BIO_int_ctrl(b, BIO_C_SET_FD, 0, s->fd); /* 0: the descriptor stays open when the BIO goes */
    l->SSL_set_bio(s->ssl, b, b);               /* takes it */
    return true;
}
