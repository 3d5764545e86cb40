/* Reaching a peer: rounds over its addresses, in their order.
 *
 * An address that swallows what is sent to it, as behind a firewall, must not hold up the ones after it. So attempts
 * overlap, as RFC 8305 has it: the next address is tried when an attempt fails, or STAGGER_MS after the last one
 * began. At the first that finds the peer, proven by its code, the others are closed. Five addresses, of which the
 * first is swallowed, the second refused, the third a stranger who accepts and is silent, and the fourth right:
 *
 *     0 ms     address 1  connecting . . . . . . . . . . . . . closed
 *     250      address 2  refused
 *     250      address 3  connected, no answer . . . . . . . . closed
 *     500      address 4  connected, ANSWER: this is the peer; address 5 is not tried
 *
 * A round ends when all of its attempts have failed, and another one begins after a while, unless the errors say that
 * it would be in vain. Where they failed for want of descriptors it is not the peer who is lost: the net has failed. */
#include "transport/tcp_net.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum {
    MAX_ATTEMPTS = 4,    /* connections in the making to one peer; more addresses than that wait for one to fail */
    STAGGER_MS = 250,    /* what RFC 8305 recommends */
    ROUNDS = 5,          /* in a row in which nobody was found, before a peer counts as unreachable */
    FIRST_DELAY_MS = 10, /* between rounds; doubles */
    MAX_DELAY_MS = 1000
};

/* Note what came of an attempt, for the text of the error that may follow. */
static void tcp_note(tcp_link *l, const cmo_address *address, const char *what)
{
    char where[CMO_ADDRESS_TEXT];
    if (!l->why && !(l->why = calloc(1, TCP_WHY_BYTES))) return;
    cmo_address_format(where, address);
    const size_t n = strlen(l->why);
    snprintf(l->why + n, TCP_WHY_BYTES - n, "%s%s: %s", n ? "; " : "", where, what);
}

static void tcp_plan(tcp_net *n, tcp_link *l, int64_t delay_ms)
{
    cmo_list_remove(&l->plan);
    cmo_list_append(&n->planned, &l->plan);
    l->plan_at = cmo_now() + delay_ms * CMO_MILLISECOND;
    cmo_tcp_schedule(n, l->plan_at);
}

/* Start a connection to one address; an errno on failure. */
static int tcp_connect(tcp_net *n, tcp_link *l, const cmo_address *address)
{
    int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return errno;
    cmo_tcp_set_buffers(n, fd);
    cmo_tcp_set_options(n, fd);
    int rc;
    do rc = connect(fd, &address->any, address->length);
    while (rc && errno == EINTR);
    tcp_socket *s = NULL;
    if (rc == 0 || errno == EINPROGRESS) s = cmo_tcp_adopt(n, fd, CONNECTING, EPOLLOUT);
    if (!s) {
        rc = errno;
        close(fd);
        return rc;
    }
    s->link = l;
    s->address = *address;
    l->attempts++;
    /* A round waits for its last attempt, and those that failed at once for the next round. So where there are several
     * addresses the first rounds are short, and an address that swallows packets has longer in each. */
    const int64_t patience = l->naddresses > 1 && l->rounds < 4 ? n->reach_ns / 16 << l->rounds : n->reach_ns;
    s->deadline = s->born + patience < l->give_up_at ? s->born + patience : l->give_up_at;
    cmo_tcp_schedule(n, s->deadline);
    return 0;
}

static void tcp_plan_round(tcp_net *n, tcp_link *l)
{
    const int64_t delay_ms = (int64_t)FIRST_DELAY_MS << (l->rounds < 8 ? l->rounds - 1 : 7);
    tcp_plan(n, l, delay_ms < MAX_DELAY_MS ? delay_ms : MAX_DELAY_MS);
}

/* Every attempt of the round has failed, and none of them found the peer. */
static void tcp_end_round(tcp_net *n, tcp_link *l)
{
    if (l->final == CMO_EAUTH) {
        cmo_tcp_break(l, CMO_EAUTH, "it did not prove that it belongs to the job (%s)", why_of(l));
        return;
    }
    if (l->silent) {
        l->failures = 0;
    } else if (l->final || ++l->failures == ROUNDS) {
        if (l->starved) n->starved = true;
        cmo_tcp_break(l, CMO_EPEERLOST, "no connection to it could be made (%s)", why_of(l));
        return;
    }
    tcp_plan_round(n, l);
}

/* Try the next address that the round has left, if another attempt may be made now. */
static void tcp_try_next(tcp_net *n, tcp_link *l)
{
    const char *word;
    size_t length;
    cmo_list_remove(&l->plan);
    while (l->attempts < MAX_ATTEMPTS && cmo_address_next(&l->next, &word, &length)) {
        cmo_address address;
        if (cmo_address_parse(&address, word, length)) continue; /* parsed before; an interface may have gone since */
        const int error = tcp_connect(n, l, &address);
        if (!error) {
            if (*l->next) tcp_plan(n, l, STAGGER_MS);
            return;
        }
        l->starved |= error == EMFILE || error == ENFILE;
        tcp_note(l, &address, strerror(error));
    }
    if (!l->attempts) tcp_end_round(n, l);
}

void cmo_tcp_try(tcp_net *n, tcp_link *l)
{
    if (!l->attempts) { /* nor is any address left then: a round begins */
        l->next = l->addresses;
        l->rounds++;
        l->silent = l->starved = false;
        l->final = CMO_OK;
        if (l->why) l->why[0] = 0;
    }
    tcp_try_next(n, l);
}

void cmo_tcp_stop_trying(tcp_net *n, tcp_link *l, const tcp_socket *keep)
{
    CMO_EACH(node, &n->pending) {
        tcp_socket *s = socket_at(node);
        if (s->link == l && !s->inbound && s != keep) cmo_tcp_discard(n, s);
    }
    cmo_list_remove(&l->plan);
}

void cmo_tcp_fail(tcp_net *n, tcp_socket *s, cmo_err final, const char *what)
{
    tcp_link *l = s->link;
    if (s->stage == CHOSEN) {
        cmo_tcp_break(l, CMO_EPEERLOST, "the connection to it was lost while it was made: %s", what);
        return;
    }
    if (s->inbound) { /* the peer's attempt: it tries again, not we */
        cmo_tcp_discard(n, s);
        return;
    }
    if (l->socket == s) { /* a choice of ours that the peer may not know of */
        l->socket = NULL;
        l->state = WANTED;
    }
    tcp_note(l, &s->address, what);
    /* Only addresses at which nobody is to be found use up the time. */
    if (s->stage != CONNECTING) l->give_up_at = cmo_now() + n->reach_ns;
    if (final && l->final != CMO_EAUTH) l->final = final;
    const bool proven = s->proven;
    cmo_tcp_discard(n, s);
    if (proven) { /* the peer is there, only not ready for us: neither is it at its other addresses */
        cmo_tcp_stop_trying(n, l, NULL);
        l->failures = 0;
        tcp_plan_round(n, l);
    } else {
        tcp_try_next(n, l);
    }
}
