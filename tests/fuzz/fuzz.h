/* What every fuzz target has: bytes in, and an abort where something does not hold that must.
 *
 * A target is a file with an LLVMFuzzerTestOneInput. `make fuzz` links it with libFuzzer, which looks for inputs that
 * reach new code; `meson test` links it with replay.c, which runs it over the inputs in corpus/. */
#ifndef CMO_TESTS_FUZZ_H
#define CMO_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* libFuzzer keeps the input of a process that aborts. */
#define FUZZ_CHECK(condition)                                                                    \
    do {                                                                                         \
        if (!(condition)) {                                                                      \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition);       \
            abort();                                                                             \
        }                                                                                        \
    } while (0)

typedef struct fuzz_input { /* what is left of it */
    const uint8_t *at;
    size_t left;
} fuzz_input;

/* Up to n bytes of it; *got says how many. */
static inline const uint8_t *fuzz_take(fuzz_input *in, size_t n, size_t *got)
{
    const uint8_t *at = in->at;
    *got = n < in->left ? n : in->left;
    in->at += *got;
    in->left -= *got;
    return at;
}

static inline uint8_t fuzz_byte(fuzz_input *in)
{
    size_t got;
    const uint8_t *at = fuzz_take(in, 1, &got);
    return got ? *at : 0;
}

/* `bytes` in memory of exactly their number, so that AddressSanitizer sees whoever reads beyond them. */
static inline uint8_t *fuzz_exact(const uint8_t *bytes, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1);
    FUZZ_CHECK(copy != NULL);
    if (n) memcpy(copy, bytes, n);
    return copy;
}

#endif
