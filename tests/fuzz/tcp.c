/* A rank's TCP net and whoever connects to it, or is connected to: any bytes, on several connections at once.
 *
 * The bytes go through real sockets, of the Unix domain, which are made and gone faster than those of TCP and leave no
 * ports behind; options that only TCP knows fail there, which the net does not mind. Whatever is said: no descriptor
 * stays open, a connection is a link only for who holds the token, and each peer has one at most. */
#include "tcp_script.h"

#include "fuzz.h"

#include "base/clock.h"
#include "transport/tcp_net.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/un.h>
#include <unistd.h>

enum { MOST_RECORDS = 64 };

typedef struct connection {
    int fd;         /* of the other side; -1: none */
    uint8_t got[CMO_HELLO_BYTES]; /* what the net has said first: its HELLO or ANSWER */
    size_t have;
    uint8_t hello[CMO_HELLO_BYTES]; /* what it has said */
} connection;

typedef struct machine {
    fuzz_input in;
    uint64_t token;
    cmo_net *net;
    int lowest; /* of its descriptors */
    struct sockaddr_un name;
    socklen_t name_bytes;
    connection connections[SCRIPT_CONNECTIONS];
    bool proven[SCRIPT_RANKS]; /* peers that have shown a right code */
} machine;

/* In the place of HMAC: FNV-1a, with the number of each byte. */
static bool short_mac(void *ctx, const uint8_t *data, size_t n, uint8_t out[CMO_MAC_BYTES])
{
    uint64_t h = *(const uint64_t *)ctx;
    for (size_t k = 0; k < n; k++) h = (h ^ data[k]) * UINT64_C(0x100000001b3);
    for (int i = 0; i < CMO_MAC_BYTES; i++) out[i] = (uint8_t)(h >> (8 * (i % 8)));
    return true;
}

static void on_link(void *ctx, cmo_link *link)
{
    const machine *m = ctx;
    FUZZ_CHECK(link->peer >= 0 && link->peer < SCRIPT_RANKS && link->peer != SCRIPT_SELF);
    FUZZ_CHECK(m->proven[link->peer]);
}

static void machine_make(machine *m)
{
    static const char *const nowhere[SCRIPT_RANKS] = {"", "", "", ""};
    const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    m->token = 42;
    m->lowest = listener;
    m->name.sun_family = AF_UNIX; /* and no name: the kernel gives it an abstract one */
    m->name_bytes = sizeof m->name;
    FUZZ_CHECK(listener >= 0 && !bind(listener, (struct sockaddr *)&m->name, sizeof m->name.sun_family) &&
               !listen(listener, SCRIPT_CONNECTIONS) &&
               !getsockname(listener, (struct sockaddr *)&m->name, &m->name_bytes));
    const cmo_tcp_config config = {.rank = SCRIPT_SELF, .size = SCRIPT_RANKS, .generation = 7,
                                   .job = "a job of fuzzing", .listeners = &listener, .nlisteners = 1,
                                   .addresses = nowhere, .mac = short_mac, .mac_ctx = &m->token,
                                   .handshake_ns = 60 * CMO_SECOND, .heartbeat_ms = 20000};
    FUZZ_CHECK(cmo_tcp_net(&m->net, &config) == CMO_OK);
    m->net->on_link = on_link;
    m->net->ctx = m;
    for (int i = 0; i < SCRIPT_CONNECTIONS; i++) m->connections[i].fd = -1;
}

static void hang_up(connection *c)
{
    if (c->fd >= 0) close(c->fd);
    *c = (connection){.fd = -1};
}

static void say(connection *c, const uint8_t *bytes, size_t n)
{
    if (c->fd >= 0 && send(c->fd, bytes, n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno == EPIPE) hang_up(c);
}

/* What the net says on it. */
static void listen_to(connection *c)
{
    uint8_t rest[256];
    while (c->fd >= 0 && c->have < sizeof c->got) {
        const ssize_t k = recv(c->fd, c->got + c->have, sizeof c->got - c->have, MSG_DONTWAIT);
        if (k <= 0) return;
        c->have += (size_t)k;
    }
    while (c->fd >= 0 && recv(c->fd, rest, sizeof rest, MSG_DONTWAIT) > 0) {}
}

/* The net begins a connection to the peer, as tcp_connect does, whose other end is ours. */
static void dial(machine *m, connection *c, int peer)
{
    tcp_net *n = (tcp_net *)m->net;
    tcp_link *l = &n->links[peer];
    int ends[2];
    if (peer == SCRIPT_SELF || l->state > WANTED) return;
    FUZZ_CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends));
    tcp_socket *s = cmo_tcp_adopt(n, ends[0], CONNECTING, EPOLLOUT);
    FUZZ_CHECK(s != NULL);
    hang_up(c);
    c->fd = ends[1];
    s->link = l;
    l->state = WANTED;
    l->give_up_at = cmo_now() + n->handshake_ns;
    l->next = ""; /* there is no other address to be tried */
    if (!l->attempts++) l->rounds++;
    s->deadline = s->born + n->handshake_ns;
}

static void connect_to(const machine *m, connection *c)
{
    hang_up(c);
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    FUZZ_CHECK(c->fd >= 0);
    if (connect(c->fd, (const struct sockaddr *)&m->name, m->name_bytes)) hang_up(c); /* too many wait already */
}

static void say_hello(connection *c, uint32_t src)
{
    const cmo_hello h = {.version = CMO_HANDSHAKE_VERSION, .src = src, .dst = SCRIPT_SELF, .size = SCRIPT_RANKS,
                         .generation = 7, .job = "a job of fuzzing"};
    cmo_hello_write(c->hello, &h);
    say(c, c->hello, sizeof c->hello);
}

/* The server's side of a connection that the net has made. */
static void say_answer(machine *m, connection *c, uint32_t status)
{
    cmo_answer a = {.version = CMO_HANDSHAKE_VERSION, .status = status};
    cmo_hello h;
    uint8_t bytes[CMO_ANSWER_BYTES], text[CMO_SIGNED_BYTES];
    if (c->have < sizeof c->got || cmo_hello_parse(&h, c->got)) return;
    cmo_answer_write(bytes, &a);
    cmo_server_signed(text, c->got, bytes);
    short_mac(&m->token, text, sizeof text, a.mac);
    cmo_answer_write(bytes, &a);
    m->proven[h.dst] = true;
    say(c, bytes, sizeof bytes);
}

/* The client's, on one that was made to the net. */
static void say_proof(machine *m, connection *c)
{
    cmo_hello h;
    uint8_t text[CMO_SIGNED_BYTES], code[CMO_MAC_BYTES];
    if (c->have < sizeof c->got || cmo_hello_parse(&h, c->hello)) return;
    cmo_client_signed(text, c->hello, c->got);
    short_mac(&m->token, text, sizeof text, code);
    if (h.src < SCRIPT_RANKS) m->proven[h.src] = true;
    say(c, code, sizeof code);
}

static void record(machine *m)
{
    size_t got;
    const uint8_t what = fuzz_byte(&m->in);
    connection *c = &m->connections[what % SCRIPT_CONNECTIONS];
    uint8_t welcome[CMO_WELCOME_BYTES];
    const uint8_t *bytes;
    switch (what / SCRIPT_CONNECTIONS % SCRIPT_NRECORDS) {
    case SCRIPT_CONNECT: connect_to(m, c); break;
    case SCRIPT_DIAL: dial(m, c, fuzz_byte(&m->in) % SCRIPT_RANKS); break;
    case SCRIPT_SAY:
        bytes = fuzz_take(&m->in, fuzz_byte(&m->in), &got);
        say(c, bytes, got);
        break;
    case SCRIPT_HELLO: say_hello(c, fuzz_byte(&m->in)); break;
    case SCRIPT_ANSWER: say_answer(m, c, fuzz_byte(&m->in)); break;
    case SCRIPT_PROOF: say_proof(m, c); break;
    case SCRIPT_WELCOME:
        cmo_welcome_write(welcome);
        say(c, welcome, sizeof welcome);
        break;
    default: hang_up(c); break;
    }
}

/* As an engine does: read what there is, and say something back. */
static void use_links(machine *m)
{
    tcp_net *n = (tcp_net *)m->net;
    uint8_t bytes[64];
    const struct iovec iov = {bytes, sizeof bytes};
    CMO_EACH(node, &n->live) FUZZ_CHECK(socket_at(node)->link->socket == socket_at(node)); /* one is all that it has */
    for (int peer = 0; peer < SCRIPT_RANKS; peer++) {
        cmo_link *l = &n->links[peer].link;
        size_t moved;
        FUZZ_CHECK(!l->up || (m->proven[peer] && n->links[peer].socket));
        if (l->readable && m->net->ops->read(l, &iov, 1, &moved) == CMO_OK && moved && l->up)
            m->net->ops->write(l, &iov, 1, &moved);
        else if (l->readable && n->links[peer].state == DEAD) m->net->ops->drop(l);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    machine m = {.in = {data, size}};
    machine_make(&m);
    for (int i = 0; m.in.left && i < MOST_RECORDS; i++) {
        record(&m);
        FUZZ_CHECK(m.net->ops->poll(m.net) == CMO_OK);
        use_links(&m);
        for (int k = 0; k < SCRIPT_CONNECTIONS; k++) listen_to(&m.connections[k]);
    }
    for (int i = 0; i < SCRIPT_CONNECTIONS; i++) hang_up(&m.connections[i]);
    FUZZ_CHECK(m.net->ops->poll(m.net) == CMO_OK);
    m.net->ops->close(m.net);
    const int again = dup(STDERR_FILENO); /* the lowest that is free: all that the net had are closed */
    FUZZ_CHECK(again >= 0 && again <= m.lowest);
    close(again);
    return 0;
}
