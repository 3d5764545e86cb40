/* TLS on one socket: what is said goes through OpenSSL's session, whose ends at the socket are in tls_bio.c.
 *
 * Its handshake goes on by itself in the first calls, so nobody outside sees it. What it finds out is kept, and told
 * again at every later call. */
#include "transport/tls_session.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    MOST_AT_ONCE = 1 << 20,     /* moved by a call: then others get their turn */
    FREE_MESSAGES = 40,    /* of TLS's own from a peer: its handshake has 5; and beside these one for each … */
    MESSAGE_SHIFT = 30     /* … 2^30 bytes that came: a rank renews its key less often (RECORDS_PER_KEY, of 64 bytes) */
};

enum { ALERT_BAD_CERTIFICATE = 42, ALERT_UNKNOWN_CA = 48, ALERT_CERTIFICATE_REQUIRED = 116 };

static int tls_fail(cmo_tls_session *s, int error, const char *format, ...) __attribute__((format(printf, 3, 4)));
static int tls_fail(cmo_tls_session *s, int error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(s->why, sizeof s->why, format, args);
    va_end(args);
    return error;
}

/* Why OpenSSL has failed: an errno. */
static int tls_reason(cmo_tls_session *s)
{
    const tls_library *l = s->tls->ssl;
    const unsigned long code = l->ERR_peek_last_error();
    const int reason = (int)(code & 0x7FFFFF), alert = reason - SSL_AD_REASON_OFFSET;
    const char *words = l->ERR_reason_error_string(code);
    const long verified = l->SSL_get_verify_result(s->ssl);
    if (!words) words = "OpenSSL does not say why";
    l->ERR_clear_error(); /* others in this thread may use the library */
    if (!s->met && (s->cut || s->receive_errno == ECONNRESET))
        return tls_fail(s, ECONNRESET, "it closed the connection in the handshake of TLS, as a rank without TLS does");
    if (s->receive_errno > 0) return s->receive_errno;
    if (s->cut)
        return tls_fail(s, ECONNABORTED, "its stream was cut off: its process was killed, or the network did it");
    if (verified && !s->met)
        return tls_fail(s, EKEYREJECTED, "its certificate is not accepted: %s",
                        l->X509_verify_cert_error_string(verified));
    if (reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) return tls_fail(s, EKEYREJECTED, "it shows no certificate");
    if ((alert >= ALERT_BAD_CERTIFICATE && alert <= ALERT_UNKNOWN_CA) || alert == ALERT_CERTIFICATE_REQUIRED)
        return tls_fail(s, EKEYREJECTED, "it does not accept this rank's certificate (%s)", words);
    return tls_fail(s, EPROTO, "TLS: %s", words);
}

void cmo_tls_watch(int sent, int version, int type, const void *message, size_t n, tls_ssl *ssl, void *session)
{
    (void)version, (void)ssl;
    cmo_tls_session *s = session;
    if (!sent && type == SSL3_RT_HANDSHAKE) s->messages++;
    if (!sent && type == SSL3_RT_ALERT && n == 2) s->farewell |= ((const uint8_t *)message)[1] == SSL_AD_CLOSE_NOTIFY;
}

cmo_tls_session *cmo_tls_begin(cmo_tls *t, int fd, bool server)
{
    const tls_library *l = t->ssl;
    cmo_tls_session *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->tls = t;
    s->fd = fd;
    s->ssl = l->SSL_new(t->context);
    if (!s->ssl || !cmo_tls_bio_attach(s)) {
        cmo_tls_end(s);
        return NULL;
    }
    l->SSL_ctrl(s->ssl, SSL_CTRL_SET_MSG_CALLBACK_ARG, 0, s);
    if (server) l->SSL_set_accept_state(s->ssl);
    else l->SSL_set_connect_state(s->ssl);
    return s;
}

void cmo_tls_end(cmo_tls_session *s)
{
    if (!s) return;
    if (s->ssl) s->tls->ssl->SSL_free(s->ssl);
    free(s->held);
    free(s);
}

void cmo_tls_farewell(cmo_tls_session *s)
{
    const tls_library *l = s->tls->ssl;
    if (!s->send_errno && s->receive_errno <= 0 && l->SSL_is_init_finished(s->ssl)) l->SSL_shutdown(s->ssl);
    cmo_tls_push(s);
}

void cmo_tls_flush(cmo_tls_session *s) { cmo_tls_push(s); }
bool cmo_tls_holds(const cmo_tls_session *s) { return s->held_bytes > 0; }
bool cmo_tls_offloaded(const cmo_tls_session *s) { return s->offloaded; }
const char *cmo_tls_why(const cmo_tls_session *s, int error)
{
    return s->why[0] ? s->why : strerror(error);
}

bool cmo_tls_binding(cmo_tls_session *s, uint8_t out[CMO_TLS_BINDING_BYTES])
{
    static const char label[] = "EXPORTER-Channel-Binding";
    return s->tls->ssl->SSL_export_keying_material(s->ssl, out, CMO_TLS_BINDING_BYTES, label, sizeof label - 1, NULL, 0,
                                                  0) == 1;
}

/* ------------------------------------------------------------------ sending */

/* A place in what is to be sent. */
typedef struct place {
    const struct iovec *iov;
    int n;
    size_t at; /* in the first */
} place;

static size_t place_left(const place *p) { return p->n ? p->iov->iov_len - p->at : 0; }

static void place_move(place *p, size_t bytes)
{
    p->at += bytes;
    while (p->n && p->at == p->iov->iov_len) p->iov++, p->n--, p->at = 0;
}

/* The next bytes to be encrypted: where they are if they fill a record, or are the last; else gathered into one. */
static const void *place_take(place *p, cmo_tls *t, size_t most, size_t *taken)
{
    const uint8_t *here = p->n ? (const uint8_t *)p->iov->iov_base + p->at : NULL;
    size_t left = place_left(p);
    *taken = left < most ? left : most;
    if (left >= TLS_RECORD || p->n <= 1) {
        if (*taken > TLS_RECORD) *taken -= *taken % TLS_RECORD;
        place_move(p, *taken);
        return here;
    }
    for (*taken = 0; *taken < TLS_RECORD && (left = place_left(p)) > 0;) {
        const size_t part = left < TLS_RECORD - *taken ? left : TLS_RECORD - *taken;
        memcpy(t->gathered + *taken, (const uint8_t *)p->iov->iov_base + p->at, part);
        *taken += part;
        place_move(p, part);
    }
    return t->gathered;
}

/* Encrypt some more of it into `out`: bytes, 0 while the handshake goes on, or -1 with errno. */
static ssize_t tls_encrypt(cmo_tls_session *s, place *p)
{
    cmo_tls *t = s->tls;
    const tls_library *l = t->ssl;
    size_t batch = 0, taken, done;
    while (batch < TLS_BATCH && p->n) {
        const void *from = place_take(p, t, TLS_BATCH - batch, &taken);
        if (s->sent >= t->records_per_key) {
            s->sent = 0;
            if (l->SSL_key_update(s->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) != 1) { /* goes before the next record */
                errno = s->send_errno = tls_reason(s);
                return -1;
            }
        }
        s->starved = false;
        if (l->SSL_write_ex(s->ssl, from, taken, &done) != 1) {
            if (s->starved) return 0; /* in its handshake, before all else */
            errno = s->send_errno = tls_reason(s);
            return -1;
        }
        s->sent += (taken + TLS_RECORD - 1) / TLS_RECORD;
        batch += taken;
    }
    return (ssize_t)batch;
}

/* The kernel encrypts. It makes full records by itself, and keeps its keys. */
static ssize_t tls_send_offloaded(const cmo_tls_session *s, const struct iovec *iov, int n)
{
    const struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)n};
    ssize_t k;
    do k = sendmsg(s->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (k < 0 && errno == EINTR);
    return k;
}

ssize_t cmo_tls_send(cmo_tls_session *s, const struct iovec *iov, int n)
{
    place p = {iov, n, 0};
    size_t total = 0;
    place_move(&p, 0); /* past what is empty */
    const bool nothing = !p.n;
    if (s->held_bytes) cmo_tls_push(s);
    while (!s->send_errno && !s->held_bytes && p.n && total < MOST_AT_ONCE) {
        if (s->offloaded) return total ? (ssize_t)total : tls_send_offloaded(s, p.iov, p.n);
        const ssize_t k = tls_encrypt(s, &p);
        cmo_tls_push(s); /* an alert, too */
        if (k <= 0) break;
        total += (size_t)k;
    }
    if (total || nothing) return (ssize_t)total;
    errno = s->send_errno ? s->send_errno : EAGAIN;
    return -1;
}

/* ------------------------------------------------------------------ receiving */

/* Receive some of it to one place: bytes, or 0 where there is none, for the reason in receive_errno if that is set. */
static size_t tls_decrypt(cmo_tls_session *s, void *to, size_t room)
{
    const tls_library *l = s->tls->ssl;
    const uint64_t before = s->messages;
    size_t got = 0;
    if (before > FREE_MESSAGES + (s->received >> MESSAGE_SHIFT)) {
        s->receive_errno = tls_fail(s, EPROTO, "it renews its keys all the time");
        return 0;
    }
    s->starved = false;
    if (l->SSL_read_ex(s->ssl, to, room, &got) == 1) {
        s->met = true;
        return got;
    }
    /* SSL_get_error would have its list of errors emptied first, which takes as long as a look at the socket. */
    if (s->starved) return 0;
    if (s->messages == before) s->receive_errno = s->farewell ? -1 : tls_reason(s); /* else one was all that came */
    return 0;
}

ssize_t cmo_tls_receive(cmo_tls_session *s, const struct iovec *iov, int n, bool *more)
{
    size_t total = 0;
    s->starved = false;
    for (int i = 0; i < n; i++) {
        for (size_t at = 0; at < iov[i].iov_len;) {
            if (s->receive_errno || s->starved || total >= MOST_AT_ONCE) goto out;
            const size_t k = tls_decrypt(s, (uint8_t *)iov[i].iov_base + at, iov[i].iov_len - at);
            at += k;
            total += k;
        }
    }
out:
    if (s->tls->out_bytes) cmo_tls_push(s); /* the handshake, or an answer */
    *more = s->receive_errno || (!s->starved && s->tls->ssl->SSL_has_pending(s->ssl));
    if (total || s->receive_errno == -1) return (ssize_t)total;
    errno = s->receive_errno ? s->receive_errno : EAGAIN;
    return -1;
}
