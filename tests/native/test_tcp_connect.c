/* Reaching a peer over TCP: what is found at its address, and how long it is waited for. */
#include "check.h"
#include "tcp_talk.h"

#include "transport/handshake.h"

#include <fcntl.h>
#include <poll.h>

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

/* ------------------------------------------------------------------ what is found at an address */

static void test_another_token(void)
{
    world w;
    CHECK(world_open(&w, 2, AF_INET));
    w.token[1] = 43;
    cmo_link *a = open_link(&w, 0, 1), *b = open_link(&w, 1, 0);
    CHECK(end_of(&w, a) == CMO_EAUTH);
    reason_has("it did not prove that it belongs to the job");
    reason_has(w.address[1]);
    CHECK(end_of(&w, b) == CMO_EAUTH);
    reason_has("it did not prove");
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
        reason_has("no connection to it");
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
        if (kind == 0)
            cmo_answer_write(bytes, &(cmo_answer){.version = CMO_HANDSHAKE_VERSION, .nonce = "n", .mac = "m"});
        if (kind == 1)
            memcpy(bytes, "220 mail.example.org ESMTP, at your service, and waiting for you to say something", 80);
        CHECK(send(fd, bytes, sizeof bytes, MSG_NOSIGNAL) == sizeof bytes);
        CHECK(end_of(&w, l) == (kind == 0 ? CMO_EAUTH : CMO_EPEERLOST));
        reason_has(kind == 0 ? "did not prove" : "no rank of commops");
        CHECK(is_closed(&w, fd));
        close(fd);
        close(w.listener[1]);
        world_close(&w);
    }
}

static void test_nobody_listens(void)
{
    world w;
    CHECK(world_open(&w, 2, AF_INET));
    world_close_rank(&w, 1);
    const int64_t start = cmo_now();
    cmo_link *l = open_link(&w, 0, 1);
    CHECK(end_of(&w, l) == CMO_EPEERLOST);
    CHECK(cmo_now() - start < 2 * CMO_SECOND);
    reason_has("no connection to it could be made");
    reason_has(w.address[1]);
    reason_has(strerror(ECONNREFUSED));
    CHECK(open_link(&w, 0, 1) == l);
    size_t moved;
    CHECK(l->net->ops->write(l, &(struct iovec){&moved, 1}, 1, &moved) == CMO_EPEERLOST);
    world_close(&w);
}

/* The address of one who swallows what comes has the time of a handshake, and no more. */
static void test_packets_are_swallowed(void)
{
    world w;
    swallower hole;
    CHECK(world_prepare(&w, 2, AF_INET));
    swallow(&hole);
    w.addresses[1] = hole.address;
    cmo_tcp_config c = world_config(&w, 0);
    c.handshake_ns = CMO_SECOND / 10;
    CHECK(cmo_tcp_net(&w.net[0], &c) == CMO_OK);
    const int64_t start = cmo_now();
    CHECK(end_of(&w, open_link(&w, 0, 1)) == CMO_EPEERLOST);
    reason_has("no answer");
    const double took = (double)(cmo_now() - start) / 1e9;
    CHECKF(took > 0.09 && took < 1, "%.3f s", took);
    swallow_no_more(&hole);
    close(w.listener[1]);
    world_close(&w);
}

/* ------------------------------------------------------------------ peers that are busy */

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

#define TEST(f) {test_##f, #f}
int main(int argc, char **argv)
{
    static const tcp_test tests[] = {
        TEST(wrong_configurations),
        TEST(another_token),
        TEST(another_job_size_or_generation),
        TEST(an_address_of_another_rank),
        TEST(servers_that_are_no_ranks),
        TEST(nobody_listens),
        TEST(packets_are_swallowed),
        TEST(a_peer_that_is_busy_is_waited_for),
        TEST(a_client_that_is_away_tries_again),
    };
    return run_tests(tests, sizeof tests / sizeof *tests, argc, argv);
}
