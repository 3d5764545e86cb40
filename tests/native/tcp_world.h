/* Several TCP nets in one process: listeners on loopback, addresses, and a toy code in the place of HMAC. */
#ifndef CMO_TESTS_TCP_WORLD_H
#define CMO_TESTS_TCP_WORLD_H

#include "base/clock.h"
#include "transport/address.h"
#include "transport/tcp.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { WORLD_MAX = 24 };

typedef struct world {
    int size, family;
    cmo_net *net[WORLD_MAX]; /* NULL: closed, or never made */
    int listener[WORLD_MAX];
    char address[WORLD_MAX][CMO_ADDRESS_TEXT];
    const char *addresses[WORLD_MAX];
    uint64_t token[WORLD_MAX];
    const char *pem[WORLD_MAX]; /* of TLS; NULL: without */
} world;

/* FNV-1a over key, text and the number of the output byte. Of each sum the highest byte, on which all bits of the three
 * have their effect: whoever holds another key does not have the same code by chance. */
static inline bool toy_mac(void *ctx, const uint8_t *data, size_t n, uint8_t out[32])
{
    const uint64_t key = *(const uint64_t *)ctx, prime = UINT64_C(0x100000001b3);
    for (int i = 0; i < 32; i++) {
        uint64_t h = UINT64_C(0xcbf29ce484222325) ^ key ^ (uint64_t)i << 8;
        for (size_t k = 0; k < n; k++) h = (h ^ data[k]) * prime;
        out[i] = (uint8_t)(h >> 56);
    }
    return true;
}

/* A listening socket on loopback, with its address as text; -1 where the family is missing. */
static inline int world_listen(int family, char text[CMO_ADDRESS_TEXT])
{
    cmo_address a;
    memset(&a, 0, sizeof a);
    a.any.sa_family = (sa_family_t)family;
    a.length = family == AF_INET ? sizeof a.v4 : sizeof a.v6;
    if (family == AF_INET) a.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    else a.v6.sin6_addr = in6addr_loopback;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    if (bind(fd, &a.any, a.length) || listen(fd, 128) || getsockname(fd, &a.any, &a.length)) {
        close(fd);
        return -1;
    }
    cmo_address_format(text, &a);
    return fd;
}

static inline cmo_tcp_config world_config(world *w, int rank)
{
    return (cmo_tcp_config){.rank = rank, .size = w->size, .generation = 7, .job = "the job of tests",
                            .listeners = &w->listener[rank], .nlisteners = 1, .addresses = w->addresses,
                            .mac = toy_mac, .mac_ctx = &w->token[rank],
                            .handshake_ns = 5 * CMO_SECOND, .heartbeat_ms = 20000,
                            .tls = {.pem = w->pem[rank], .bytes = w->pem[rank] ? strlen(w->pem[rank]) : 0,
                                    .offload = true}};
}

/* Listeners and addresses of `size` ranks; no nets yet. False where the family is missing. */
static inline bool world_prepare(world *w, int size, int family)
{
    memset(w, 0, sizeof *w);
    w->size = size;
    w->family = family;
    for (int i = 0; i < size; i++) {
        w->listener[i] = world_listen(family, w->address[i]);
        if (w->listener[i] < 0) {
            while (i-- > 0) close(w->listener[i]);
            return false;
        }
        w->addresses[i] = w->address[i];
        w->token[i] = 42;
    }
    return true;
}

static inline bool world_open(world *w, int size, int family)
{
    if (!world_prepare(w, size, family)) return false;
    for (int i = 0; i < size; i++) {
        cmo_tcp_config c = world_config(w, i);
        if (cmo_tcp_net(&w->net[i], &c)) {
            fprintf(stderr, "cmo_tcp_net: %s\n", cmo_reason());
            abort();
        }
    }
    return true;
}

static inline void world_close_rank(world *w, int rank)
{
    if (w->net[rank]) w->net[rank]->ops->close(w->net[rank]);
    w->net[rank] = NULL;
}

static inline void world_close(world *w)
{
    for (int i = 0; i < w->size; i++) world_close_rank(w, i);
}

/* A number below n, from a state of the caller's (xorshift64*). */
static inline uint32_t dice(uint64_t *state, uint32_t n)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (uint32_t)((*state * UINT64_C(0x2545f4914f6cdd1d) >> 32) % n);
}

/* Give the kernel a moment, for loops that poll until something has come. */
static inline void nap(void)
{
    struct timespec t = {0, 50000};
    nanosleep(&t, NULL);
}

#endif
