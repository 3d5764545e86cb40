/* What every transport must do (transport.h), run for each of them: one row in `rows` each. All ranks are nets of this
 * one process and are polled in turn, so every interleaving is the test's own. */
#include "certificates.h"
#include "check.h"
#include "tcp_world.h"

#include "transport/shm.h"

#include <poll.h>
#include <sys/eventfd.h>

typedef struct fixture {
    int size;
    cmo_net *net[WORLD_MAX];
    void *more; /* the row's own */
} fixture;

typedef struct row {
    const char *name;
    bool tells_end; /* reading says that the peer has closed; where not, another part of the core notices */
    bool (*make)(fixture *, int size); /* false: not possible on this machine */
    void (*free)(fixture *);
} row;

/* ------------------------------------------------------------------ rows */

typedef struct shm_more {
    cmo_window *window[WORLD_MAX];
    cmo_neighbour neighbours[WORLD_MAX];
    int world[WORLD_MAX];
} shm_more;

static bool make_shm(fixture *f, int size)
{
    shm_more *m = calloc(1, sizeof *m);
    f->size = size;
    f->more = m;
    for (int i = 0; i < size; i++) {
        CHECK(cmo_window_create(&m->window[i], size, 64 << 20, false) == CMO_OK);
        m->neighbours[i] = (cmo_neighbour){.head = cmo_window_base(m->window[i]), .size = cmo_window_size(m->window[i]),
                                           .doorbell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), .pidfd = -1};
        m->world[i] = i;
    }
    for (int i = 0; i < size; i++)
        CHECK(cmo_shm_net(&f->net[i], m->window[i], m->neighbours, m->world, size, i, 4096) == CMO_OK);
    return true;
}

static void free_shm(fixture *f)
{
    shm_more *m = f->more;
    for (int i = 0; i < f->size; i++)
        if (f->net[i]) f->net[i]->ops->close(f->net[i]);
    for (int i = 0; i < f->size; i++) {
        close(m->neighbours[i].doorbell);
        cmo_window_destroy(m->window[i]);
    }
    free(m);
}

static bool make_tcp(fixture *f, int size, int family, int64_t socket_bytes, const char *pem)
{
    world *w = calloc(1, sizeof *w);
    f->size = size;
    f->more = w;
    if ((pem && !cmo_tls_version()) || !world_prepare(w, size, family)) {
        free(w);
        return false;
    }
    for (int i = 0; i < size; i++) {
        w->pem[i] = pem;
        cmo_tcp_config c = world_config(w, i);
        c.socket_bytes = socket_bytes;
        CHECKF(cmo_tcp_net(&f->net[i], &c) == CMO_OK, "%s", cmo_reason());
    }
    return true;
}

static const char pem[] = PEM_KEY PEM_CERTIFICATE PEM_AUTHORITY;
static bool make_tcp4(fixture *f, int size) { return make_tcp(f, size, AF_INET, 0, NULL); }
static bool make_tcp6(fixture *f, int size) { return make_tcp(f, size, AF_INET6, 0, NULL); }
static bool make_tcp_tight(fixture *f, int size) { return make_tcp(f, size, AF_INET, 4096, NULL); }
static bool make_tls(fixture *f, int size) { return make_tcp(f, size, AF_INET, 0, pem); }
static bool make_tls_tight(fixture *f, int size) { return make_tcp(f, size, AF_INET, 4096, pem); }

static void free_tcp(fixture *f)
{
    for (int i = 0; i < f->size; i++)
        if (f->net[i]) f->net[i]->ops->close(f->net[i]);
    free(f->more);
}

static const row rows[] = {
    {"shm", false, make_shm, free_shm},
    {"tcp, IPv4", true, make_tcp4, free_tcp},
    {"tcp, IPv6", true, make_tcp6, free_tcp},
    {"tcp, small socket buffers", true, make_tcp_tight, free_tcp},
    {"tcp, TLS", true, make_tls, free_tcp},
    {"tcp, TLS, small socket buffers", true, make_tls_tight, free_tcp},
};

/* ------------------------------------------------------------------ tools */

static const row *now_testing;

static void poll_all(fixture *f)
{
    for (int i = 0; i < f->size; i++)
        if (f->net[i]) CHECKF(f->net[i]->ops->poll(f->net[i]) == CMO_OK, "%s: %s", now_testing->name, cmo_reason());
}

/* The byte at a place of the stream from one rank to another. */
static uint8_t byte_at(int from, int to, uint64_t place)
{
    return (uint8_t)((place * 167 + place / 251 + (uint64_t)from * 31 + (uint64_t)to * 17) >> 1);
}

typedef struct stream { /* one direction of one link, driven and checked byte by byte */
    cmo_link *out, *in;
    int from, to;
    uint64_t length, written, read;
} stream;

enum { STREAM_BUFFER = 1 << 16, STREAM_IOV = 7 };
static uint8_t stream_buffer[STREAM_BUFFER];

/* Cut at most `most` bytes of the buffer into pieces, some of them empty. */
static int cut(struct iovec *iov, uint64_t most, uint64_t *state)
{
    size_t at = 0;
    const int n = 1 + (int)dice(state, STREAM_IOV);
    if (most > STREAM_BUFFER) most = STREAM_BUFFER;
    for (int i = 0; i < n; i++) {
        const uint32_t kind = dice(state, 4);
        size_t part = kind == 0 ? 0 : kind == 1 ? 1 + dice(state, 3) : dice(state, STREAM_BUFFER / STREAM_IOV);
        if (part > most - at) part = most - at;
        iov[i] = (struct iovec){stream_buffer + at, part};
        at += part;
    }
    return n;
}

static void stream_write(stream *s, uint64_t *state)
{
    struct iovec iov[STREAM_IOV];
    size_t moved = 0, total = 0;
    if (!s->out->up || s->written == s->length) return;
    const int n = cut(iov, s->length - s->written, state);
    for (int i = 0; i < n; i++) {
        for (size_t k = 0; k < iov[i].iov_len; k++)
            ((uint8_t *)iov[i].iov_base)[k] = byte_at(s->from, s->to, s->written + total + k);
        total += iov[i].iov_len;
    }
    CHECKF(s->out->net->ops->write(s->out, iov, n, &moved) == CMO_OK, "%s", cmo_reason());
    CHECK(moved <= total);
    s->written += moved;
}

static cmo_err stream_read(stream *s, uint64_t *state)
{
    struct iovec iov[STREAM_IOV];
    size_t moved = 0, checked = 0;
    if (!s->in || !s->in->readable) return CMO_OK;
    const int n = cut(iov, STREAM_BUFFER, state);
    const cmo_err err = s->in->net->ops->read(s->in, iov, n, &moved);
    for (int i = 0; i < n; i++)
        for (size_t k = 0; k < iov[i].iov_len && checked < moved; k++, checked++)
            if (((uint8_t *)iov[i].iov_base)[k] != byte_at(s->from, s->to, s->read + checked)) {
                CHECKF(false, "%s: %d to %d, byte %llu", now_testing->name, s->from, s->to,
                       (unsigned long long)(s->read + checked));
                return CMO_EPROTO;
            }
    s->read += moved;
    CHECK(s->read <= s->length);
    return err;
}

static cmo_link *open_link(fixture *f, int from, int to)
{
    cmo_link *l = NULL;
    CHECKF(f->net[from]->ops->open(f->net[from], to, &l) == CMO_OK, "%s", cmo_reason());
    CHECK(l && l->peer == to && l->net == f->net[from]);
    return l;
}

/* Links both ways between two ranks, opened at `from` alone or at both. */
static void connect_pair(fixture *f, int a, int b, cmo_link **at_a, cmo_link **at_b)
{
    *at_a = open_link(f, a, b);
    *at_b = open_link(f, b, a);
    const int64_t deadline = cmo_deadline(10);
    while (!((*at_a)->up && (*at_b)->up) && cmo_now() < deadline) poll_all(f);
    CHECK((*at_a)->up && (*at_b)->up);
}

/* ------------------------------------------------------------------ tests */

static void test_bytes_arrive_in_order(fixture *f)
{
    uint64_t state = 1;
    cmo_link *a, *b;
    connect_pair(f, 0, 1, &a, &b);
    stream forth = {.out = a, .in = b, .from = 0, .to = 1, .length = 3000000};
    stream back = {.out = b, .in = a, .from = 1, .to = 0, .length = 2000000};
    const int64_t deadline = cmo_deadline(20);
    while ((forth.read < forth.length || back.read < back.length) && cmo_now() < deadline) {
        switch (dice(&state, 5)) {
        case 0: stream_write(&forth, &state); break;
        case 1: stream_write(&back, &state); break;
        case 2: CHECK(stream_read(&forth, &state) == CMO_OK); break;
        case 3: CHECK(stream_read(&back, &state) == CMO_OK); break;
        default: poll_all(f);
        }
    }
    CHECK(forth.read == forth.length && back.read == back.length);
}

static void test_a_full_stream_moves_nothing_until_it_is_read(fixture *f)
{
    static uint8_t block[1 << 20];
    cmo_link *a, *b;
    size_t moved, total = 0, got = 0;
    connect_pair(f, 0, 1, &a, &b);
    const struct iovec iov = {block, sizeof block};
    for (int quiet = 0; quiet < 200; quiet = moved ? 0 : quiet + 1) { /* what is on its way makes room a little later */
        CHECK(a->net->ops->write(a, &iov, 1, &moved) == CMO_OK);
        total += moved;
        if (total > (size_t)1 << 30) break;
    }
    CHECK(total > 0 && total < (size_t)1 << 30);
    const int64_t deadline = cmo_deadline(10);
    while (got < total && cmo_now() < deadline) {
        poll_all(f);
        CHECK(b->net->ops->read(b, &iov, 1, &moved) == CMO_OK);
        got += moved;
    }
    CHECK(got == total);
    do { /* and there is room again */
        poll_all(f);
        CHECK(a->net->ops->write(a, &iov, 1, &moved) == CMO_OK);
    } while (!moved && cmo_now() < deadline);
    CHECK(moved > 0);
}

static void test_reading_an_empty_link_moves_nothing(fixture *f)
{
    cmo_link *a, *b;
    uint8_t byte;
    size_t moved = 1;
    const struct iovec iov = {&byte, 1}, empty = {&byte, 0};
    connect_pair(f, 0, 1, &a, &b);
    for (int i = 0; i < 3; i++) {
        poll_all(f);
        CHECK(a->net->ops->read(a, &iov, 1, &moved) == CMO_OK && moved == 0);
        CHECK(a->net->ops->read(a, &empty, 1, &moved) == CMO_OK && moved == 0);
        CHECK(a->net->ops->write(a, &empty, 1, &moved) == CMO_OK && moved == 0);
        CHECK(a->net->ops->read(a, NULL, 0, &moved) == CMO_OK && moved == 0);
    }
}

typedef struct announced { int times[WORLD_MAX]; cmo_link *link[WORLD_MAX]; } announced;

static void announce(void *ctx, cmo_link *l)
{
    announced *a = ctx;
    a->times[l->peer]++;
    a->link[l->peer] = l;
}

static void test_a_peer_that_opens_is_announced(fixture *f)
{
    announced seen = {0};
    uint64_t state = 5;
    f->net[2]->on_link = announce;
    f->net[2]->ctx = &seen;
    cmo_link *from0 = open_link(f, 0, 2), *from1 = open_link(f, 1, 2);
    const int64_t deadline = cmo_deadline(10);
    while (!(seen.times[0] && seen.times[1] && from0->up && from1->up) && cmo_now() < deadline) poll_all(f);
    CHECK(seen.times[0] == 1 && seen.times[1] == 1);
    for (int peer = 0; peer < 2; peer++) {
        cmo_link *l = seen.link[peer];
        CHECK(l && l->peer == peer && l->net == f->net[2]);
        CHECK(open_link(f, 2, peer) == l); /* the same link, and it may now be written */
        stream s = {.out = peer ? from1 : from0, .in = l, .from = peer, .to = 2, .length = 100000};
        while (s.read < s.length && cmo_now() < deadline) {
            stream_write(&s, &state);
            poll_all(f);
            CHECK(stream_read(&s, &state) == CMO_OK);
        }
        CHECK(s.read == s.length);
    }
    CHECK(seen.times[0] == 1 && seen.times[1] == 1);
    f->net[2]->on_link = NULL;
}

static void test_opening_again_gives_the_same_link(fixture *f)
{
    cmo_link *a = open_link(f, 0, 1);
    CHECK(open_link(f, 0, 1) == a);
    poll_all(f);
    CHECK(open_link(f, 0, 1) == a);
    CHECK(open_link(f, 0, 2) != a);
}

static void test_ranks_that_do_not_exist_are_refused(fixture *f)
{
    cmo_link *l;
    CHECK(f->net[0]->ops->open(f->net[0], -1, &l) == CMO_EINVAL);
    CHECK(f->net[0]->ops->open(f->net[0], f->size, &l) == CMO_EINVAL);
}

/* Everyone with everyone, both directions, at once. */
static void test_many_links(fixture *f)
{
    static stream streams[WORLD_MAX * WORLD_MAX];
    int n = 0, done = 0;
    uint64_t state = 9;
    for (int i = 0; i < f->size; i++)
        for (int j = 0; j < f->size; j++)
            if (i != j)
                streams[n++] = (stream){.out = open_link(f, i, j), .in = NULL, .from = i, .to = j,
                                        .length = 20000 + dice(&state, 20000)};
    for (int k = 0; k < n; k++) streams[k].in = open_link(f, streams[k].to, streams[k].from);
    const int64_t deadline = cmo_deadline(30);
    while (done < n && cmo_now() < deadline) {
        poll_all(f);
        done = 0;
        for (int k = 0; k < n; k++) {
            stream_write(&streams[k], &state);
            CHECKF(stream_read(&streams[k], &state) == CMO_OK, "%s: %s", now_testing->name, cmo_reason());
            done += streams[k].read == streams[k].length;
        }
    }
    CHECKF(done == n, "%s: %d of %d streams ended", now_testing->name, done, n);
}

static void test_the_end_comes_after_the_last_byte(fixture *f)
{
    if (!now_testing->tells_end) return;
    uint64_t state = 3;
    cmo_link *a, *b;
    size_t moved;
    connect_pair(f, 0, 1, &a, &b);
    stream s = {.out = a, .in = b, .from = 0, .to = 1, .length = 200000};
    const struct iovec stray = {stream_buffer, 1000}; /* that rank 0 will never read */
    CHECK(b->net->ops->write(b, &stray, 1, &moved) == CMO_OK && moved == 1000);
    const int64_t deadline = cmo_deadline(10);
    while ((s.written < s.length || a->unsent) && cmo_now() < deadline) {
        stream_write(&s, &state);
        poll_all(f);
        if (s.read < s.length / 2 || a->unsent) CHECK(stream_read(&s, &state) == CMO_OK);
        else if (s.written - s.read > 2000) CHECK(stream_read(&s, &state) == CMO_OK); /* keep a little unread */
    }
    f->net[0]->ops->close(f->net[0]);
    f->net[0] = NULL;
    cmo_err err = CMO_OK;
    while (err == CMO_OK && cmo_now() < deadline) {
        poll_all(f);
        err = stream_read(&s, &state);
    }
    CHECKF(err == CMO_EPEERLOST, "%s: %s", now_testing->name, cmo_err_name(err));
    CHECKF(s.read == s.length, "%s: %llu of %llu", now_testing->name, (unsigned long long)s.read,
           (unsigned long long)s.length);
    CHECKF(strstr(cmo_reason(), "it closed") || strstr(cmo_reason(), "rank 0"), "%s", cmo_reason());
    CHECK(!b->up);
    CHECK(b->net->ops->write(b, &stray, 1, &moved) == CMO_EPEERLOST && moved == 0);
    CHECK(b->net->ops->read(b, &stray, 1, &moved) == CMO_EPEERLOST && moved == 0);
}

static void test_dropping_is_safe_at_any_time(fixture *f)
{
    cmo_link *a = open_link(f, 0, 1), *b;
    a->net->ops->drop(a); /* perhaps before it is up */
    CHECK(!a->up && !a->readable);
    a->net->ops->drop(a);
    poll_all(f);
    connect_pair(f, 1, 2, &a, &b);
    a->net->ops->drop(a);
    CHECK(!a->up && !a->readable);
    a->net->ops->drop(a);
    for (int i = 0; i < 10; i++) poll_all(f);
    b->net->ops->drop(b);
    poll_all(f);
}

/* A sleeper that watches cmo_net.fd is woken by bytes that arrive. */
static void test_the_descriptor_tells_of_bytes(fixture *f)
{
    cmo_link *a, *b;
    size_t moved;
    uint8_t byte = 1;
    const struct iovec iov = {&byte, 1};
    connect_pair(f, 0, 1, &a, &b);
    if (f->net[1]->fd < 0) return;
    for (int i = 0; i < 10; i++) { /* what the handshake has left */
        poll_all(f);
        CHECK(b->net->ops->read(b, &iov, 1, &moved) == CMO_OK && moved == 0);
    }
    struct pollfd p = {.fd = f->net[1]->fd, .events = POLLIN};
    CHECK(poll(&p, 1, 0) == 0);
    CHECK(a->net->ops->write(a, &iov, 1, &moved) == CMO_OK && moved == 1);
    CHECK(poll(&p, 1, 5000) == 1);
    poll_all(f);
    CHECK(b->readable && b->net->ops->read(b, &iov, 1, &moved) == CMO_OK && moved == 1);
    if (!a->net->ops->want_write) return;
    struct pollfd q = {.fd = f->net[0]->fd, .events = POLLIN};
    CHECK(poll(&q, 1, 0) == 0);
    a->net->ops->want_write(a, true);
    CHECK(poll(&q, 1, 0) == 1);
    a->net->ops->want_write(a, false);
    CHECK(poll(&q, 1, 0) == 0);
}

typedef struct test { void (*run)(fixture *); int size; const char *name; } test;
#define TEST(f, size) {test_##f, size, #f}
static const test tests[] = {
    TEST(bytes_arrive_in_order, 2),
    TEST(a_full_stream_moves_nothing_until_it_is_read, 2),
    TEST(reading_an_empty_link_moves_nothing, 2),
    TEST(a_peer_that_opens_is_announced, 3),
    TEST(opening_again_gives_the_same_link, 3),
    TEST(ranks_that_do_not_exist_are_refused, 2),
    TEST(many_links, 9),
    TEST(the_end_comes_after_the_last_byte, 2),
    TEST(dropping_is_safe_at_any_time, 3),
    TEST(the_descriptor_tells_of_bytes, 2),
};

int main(void)
{
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        now_testing = &rows[r];
        for (size_t t = 0; t < sizeof tests / sizeof *tests; t++) {
            fixture f = {0};
            if (!rows[r].make(&f, tests[t].size)) {
                fprintf(stderr, "%s: not on this machine\n", rows[r].name);
                break;
            }
            const unsigned long before = atomic_load(&check_failed);
            const int64_t start = cmo_now();
            tests[t].run(&f);
            rows[r].free(&f);
            if (atomic_load(&check_failed) != before) fprintf(stderr, "%s: %s failed\n", rows[r].name, tests[t].name);
            if (getenv("VERBOSE"))
                fprintf(stderr, "%s: %s, %.3f s\n", rows[r].name, tests[t].name, (double)(cmo_now() - start) / 1e9);
        }
    }
    return check_report();
}
