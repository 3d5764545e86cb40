/* Bruck's algorithm: allgather where latency rules. Each round doubles the number of blocks that a rank has.
 *
 *      five ranks      0        1        2        3        4
 *      start           0        1        2        3        4
 *      distance 1      01       12       23       34       40         from the rank 1 ahead
 *      distance 2      0123     1234     2340     3401     4012       from the rank 2 ahead
 *      distance 4      01234    12340    23401    34012    40123      from the rank 4 ahead: only the one that lacks
 *
 * log2(n) rounds, rounded up. A rank sends and receives every block but one, once: as many bytes as the ring in fewer,
 * longer messages. In return all blocks are copied once more, from scratch memory, where a rank's own comes first, to
 * their places in out; and nothing is passed on while it arrives. (J. Bruck et al., "Efficient Algorithms for
 * All-to-All Communications in Multiport Message-Passing Systems", 1997.) */
#include "coll/algorithms.h"

#include <stdlib.h>
#include <string.h>

typedef struct bruck {
    cmo_xfer send, recv;
    uint64_t *starts;  /* [size + 1] first byte of a block in scratch; the i-th is that of rank + i */
    uint8_t *scratch;
    int have;          /* blocks */
} bruck;

_Static_assert(sizeof(bruck) <= CMO_STATE_HEAP, "see coll/algorithms.h");

static int bruck_rank(const cmo_op *op, int64_t ahead) { return (int)((op->comm->rank + ahead) % op->comm->size); }

static cmo_err bruck_prepare(cmo_op *op)
{
    bruck *s = op->state;
    const cmo_call *c = &op->call;
    int n = op->comm->size;
    uint64_t size = cmo_dtype_size(c->dtype);
    if (!(s->starts = calloc((size_t)n + 1, sizeof *s->starts))) return cmo_fail(CMO_ENOMEM, "allgather: %d blocks", n);
    for (int i = 0; i < n; i++)
        s->starts[i + 1] = s->starts[i] + cmo_block_count(c->counts, c->count, bruck_rank(op, i)) * size;
    if (!(s->scratch = malloc(s->starts[n] + 1)))
        return cmo_fail(CMO_ENOMEM, "allgather: %llu bytes", (unsigned long long)s->starts[n]);
    if (s->starts[1]) memcpy(s->scratch, c->in, s->starts[1]);
    s->have = 1;
    return CMO_OK;
}

/* What we have, as far as it lacks there, goes to the rank that is as far behind us; as
 * much comes from the one ahead. */
static void bruck_post(cmo_op *op)
{
    bruck *s = op->state;
    int n = op->comm->size, blocks = s->have < n - s->have ? s->have : n - s->have;
    uint64_t from = s->starts[s->have];
    cmo_post_recv(op, &s->recv, bruck_rank(op, s->have), (uint64_t)s->have, s->scratch + from,
                  s->starts[s->have + blocks] - from);
    cmo_post_send(op, &s->send, bruck_rank(op, n - s->have), (uint64_t)s->have, s->scratch, s->starts[blocks],
                  s->starts[blocks]);
}

/* Blocks of this rank and those above it come first in scratch, and last in out. */
static void bruck_rotate(cmo_op *op)
{
    const bruck *s = op->state;
    int n = op->comm->size;
    uint64_t total = s->starts[n], upper = s->starts[n - op->comm->rank];
    uint8_t *out = op->call.out;
    if (upper) memcpy(out + (total - upper), s->scratch, upper);
    if (total > upper) memcpy(out, s->scratch + upper, total - upper);
}

cmo_err cmo_bruck_step(cmo_op *op)
{
    bruck *s = op->state;
    CO_BEGIN(op);
    CMO_TRY(bruck_prepare(op));
    while (s->have < op->comm->size) {
        bruck_post(op);
        CO_WAIT_UNTIL(op, cmo_moved(&s->recv) && cmo_moved(&s->send));
        s->have = s->have < op->comm->size - s->have ? 2 * s->have : op->comm->size;
    }
    bruck_rotate(op);
    CO_END(op);
}

void cmo_bruck_finish(cmo_op *op)
{
    bruck *s = op->state;
    free(s->starts);
    free(s->scratch);
}
