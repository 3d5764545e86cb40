/* An input in the making; see seeds.c. */
#ifndef CMO_TESTS_FUZZ_SEEDS_H
#define CMO_TESTS_FUZZ_SEEDS_H

#include "fuzz.h"

#include "comm/internal.h"
#include "transport/handshake.h"

enum { SEED_BYTES = 1 << 16 };

typedef struct seed {
    size_t size;
    uint8_t bytes[SEED_BYTES];
} seed;

void seed_add(seed *s, const void *bytes, size_t n);
void seed_byte(seed *s, int byte);
void seed_frame(seed *s, const cmo_header *h, const uint64_t *shape, const void *payload); /* payload: [h->length] */
void seed_write(const seed *s, const char *target, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* What a FAIL frame tells. */
void seed_failure(uint8_t out[CMO_FAIL_BYTES], uint64_t seq);

void channel_seeds(void); /* seeds_channel.c */

#endif
