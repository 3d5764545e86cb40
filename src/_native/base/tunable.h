/* What may be tuned: one row each, and one environment variable each. */
#ifndef CMO_TUNABLE_H
#define CMO_TUNABLE_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

/* Defaults that depend on the machine (base/cache.h): half of the cache that cores share; twice that of a core; that in
 * slots of 4 KiB. */
enum { CMO_HALF_SHARED = -2, CMO_TWICE_OWN = -3, CMO_TWICE_OWN_SLOTS = -4 };

/* X(field, environment variable, default, least, greatest, what it is) */
#define CMO_TUNABLES(X)                                                                                        \
    X(spin_us, "COMMOPS_SPIN_US", -1, -1, 1000000,                                                             \
      "microseconds that a wait polls before it sleeps; -1: 50, or 20 with the core given away between polls "   \
      "where there are more ranks than cores")                                                                 \
    X(slot_bytes, "COMMOPS_SLOT_BYTES", 4 << 10, 64, 1 << 30,                                                  \
      "least bytes of staging memory that a collective takes at a time")                                       \
    X(slots, "COMMOPS_SLOTS", CMO_TWICE_OWN_SLOTS, 3, 1 << 20,                                                 \
      "staging slots of a rank in a communicator's shared memory")                                             \
    X(round_bytes, "COMMOPS_ROUND_BYTES", 256 << 10, 64, 1 << 30,                                              \
      "most bytes of a rank in shared memory that it takes at a time; larger arrays go in rounds of this")     \
    X(stream_bytes, "COMMOPS_STREAM_BYTES", 32 << 10, 64, 1 << 30,                                             \
      "the same where others only read: a broadcast, a scatter")                                               \
    X(around_bytes, "COMMOPS_AROUND_BYTES", CMO_HALF_SHARED, 64, INT64_MAX,                                    \
      "results that are this much for the ranks of a host together are stored around the caches")              \
    X(staged_bytes, "COMMOPS_STAGED_BYTES", 16 << 10, 0, 1 << 30,                                              \
      "in shared memory every rank reduces all of an array up to this size, and a slice of a larger one")      \
    X(direct_bytes, "COMMOPS_DIRECT_BYTES", 64 << 10, 1, 1 << 30,                                              \
      "in shared memory an array of this size or more that lies there (comm.empty) is read where it is")       \
    X(attach_bytes, "COMMOPS_ATTACH_BYTES", CMO_HALF_SHARED, 0, INT64_MAX,                                     \
      "a scatter's array that is this much, times half the ranks of a host, and those of an alltoall of more than " \
      "two that are this much together, read and written, are copied once, from one process's memory to "      \
      "another's, if the system allows it; 0: never")                                                         \
    X(pipe_bytes, "COMMOPS_PIPE_BYTES", CMO_TWICE_OWN, 4096, 1 << 30,                                          \
      "most bytes of a shared-memory pipe from one rank of a host to another; less where they are many")       \
    X(eager_bytes, "COMMOPS_EAGER_BYTES", 256 << 10, 0, 1 << 30,                                                \
      "messages up to this size are sent before their receive is known")                                       \
    X(eager_window, "COMMOPS_EAGER_WINDOW", 1 << 20, 0, 1 << 30,                                               \
      "bytes of such messages that one peer may have waiting at another")                                      \
    X(frame_bytes, "COMMOPS_FRAME_BYTES", 1 << 20, 64, 1 << 30, "most bytes of a message in one frame")        \
    X(segment_bytes, "COMMOPS_SEGMENT_BYTES", 64 << 10, 16, 1 << 30,                                           \
      "bytes that a ring or tree reduces and forwards at a time")                                              \
    X(doubling_bytes, "COMMOPS_DOUBLING_BYTES", 32 << 10, 0, 1 << 30,                                          \
      "between hosts, reductions and allgathers up to this size take few steps, larger ones little traffic")    \
    X(socket_bytes, "COMMOPS_SOCKET_BYTES", 0, 0, 1 << 30,                                                     \
      "send and receive buffer of a socket; 0 leaves them to the kernel")                                      \
    X(heartbeat_ms, "COMMOPS_HEARTBEAT_MS", 10000, 0, 1 << 30,                                                  \
      "milliseconds for which another host's system may not answer before its ranks count as lost, asked in "    \
      "whole seconds; 0: as long as the kernel waits")                                                         \
    X(handshake_ms, "COMMOPS_HANDSHAKE_MS", 10000, 1, 1 << 30,                                                 \
      "milliseconds that a connection may take to authenticate")                                               \
    X(tls_kernel, "COMMOPS_TLS_KERNEL", 1, 0, 1,                                                               \
      "1: with TLS, the kernel encrypts what is sent, where it can (module tls); 0: never")                      \
    X(flight, "COMMOPS_FLIGHT", 256, 0, 1 << 20,                                                               \
      "calls that a rank remembers, for error messages, commops top and commops trace; 0: none")

typedef struct cmo_tunables {
#define CMO_X(field, env, def, least, greatest, doc) int64_t field;
    CMO_TUNABLES(CMO_X)
#undef CMO_X
} cmo_tunables;

typedef struct cmo_tunable_row {
    const char *name, *env, *doc;
    int64_t def, least, greatest;
} cmo_tunable_row;

extern const cmo_tunable_row cmo_tunable_rows[]; /* in the order of the struct's fields */
extern const int cmo_ntunables;

int64_t cmo_tunable_default(const cmo_tunable_row *row); /* on this machine */

/* The defaults, overridden by the environment. A value that is no number, or out of
 * bounds, is an error that names it. */
cmo_err cmo_tunables_read(cmo_tunables *out);

/* Change the one of this name. No such one, or a value out of bounds, is an error that names it. */
cmo_err cmo_tunable_set(cmo_tunables *tunables, const char *name, int64_t value);

#endif
