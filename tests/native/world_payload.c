#include "world_payload.h"

#include "transport/wire.h"

#include <stdlib.h>
#include <string.h>

typedef struct world_stream {
    uint8_t header[CMO_HEADER_BYTES];
    size_t have;   /* bytes of the header */
    uint64_t skip; /* bytes of shape and payload until the next one */
} world_stream;

world_payload *world_payload_create(int size)
{
    size_t n = (size_t)size;
    world_payload *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    *p = (world_payload){.size = size, .streams = calloc(n * n, sizeof(world_stream *)),
                         .sent = calloc(n, sizeof *p->sent), .messages = calloc(n, sizeof *p->messages)};
    if (p->streams && p->sent && p->messages) return p;
    world_payload_free(p);
    return NULL;
}

void world_payload_free(world_payload *p)
{
    if (!p) return;
    for (size_t i = 0; p->streams && i < (size_t)p->size * (size_t)p->size; i++) free(p->streams[i]);
    free(p->streams);
    free(p->sent);
    free(p->messages);
    free(p);
}

static void frame_begins(world_payload *p, int from, world_stream *s)
{
    cmo_header h;
    s->have = 0;
    if (cmo_header_parse(&h, s->header)) abort(); /* our own engines wrote it */
    bool announces = h.kind == CMO_EAGER || h.kind == CMO_RTS;
    uint64_t payload = h.kind == CMO_EAGER || h.kind == CMO_DATA ? h.length : 0;
    p->messages[from] += announces;
    p->sent[from] += payload;
    s->skip = 8 * (uint64_t)h.ndim + (h.kind == CMO_FAIL ? h.length : payload);
}

void world_payload_tap(void *payload, int from, int to, const void *bytes, size_t n)
{
    world_payload *p = payload;
    world_stream **made = &p->streams[(size_t)from * (size_t)p->size + (size_t)to], *s = *made;
    if (!s && !(s = *made = calloc(1, sizeof *s))) abort();
    const uint8_t *at = bytes;
    while (n) {
        size_t part;
        if (s->skip) {
            part = s->skip < n ? (size_t)s->skip : n;
            s->skip -= part;
        } else {
            part = CMO_HEADER_BYTES - s->have < n ? CMO_HEADER_BYTES - s->have : n;
            memcpy(s->header + s->have, at, part);
            s->have += part;
            if (s->have == CMO_HEADER_BYTES) frame_begins(p, from, s);
        }
        at += part;
        n -= part;
    }
}
