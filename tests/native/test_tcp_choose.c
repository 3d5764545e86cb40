/* Two ranks that connect to each other at once: which of their connections becomes the link. */
#include "check.h"
#include "tcp_talk.h"

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

/* `size` nets open links to each other in a random order and are polled in a random order, some of them
 * now and then not for longer than the time that a handshake may take. Every pair must end with one
 * connection, and every byte arrive. */
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

#define TEST(f) {test_##f, #f}
int main(int argc, char **argv)
{
    static const tcp_test tests[] = {
        TEST(both_connect_at_once),
        TEST(both_connect_and_are_away_for_longer_than_a_handshake),
    };
    return run_tests(tests, sizeof tests / sizeof *tests, argc, argv);
}
