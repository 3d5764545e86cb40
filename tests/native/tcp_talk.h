/* Links, plain sockets and checks between the TCP nets of a world. */
#ifndef CMO_TESTS_TCP_TALK_H
#define CMO_TESTS_TCP_TALK_H

#include "check.h"
#include "tcp_world.h"

#include <dirent.h>
#include <errno.h>

static inline void poll_world(world *w)
{
    for (int i = 0; i < w->size; i++)
        if (w->net[i]) CHECKF(w->net[i]->ops->poll(w->net[i]) == CMO_OK, "%s", cmo_reason());
}

#define UNTIL(w, condition)                                               \
    do {                                                                  \
        const int64_t until_ = cmo_deadline(10);                          \
        bool met_;                                                        \
        while (!(met_ = (condition)) && cmo_now() < until_) {             \
            poll_world(w);                                                \
            nap();                                                        \
        }                                                                 \
        CHECKF(met_, "%s", #condition);                                   \
    } while (0)

static inline cmo_link *open_link(world *w, int from, int to)
{
    cmo_link *l = NULL;
    CHECKF(w->net[from]->ops->open(w->net[from], to, &l) == CMO_OK, "%s", cmo_reason());
    return l;
}

static inline size_t write_bytes(cmo_link *l, const void *bytes, size_t n)
{
    size_t moved = 0;
    const struct iovec iov = {(void *)(uintptr_t)bytes, n};
    CHECKF(l->net->ops->write(l, &iov, 1, &moved) == CMO_OK, "%s", cmo_reason());
    return moved;
}

static inline cmo_err read_bytes(cmo_link *l, void *bytes, size_t n, size_t *moved)
{
    const struct iovec iov = {bytes, n};
    return l->net->ops->read(l, &iov, 1, moved);
}

/* Poll until reading the link fails; what it fails with. */
static inline cmo_err end_of(world *w, cmo_link *l)
{
    cmo_err err = CMO_OK;
    size_t moved = 0;
    char byte[64];
    const int64_t deadline = cmo_deadline(10);
    while (err == CMO_OK && cmo_now() < deadline) {
        poll_world(w);
        if (l->readable) err = read_bytes(l, byte, sizeof byte, &moved);
        else nap();
    }
    CHECK(!l->up);
    return err;
}

static inline bool reason_has(const char *part)
{
    const bool yes = strstr(cmo_reason(), part) != NULL;
    CHECKF(yes, "'%s' is not in: %s", part, cmo_reason());
    return yes;
}

/* Both ranks can send a byte to each other. */
static inline void check_talk(world *w, int a, int b)
{
    cmo_link *there = open_link(w, a, b), *back = open_link(w, b, a);
    size_t moved = 0;
    char got = 0;
    UNTIL(w, there->up && back->up);
    CHECK(write_bytes(there, "x", 1) == 1);
    UNTIL(w, read_bytes(back, &got, 1, &moved) || moved);
    CHECK(got == 'x');
    CHECK(write_bytes(back, "y", 1) == 1);
    UNTIL(w, read_bytes(there, &got, 1, &moved) || moved);
    CHECK(got == 'y');
}

/* A plain blocking socket, connected to a rank's listener. */
static inline int stranger(const world *w, int rank)
{
    cmo_address a;
    CHECK(cmo_address_parse(&a, w->address[rank], strlen(w->address[rank])) == CMO_OK);
    int fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(connect(fd, &a.any, a.length) == 0);
    return fd;
}

/* Receive up to n bytes while the world polls: how many came before the stream ended or ten seconds had passed. */
static inline size_t receive_some(world *w, int fd, uint8_t *out, size_t n, bool *ended)
{
    const int64_t deadline = cmo_deadline(10);
    size_t got = 0;
    *ended = false;
    while (got < n && !*ended && cmo_now() < deadline) {
        poll_world(w);
        ssize_t k = recv(fd, out + got, n - got, MSG_DONTWAIT);
        if (k > 0) got += (size_t)k;
        else *ended = k == 0 || errno != EAGAIN;
    }
    return got;
}

static inline bool receive(world *w, int fd, uint8_t *out, size_t n)
{
    bool ended;
    return receive_some(w, fd, out, n, &ended) == n;
}

/* Does the stream end without another byte? */
static inline bool is_closed(world *w, int fd)
{
    uint8_t byte;
    bool ended;
    return receive_some(w, fd, &byte, 1, &ended) == 0 && ended;
}

static inline int open_descriptors(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (d && readdir(d)) n++;
    if (d) closedir(d);
    return n;
}

/* An address that swallows what is sent to it, as one behind a firewall: a listener whose queue is full. */
typedef struct swallower {
    int listener, filler[8];
    char address[CMO_ADDRESS_TEXT];
} swallower;

static inline void swallow(swallower *s)
{
    cmo_address a;
    s->listener = world_listen(AF_INET, s->address);
    CHECK(listen(s->listener, 0) == 0);
    CHECK(cmo_address_parse(&a, s->address, strlen(s->address)) == CMO_OK);
    for (int i = 0; i < 8; i++) {
        s->filler[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        connect(s->filler[i], &a.any, a.length);
    }
}

static inline void swallow_no_more(const swallower *s)
{
    for (int i = 0; i < 8; i++) close(s->filler[i]);
    close(s->listener);
}

typedef struct tcp_test {
    void (*run)(void);
    const char *name;
} tcp_test;

/* Run those whose name holds argv[1], or all. None may leave a descriptor open. */
static inline int run_tests(const tcp_test *tests, size_t n, int argc, char **argv)
{
    for (size_t t = 0; t < n; t++) {
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

#endif
