/* Links over TCP, IPv4 and IPv6, to ranks of any host. Connections are made when they are first wanted, and both ends
 * prove that they hold the job's token before anything else is parsed (handshake.h). */
#ifndef CMO_TCP_H
#define CMO_TCP_H

#include "transport/tls.h"
#include "transport/transport.h"

#include <stdint.h>

typedef struct cmo_tcp_config {
    int rank, size;
    uint32_t generation;
    uint8_t job[16];              /* which job: ranks of another one are refused */
    const int *listeners;         /* [nlisteners] listening stream sockets; taken on success */
    int nlisteners;
    /* [size] of each rank, "127.0.0.1:4000 [::1]:4001 …", numeric, in the order in which they are to be tried; copied.
     * NULL or "": the rank can connect to us and not we to it. */
    const char *const *addresses;
    /* HMAC-SHA256 of the n bytes, keyed by the job's token; false where it cannot be made. Called by poll. */
    bool (*mac)(void *ctx, const uint8_t *data, size_t n, uint8_t out[32]);
    void *mac_ctx;                /* borrowed until the net is closed */
    int64_t handshake_ns;         /* how long a connection may take to authenticate, and a peer to be reached at most */
    int64_t heartbeat_ms;         /* how long a host's system may not answer; 0: as long as the kernel waits */
    int64_t socket_bytes;         /* send and receive buffers; 0: the kernel's choice */
    cmo_tls_config tls;           /* all ranks have TLS, or none */
} cmo_tcp_config;

/* CMO_EINVAL for a PEM that does not do, CMO_ESYS where TLS is asked for and there is no OpenSSL.
 *
 * What is particular to this transport:
 *
 * - cmo_net.fd is an epoll descriptor; it wakes for deadlines too, so a sleeper needs no timer for our sake.
 * - A link, once broken or dropped, stays so in this net, and the peer is told: a stream never goes on with a gap.
 * - A link that cannot be made is found by reading it, like one that breaks: `readable` is set, and read says
 *   CMO_EPEERLOST or CMO_EAUTH. Nobody listening is an error after a few attempts within a fraction of a second; no
 *   answer to connecting, after handshake_ns. A peer whose host has taken the connection, and that does not speak yet,
 *   is not lost but busy: how long to wait for it, the owner decides.
 * - The addresses of a peer are tried in their order, few at a time, the next one before those that do not answer have
 *   run out of time (tcp_connect.c).
 * - write never fails on a link that broke while bytes were still to be read: it moves nothing, and reading tells.
 * - on_link is called for links made by the peer, also where open had been called here too.
 * - With TLS, what a rank writes is in its own memory for a moment longer, and is lost with it: cmo_link.unsent. */
cmo_err cmo_tcp_net(cmo_net **out, const cmo_tcp_config *config);

/* How many connections were refused because who made them did not prove to be a rank of the job, and the address from
 * which the last of them came, as text of CMO_ADDRESS_TEXT bytes; empty if there were none. */
uint64_t cmo_tcp_refused(const cmo_net *net, char *last);

bool cmo_tcp_offloaded(const cmo_net *); /* a link of it is up, for which the kernel does the encrypting of TLS */

#endif
