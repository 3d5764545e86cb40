/* Reaching a peer: its addresses, one after the other, in rounds. */
#include "transport/tcp_net.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum {
    ROUNDS = 5,          /* over all addresses of a peer, before it counts as unreachable */
    FIRST_DELAY_MS = 10, /* between rounds; doubles */
    MAX_DELAY_MS = 1000
};

/* Note what came of an attempt, for the text of the error that may follow. */
static void tcp_note(tcp_link *l, const cmo_address *address, const char *what)
{
    char where[CMO_ADDRESS_TEXT];
    cmo_address_format(where, address);
    const size_t n = strlen(l->why);
    snprintf(l->why + n, sizeof l->why - n, "%s%s: %s", n ? "; " : "", where, what);
}

/* Start a connection to one address; an errno on failure. */
static int tcp_connect(tcp_net *n, tcp_link *l, const cmo_address *address)
{
    int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return errno;
    cmo_tcp_set_buffers(n, fd);
    cmo_tcp_set_options(fd);
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
    /* Where there are several addresses, one that swallows packets may not take all the time: longer in each round. */
    const int64_t patience = l->naddresses > 1 && l->rounds < 4 ? n->handshake_ns / 16 << l->rounds : n->handshake_ns;
    s->deadline = s->born + patience < l->give_up_at ? s->born + patience : l->give_up_at;
    cmo_tcp_schedule(n, s->deadline);
    return 0;
}

static void tcp_end_round(tcp_net *n, tcp_link *l)
{
    if (l->final == CMO_EAUTH) {
        cmo_tcp_break(l, CMO_EAUTH, "rank %d did not prove that it holds the token (%s)", l->link.peer, l->why);
        return;
    }
    if (l->alive) {
        l->failures = 0;
    } else if (l->final || ++l->failures == ROUNDS) {
        cmo_tcp_break(l, CMO_EPEERLOST, "rank %d cannot be reached (%s)", l->link.peer, l->why);
        return;
    }
    int64_t delay = (int64_t)FIRST_DELAY_MS << (l->rounds < 8 ? l->rounds - 1 : 7);
    l->retry_at = cmo_now() + (delay < MAX_DELAY_MS ? delay : MAX_DELAY_MS) * CMO_MILLISECOND;
    cmo_list_append(&n->retries, &l->retry);
    cmo_tcp_schedule(n, l->retry_at);
}

/* Try the addresses that this round has left. */
static void tcp_connect_next(tcp_net *n, tcp_link *l)
{
    const char *word;
    size_t length;
    while (cmo_address_next(&l->next, &word, &length)) {
        cmo_address address;
        if (cmo_address_parse(&address, word, length)) continue; /* parsed before; an interface may have gone since */
        const int error = tcp_connect(n, l, &address);
        if (!error) return;
        tcp_note(l, &address, strerror(error));
    }
    tcp_end_round(n, l);
}

void cmo_tcp_begin_round(tcp_net *n, tcp_link *l)
{
    cmo_list_remove(&l->retry);
    l->next = l->addresses;
    l->rounds++;
    l->alive = false;
    l->final = CMO_OK;
    l->why[0] = 0;
    tcp_connect_next(n, l);
}

/* A socket that is not live has failed. `final`: an error that trying the same address again would not change. */
void cmo_tcp_fail(tcp_net *n, tcp_socket *s, cmo_err final, const char *what)
{
    tcp_link *l = s->link;
    if (s->stage == CHOSEN) {
        cmo_tcp_break(l, CMO_EPEERLOST, "connection to rank %d was lost while it was made: %s", l->link.peer, what);
    } else if (s->inbound) {
        cmo_tcp_discard(n, s);
    } else {
        if (l->socket == s) { /* a choice of ours that the peer may not know of */
            l->socket = NULL;
            l->state = WANTED;
        }
        tcp_note(l, &s->address, what);
        if (s->proven) l->alive = true;
        /* Only addresses at which nobody is to be found use up the time. */
        if (s->stage != CONNECTING) l->give_up_at = cmo_now() + n->handshake_ns;
        if (final && l->final != CMO_EAUTH) l->final = final;
        cmo_tcp_discard(n, s);
        tcp_connect_next(n, l);
    }
}
