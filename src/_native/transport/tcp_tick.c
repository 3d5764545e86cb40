/* What the passing of time does: deadlines, attempts that are due, and hosts that have fallen silent.
 *
 * Patience. A rank polls when it is in a call and may compute for minutes between two. So a peer whose kernel has
 * accepted a connection is waited for, and a message that came in time is heard even if nobody polled before its
 * deadline. Only what has failed for sure breaks a link. Whoever connects to us has handshake_ns.
 *
 * Why TCP_USER_TIMEOUT is not set. The kernel applies it to a peer whose window is closed as well, although that
 * peer's host acknowledges every probe: a rank that computes for longer than the limit, with data waiting for it,
 * would lose its connections. So the same limit is kept here (tcp_check), for hosts that acknowledge nothing; for a
 * connection on which nothing is to be acknowledged, by the kernel (cmo_tcp_set_options). */
#include "transport/tcp_net.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

/* The deadline of a socket that is not live has passed. */
static void tcp_expire(tcp_net *n, tcp_socket *s)
{
    if (s->stage == PROBING) {
        cmo_tcp_probed(n, s);
        return;
    }
    /* What came while nobody polled counts as in time. */
    if (s->stage != CONNECTING) cmo_tcp_advance(n, s);
    if (s->stage == CLOSED || s->stage == LIVE || cmo_now() < s->deadline) return;
    if (s->stage == CONNECTING) { /* unlike those who refuse, whoever swallows packets is asked for the whole time */
        cmo_tcp_fail(n, s, s->deadline < s->link->give_up_at ? CMO_OK : CMO_EPEERLOST, "no answer");
    } else if (!s->inbound && s->link->attempts == s->link->naddresses) {
        s->deadline = cmo_now() + n->handshake_ns; /* every address is being tried: the peer would only be asked anew */
    } else {
        if (s->inbound) {
            cmo_tcp_refuse(n, s);
            return;
        }
        s->link->silent = true;
        cmo_tcp_fail(n, s, CMO_OK, "it has accepted the connection, and is silent");
    }
}

/* Break the links to hosts that acknowledge nothing. What is outstanding is data, or a probe of a closed window
 * that was followed by another one. */
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
        else if (now - l->acknowledged_at >= n->heartbeat_ns) l->write_errno = ETIMEDOUT, l->link.readable = true;
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
    CMO_EACH(node, &n->planned) { /* whoever plans anew meanwhile sees to the timer, too */
        tcp_link *l = CMO_ENTRY(node, tcp_link, plan);
        if (l->plan_at <= now) cmo_tcp_try(n, l);
        else cmo_tcp_schedule(n, l->plan_at);
    }
    cmo_tcp_accept_due(n, now);
    if (n->check_at <= now) tcp_check(n, now);
    CMO_EACH(node, &n->pending) cmo_tcp_schedule(n, socket_at(node)->deadline);
    cmo_tcp_schedule(n, n->check_at);
}
