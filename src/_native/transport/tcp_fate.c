/* Has a peer whose link has ended ended itself?
 *
 * A connection may break though both its ends live: a reset by something between them, a partition. So its end proves
 * nothing. But a rank listens as long as it lives, at addresses that we know. Where its machine itself says that nobody
 * listens there any more (ECONNREFUSED, at every address), the rank is no more, or has closed its net for good. Any
 * other answer, and none, leave it unknown. What answers with a reset for a machine that it stands in front of, as a
 * firewall may, defeats this; it would have to be set up to do so while the job runs.
 *
 * The system closes the sockets of a process that it ends one after the other, so we may be there before the one that
 * listens is closed. Then our connection is reset when it is, and we ask again. */
#include "transport/tcp_net.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static const int64_t patience = CMO_SECOND; /* for an address; a machine answers by itself, however busy its ranks */
static const int64_t dying = CMO_SECOND; /* for the sockets of a process that is being ended, on a busy machine */

static cmo_fate tcp_know(tcp_link *l, cmo_fate fate)
{
    l->inquiry = IS_KNOWN;
    return l->fate = fate;
}

/* Ask at the next address. What the earlier ones have said is that nobody is there. */
static void tcp_probe_next(tcp_net *n, tcp_link *l)
{
    const char *word;
    size_t length;
    while (l->probing = l->unprobed, cmo_address_next(&l->unprobed, &word, &length)) {
        cmo_address address;
        if (cmo_address_parse(&address, word, length)) {
            tcp_know(l, CMO_FATE_UNKNOWN);
            return;
        }
        int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), rc = -1;
        if (fd >= 0) rc = connect(fd, &address.any, address.length);
        const int error = rc ? errno : 0;
        tcp_socket *s = fd >= 0 && error == EINPROGRESS ? cmo_tcp_adopt(n, fd, PROBING, EPOLLOUT) : NULL;
        if (!s && fd >= 0) close(fd);
        if (s) {
            s->link = l;
            l->attempts++;
            s->deadline = s->born + patience;
            cmo_tcp_schedule(n, s->deadline);
            return;
        }
        if (error != ECONNREFUSED) {
            tcp_know(l, CMO_FATE_UNKNOWN);
            return;
        }
    }
    tcp_know(l, CMO_FATE_ENDED);
}

/* Where nobody listens at a port of the range that clients draw from, a socket may be connected to itself. */
static bool is_itself(int fd)
{
    cmo_address here = {.length = sizeof here.v6}, there = {.length = sizeof there.v6};
    return !getsockname(fd, &here.any, &here.length) && !getpeername(fd, &there.any, &there.length) &&
           here.length == there.length && !memcmp(&here.v6, &there.v6, here.length);
}

void cmo_tcp_probed(tcp_net *n, tcp_socket *s)
{
    tcp_link *l = s->link;
    const bool late = cmo_now() >= s->deadline;
    int error = 0;
    socklen_t length = sizeof error;
    if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &length)) error = errno;
    else if (!error && is_itself(s->fd)) error = ECONNREFUSED;
    if (!error && !late && s->watched == EPOLLOUT) { /* connected: does it last? */
        cmo_tcp_watch(n, s, EPOLLIN);
        s->deadline = cmo_now() + dying;
        cmo_tcp_schedule(n, s->deadline);
        return;
    }
    const bool lasts = late && !error;
    cmo_tcp_discard(n, s);
    if (lasts || (error && error != ECONNREFUSED && error != ECONNRESET && error != EPIPE)) {
        tcp_know(l, CMO_FATE_UNKNOWN); /* somebody listens, or there is no answer */
        return;
    }
    if (error != ECONNREFUSED) l->unprobed = l->probing; /* it did not: again */
    tcp_probe_next(n, l);
}

cmo_fate cmo_tcp_fate(cmo_net *net, int peer)
{
    tcp_net *n = (tcp_net *)net;
    tcp_link *l = &n->links[peer];
    if (l->inquiry == NOT_ASKED) {
        if (l->state != DEAD || !l->naddresses) return tcp_know(l, CMO_FATE_UNKNOWN);
        l->inquiry = IS_ASKED;
        l->unprobed = l->addresses;
        tcp_probe_next(n, l);
    }
    return l->inquiry == IS_KNOWN ? l->fate : CMO_FATE_ASKED;
}
