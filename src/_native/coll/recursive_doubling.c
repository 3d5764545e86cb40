/* Recursive doubling: allreduce where latency rules. After exchange i a rank knows the sum over a block of 2^(i+1).
 *
 * Seven ranks. What is no power of two is folded in first: of the leading 2 · 3 ranks, the even ones give their vector
 * to the odd ones and get the result at the end, so that four take part, numbered 0 … 3 as "places":
 *
 *      rank                 0    1    2    3    4    5    6
 *      fold in              0 →  1    2 →  3    4 →  5          1 = x0+x1, 3 = x2+x3, 5 = x4+x5
 *      place                     0         1         2    3
 *      exchange, distance 1      1 ←→ 3              5 ←→ 6     (x0+x1)+(x2+x3)       (x4+x5)+x6
 *      exchange, distance 2      1 ←──────→ 5   3 ←──────→ 6    ((x0+x1)+(x2+x3))+((x4+x5)+x6)
 *      fold out             0 ←  1    2 ←  3    4 ←  5
 *
 * The block of lower ranks is always the left operand, so both partners compute the same expression and get the same
 * bits. log2(n) exchanges of the whole vector, rounded down, and two messages more where n is no power of two; the ring
 * moves fewer bytes but takes 2(n-1) steps. Scratch: one vector; half types: two, in float32. (R. Thakur, R.
 * Rabenseifner, W. Gropp, "Optimization of Collective Communication Operations in MPICH", 2005.) */
#include "coll/algorithms.h"
#include "coll/fold.h"

#include <stdlib.h>

typedef struct doubling {
    cmo_xfer send, recv;
    uint8_t *scratch;
    int distance;
} doubling;

_Static_assert(sizeof(doubling) <= CMO_STATE_HEAP, "see coll/algorithms.h");

/* Steps of the messages; the last: + log2(distance). */
enum { DOUBLING_FOLD_IN = 0, DOUBLING_FOLD_OUT = 1, DOUBLING_EXCHANGE = 2 };

static int doubling_participants(int size)
{
    int participants = 1;
    while (participants <= size / 2) participants *= 2;
    return participants;
}

static uint64_t doubling_step_number(int distance)
{
    return DOUBLING_EXCHANGE + (uint64_t)__builtin_ctz((unsigned)distance);
}

/* Partial results of this rank: in out itself where they have its dtype. */
static uint8_t *doubling_sum(const cmo_op *op, const cmo_fold *f)
{
    const doubling *s = op->state;
    return f->widens ? s->scratch + op->call.count * f->size : op->call.out;
}

/* The block that has arrived is combined with ours, the lower one first. */
static void doubling_combine(cmo_op *op, const cmo_fold *f, bool arrived_is_lower)
{
    const doubling *s = op->state;
    uint8_t *sum = doubling_sum(op, f);
    cmo_fold_pair(f, sum, arrived_is_lower ? s->scratch : sum, arrived_is_lower ? sum : s->scratch, op->call.count);
}

cmo_err cmo_recursive_doubling_step(cmo_op *op)
{
    doubling *s = op->state;
    const cmo_call *c = &op->call;
    int rank = op->comm->rank, size = op->comm->size;
    int participants = doubling_participants(size);
    int extra = size - participants;              /* even ranks below 2 · extra only give and get */
    bool paired = rank < 2 * extra, gives = paired && rank % 2 == 0;
    int place = paired ? rank / 2 : rank - extra; /* among the participants */
    cmo_fold f;
    cmo_fold_init(&f, c);
    uint64_t bytes = c->count * f.size;

    CO_BEGIN(op);
    s->scratch = malloc(f.widens ? 2 * bytes + 1 : bytes + 1);
    if (!s->scratch) return cmo_fail(CMO_ENOMEM, "recursive doubling: %llu bytes", (unsigned long long)bytes);
    cmo_fold_load(&f, doubling_sum(op, &f), c->in, c->count);

    if (gives) {
        cmo_post_recv(op, &s->recv, rank + 1, DOUBLING_FOLD_OUT, c->out, c->count * f.in_size);
        cmo_post_send(op, &s->send, rank + 1, DOUBLING_FOLD_IN, doubling_sum(op, &f), bytes, bytes);
        CO_WAIT_UNTIL(op, cmo_moved(&s->send));
        CO_WAIT_UNTIL(op, cmo_moved(&s->recv));
    } else {
        if (paired) {
            cmo_post_recv(op, &s->recv, rank - 1, DOUBLING_FOLD_IN, s->scratch, bytes);
            CO_WAIT_UNTIL(op, cmo_moved(&s->recv));
            doubling_combine(op, &f, true);
        }
        for (s->distance = 1; s->distance < participants; s->distance *= 2) {
            int partner = place ^ s->distance;
            int partner_rank = partner < extra ? 2 * partner + 1 : partner + extra;
            cmo_post_recv(op, &s->recv, partner_rank, doubling_step_number(s->distance), s->scratch, bytes);
            cmo_post_send(op, &s->send, partner_rank, doubling_step_number(s->distance), doubling_sum(op, &f), bytes,
                          bytes);
            CO_WAIT_UNTIL(op, cmo_moved(&s->recv) && cmo_moved(&s->send));
            doubling_combine(op, &f, (place & s->distance) != 0);
        }
        cmo_fold_store(&f, c->out, doubling_sum(op, &f), c->count, cmo_fold_divisor(c, size));
        if (paired) {
            cmo_post_send(op, &s->send, rank - 1, DOUBLING_FOLD_OUT, c->out, c->count * f.in_size,
                          c->count * f.in_size);
            CO_WAIT_UNTIL(op, cmo_moved(&s->send));
        }
    }
    CO_END(op);
}

void cmo_recursive_doubling_finish(cmo_op *op) { free(((doubling *)op->state)->scratch); }
