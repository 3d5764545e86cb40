/* Follows the frames on every link of a small world, to tell the bytes of messages from those of headers. */
#ifndef CMO_TESTS_WORLD_PAYLOAD_H
#define CMO_TESTS_WORLD_PAYLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct world_payload {
    int size;
    struct world_stream **streams; /* [size × size] by sender, receiver; NULL until a byte has gone there */
    uint64_t *sent, *messages;    /* [size] of each rank */
} world_payload;

world_payload *world_payload_create(int size); /* NULL without memory */
void world_payload_free(world_payload *p);
void world_payload_tap(void *payload, int from, int to, const void *bytes, size_t n); /* for cmo_sim_tap */

#endif
