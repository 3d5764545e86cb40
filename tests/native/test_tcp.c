/* What is particular to TCP: who may connect, which of several connections becomes the link, and how links end. What
 * it has in common with other transports is in test_transport.c. */
#include "check.h"
#include "tcp_talk.h"

#include "transport/handshake.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

/* ------------------------------------------------------------------ both at once */

typedef struct side { /* what one rank sees of one link in the stress test */
    cmo_link *link;
    int announced;
    uint32_t sent, received;
    bool opens;
    int opens_after;
} side;

static void count_announcement(void *ctx, cmo_link *l) { ((side *)ctx)[l->peer].announced++; }

enum { STRESS_BYTES = 3000 };

static void stress_write(side *s, int from, uint64_t *state)
{
    uint8_t bytes[512];
    uint32_t n = 1 + dice(state, sizeof bytes);
    if (!s->link || !s->link->up || s->sent == STRESS_BYTES) return;
    if (n > STRESS_BYTES - s->sent) n = STRESS_BYTES - s->sent;
    for (uint32_t i = 0; i < n; i++) bytes[i] = (uint8_t)((s->sent + i) * 7 + (uint32_t)from);
    s->sent += (uint32_t)write_bytes(s->link, bytes, n);
}

static bool stress_read(side *s, int from, uint64_t *state)
{
    uint8_t bytes[700];
    size_t moved = 0;
    if (!s->link || !s->link->readable) return true;
    const cmo_err err = read_bytes(s->link, bytes, 1 + dice(state, sizeof bytes), &moved);
    CHECKF(err == CMO_OK, "%s", cmo_reason());
    for (size_t i = 0; i < moved; i++)
        if (bytes[i] != (uint8_t)((s->received + i) * 7 + (uint32_t)from)) {
            CHECKF(false, "byte %zu of %u is wrong", (size_t)s->received + i, from);
            return false;
        }
    s->received += (uint32_t)moved;
    return err == CMO_OK;
}

/* `size` nets open links to each other in a random order and are polled in a random order, some of them now and then not
 * for longer than the time that a handshake may take. Every pair must end with one connection, and every byte arrive. */
static void stress(uint64_t seed, int size, int64_t handshake_ns)
{
    static side sides[WORLD_MAX][WORLD_MAX];
    world w;
    uint64_t state = seed * 2654435761u + 1;
    int ended = 0;
    memset(sides, 0, sizeof sides);
    CHECK(world_prepare(&w, size, AF_INET));
    for (int i = 0; i < size; i++) {
        cmo_tcp_config c = world_config(&w, i);
        c.handshake_ns = handshake_ns;
        CHECK(cmo_tcp_net(&w.net[i], &c) == CMO_OK);
        w.net[i]->on_link = count_announcement;
        w.net[i]->ctx = sides[i];
    }
    int links = 0;
    for (int i = 0; i < size; i++)
        for (int j = 0; j < i; j++, links += 2) {
            const uint32_t who = dice(&state, 4); /* mostly both */
            sides[i][j].opens = who != 0;
            sides[j][i].opens = who != 1;
            sides[i][j].opens_after = (int)dice(&state, 12);
            sides[j][i].opens_after = (int)dice(&state, 12);
        }
    const int64_t deadline = cmo_deadline(10);
    bool right = true;
    for (int step = 0; right && ended < links && cmo_now() < deadline; step++) {
        const int i = (int)dice(&state, (uint32_t)size);
        if (handshake_ns < CMO_SECOND && dice(&state, 16) == 0) nap();
        for (int j = 0; j < size; j++) {
            side *s = &sides[i][j];
            if (i == j) continue;
            if ((s->opens && step >= s->opens_after) || s->announced) s->link = open_link(&w, i, j);
            if (dice(&state, 2)) stress_write(s, i, &state);
            if (dice(&state, 2)) right &= stress_read(s, j, &state);
        }
        if (dice(&state, 4)) CHECK(w.net[i]->ops->poll(w.net[i]) == CMO_OK);
        ended = 0;
        for (int a = 0; a < size; a++)
            for (int b = 0; b < size; b++) ended += sides[a][b].received == STRESS_BYTES;
    }
    CHECKF(ended == links, "seed %llu: %d of %d streams ended", (unsigned long long)seed, ended, links);
    for (int i = 0; i < size; i++)
        for (int j = 0; j < i; j++) {
            CHECKF(sides[i][j].announced + sides[j][i].announced == 1, "seed %llu: %d and %d announcements",
                   (unsigned long long)seed, sides[i][j].announced, sides[j][i].announced);
        }
    world_close(&w);
}

static void test_both_connect_at_once(void)
{
    for (uint64_t seed = 1; seed <= 400; seed++) stress(seed, 2, 5 * CMO_SECOND);
    for (uint64_t seed = 1; seed <= 60; seed++) stress(seed, 4, 5 * CMO_SECOND);
}

static void test_both_connect_and_are_away_for_longer_than_a_handshake(void)
{
    for (uint64_t seed = 1; seed <= 300; seed++) stress(seed, 2, 300000);
    for (uint64_t seed = 1; seed <= 40; seed++) stress(seed, 3, 300000);
}

/* ------------------------------------------------------------------ who may connect */

/* The HELLO that a rank of the tests' job would send. */
static cmo_hello client_rank(int src, int dst, int size)
{
    return (cmo_hello){.version = CMO_HANDSHAKE_VERSION, .src = (uint32_t)src, .dst = (uint32_t)dst,
                       .size = (uint32_t)size, .generation = 7, .job = "the job of tests", .nonce = "a nonce"};
}

static void test_another_token(void)
{
    world w;
    CHECK(world_open(&w, 2, AF_INET));
    w.token[1] = 43;
    cmo_link *a = open_link(&w, 0, 1), *b = open_link(&w, 1, 0);
    CHECK(end_of(&w, a) == CMO_EAUTH);
    reason_has("rank 1 did not prove that it holds the token");
    reason_has(w.address[1]);
    CHECK(end_of(&w, b) == CMO_EAUTH);
    reason_has("rank 0");
    world_close(&w);
}

static void test_another_job_size_or_generation(void)
{
    static const char *const texts[] = {"another job", "another number of ranks", "another generation"};
    for (int what = 0; what < 3; what++) {
        world w;
        CHECK(world_prepare(&w, 3, AF_INET));
        for (int i = 0; i < 3; i++) {
            cmo_tcp_config c = world_config(&w, i);
            if (i == 1 && what == 0) c.job[3] ^= 1;
            if (i == 1 && what == 1) c.size = 2;
            if (i == 1 && what == 2) c.generation++;
            CHECK(cmo_tcp_net(&w.net[i], &c) == CMO_OK);
        }
        cmo_link *a = open_link(&w, 0, 1), *b = open_link(&w, 1, 0);
        CHECK(end_of(&w, a) == CMO_EPEERLOST);
        reason_has(texts[what]);
        reason_has("rank 1");
        CHECK(end_of(&w, b) == CMO_EPEERLOST);
        reason_has(texts[what]);
        check_talk(&w, 0, 2); /* the others are as well as before */
        world_close(&w);
    }
}

static void test_an_address_of_another_rank(void)
{
    world w;
    CHECK(world_prepare(&w, 3, AF_INET));
    w.addresses[1] = w.address[2];
    for (int i = 0; i < 3; i++) {
        cmo_tcp_config c = world_config(&w, i);
        CHECK(cmo_tcp_net(&w.net[i], &c) == CMO_OK);
    }
    CHECK(end_of(&w, open_link(&w, 0, 1)) == CMO_EPEERLOST);
    reason_has("it is another rank");
    world_close(&w);
}

static void test_garbage_is_closed_at_once(void)
{
    world w;
    CHECK(world_open(&w, 2, AF_INET));
    uint64_t state = 77;
    for (int i = 0; i < 200; i++) {
        uint8_t bytes[400];
        const uint32_t n = 1 + dice(&state, sizeof bytes);
        const cmo_hello h = client_rank(1, 0, 2);
        for (uint32_t k = 0; k < n; k++) bytes[k] = (uint8_t)dice(&state, 256);
        const bool begins_well = i % 2 && n > CMO_HELLO_BYTES + CMO_PROOF_BYTES;
        if (begins_well) cmo_hello_write(bytes, &h); /* a good HELLO, and then a PROOF that is none */
        int fd = stranger(&w, 0);
        CHECK(send(fd, bytes, n, MSG_NOSIGNAL) == (ssize_t)n);
        if (begins_well) {
            uint8_t answer[CMO_ANSWER_BYTES];
            receive(&w, fd, answer, sizeof answer); /* or the reset, which may overtake it */
        }
        CHECK(is_closed(&w, fd));
        close(fd);
    }
    check_talk(&w, 0, 1);
    world_close(&w);
}

static void test_silence_is_closed_at_the_deadline(void)
{
    world w;
    CHECK(world_prepare(&w, 2, AF_INET));
    for (int i = 0; i < 2; i++) {
        cmo_tcp_config c = world_config(&w, i);
        c.handshake_ns = 60 * 1000000;
        CHECK(cmo_tcp_net(&w.net[i], &c) == CMO_OK);
    }
    uint8_t hello[CMO_HELLO_BYTES], answer[CMO_ANSWER_BYTES];
    const cmo_hello h = client_rank(1, 0, 2);
    cmo_hello_write(hello, &h);
    for (int said = 0; said < 3; said++) { /* nothing, half a HELLO, a HELLO and no PROOF */
        int fd = stranger(&w, 0);
        const int64_t start = cmo_now();
        if (said) CHECK(send(fd, hello, said == 1 ? 40 : sizeof hello, MSG_NOSIGNAL) > 0);
        if (said == 2) CHECK(receive(&w, fd, answer, sizeof answer));
        poll_world(&w);
        struct pollfd p = {.fd = w.net[0]->fd, .events = POLLIN}; /* the sleeper is woken for it */
        CHECK(poll(&p, 1, 1000) == 1);
        CHECK(is_closed(&w, fd));
        const double took = (double)(cmo_now() - start) / 1e9;
        CHECKF(took > 0.055 && took < 0.5, "%.3f s", took);
        close(fd);
    }
    check_talk(&w, 0, 1);
    world_close(&w);
}

static void test_a_crowd_of_silent_strangers_keeps_nobody_out(void)
{
    enum { CROWD = 200 };
    world w;
    int crowd[CROWD];
    CHECK(world_prepare(&w, 2, AF_INET));
    for (int i = 0; i < 2; i++) {
        cmo_tcp_config c = world_config(&w, i);
        c.handshake_ns = CMO_SECOND;
        CHECK(cmo_tcp_net(&w.net[i], &c) == CMO_OK);
        CHECK(listen(w.listener[i], 2 * CROWD) == 0);
    }
    for (int i = 0; i < CROWD; i++) crowd[i] = stranger(&w, 0);
    const int64_t start = cmo_now();
    const int before = open_descriptors();
    poll_world(&w);
    CHECK(open_descriptors() - before == 64);
    cmo_link *l = open_link(&w, 1, 0); /* behind all of them */
    UNTIL(&w, l->up);
    CHECK(cmo_now() - start < 3 * CMO_SECOND);
    check_talk(&w, 1, 0);
    for (int i = 0; i < CROWD; i++) close(crowd[i]);
    world_close(&w);
}

/* ------------------------------------------------------------------ a client written by hand */

typedef struct client {
    int fd;
    uint8_t hello[CMO_HELLO_BYTES], answer[CMO_ANSWER_BYTES];
    uint64_t token;
} client;

/* Say HELLO as `src`, a few bytes at a time, and hear what is answered. */
static uint32_t client_hello(world *w, client *c, int rank, cmo_hello h)
{
    cmo_answer a = {.status = CMO_NVERDICTS};
    uint8_t text[CMO_SIGNED_BYTES], code[CMO_MAC_BYTES];
    c->token = 42;
    c->fd = stranger(w, rank);
    cmo_hello_write(c->hello, &h);
    for (size_t i = 0; i < sizeof c->hello; i += 7) {
        CHECK(send(c->fd, c->hello + i, sizeof c->hello - i < 7 ? sizeof c->hello - i : 7, MSG_NOSIGNAL) > 0);
        poll_world(w);
    }
    CHECK(receive(w, c->fd, c->answer, sizeof c->answer));
    CHECK(cmo_answer_parse(&a, c->answer) == CMO_OK);
    cmo_server_signed(text, c->hello, c->answer);
    toy_mac(&c->token, text, sizeof text, code);
    CHECK(cmo_mac_equal(code, a.mac)); /* refusals prove themselves too */
    return a.status;
}

static void client_proof(client *c, uint8_t out[CMO_PROOF_BYTES])
{
    uint8_t text[CMO_SIGNED_BYTES];
    cmo_client_signed(text, c->hello, c->answer);
    toy_mac(&c->token, text, sizeof text, out);
}

static void test_frames_in_one_segment_with_the_proof(void)
{
    world w;
    client c, late;
    uint8_t last[CMO_PROOF_BYTES + 5], welcome[CMO_WELCOME_BYTES];
    char got[8] = {0};
    size_t moved = 0;
    side sides[3] = {0};
    CHECK(world_open(&w, 3, AF_INET));
    for (int src = 0; src < 3; src += 2) { /* as a lower rank and as a higher one */
        w.net[1]->on_link = count_announcement;
        w.net[1]->ctx = sides;
        CHECK(client_hello(&w, &c, 1, client_rank(src, 1, 3)) == CMO_VERDICT_ACCEPTED);
        client_proof(&c, last);
        memcpy(last + CMO_PROOF_BYTES, "frame", 5);
        CHECK(send(c.fd, last, sizeof last, MSG_NOSIGNAL) == sizeof last);
        CHECK(receive(&w, c.fd, welcome, sizeof welcome) && cmo_welcome_parse(welcome) == CMO_OK);
        CHECK(sides[src].announced == 1);
        cmo_link *l = open_link(&w, 1, src);
        CHECK(l->up && l->readable);
        CHECK(read_bytes(l, got, sizeof got, &moved) == CMO_OK && moved == 5 && !memcmp(got, "frame", 5));
        CHECK(client_hello(&w, &late, 1, client_rank(src, 1, 3)) == CMO_VERDICT_DUPLICATE);
        close(late.fd);
        w.net[1]->ops->drop(l);
        CHECK(client_hello(&w, &late, 1, client_rank(src, 1, 3)) == CMO_VERDICT_GONE);
        close(late.fd);
        CHECK(is_closed(&w, c.fd));
        close(c.fd);
    }
    world_close(&w);
}

/* Whoever proves itself and is gone in the same moment had the link, and has lost it. */
static void test_a_reset_right_after_the_proof(void)
{
    for (int src = 0; src < 3; src += 2) {
        world w;
        client c;
        uint8_t last[CMO_PROOF_BYTES];
        const struct linger reset = {.l_onoff = 1};
        CHECK(world_open(&w, 3, AF_INET));
        CHECK(client_hello(&w, &c, 1, client_rank(src, 1, 3)) == CMO_VERDICT_ACCEPTED);
        client_proof(&c, last);
        CHECK(send(c.fd, last, sizeof last, MSG_NOSIGNAL) == sizeof last);
        CHECK(setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset) == 0);
        close(c.fd);
        for (int i = 0; i < 5; i++) poll_world(&w);
        CHECK(end_of(&w, open_link(&w, 1, src)) == CMO_EPEERLOST);
        world_close(&w);
    }
}

static void test_hellos_that_are_refused(void)
{
    world w;
    client c;
    CHECK(world_open(&w, 3, AF_INET));
    const struct { int src, dst, size; cmo_verdict verdict; } cases[] = {
        {1, 1, 3, CMO_VERDICT_BAD_SOURCE}, {3, 1, 3, CMO_VERDICT_BAD_SOURCE}, {-1, 1, 3, CMO_VERDICT_BAD_SOURCE},
        {0, 2, 3, CMO_VERDICT_NOT_YOU},    {0, 1, 4, CMO_VERDICT_WRONG_SIZE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK(client_hello(&w, &c, 1, client_rank(cases[i].src, cases[i].dst, cases[i].size)) == cases[i].verdict);
        CHECK(is_closed(&w, c.fd));
        close(c.fd);
    }
    cmo_hello h = client_rank(0, 1, 3);
    h.version++;
    CHECK(client_hello(&w, &c, 1, h) == CMO_VERDICT_WRONG_VERSION);
    close(c.fd);
    world_close(&w);
}

/* Whoever only claims to be a rank, and never proves it, changes nothing for the one who is. */
static void test_claiming_to_be_a_rank_does_not_keep_it_out(void)
{
    world w;
    client c[8];
    CHECK(world_open(&w, 2, AF_INET));
    cmo_link *higher = open_link(&w, 1, 0);
    for (int i = 0; i < 8; i++) {
        const int victim = i % 2;
        CHECK(client_hello(&w, &c[i], victim, client_rank(!victim, victim, 2)) == CMO_VERDICT_ACCEPTED || higher->up);
    }
    check_talk(&w, 0, 1);
    for (int i = 0; i < 8; i++) {
        CHECK(is_closed(&w, c[i].fd));
        close(c[i].fd);
    }
    world_close(&w);
}

/* A server that answers with somebody else's code, one that is no rank, and one that echoes what it is told. */
static void test_servers_that_are_no_ranks(void)
{
    for (int kind = 0; kind < 3; kind++) {
        world w;
        CHECK(world_prepare(&w, 2, AF_INET));
        cmo_tcp_config config = world_config(&w, 0);
        CHECK(cmo_tcp_net(&w.net[0], &config) == CMO_OK);
        cmo_link *l = open_link(&w, 0, 1);
        int fd = -1;
        UNTIL(&w, (fd = accept(w.listener[1], NULL, NULL)) >= 0);
        uint8_t bytes[CMO_HELLO_BYTES];
        CHECK(receive(&w, fd, bytes, sizeof bytes));
        if (kind == 0) cmo_answer_write(bytes, &(cmo_answer){.version = CMO_HANDSHAKE_VERSION, .nonce = "n", .mac = "m"});
        if (kind == 1) memcpy(bytes, "220 mail.example.org ESMTP, at your service, and waiting for you to say something", 80);
        CHECK(send(fd, bytes, sizeof bytes, MSG_NOSIGNAL) == sizeof bytes);
        CHECK(end_of(&w, l) == (kind == 0 ? CMO_EAUTH : CMO_EPEERLOST));
        reason_has(kind == 0 ? "did not prove" : "no rank of commops");
        CHECK(is_closed(&w, fd));
        close(fd);
        close(w.listener[1]);
        world_close(&w);
    }
}

/* ------------------------------------------------------------------ addresses */

static void test_nobody_listens(void)
{
    world w;
    CHECK(world_open(&w, 2, AF_INET));
    world_close_rank(&w, 1);
    const int64_t start = cmo_now();
    cmo_link *l = open_link(&w, 0, 1);
    CHECK(end_of(&w, l) == CMO_EPEERLOST);
    CHECK(cmo_now() - start < 2 * CMO_SECOND);
    reason_has("rank 1 cannot be reached");
    reason_has(w.address[1]);
    reason_has(strerror(ECONNREFUSED));
    CHECK(open_link(&w, 0, 1) == l);
    size_t moved;
    CHECK(l->net->ops->write(l, &(struct iovec){&moved, 1}, 1, &moved) == CMO_EPEERLOST);
    world_close(&w);
}

/* A listener whose queue is full swallows what comes: the address has the time of a handshake, and no more. */
static void test_packets_are_swallowed(void)
{
    world w;
    int filler[8];
    CHECK(world_prepare(&w, 2, AF_INET));
    cmo_tcp_config c = world_config(&w, 0);
    c.handshake_ns = CMO_SECOND / 10;
    CHECK(cmo_tcp_net(&w.net[0], &c) == CMO_OK);
    CHECK(listen(w.listener[1], 0) == 0);
    cmo_address a;
    CHECK(cmo_address_parse(&a, w.address[1], strlen(w.address[1])) == CMO_OK);
    for (int i = 0; i < 8; i++) {
        filler[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        connect(filler[i], &a.any, a.length);
    }
    const int64_t start = cmo_now();
    CHECK(end_of(&w, open_link(&w, 0, 1)) == CMO_EPEERLOST);
    reason_has("no answer");
    const double took = (double)(cmo_now() - start) / 1e9;
    CHECKF(took > 0.09 && took < 1, "%.3f s", took);
    for (int i = 0; i < 8; i++) close(filler[i]);
    close(w.listener[1]);
    world_close(&w);
}

/* A rank that has no descriptor left takes in the connection later, and lets its owner sleep meanwhile. */
static void test_out_of_descriptors(void)
{
    world w;
    struct rlimit usual, tight;
    CHECK(world_open(&w, 2, AF_INET));
    cmo_link *l = open_link(&w, 1, 0);
    CHECK(getrlimit(RLIMIT_NOFILE, &usual) == 0);
    tight = usual;
    tight.rlim_cur = 3; /* fewer than are open */
    CHECK(setrlimit(RLIMIT_NOFILE, &tight) == 0);
    for (int i = 0; i < 20; i++) {
        poll_world(&w);
        nap();
    }
    struct pollfd p = {.fd = w.net[0]->fd, .events = POLLIN};
    CHECK(setrlimit(RLIMIT_NOFILE, &usual) == 0); /* poll(2) obeys the limit too */
    CHECK(!l->up && poll(&p, 1, 0) == 0);
    UNTIL(&w, l->up);
    world_close(&w);
}

/* The first address is dead, the second that of somebody silent, the third of another rank, and the last is right. */
static void test_addresses_are_tried_in_order(void)
{
    world w;
    char mute_text[CMO_ADDRESS_TEXT], dead_text[CMO_ADDRESS_TEXT], list[5 * CMO_ADDRESS_TEXT];
    int mute = world_listen(AF_INET, mute_text), dead = world_listen(AF_INET, dead_text);
    close(dead);
    CHECK(world_prepare(&w, 3, AF_INET));
    snprintf(list, sizeof list, "%s  %s\t%s %s", dead_text, mute_text, w.address[2], w.address[1]);
    w.addresses[1] = list;
    for (int i = 0; i < 3; i++) {
        cmo_tcp_config c = world_config(&w, i);
        c.handshake_ns = CMO_SECOND / 5;
        CHECK(cmo_tcp_net(&w.net[i], &c) == CMO_OK);
    }
    memset(list, 'x', sizeof list); /* they have been copied */
    cmo_link *l = open_link(&w, 0, 1);
    UNTIL(&w, l->up);
    check_talk(&w, 0, 1);
    close(mute);
    world_close(&w);
}

static void test_no_address(void)
{
    world w;
    CHECK(world_prepare(&w, 2, AF_INET));
    w.addresses[0] = NULL;
    for (int i = 0; i < 2; i++) {
        cmo_tcp_config c = world_config(&w, i);
        CHECK(cmo_tcp_net(&w.net[i], &c) == CMO_OK);
    }
    cmo_link *l = open_link(&w, 0, 1); /* rank 0 can reach rank 1 and not the other way round */
    UNTIL(&w, l->up);
    check_talk(&w, 1, 0);
    world_close(&w);
    CHECK(world_prepare(&w, 2, AF_INET));
    w.addresses[0] = " ";
    cmo_tcp_config c = world_config(&w, 1);
    CHECK(cmo_tcp_net(&w.net[1], &c) == CMO_OK);
    CHECK(end_of(&w, open_link(&w, 1, 0)) == CMO_EPEERLOST);
    reason_has("no address");
    close(w.listener[0]);
    world_close(&w);
}

static void test_wrong_configurations(void)
{
    world w;
    cmo_net *net = NULL;
    CHECK(world_prepare(&w, 2, AF_INET));
    cmo_tcp_config c = world_config(&w, 0);
    w.addresses[1] = "localhost:80";
    CHECK(cmo_tcp_net(&net, &c) == CMO_EINVAL);
    reason_has("rank 1");
    reason_has("localhost:80");
    w.addresses[1] = w.address[1];
    c.rank = 2;
    CHECK(cmo_tcp_net(&net, &c) == CMO_EINVAL);
    c = world_config(&w, 0);
    int listeners[] = {w.listener[0], -1};
    c.listeners = listeners;
    c.nlisteners = 2;
    CHECK(cmo_tcp_net(&net, &c) == CMO_ESYS);
    CHECK(fcntl(w.listener[0], F_GETFD) >= 0); /* not taken by a net that could not be made */
    CHECK(net == NULL);
    close(w.listener[0]);
    close(w.listener[1]);
}

/* ------------------------------------------------------------------ being away, and going */

/* A rank that computes for longer than a handshake may take is not lost. */
static void test_a_peer_that_is_busy_is_waited_for(void)
{
    for (int lower_is_busy = 0; lower_is_busy < 2; lower_is_busy++) {
        world w;
        CHECK(world_prepare(&w, 2, AF_INET));
        for (int i = 0; i < 2; i++) {
            cmo_tcp_config c = world_config(&w, i);
            c.handshake_ns = 20 * 1000000;
            CHECK(cmo_tcp_net(&w.net[i], &c) == CMO_OK);
        }
        const int busy = lower_is_busy ? 0 : 1, eager = 1 - busy;
        cmo_link *l = open_link(&w, eager, busy);
        const int64_t deadline = cmo_now() + 100 * 1000000;
        size_t moved;
        while (cmo_now() < deadline) {
            CHECK(w.net[eager]->ops->poll(w.net[eager]) == CMO_OK);
            CHECKF(read_bytes(l, &moved, 1, &moved) == CMO_OK, "%s", cmo_reason());
            nap();
        }
        CHECK(!l->up);
        check_talk(&w, eager, busy);
        world_close(&w);
    }
}

/* The client goes away between HELLO and PROOF until the server has closed the connection. */
static void test_a_client_that_is_away_tries_again(void)
{
    for (int client_rank_ = 0; client_rank_ < 2; client_rank_++) {
        world w;
        CHECK(world_prepare(&w, 2, AF_INET));
        for (int i = 0; i < 2; i++) {
            cmo_tcp_config c = world_config(&w, i);
            c.handshake_ns = 20 * 1000000;
            CHECK(cmo_tcp_net(&w.net[i], &c) == CMO_OK);
        }
        cmo_net *client_net = w.net[client_rank_], *server = w.net[1 - client_rank_];
        cmo_link *l = open_link(&w, client_rank_, 1 - client_rank_);
        struct pollfd p = {.fd = client_net->fd, .events = POLLIN};
        CHECK(poll(&p, 1, 1000) == 1);
        CHECK(client_net->ops->poll(client_net) == CMO_OK); /* connected; HELLO is sent */
        const int64_t deadline = cmo_now() + 60 * 1000000;
        while (cmo_now() < deadline) {
            CHECK(server->ops->poll(server) == CMO_OK);
            nap();
        }
        UNTIL(&w, l->up);
        check_talk(&w, 0, 1);
        world_close(&w);
    }
}

static void test_what_arrived_before_a_reset_is_read(void)
{
    static char bytes[20000], got[20000];
    for (int writes = 0; writes < 2; writes++) { /* whether the reader's own writing meets the reset first */
        world w;
        size_t moved = 0, total = 0;
        CHECK(world_open(&w, 2, AF_INET));
        check_talk(&w, 0, 1);
        cmo_link *a = open_link(&w, 0, 1), *b = open_link(&w, 1, 0);
        memset(bytes, 'r', sizeof bytes);
        CHECK(write_bytes(a, bytes, sizeof bytes) == sizeof bytes);
        for (int i = 0; i < 50; i++) nap(); /* they are in the other's socket */
        world_close_rank(&w, 0);
        for (int i = 0; writes && i < 50; i++) {
            write_bytes(b, "z", 1); /* to a closed socket: answered by a reset */
            nap();
        }
        cmo_err err = CMO_OK;
        const int64_t deadline = cmo_deadline(5);
        while (err == CMO_OK && cmo_now() < deadline) {
            poll_world(&w);
            if (b->readable) err = read_bytes(b, got, 777, &moved);
            total += moved;
        }
        CHECK(err == CMO_EPEERLOST);
        CHECKF(total == sizeof bytes, "%zu", total);
        reason_has(writes ? "was reset" : "rank 0 closed its connection");
        world_close(&w);
    }
}

static void test_a_dropped_link_stays_dropped_at_both_ends(void)
{
    for (int dropper = 0; dropper < 2; dropper++) {
        world w;
        CHECK(world_open(&w, 2, AF_INET));
        check_talk(&w, 0, 1);
        cmo_link *a = open_link(&w, dropper, 1 - dropper), *b = open_link(&w, 1 - dropper, dropper);
        a->net->ops->drop(a);
        CHECK(end_of(&w, b) == CMO_EPEERLOST);
        CHECK(open_link(&w, dropper, 1 - dropper) == a && !a->up);
        size_t moved;
        CHECK(read_bytes(a, &moved, 1, &moved) == CMO_EPEERLOST);
        world_close(&w);

        CHECK(world_open(&w, 2, AF_INET)); /* the same before the other has connected */
        a = open_link(&w, dropper, 1 - dropper);
        a->net->ops->drop(a);
        CHECK(end_of(&w, open_link(&w, 1 - dropper, dropper)) == CMO_EPEERLOST);
        reason_has("has given up");
        world_close(&w);
    }
}

/* In a network of its own, loopback is taken away under a connection: nothing is acknowledged any more. */
static int host_vanishes(bool closed_window)
{
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    static char bytes[1 << 16];
    world w;
    atomic_store(&check_failed, 0); /* those before the fork are not ours */
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET) && unshare(CLONE_NEWNET)) return 77;
    int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (control < 0 || ioctl(control, SIOCSIFFLAGS, &lo)) return 77;
    CHECK(world_prepare(&w, 2, AF_INET));
    for (int i = 0; i < 2; i++) {
        cmo_tcp_config c = world_config(&w, i);
        c.user_timeout_ms = 400;
        CHECK(cmo_tcp_net(&w.net[i], &c) == CMO_OK);
    }
    check_talk(&w, 0, 1);
    cmo_link *l = open_link(&w, 0, 1);
    if (closed_window) { /* a peer that does not read for long, whose host lives, is not lost */
        for (int quiet = 0; quiet < 100; quiet++)
            if (write_bytes(l, bytes, sizeof bytes)) quiet = 0;
        const int64_t until = cmo_now() + 2 * CMO_SECOND;
        size_t moved;
        while (cmo_now() < until) {
            poll_world(&w);
            CHECKF(read_bytes(l, bytes, 1, &moved) == CMO_OK, "%s", cmo_reason());
            for (int i = 0; i < 20; i++) nap();
        }
    } else {
        lo.ifr_flags = 0;
        CHECK(ioctl(control, SIOCSIFFLAGS, &lo) == 0);
        write_bytes(l, "x", 1);
        const int64_t start = cmo_now();
        CHECK(end_of(&w, l) == CMO_EPEERLOST);
        CHECKF(cmo_now() - start < 3 * CMO_SECOND, "%s", cmo_reason());
        reason_has("rank 1");
    }
    close(control);
    world_close(&w);
    return check_report();
}

static void test_a_host_that_vanishes_and_one_that_is_slow(void)
{
    for (int closed_window = 0; closed_window < 2; closed_window++) {
        fflush(NULL);
        pid_t child = fork(); /* the new network is the child's alone */
        if (child == 0) _exit(host_vanishes(closed_window));
        int status = 0;
        CHECK(child > 0 && waitpid(child, &status, 0) == child);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 77) fprintf(stderr, "a host that vanishes: no private network here\n");
        else CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
}

/* ------------------------------------------------------------------ all of them */

#define TEST(f) {test_##f, #f}
static const struct { void (*run)(void); const char *name; } tests[] = {
    TEST(wrong_configurations),
    TEST(both_connect_at_once),
    TEST(both_connect_and_are_away_for_longer_than_a_handshake),
    TEST(another_token),
    TEST(another_job_size_or_generation),
    TEST(an_address_of_another_rank),
    TEST(garbage_is_closed_at_once),
    TEST(silence_is_closed_at_the_deadline),
    TEST(a_crowd_of_silent_strangers_keeps_nobody_out),
    TEST(frames_in_one_segment_with_the_proof),
    TEST(a_reset_right_after_the_proof),
    TEST(hellos_that_are_refused),
    TEST(claiming_to_be_a_rank_does_not_keep_it_out),
    TEST(servers_that_are_no_ranks),
    TEST(nobody_listens),
    TEST(packets_are_swallowed),
    TEST(out_of_descriptors),
    TEST(addresses_are_tried_in_order),
    TEST(no_address),
    TEST(a_peer_that_is_busy_is_waited_for),
    TEST(a_client_that_is_away_tries_again),
    TEST(what_arrived_before_a_reset_is_read),
    TEST(a_dropped_link_stays_dropped_at_both_ends),
    TEST(a_host_that_vanishes_and_one_that_is_slow),
};

int main(int argc, char **argv)
{
    for (size_t t = 0; t < sizeof tests / sizeof *tests; t++) {
        if (argc > 1 && !strstr(tests[t].name, argv[1])) continue;
        const unsigned long before = atomic_load(&check_failed);
        const int descriptors = open_descriptors();
        const int64_t start = cmo_now();
        tests[t].run();
        CHECK(open_descriptors() == descriptors);
        if (atomic_load(&check_failed) != before) fprintf(stderr, "%s failed\n", tests[t].name);
        if (getenv("VERBOSE")) fprintf(stderr, "%s: %.3f s\n", tests[t].name, (double)(cmo_now() - start) / 1e9);
    }
    return check_report();
}
