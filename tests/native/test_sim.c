/* The simulated transport: bytes in order through a small stream, faults, and runs that repeat. */
#include "transport/sim.h"

#include "check.h"

#include <stdlib.h>
#include <string.h>

static const cmo_sim_settings rough = {
    .latency_ns = 1000, .jitter_ns = 5000, .ns_per_byte = 0.5, .capacity = 100, .short_moves = 0.5};

static size_t move(cmo_link *link, unsigned char *bytes, size_t n, bool writes, cmo_err *err)
{
    /* Two pieces, so that both ends of the vector are walked. */
    struct iovec iov[2] = {{bytes, n / 3}, {bytes + n / 3, n - n / 3}};
    size_t moved = 0;
    *err = (writes ? link->net->ops->write : link->net->ops->read)(link, iov, 2, &moved);
    return moved;
}

static void remember_link(void *ctx, cmo_link *link) { *(cmo_link **)ctx = link; }

typedef struct sim_two {
    cmo_sim *sim;
    cmo_net *net[2];
    cmo_link *link[2];
} sim_two;

static void two_make(sim_two *t, uint64_t seed, const cmo_sim_settings *settings)
{
    *t = (sim_two){0};
    CHECK(cmo_sim_create(&t->sim, 2, seed, settings) == CMO_OK);
    for (int r = 0; r < 2; r++) {
        CHECK(cmo_sim_net(t->sim, r, &t->net[r]) == CMO_OK);
        t->net[r]->on_link = remember_link;
        t->net[r]->ctx = &t->link[r];
    }
    CHECK(t->net[0]->ops->open(t->net[0], 1, &t->link[0]) == CMO_OK);
    CHECK(!t->link[0]->up);
    while (!t->link[0]->up && cmo_sim_advance(t->sim)) {}
    for (int r = 0; r < 2; r++) CHECK(t->net[r]->ops->poll(t->net[r]) == CMO_OK);
    CHECK(t->link[1] && t->link[1]->up && t->link[1]->peer == 0);
}

static void two_free(sim_two *t)
{
    for (int r = 0; r < 2; r++) t->net[r]->ops->close(t->net[r]);
    cmo_sim_destroy(t->sim);
}

/* Send `n` bytes from 0 to 1; returns the time that it took. */
static int64_t stream(uint64_t seed, size_t n)
{
    sim_two t;
    two_make(&t, seed, &rough);
    unsigned char *sent = malloc(n), *got = malloc(n);
    size_t written = 0, read = 0;
    cmo_err err = CMO_OK;
    for (size_t i = 0; i < n; i++) sent[i] = (unsigned char)(i * 31 + i / 256);
    while (read < n) {
        written += move(t.link[0], sent + written, n - written, true, &err);
        CHECK(err == CMO_OK);
        CHECK(written - read <= rough.capacity);
        size_t part = t.link[1]->readable ? move(t.link[1], got + read, n - read, false, &err) : 0;
        CHECK(err == CMO_OK);
        read += part;
        if (!part && !cmo_sim_advance(t.sim)) break;
    }
    CHECK(read == n && !memcmp(sent, got, n));
    CHECK(cmo_sim_traffic_of(t.sim, 0)->sent == n && cmo_sim_traffic_of(t.sim, 1)->received == n);
    int64_t took = cmo_sim_now(t.sim);
    two_free(&t);
    free(sent);
    free(got);
    return took;
}

static void test_bytes_arrive_in_order_and_runs_repeat(void)
{
    for (uint64_t seed = 1; seed <= 20; seed++) CHECK(stream(seed, 5000) == stream(seed, 5000));
    CHECK(stream(1, 5000) != stream(2, 5000));
    CHECK(stream(1, 5000) > 2500);
}

static void test_what_a_dead_rank_had_sent_is_read_before_its_end(void)
{
    sim_two t;
    two_make(&t, 3, &(cmo_sim_settings){.latency_ns = 10});
    unsigned char bytes[6] = "hello", got[6] = "";
    cmo_err err;
    CHECK(move(t.link[0], bytes, 6, true, &err) == 6);
    CHECK(cmo_sim_kill(t.sim, 0) == CMO_OK);
    CHECK(move(t.link[0], bytes, 6, true, &err) == 0 && err == CMO_EPEERLOST);
    while (cmo_sim_advance(t.sim)) {}
    CHECK(t.link[1]->readable);
    CHECK(move(t.link[1], bytes, 6, true, &err) == 0 && err == CMO_OK); /* not lost yet: there is something to read */
    CHECK(move(t.link[1], got, 6, false, &err) == 6 && err == CMO_OK && !memcmp(bytes, got, 6));
    CHECK(move(t.link[1], got, 6, false, &err) == 0 && err == CMO_EPEERLOST);
    CHECK(move(t.link[1], bytes, 6, true, &err) == 0 && err == CMO_EPEERLOST);
    two_free(&t);
}

static void test_a_cut_loses_what_is_under_way(void)
{
    sim_two t;
    two_make(&t, 3, &(cmo_sim_settings){.latency_ns = 10});
    unsigned char bytes[4] = "abc", got[8];
    cmo_err err;
    CHECK(move(t.link[0], bytes, 4, true, &err) == 4);
    CHECK(cmo_sim_advance(t.sim));
    CHECK(move(t.link[0], bytes, 4, true, &err) == 4);
    CHECK(cmo_sim_cut(t.sim, 1, 0) == CMO_OK);
    CHECK(move(t.link[1], got, 8, false, &err) == 4 && err == CMO_OK);
    for (int r = 0; r < 2; r++) CHECK(move(t.link[r], got, 8, false, &err) == 0 && err == CMO_EPEERLOST);
    two_free(&t);
}

static void test_a_dropped_link_ends_at_the_other_side_too(void)
{
    sim_two t;
    two_make(&t, 4, &(cmo_sim_settings){.latency_ns = 10});
    unsigned char byte = 0;
    cmo_err err;
    t.net[0]->ops->drop(t.link[0]);
    while (cmo_sim_advance(t.sim)) {}
    CHECK(move(t.link[1], &byte, 1, false, &err) == 0 && err == CMO_EPEERLOST);
    two_free(&t);
}

static void test_links_overtake_each_other(void)
{
    cmo_sim *sim;
    cmo_net *net[3];
    cmo_link *link[2];
    int firsts[2] = {0, 0};
    for (uint64_t seed = 1; seed <= 32; seed++) {
        CHECK(cmo_sim_create(&sim, 3, seed, &rough) == CMO_OK);
        for (int r = 0; r < 3; r++) CHECK(cmo_sim_net(sim, r, &net[r]) == CMO_OK);
        for (int r = 0; r < 2; r++) CHECK(net[r]->ops->open(net[r], 2, &link[r]) == CMO_OK);
        while (cmo_sim_advance(sim)) {}
        while (cmo_sim_take(sim) >= 0) {}
        unsigned char byte = 1;
        cmo_err err;
        for (int r = 0; r < 2; r++) CHECK(move(link[r], &byte, 1, true, &err) == 1);
        CHECK(cmo_sim_advance(sim));
        CHECK(cmo_sim_take(sim) == 2);
        for (int r = 0; r < 2; r++) {
            cmo_link *back;
            CHECK(net[2]->ops->open(net[2], r, &back) == CMO_OK);
            firsts[r] += back->readable;
        }
        for (int r = 0; r < 3; r++) net[r]->ops->close(net[r]);
        cmo_sim_destroy(sim);
    }
    CHECK(firsts[0] > 4 && firsts[1] > 4);
}

static void test_alarms_wake_in_order(void)
{
    cmo_sim *sim;
    CHECK(cmo_sim_create(&sim, 8, 1, &rough) == CMO_OK);
    for (int r = 0; r < 8; r++) CHECK(cmo_sim_alarm(sim, r, 100 * (r * 3 % 8)) == CMO_OK);
    for (int i = 0; i < 8; i++) {
        CHECK(cmo_sim_advance(sim));
        CHECK(cmo_sim_now(sim) == 100 * i);
        CHECK(cmo_sim_take(sim) * 3 % 8 == i);
    }
    CHECK(!cmo_sim_advance(sim));
    cmo_sim_sleep(sim, 5000);
    CHECK(cmo_sim_now(sim) == 5000);
    cmo_sim_destroy(sim);
}

int main(void)
{
    test_bytes_arrive_in_order_and_runs_repeat();
    test_what_a_dead_rank_had_sent_is_read_before_its_end();
    test_a_cut_loses_what_is_under_way();
    test_a_dropped_link_ends_at_the_other_side_too();
    test_links_overtake_each_other();
    test_alarms_wake_in_order();
    return check_report();
}
