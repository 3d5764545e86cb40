/* Peers with several addresses: in which order they are tried, how many at a time, and what becomes of the rest. */
#include "check.h"
#include "tcp_talk.h"

#include "transport/handshake.h"

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

/* How long a handshake may take where an attempt shall not end by itself during a test. */
enum { LONG_S = 200 };

/* An address that swallows everything is still being tried when the one after it has led to the peer. */
static void test_an_address_that_swallows_does_not_hold_up_the_next(void)
{
    for (int from = 0; from < 2; from++) { /* as the lower rank and as the higher one */
        world w;
        swallower hole;
        char list[2 * CMO_ADDRESS_TEXT];
        const int to = 1 - from;
        CHECK(world_prepare(&w, 2, AF_INET));
        swallow(&hole);
        snprintf(list, sizeof list, "%s %s", hole.address, w.address[to]);
        w.addresses[to] = list;
        for (int i = 0; i < 2; i++) {
            cmo_tcp_config c = world_config(&w, i);
            c.handshake_ns = LONG_S * CMO_SECOND;
            CHECK(cmo_tcp_net(&w.net[i], &c) == CMO_OK);
        }
        const int before = open_descriptors();
        cmo_link *l = open_link(&w, from, to);
        CHECK(open_descriptors() == before + 1);
        UNTIL(&w, l->up);
        check_talk(&w, 0, 1);
        CHECK(open_descriptors() == before + 2); /* the two ends: what came of the first address is closed */
        swallow_no_more(&hole);
        world_close(&w);
    }
}

/* Two addresses of one rank, which is away until it is asked at both. It answers at both; one becomes the link. */
static void test_a_peer_that_is_reached_twice_is_one_link(void)
{
    for (int from = 0; from < 2; from++) {
        world w;
        char second[CMO_ADDRESS_TEXT], list[2 * CMO_ADDRESS_TEXT];
        const int to = 1 - from;
        CHECK(world_prepare(&w, 2, AF_INET));
        const int listeners[] = {w.listener[to], world_listen(AF_INET, second)};
        snprintf(list, sizeof list, "%s %s", w.address[to], second);
        w.addresses[to] = list;
        for (int i = 0; i < 2; i++) {
            cmo_tcp_config c = world_config(&w, i);
            c.handshake_ns = LONG_S * CMO_SECOND;
            if (i == to) {
                c.listeners = listeners;
                c.nlisteners = 2;
            }
            CHECK(cmo_tcp_net(&w.net[i], &c) == CMO_OK);
        }
        const int before = open_descriptors();
        cmo_link *l = open_link(&w, from, to);
        const int64_t deadline = cmo_deadline(10);
        while (open_descriptors() < before + 2 && cmo_now() < deadline) {
            CHECK(l->net->ops->poll(l->net) == CMO_OK);
            nap();
        }
        CHECK(open_descriptors() == before + 2);
        check_talk(&w, from, to);
        for (int i = 0; i < 20; i++) {
            poll_world(&w);
            nap();
        }
        CHECK(open_descriptors() == before + 2); /* the two ends of one connection */
        check_talk(&w, from, to);
        world_close(&w);
    }
}

enum { SILENT = 6, AT_A_TIME = 4 };

/* Those who accept and say nothing, in the order in which they are asked. */
typedef struct silent_ones {
    int listener[SILENT], accepted[SILENT], n, last;
    char list[(SILENT + 1) * CMO_ADDRESS_TEXT];
} silent_ones;

static void silent_open(silent_ones *s, int n)
{
    char text[CMO_ADDRESS_TEXT];
    memset(s, 0, sizeof *s);
    s->n = n;
    for (int i = 0; i < n; i++) {
        s->listener[i] = world_listen(AF_INET, text);
        strcat(strcat(s->list, text), " ");
    }
}

/* Look who has been asked since. They leave the connection open, and say nothing. */
static void silent_look(silent_ones *s)
{
    for (int i = 0; i < s->n; i++) {
        int fd = accept(s->listener[i], NULL, NULL);
        if (fd < 0) continue;
        CHECKF(s->accepted[i] == 0, "asked again");
        CHECKF(i == 0 || s->accepted[i - 1], "%d was asked before %d", i, i - 1);
        s->accepted[i] = fd;
    }
}

static void silent_close(silent_ones *s)
{
    for (int i = 0; i < s->n; i++) {
        close(s->listener[i]);
        if (s->accepted[i]) close(s->accepted[i]);
    }
}

/* More addresses than may be tried at a time: in their order, and the peer at the last of them is found. */
static void test_addresses_take_turns_where_there_are_many(void)
{
    world w;
    silent_ones silent;
    int most = 0;
    silent_open(&silent, SILENT);
    CHECK(world_prepare(&w, 2, AF_INET));
    strcat(silent.list, w.address[1]);
    w.addresses[1] = silent.list;
    for (int i = 0; i < 2; i++) {
        cmo_tcp_config c = world_config(&w, i);
        c.handshake_ns = 3 * CMO_SECOND / 2; /* longer than it takes to begin with AT_A_TIME of them */
        CHECK(cmo_tcp_net(&w.net[i], &c) == CMO_OK);
    }
    const int before = open_descriptors();
    cmo_link *l = open_link(&w, 0, 1);
    const int64_t deadline = cmo_deadline(20);
    while (!l->up && cmo_now() < deadline) {
        CHECK(l->net->ops->poll(l->net) == CMO_OK);
        int ours = open_descriptors() - before;
        for (int i = 0; i < SILENT; i++) ours -= silent.accepted[i] > 0;
        if (ours > most && !silent.accepted[SILENT - 1]) most = ours; /* after that, there is the peer's end too */
        silent_look(&silent);
        CHECK(w.net[1]->ops->poll(w.net[1]) == CMO_OK);
        nap();
    }
    CHECK(l->up);
    CHECKF(most > 1 && most <= AT_A_TIME, "%d connections at a time", most);
    for (int i = 0; i < SILENT; i++) CHECK(silent.accepted[i] > 0);
    silent_close(&silent);
    world_close(&w);
}

/* While all addresses are being tried, somebody who may be busy for long is not asked anew. */
static void test_nobody_is_asked_twice_while_all_are_asked(void)
{
    world w;
    silent_ones silent;
    silent_open(&silent, 2);
    CHECK(world_prepare(&w, 2, AF_INET));
    w.addresses[1] = silent.list;
    cmo_tcp_config c = world_config(&w, 0);
    c.handshake_ns = CMO_SECOND / 2;
    CHECK(cmo_tcp_net(&w.net[0], &c) == CMO_OK);
    cmo_link *l = open_link(&w, 0, 1);
    UNTIL(&w, (silent_look(&silent), silent.accepted[1]));
    const int64_t until = cmo_now() + 3 * c.handshake_ns;
    size_t moved;
    while (cmo_now() < until) {
        poll_world(&w);
        silent_look(&silent);
        CHECKF(read_bytes(l, &moved, 1, &moved) == CMO_OK, "%s", cmo_reason());
        nap();
    }
    silent_close(&silent);
    close(w.listener[1]);
    world_close(&w);
}

/* Answer, as a rank that holds `token`, the connection that waits at `listener`. */
static int answer_by_hand(world *w, int listener, uint64_t token, cmo_answer_status verdict)
{
    uint8_t hello[CMO_HELLO_BYTES], answer[CMO_ANSWER_BYTES], text[CMO_SIGNED_BYTES];
    cmo_answer a = {.version = CMO_HANDSHAKE_VERSION, .status = verdict, .nonce = "a nonce"};
    int fd = -1;
    UNTIL(w, (fd = accept(listener, NULL, NULL)) >= 0);
    CHECK(receive(w, fd, hello, sizeof hello));
    cmo_answer_write(answer, &a);
    cmo_server_signed(text, hello, answer);
    toy_mac(&token, text, sizeof text, a.mac);
    cmo_answer_write(answer, &a);
    CHECK(send(fd, answer, sizeof answer, MSG_NOSIGNAL) == sizeof answer);
    return fd;
}

static void is_closed_over_there(world *w, int fd)
{
    CHECK(is_closed(w, fd));
    close(fd);
}

/* Somebody of another job at the first address is no reason to give up the peer at the second, which has proven that it
 * is there and has no use for the connection at the moment. */
static void test_a_stranger_at_one_address_does_not_outweigh_the_peer_at_another(void)
{
    world w;
    char text[CMO_ADDRESS_TEXT], list[2 * CMO_ADDRESS_TEXT];
    size_t moved;
    int other = world_listen(AF_INET, text);
    CHECK(world_prepare(&w, 2, AF_INET));
    snprintf(list, sizeof list, "%s %s", text, w.address[1]);
    w.addresses[1] = list;
    cmo_tcp_config c = world_config(&w, 0);
    CHECK(cmo_tcp_net(&w.net[0], &c) == CMO_OK);
    cmo_link *l = open_link(&w, 0, 1);
    for (int round = 0; round < 7; round++) { /* more than a peer that is not there would have */
        is_closed_over_there(&w, answer_by_hand(&w, other, 43, CMO_ANSWER_ACCEPTED));
        is_closed_over_there(&w, answer_by_hand(&w, w.listener[1], 42, CMO_ANSWER_DUPLICATE));
        CHECKF(read_bytes(l, &moved, 1, &moved) == CMO_OK, "%s", cmo_reason());
    }
    is_closed_over_there(&w, answer_by_hand(&w, other, 43, CMO_ANSWER_ACCEPTED));
    is_closed_over_there(&w, answer_by_hand(&w, w.listener[1], 42, CMO_ANSWER_GONE));
    CHECK(read_bytes(l, &moved, 1, &moved) == CMO_EPEERLOST);
    reason_has("has given up");
    close(other);
    close(w.listener[1]);
    world_close(&w);
}

/* Once an ANSWER has proven the peer, nothing else is tried, even if that answer was the last for a long time. */
static void test_other_attempts_end_when_the_peer_is_found(void)
{
    for (int from = 0; from < 2; from++) {
        world w;
        silent_ones silent;
        const int to = 1 - from;
        silent_open(&silent, 1);
        CHECK(world_prepare(&w, 2, AF_INET));
        strcat(silent.list, w.address[to]);
        w.addresses[to] = silent.list;
        cmo_tcp_config c = world_config(&w, from);
        c.handshake_ns = LONG_S * CMO_SECOND;
        CHECK(cmo_tcp_net(&w.net[from], &c) == CMO_OK);
        cmo_link *l = open_link(&w, from, to);
        UNTIL(&w, (silent_look(&silent), silent.accepted[0]));
        int fd = answer_by_hand(&w, w.listener[to], 42, CMO_ANSWER_ACCEPTED);
        uint8_t bytes[CMO_HELLO_BYTES];
        CHECK(receive(&w, silent.accepted[0], bytes, sizeof bytes));
        CHECK(is_closed(&w, silent.accepted[0]));
        CHECK(!l->up && receive(&w, fd, bytes, CMO_PROOF_BYTES)); /* this one goes on */
        close(fd);
        silent_close(&silent);
        close(w.listener[to]);
        world_close(&w);
    }
}

#define TEST(f) {test_##f, #f}
int main(int argc, char **argv)
{
    static const tcp_test tests[] = {
        TEST(addresses_are_tried_in_order),
        TEST(no_address),
        TEST(an_address_that_swallows_does_not_hold_up_the_next),
        TEST(a_peer_that_is_reached_twice_is_one_link),
        TEST(addresses_take_turns_where_there_are_many),
        TEST(nobody_is_asked_twice_while_all_are_asked),
        TEST(other_attempts_end_when_the_peer_is_found),
        TEST(a_stranger_at_one_address_does_not_outweigh_the_peer_at_another),
    };
    return run_tests(tests, sizeof tests / sizeof *tests, argc, argv);
}
