/* Allgather over several hosts that have as many ranks each: first across, each rank with
 * those of its place, then inside.
 *
 *      hosts A: 0 1, B: 2 3, C: 4 5               A: 0       1         (B and C alike)
 *      across the hosts, by place                    0 2 4   1 3 5
 *      inside the host                               0 2 4 1 3 5       on both
 *      each block copied to its place in out         0 1 2 3 4 5
 *
 * (hosts - 1) steps across and one collective inside instead of the (n - 1) steps of a ring over all ranks; the bytes
 * between hosts are the same, carried by all ranks of a host at a time. Scratch: all blocks, and those of a place. */
#include "coll/algorithms.h"
#include "coll/hosts.h"

#include <stdlib.h>
#include <string.h>

typedef struct hosts_allgather {
    int *order;            /* [size] the ranks by place, and by rank within a place */
    uint64_t *counts;      /* [nhosts] of our place, then [nlocal] of each place */
    uint64_t group;        /* elements of our place */
    uint8_t *scratch;      /* our place's blocks, then all, in `order` */
    size_t size;
} hosts_allgather;

_Static_assert(sizeof(hosts_allgather) <= CMO_STATE_INLINE, "see coll/algorithms.h");

static cmo_err hosts_allgather_prepare(cmo_op *op)
{
    hosts_allgather *s = op->state;
    const cmo_comm *comm = op->comm;
    const cmo_call *c = &op->call;
    size_t n = (size_t)comm->size;
    s->size = cmo_dtype_size(c->dtype);
    s->order = malloc(n * sizeof *s->order);
    s->counts = calloc((size_t)comm->nhosts + (size_t)comm->nlocal, sizeof *s->counts);
    /* Counts of each host, then of each place. */
    int *seen = calloc((size_t)comm->nhosts + (size_t)comm->nlocal, sizeof *seen);
    cmo_err err = s->order && s->counts && seen ? CMO_OK : cmo_fail(CMO_ENOMEM, "allgather: %d blocks", comm->size);
    for (int r = 0; err == CMO_OK && r < comm->size; r++) {
        int place = seen[comm->host[r]]++, index = seen[comm->nhosts + place]++;
        uint64_t count = cmo_block_count(c->counts, c->count, r);
        s->order[place * comm->nhosts + index] = r;
        s->counts[comm->nhosts + place] += count;
        if (place == comm->local) s->counts[index] = count;
    }
    free(seen);
    if (err) return err;
    s->group = s->counts[comm->nhosts + comm->local];
    uint64_t elements = s->group + cmo_block_start(c->counts, c->count, comm->size);
    if (!(s->scratch = malloc(elements * s->size + 1)))
        return cmo_fail(CMO_ENOMEM, "allgather: %llu elements", (unsigned long long)elements);
    return CMO_OK;
}

/* From the order of places to that of ranks. */
static cmo_err hosts_allgather_sort(cmo_op *op)
{
    const hosts_allgather *s = op->state;
    const cmo_call *c = &op->call;
    int n = op->comm->size;
    uint64_t *starts = calloc((size_t)n + 1, sizeof *starts);
    if (!starts) return cmo_fail(CMO_ENOMEM, "allgather: %d blocks", n);
    for (int r = 0; r < n; r++) starts[r + 1] = starts[r] + cmo_block_count(c->counts, c->count, r) * s->size;
    const uint8_t *from = s->scratch + s->group * s->size;
    for (int i = 0; i < n; i++) {
        int r = s->order[i];
        uint64_t bytes = starts[r + 1] - starts[r];
        if (bytes) memcpy((uint8_t *)c->out + starts[r], from, bytes);
        from += bytes;
    }
    free(starts);
    return CMO_OK;
}

cmo_err cmo_hosts_allgather_step(cmo_op *op)
{
    hosts_allgather *s = op->state;
    const cmo_comm *comm = op->comm;
    const cmo_call *c = &op->call;
    CO_BEGIN(op);
    CMO_TRY(hosts_allgather_prepare(op));
    CMO_TRY(cmo_child_start(op, comm->cross_comm,
                            &(cmo_call){.kind = CMO_ALLGATHER, .dtype = c->dtype, .in = c->in, .out = s->scratch,
                                        .count = cmo_block_count(c->counts, c->count, comm->rank),
                                        .counts = s->counts}));
    CO_WAIT(op, cmo_child_step(op));
    CMO_TRY(cmo_child_start(op, comm->local_comm,
                            &(cmo_call){.kind = CMO_ALLGATHER, .dtype = c->dtype, .in = s->scratch,
                                        .out = s->scratch + s->group * s->size, .count = s->group,
                                        .counts = s->counts + comm->nhosts}));
    CO_WAIT(op, cmo_child_step(op));
    CMO_TRY(hosts_allgather_sort(op));
    CO_END(op);
}

void cmo_hosts_allgather_finish(cmo_op *op)
{
    hosts_allgather *s = op->state;
    free(s->order);
    free(s->counts);
    free(s->scratch);
}
