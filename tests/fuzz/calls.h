/* The collectives that a fuzzed rank makes: one byte names a call, on every rank alike, so that what real ranks say to
 * each other in it can be recorded (seeds.c) and fed to one of them (channel.c). */
#ifndef CMO_TESTS_FUZZ_CALLS_H
#define CMO_TESTS_FUZZ_CALLS_H

#include "base/tunable.h"
#include "comm/call.h"

#include <stddef.h>
#include <stdint.h>

enum { CALLS_RANKS = 5 };

typedef struct call_arrays { /* of one rank, in memory of exactly their size */
    uint8_t *in, *out;       /* out may be `in`, or NULL where the call asks for it; owned */
    uint64_t in_bytes;
    uint64_t shape[1], sends[CALLS_RANKS], receives[CALLS_RANKS];
    int asked;               /* how often calls_allocate was called */
} call_arrays;

/* An array to be sent, of so many bytes, as `a->in`. */
void calls_fill(call_arrays *a, uint64_t bytes);

/* The call that `name` stands for, as this rank makes it; its arrays are to be freed by calls_free, which gives back
 * what it was allocated too. It points into `a`, which must stay where it is. */
cmo_call calls_make(call_arrays *a, uint8_t name, int rank);
void calls_free(call_arrays *a); /* checks that `in` is as it was */

/* A cmo_allocate over call_arrays: refuses what is larger than any honest array here, and checks what it is told. */
cmo_err calls_allocate(void *arrays, const cmo_layout *layout, void **address);

/* Small limits, so that short inputs walk the paths of long messages. Bits of `name` choose among several. */
cmo_tunables calls_tunables(uint8_t name);

#endif
