/* Who may connect to a rank over TCP, and what becomes of all the others. */
#include "check.h"
#include "tcp_talk.h"

#include "transport/handshake.h"

#include <poll.h>
#include <sys/resource.h>

/* The HELLO that a rank of the tests' job would send. */
static cmo_hello client_rank(int src, int dst, int size)
{
    return (cmo_hello){.version = CMO_HANDSHAKE_VERSION, .src = (uint32_t)src, .dst = (uint32_t)dst,
                       .size = (uint32_t)size, .generation = 7, .job = "the job of tests", .nonce = "a nonce"};
}

/* ------------------------------------------------------------------ strangers */

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
    CHECK(open_descriptors() - before == 128);
    cmo_link *l = open_link(&w, 1, 0); /* behind all of them */
    UNTIL(&w, l->up);
    CHECK(cmo_now() - start < 3 * CMO_SECOND);
    check_talk(&w, 1, 0);
    for (int i = 0; i < CROWD; i++) close(crowd[i]);
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

/* ------------------------------------------------------------------ a client written by hand */

typedef struct client {
    int fd;
    uint8_t hello[CMO_HELLO_BYTES], answer[CMO_ANSWER_BYTES];
    uint64_t token;
} client;

/* Say HELLO as `src`, a few bytes at a time, and hear what is answered. */
static uint32_t client_hello(world *w, client *c, int rank, cmo_hello h)
{
    cmo_answer a = {.status = CMO_NANSWERS};
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

static void count_announcement(void *ctx, cmo_link *l) { ((int *)ctx)[l->peer]++; }

static void test_frames_in_one_segment_with_the_proof(void)
{
    world w;
    client c, late;
    uint8_t last[CMO_PROOF_BYTES + 5], welcome[CMO_WELCOME_BYTES];
    char got[8] = {0};
    size_t moved = 0;
    int announced[3] = {0};
    CHECK(world_open(&w, 3, AF_INET));
    for (int src = 0; src < 3; src += 2) { /* as a lower rank and as a higher one */
        w.net[1]->on_link = count_announcement;
        w.net[1]->ctx = announced;
        CHECK(client_hello(&w, &c, 1, client_rank(src, 1, 3)) == CMO_ANSWER_ACCEPTED);
        client_proof(&c, last);
        memcpy(last + CMO_PROOF_BYTES, "frame", 5);
        CHECK(send(c.fd, last, sizeof last, MSG_NOSIGNAL) == sizeof last);
        CHECK(receive(&w, c.fd, welcome, sizeof welcome) && cmo_welcome_parse(welcome) == CMO_OK);
        CHECK(announced[src] == 1);
        cmo_link *l = open_link(&w, 1, src);
        CHECK(l->up && l->readable);
        CHECK(read_bytes(l, got, sizeof got, &moved) == CMO_OK && moved == 5 && !memcmp(got, "frame", 5));
        CHECK(client_hello(&w, &late, 1, client_rank(src, 1, 3)) == CMO_ANSWER_DUPLICATE);
        close(late.fd);
        w.net[1]->ops->drop(l);
        CHECK(client_hello(&w, &late, 1, client_rank(src, 1, 3)) == CMO_ANSWER_GONE);
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
        CHECK(client_hello(&w, &c, 1, client_rank(src, 1, 3)) == CMO_ANSWER_ACCEPTED);
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
    const struct { int src, dst, size; cmo_answer_status verdict; } cases[] = {
        {1, 1, 3, CMO_ANSWER_BAD_SOURCE}, {3, 1, 3, CMO_ANSWER_BAD_SOURCE}, {-1, 1, 3, CMO_ANSWER_BAD_SOURCE},
        {0, 2, 3, CMO_ANSWER_NOT_YOU},    {0, 1, 4, CMO_ANSWER_WRONG_SIZE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK(client_hello(&w, &c, 1, client_rank(cases[i].src, cases[i].dst, cases[i].size)) == cases[i].verdict);
        CHECK(is_closed(&w, c.fd));
        close(c.fd);
    }
    cmo_hello h = client_rank(0, 1, 3);
    h.version++;
    CHECK(client_hello(&w, &c, 1, h) == CMO_ANSWER_WRONG_VERSION);
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
        CHECK(client_hello(&w, &c[i], victim, client_rank(!victim, victim, 2)) == CMO_ANSWER_ACCEPTED || higher->up);
    }
    check_talk(&w, 0, 1);
    for (int i = 0; i < 8; i++) {
        CHECK(is_closed(&w, c[i].fd));
        close(c[i].fd);
    }
    world_close(&w);
}

#define TEST(f) {test_##f, #f}
int main(int argc, char **argv)
{
    static const tcp_test tests[] = {
        TEST(garbage_is_closed_at_once),
        TEST(silence_is_closed_at_the_deadline),
        TEST(a_crowd_of_silent_strangers_keeps_nobody_out),
        TEST(out_of_descriptors),
        TEST(frames_in_one_segment_with_the_proof),
        TEST(a_reset_right_after_the_proof),
        TEST(hellos_that_are_refused),
        TEST(claiming_to_be_a_rank_does_not_keep_it_out),
    };
    return run_tests(tests, sizeof tests / sizeof *tests, argc, argv);
}
