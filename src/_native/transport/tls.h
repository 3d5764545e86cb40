/* TLS 1.3 on a connected socket, for the links of TCP: OpenSSL 3, loaded when it is first wanted (tls_library.h).
 *
 * Both ends show a certificate, and it must lead to an authority that the other trusts; no name in it is looked at.
 * Which rank is at the other end, the handshake inside says (handshake.h), whose codes cover cmo_tls_binding: who holds
 * a certificate and no token cannot stand between two ranks. There is neither resumption nor renegotiation. */
#ifndef CMO_TLS_H
#define CMO_TLS_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

enum { CMO_TLS_BINDING_BYTES = 32 };

typedef struct cmo_tls_config {
    /* PEM, `bytes` of it: a private key, its certificate, and then those that lead from it to an authority, the
     * authority's too. Those after the first are trusted; where there is one alone, it is trusted itself. NULL: no TLS.
     * Borrowed for the call that it is given to. */
    const char *pem;
    size_t bytes;
    bool offload;             /* let the kernel encrypt, where it can */
    uint64_t records_per_key; /* that are sent; 0: as many as RFC 8446 allows */
} cmo_tls_config;

typedef struct cmo_tls cmo_tls;                 /* who this rank is, and whom it trusts */
typedef struct cmo_tls_session cmo_tls_session; /* TLS on one socket */

const char *cmo_tls_version(void); /* of the library, in its own words; NULL with the reason where there is none */

/* Owned by the caller, used by one thread at a time, with all its sessions. CMO_ESYS without the library; CMO_EINVAL,
 * with the reason, for a PEM that does not do. */
cmo_err cmo_tls_open(cmo_tls **out, const cmo_tls_config *config);
void cmo_tls_close(cmo_tls *); /* after all its sessions; NULL: nothing */

/* A session on a connected, non-blocking socket, which stays the caller's. NULL: no memory. Nothing is sent yet: TLS's
 * handshake goes on in whatever is sent and received first. */
cmo_tls_session *cmo_tls_begin(cmo_tls *, int fd, bool server);
void cmo_tls_end(cmo_tls_session *);      /* NULL: nothing. Says nothing to the peer */
void cmo_tls_farewell(cmo_tls_session *); /* tell the peer that nothing more comes; else its end is a cut */

/* As sendmsg and recvmsg on a socket that does not block, but that they move less at a time: bytes moved, or -1 with
 * errno. SIGPIPE never comes. An errno that is TLS's own:
 *   EKEYREJECTED  a certificate was not accepted, by one end or the other
 *   ECONNABORTED  the stream has ended without the peer's farewell
 *   EPROTO        anything else that TLS does not allow
 * What had arrived before is received first; afterwards the same error comes again. A failure to send does not keep
 * what has arrived from being received. *more: more can be received at once, without a word from the socket. */
ssize_t cmo_tls_send(cmo_tls_session *, const struct iovec *iov, int n);
ssize_t cmo_tls_receive(cmo_tls_session *, const struct iovec *iov, int n, bool *more);
const char *cmo_tls_why(const cmo_tls_session *, int error); /* what an errno of these means, in words. Borrowed */

/* Whether bytes that count as sent are still here, because the socket had no room. They leave with cmo_tls_flush, to be
 * called when the socket has room, and with every call above. */
bool cmo_tls_holds(const cmo_tls_session *);
void cmo_tls_flush(cmo_tls_session *);

/* What this session alone has, known to its two ends only (RFC 9266). False before both have said something. */
bool cmo_tls_binding(cmo_tls_session *, uint8_t out[CMO_TLS_BINDING_BYTES]);

bool cmo_tls_offloaded(const cmo_tls_session *); /* the kernel encrypts what is sent */

#endif
