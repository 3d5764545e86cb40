/* Which of the connections between two ranks becomes their link, and how a link ends.
 *
 * Both ranks may be connecting to each other at once, so there may be several connections in the making; one becomes
 * the link. The lower rank chooses: on a connection that it made by sending PROOF, on one that was made to it by
 * sending WELCOME. It chooses one at a time: from then on its link is HAS_CHOSEN, its other connections with that peer
 * are closed, and a HELLO of the peer is answered with DUPLICATE. The higher rank never chooses. It takes the first
 * connection on which such a message comes, is UP, and closes its others.
 *
 * In whatever order things happen, both end with the same connection or both without one:
 * - The message that chooses is authenticated, so only the lower rank can have sent it. HELLO and ANSWER decide
 *   nothing; a stranger, who can send no more than those, changes nothing.
 * - What the higher rank closes when it takes the chosen one, the lower has given up before.
 * - A rank that tries several addresses at once closes all but the first on which an ANSWER proves the peer. It has
 *   sent PROOF on none of the others, so the peer has not chosen one of them.
 * - What the lower rank closes when it chooses is, for the higher, an attempt that failed. It tries again and is told
 *   DUPLICATE: wait, the choice is on its way.
 * - As a client, the lower rank is UP only when WELCOME says that the higher has taken its choice. Should the
 *   connection fail before (the higher may have grown tired of waiting for PROOF), the choice is taken back: no frame
 *   has gone out on it. The next attempt is ACCEPTED if the higher rank never saw PROOF. Else that one had the link
 *   and has lost it: DUPLICATE until it notices, then GONE, which ends the link here too.
 * - A link that was UP and broke is DEAD for good: bytes may be lost, so no other connection can take its place.
 *   HELLO is answered with GONE. */
#include "transport/tcp_net.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

/* Close every connection that is being made with the link's peer, but `keep`. */
static void tcp_abandon(tcp_net *n, tcp_link *l, const tcp_socket *keep)
{
    CMO_EACH(node, &n->pending)
        if (socket_at(node)->link == l && socket_at(node) != keep) cmo_tcp_discard(n, socket_at(node));
    cmo_list_remove(&l->plan);
}

void cmo_tcp_break(tcp_link *l, cmo_err err, const char *format, ...)
{
    tcp_net *n = net_of(l);
    va_list args;
    va_start(args, format);
    char why[TCP_WHY_BYTES]; /* the arguments may be the old text */
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    if (!l->why) l->why = malloc(TCP_WHY_BYTES);
    if (l->why) memcpy(l->why, why, sizeof why);
    tcp_abandon(n, l, NULL);
    if (l->socket) cmo_tcp_discard(n, l->socket);
    l->socket = NULL;
    l->state = DEAD;
    l->err = err;
    l->link.up = l->link.unsent = false;
    l->link.readable = true; /* reading tells */
}

void cmo_tcp_choose(tcp_net *n, tcp_socket *s)
{
    tcp_link *l = s->link;
    tcp_abandon(n, l, s);
    l->state = HAS_CHOSEN;
    l->socket = s;
}

void cmo_tcp_go_live(tcp_net *n, tcp_socket *s)
{
    tcp_link *l = s->link;
    if (s->inbound) cmo_tcp_stranger_left(n);
    s->stage = LIVE;
    s->deadline = CMO_NEVER;
    cmo_list_remove(&s->node);
    cmo_list_append(&n->live, &s->node);
    cmo_tcp_watch(n, s, EPOLLIN | (l->wants_write ? EPOLLOUT : 0));
    cmo_tcp_set_local(s->fd);
    l->state = UP;
    l->link.up = true;
    l->link.readable = true; /* frames may have come with the handshake */
    l->acknowledged_at = cmo_now();
    if (n->check_ns && n->check_at == CMO_NEVER) {
        n->check_at = l->acknowledged_at + n->check_ns;
        cmo_tcp_schedule(n, n->check_at);
    }
    if (s->inbound && n->net.on_link) n->net.on_link(n->net.ctx, &l->link);
}
