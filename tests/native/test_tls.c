/* TLS on links over TCP: whom it keeps out, and what becomes of a stream that somebody cuts, changes or stands in. What
 * it must do as every transport does is in test_transport.c. SIGPIPE would end this program. */
#include "certificates.h"
#include "check.h"
#include "tcp_talk.h"

#include "transport/handshake.h"
#include "transport/tls_library.h"

#include <fcntl.h>
#include <poll.h>

static const char good[] = PEM_KEY PEM_CERTIFICATE PEM_AUTHORITY;
static const char other[] = PEM_OTHER_KEY PEM_OTHER_CERTIFICATE PEM_OTHER_AUTHORITY;
static const char expired[] = PEM_KEY PEM_EXPIRED PEM_AUTHORITY;
static const char not_yet[] = PEM_KEY PEM_NOT_YET PEM_AUTHORITY;
static const char server_only[] = PEM_KEY PEM_SERVER_ONLY PEM_AUTHORITY;
static const char trusts_others[] = PEM_KEY PEM_CERTIFICATE PEM_OTHER_AUTHORITY;
static const char lone[] = PEM_KEY PEM_LONE;

/* Two ranks with these certificates; NULL: without TLS. */
static void open_two(world *w, const char *pem0, const char *pem1, uint64_t records_per_key, int64_t handshake_ns)
{
    CHECK(world_prepare(w, 2, AF_INET));
    w->pem[0] = pem0;
    w->pem[1] = pem1;
    for (int i = 0; i < 2; i++) {
        cmo_tcp_config c = world_config(w, i);
        c.tls.records_per_key = records_per_key;
        if (handshake_ns) c.handshake_ns = handshake_ns;
        CHECKF(cmo_tcp_net(&w->net[i], &c) == CMO_OK, "%s", cmo_reason());
    }
}

/* ------------------------------------------------------------------ certificates */

static void test_certificates_that_are_accepted(void)
{
    static const char *const pairs[][2] = {{good, good}, {lone, lone}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        world w;
        open_two(&w, pairs[i][0], pairs[i][1], 0, 0);
        check_talk(&w, 0, 1);
        world_close(&w);
    }
}

static void test_certificates_that_are_not(void)
{
    static const struct {
        const char *of_server, *of_client, *what;
    } cases[] = {
        {good, other, "its certificate is not accepted: "},
        {other, good, "its certificate is not accepted: "},
        {expired, good, "its certificate is not accepted: certificate has expired"},
        {not_yet, good, "its certificate is not accepted: certificate is not yet valid"},
        {good, expired, "it does not accept this rank's certificate"},
        {good, not_yet, "it does not accept this rank's certificate"},
        {good, server_only, "it does not accept this rank's certificate"},
        {trusts_others, good, "it does not accept this rank's certificate"},
        {lone, good, "its certificate is not accepted: "},
        {good, lone, "its certificate is not accepted: "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        world w;
        open_two(&w, cases[i].of_server, cases[i].of_client, 0, 0);
        const cmo_err err = end_of(&w, open_link(&w, 1, 0));
        CHECKF(err == CMO_EAUTH, "case %zu: %s, %s", i, cmo_err_name(err), cmo_reason());
        reason_has("it did not prove");
        reason_has(cases[i].what);
        world_close(&w);
    }
}

static void test_a_pem_that_does_not_do_says_why(void)
{
    static const struct {
        const char *pem, *what;
    } cases[] = {
        {"", "no certificate"},
        {PEM_KEY, "no certificate"},
        {PEM_CERTIFICATE PEM_AUTHORITY, "no private key"},
        {PEM_OTHER_KEY PEM_CERTIFICATE PEM_AUTHORITY, "private key is not that of"},
        {PEM_ENCRYPTED_KEY PEM_CERTIFICATE PEM_AUTHORITY, "encrypted"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cmo_tls *t;
        CHECK(cmo_tls_open(&t, &(cmo_tls_config){.pem = cases[i].pem, .bytes = strlen(cases[i].pem)}) == CMO_EINVAL);
        reason_has(cases[i].what);
    }
}

static void test_a_rank_without_tls_does_not_meet_one_with_it(void)
{
    for (int server = 0; server < 2; server++) { /* whether it is the server that has TLS */
        world w;
        open_two(&w, server ? good : NULL, server ? NULL : good, 0, 0);
        CHECK(end_of(&w, open_link(&w, 1, 0)) == CMO_EPEERLOST);
        reason_has(server ? "it closed the connection during the handshake" : "as a rank without TLS does");
        world_close(&w);
    }
}

/* ------------------------------------------------------------------ strangers */

static void test_garbage_is_closed(void)
{
    world w;
    uint64_t state = 5;
    open_two(&w, good, good, 0, 0);
    for (int i = 0; i < 200; i++) {
        uint8_t bytes[600];
        const uint32_t n = 11 + dice(&state, sizeof bytes - 11);
        for (uint32_t k = 0; k < n; k++) bytes[k] = (uint8_t)dice(&state, 256);
        if (i % 2) { /* as the head of a ClientHello has it: 500 bytes of handshake follow, and 496 of a ClientHello */
            static const uint8_t head[] = {22, 3, 1, 1, 244, 1, 0, 1, 240, 3, 3};
            memcpy(bytes, head, sizeof head);
        }
        int fd = stranger(&w, 0);
        CHECK(send(fd, bytes, n, MSG_NOSIGNAL) == (ssize_t)n);
        shutdown(fd, SHUT_WR); /* what looks like the begin of a record would be waited for, until the deadline */
        uint8_t alert[64];
        bool ended;
        receive_some(&w, fd, alert, sizeof alert, &ended);
        CHECK(ended);
        close(fd);
    }
    check_talk(&w, 0, 1);
    world_close(&w);
}

static void test_silence_is_closed_at_the_deadline(void)
{
    static const uint8_t begun[] = {22, 3, 1, 1, 244, 1, 0, 1, 240, 3, 3};
    world w;
    open_two(&w, good, good, 0, 500 * 1000000); /* in which a real handshake is done, under valgrind too */
    for (size_t said = 0; said <= sizeof begun; said += sizeof begun) {
        int fd = stranger(&w, 0);
        const int64_t start = cmo_now();
        if (said) CHECK(send(fd, begun, said, MSG_NOSIGNAL) == (ssize_t)said);
        CHECK(is_closed(&w, fd));
        const double took = (double)(cmo_now() - start) / 1e9;
        CHECKF(took > 0.45 && took < 5, "%.3f s", took);
        close(fd);
    }
    check_talk(&w, 0, 1);
    world_close(&w);
}

/* Somebody else's session of OpenSSL's own on a socket to rank 0. */
typedef struct visitor {
    const tls_library *l;
    tls_context *context;
    tls_ssl *ssl;
    int fd;
} visitor;

static bool visit(visitor *v, const world *w, long most)
{
    v->l = cmo_tls_library();
    v->fd = stranger(w, 0);
    v->context = v->l->SSL_CTX_new(v->l->TLS_method());
    v->l->SSL_CTX_ctrl(v->context, SSL_CTRL_SET_MAX_PROTO_VERSION, most, NULL);
    v->ssl = v->l->SSL_new(v->context);
    tls_bio *b = v->l->BIO_new(v->l->BIO_s_socket());
    v->l->BIO_int_ctrl(b, BIO_C_SET_FD, 0, v->fd);
    v->l->SSL_set_bio(v->ssl, b, b);
    v->l->SSL_set_connect_state(v->ssl);
    return fcntl(v->fd, F_SETFL, O_NONBLOCK) == 0;
}

static void leave(visitor *v)
{
    v->l->SSL_free(v->ssl);
    v->l->SSL_CTX_free(v->context);
    close(v->fd);
}

/* Which trusts anybody, and shows no certificate. */
static void test_who_has_no_certificate_or_an_older_tls_is_sent_away(void)
{
    world w;
    open_two(&w, good, good, 0, 0);
    for (long most = TLS1_3_VERSION - 1; most <= TLS1_3_VERSION; most++) {
        visitor v;
        cmo_hello h = {.version = CMO_HANDSHAKE_VERSION, .src = 1, .dst = 0, .size = 2, .generation = 7,
                       .job = "the job of tests"};
        uint8_t hello[CMO_HELLO_BYTES], alert[256];
        size_t n;
        bool said = false, ended;
        cmo_hello_write(hello, &h);
        CHECK(visit(&v, &w, most));
        for (int i = 0; i < 1000 && !said; i++) {
            poll_world(&w);
            said = v.l->SSL_write_ex(v.ssl, hello, sizeof hello, &n) == 1;
        }
        CHECK(said == (most == TLS1_3_VERSION)); /* a client of TLS 1.3 may speak before it is known */
        n = receive_some(&w, v.fd, alert, sizeof alert, &ended);
        CHECKF(ended && n < 100, "%zu bytes", n); /* an ANSWER would be more */
        v.l->ERR_clear_error();
        leave(&v);
    }
    char from[CMO_ADDRESS_TEXT];
    CHECK(cmo_tcp_refused(w.net[0], from) == 2 && !strncmp(from, "127.0.0.1:", 10));
    check_talk(&w, 0, 1);
    world_close(&w);
}

/* ------------------------------------------------------------------ somebody in the middle */

/* What stands between rank 1 and rank 0, at the address that rank 1 has of rank 0. */
typedef struct middle {
    int listener, fd[2];     /* [0] to rank 1, [1] to rank 0; -1: not yet */
    char address[CMO_ADDRESS_TEXT];
    cmo_tls *tls;            /* it has a certificate of the job, and ends both sessions; NULL: it passes records on */
    cmo_tls_session *session[2];
    bool change;             /* a bit of the next bytes from rank 1 */
    size_t passed;
} middle;

static void stand_between(middle *m, world *w, const char *pem)
{
    *m = (middle){.fd = {-1, -1}};
    CHECK(world_prepare(w, 2, AF_INET));
    m->listener = world_listen(AF_INET, m->address);
    if (pem) CHECK(cmo_tls_open(&m->tls, &(cmo_tls_config){.pem = pem, .bytes = strlen(pem)}) == CMO_OK);
    for (int i = 0; i < 2; i++) {
        const char *to[] = {i ? m->address : NULL, w->address[1]};
        w->pem[i] = good;
        cmo_tcp_config c = world_config(w, i);
        c.addresses = to;
        CHECKF(cmo_tcp_net(&w->net[i], &c) == CMO_OK, "%s", cmo_reason());
    }
}

static void pass_on(middle *m, world *w)
{
    uint8_t bytes[65536];
    const struct iovec all = {bytes, sizeof bytes};
    bool more;
    if (m->fd[0] < 0) {
        m->fd[0] = accept4(m->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (m->fd[0] < 0) return;
        m->fd[1] = stranger(w, 0);
        CHECK(fcntl(m->fd[1], F_SETFL, O_NONBLOCK) == 0);
        for (int i = 0; m->tls && i < 2; i++) m->session[i] = cmo_tls_begin(m->tls, m->fd[i], i == 0);
    }
    for (int i = 0; i < 2; i++) {
        const ssize_t k = m->tls ? cmo_tls_receive(m->session[i], &all, 1, &more)
                                 : recv(m->fd[i], bytes, sizeof bytes, MSG_DONTWAIT);
        if (k <= 0) continue;
        const struct iovec some = {bytes, (size_t)k};
        if (m->change && i == 0) bytes[k - 1] ^= 1, m->change = false;
        if (m->tls) while (cmo_tls_send(m->session[1 - i], &some, 1) < 0 && errno == EAGAIN) poll_world(w);
        else CHECK(send(m->fd[1 - i], bytes, (size_t)k, MSG_NOSIGNAL) == k);
        m->passed += (size_t)k;
    }
}

static void step_aside(middle *m)
{
    for (int i = 0; i < 2; i++) {
        cmo_tls_end(m->session[i]);
        if (m->fd[i] >= 0) close(m->fd[i]);
    }
    cmo_tls_close(m->tls);
    close(m->listener);
}

#define UNTIL_PASSED(m, w, condition)                       \
    do {                                                    \
        const int64_t end_ = cmo_deadline(10);              \
        bool met_;                                          \
        while (!(met_ = (condition)) && cmo_now() < end_) { \
            poll_world(w);                                  \
            pass_on(m, w);                                  \
        }                                                   \
        CHECKF(met_, "%s", #condition);                     \
    } while (0)

static void test_a_stream_that_is_cut_or_changed_has_no_clean_end(void)
{
    for (int changed = 0; changed < 2; changed++) {
        world w;
        middle m;
        size_t moved = 0;
        char got[8];
        stand_between(&m, &w, NULL);
        cmo_link *there = open_link(&w, 1, 0), *here = &(cmo_link){0};
        UNTIL_PASSED(&m, &w, there->up);
        here = open_link(&w, 0, 1);
        UNTIL_PASSED(&m, &w, here->up);
        CHECK(write_bytes(there, "one", 3) == 3);
        UNTIL_PASSED(&m, &w, read_bytes(here, got, 3, &moved) || moved);
        CHECK(moved == 3);
        m.change = changed;
        CHECK(write_bytes(there, "two", 3) == 3);
        const size_t before = m.passed;
        UNTIL_PASSED(&m, &w, m.passed > before);
        if (!changed) shutdown(m.fd[1], SHUT_WR); /* a FIN that rank 1 has not sent */
        cmo_err err = CMO_OK;
        UNTIL_PASSED(&m, &w, (err = read_bytes(here, got, 3, &moved)) != CMO_OK || moved == 3);
        CHECK(changed ? err == CMO_EPEERLOST : !memcmp(got, "two", 3)); /* what came before the cut is whole */
        CHECK(end_of(&w, here) == CMO_EPEERLOST);
        reason_has(changed ? "TLS: " : "its stream was cut off");
        step_aside(&m);
        world_close(&w);
    }
}

/* It cannot: the codes of the token cover the session. */
static void test_who_has_a_certificate_and_no_token_cannot_stand_between(void)
{
    world w;
    middle m;
    stand_between(&m, &w, good);
    cmo_link *l = open_link(&w, 1, 0);
    UNTIL_PASSED(&m, &w, l->readable);
    CHECK(m.passed >= CMO_HELLO_BYTES + CMO_ANSWER_BYTES && !l->up);
    CHECK(end_of(&w, l) == CMO_EAUTH);
    reason_has("its code does not fit");
    step_aside(&m);
    world_close(&w);
}

/* ------------------------------------------------------------------ streams */

/* Send n bytes from rank 0 to rank 1, in messages of `size`; how many came, and with what the receiver ended. */
static size_t stream(world *w, size_t n, size_t size, cmo_err *err)
{
    static uint8_t out[1 << 16], in[1 << 16];
    cmo_link *a = open_link(w, 0, 1), *b = open_link(w, 1, 0);
    size_t sent = 0, got = 0, moved;
    *err = CMO_OK;
    UNTIL(w, a->up && b->up);
    const int64_t deadline = cmo_deadline(20);
    while (got < n && !*err && cmo_now() < deadline) {
        for (size_t k = 0; k < size; k++) out[k] = (uint8_t)((sent + k) * 31 >> 3);
        const size_t part = size < n - sent ? size : n - sent;
        if (part && a->up) sent += write_bytes(a, out, part);
        poll_world(w);
        *err = read_bytes(b, in, sizeof in, &moved);
        for (size_t k = 0; k < moved; k++)
            if (in[k] != (uint8_t)((got + k) * 31 >> 3)) {
                CHECKF(false, "byte %zu", got + k);
                return got;
            }
        got += moved;
    }
    return got;
}

static void test_keys_are_renewed(void)
{
    world w;
    cmo_err err;
    open_two(&w, good, good, 100, 0);
    CHECK(stream(&w, 32 << 20, 1 << 16, &err) == 32 << 20); /* about 2048 records */
    CHECKF(err == CMO_OK, "%s", cmo_reason());
    world_close(&w);
}

static void test_a_flood_of_new_keys_ends_the_link(void)
{
    world w;
    cmo_err err;
    open_two(&w, good, good, 1, 0);
    CHECK(stream(&w, 1 << 20, 100, &err) < 1 << 14);
    CHECK(err == CMO_EPEERLOST);
    reason_has("renews its keys all the time");
    world_close(&w);
}

/* Its owner goes to sleep in between: the rest is in no socket that could wake it. */
static void test_what_was_read_ahead_wakes_a_sleeper(void)
{
    world w;
    size_t moved = 0;
    char got;
    open_two(&w, good, good, 0, 0);
    check_talk(&w, 0, 1);
    cmo_link *a = open_link(&w, 0, 1), *b = open_link(&w, 1, 0);
    for (int i = 0; i < 3; i++) CHECK(write_bytes(a, "abc", 3) == 3);
    for (int i = 0; i < 20; i++) nap();
    for (int i = 0; i < 9; i++) {
        struct pollfd p = {.fd = w.net[1]->fd, .events = POLLIN};
        CHECK(poll(&p, 1, 1000) == 1);
        poll_world(&w);
        CHECK(b->readable && read_bytes(b, &got, 1, &moved) == CMO_OK && moved == 1 && got == "abc"[i % 3]);
    }
    world_close(&w);
}

/* Bytes that the socket has no room for are not lost when their writer goes on without them. */
static void test_what_is_unsent_is_told_and_leaves_by_polling(void)
{
    static uint8_t bytes[1 << 20];
    world w;
    size_t moved, sent = 0, got = 0;
    open_two(&w, good, good, 0, 0);
    check_talk(&w, 0, 1);
    cmo_link *a = open_link(&w, 0, 1), *b = open_link(&w, 1, 0);
    for (int quiet = 0; quiet < 100; quiet = moved ? 0 : quiet + 1) sent += moved = write_bytes(a, bytes, sizeof bytes);
    CHECK(a->unsent);
    const int64_t deadline = cmo_deadline(10);
    while (got < sent && cmo_now() < deadline) {
        poll_world(&w);
        CHECK(read_bytes(b, bytes, sizeof bytes, &moved) == CMO_OK);
        got += moved;
    }
    CHECK(got == sent && !a->unsent);
    world_close(&w);
}

static void test_writing_to_who_has_gone_raises_no_signal(void)
{
    world w;
    open_two(&w, good, good, 0, 0);
    check_talk(&w, 0, 1);
    cmo_link *l = open_link(&w, 0, 1);
    world_close_rank(&w, 1);
    for (int i = 0; i < 20; i++) {
        write_bytes(l, "x", 1);
        nap();
    }
    CHECK(end_of(&w, l) == CMO_EPEERLOST);
    world_close(&w);
}

#define TEST(f) {test_##f, #f}
int main(int argc, char **argv)
{
    static const tcp_test tests[] = {
        TEST(certificates_that_are_accepted),
        TEST(certificates_that_are_not),
        TEST(a_pem_that_does_not_do_says_why),
        TEST(a_rank_without_tls_does_not_meet_one_with_it),
        TEST(garbage_is_closed),
        TEST(silence_is_closed_at_the_deadline),
        TEST(who_has_no_certificate_or_an_older_tls_is_sent_away),
        TEST(a_stream_that_is_cut_or_changed_has_no_clean_end),
        TEST(who_has_a_certificate_and_no_token_cannot_stand_between),
        TEST(keys_are_renewed),
        TEST(a_flood_of_new_keys_ends_the_link),
        TEST(what_was_read_ahead_wakes_a_sleeper),
        TEST(what_is_unsent_is_told_and_leaves_by_polling),
        TEST(writing_to_who_has_gone_raises_no_signal),
    };
    if (!cmo_tls_version()) {
        fprintf(stderr, "no TLS on this machine: %s\n", cmo_reason());
        return 77; /* skipped */
    }
    return run_tests(tests, sizeof tests / sizeof *tests, argc, argv);
}
