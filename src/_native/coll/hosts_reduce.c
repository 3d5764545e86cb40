/* Allreduce and reduce over several hosts: every rank of a host carries a slice of its own to the other hosts.
 *
 *      hosts A: 0 1 2, B: 3 4. least_local is 2, so there are two slices, a and b, and rank 2 only takes part inside A.
 *
 *                                       A: 0     1     2      B: 3     4
 *      reduce_scatter inside the host      a     b     -         a     b        A's sum, B's sum
 *      across the hosts                    a  ←──────────────→   a              the sum of all; each slice by the
 *                                                b  ←──────────────→   b        ranks of its place
 *      allgather inside the host           ab    ab    ab        ab    ab
 *
 * For reduce the slices go across to the root's host only, and are gathered there at the root.
 *
 * With L slices a rank moves count / L across hosts as if it were alone on its host, L of them at a time. The order is
 * fixed in each phase, and a slice's last sum is computed alike on all hosts, so all ranks hold the same bits. A mean
 * divides once, after the last sum. Half types are float32 up to there: scratch is then the whole vector in float32
 * and a slice in either type; otherwise it is one slice. */
#include "coll/algorithms.h"
#include "coll/fold.h"
#include "coll/hosts.h"

#include <stdlib.h>

typedef struct hosts_reduce {
    cmo_fold fold;
    uint64_t *counts;  /* [nlocal] elements of each one's slice; 0 from least_local on */
    uint64_t count;    /* of ours */
    uint8_t *scratch;
    uint8_t *partial;  /* our slice while it is summed */
    uint8_t *result;   /* our slice of the result; the same memory where nothing is widened */
    const void *in;    /* the whole vector as it is summed */
} hosts_reduce;

_Static_assert(sizeof(hosts_reduce) <= CMO_STATE_INLINE, "see coll/algorithms.h");

static cmo_err hosts_reduce_prepare(cmo_op *op)
{
    hosts_reduce *s = op->state;
    const cmo_comm *comm = op->comm;
    const cmo_call *c = &op->call;
    cmo_fold_init(&s->fold, c);
    if (!(s->counts = calloc((size_t)comm->nlocal, sizeof *s->counts)))
        return cmo_fail(CMO_ENOMEM, "%d slices", comm->nlocal);
    for (int i = 0; i < comm->least_local; i++)
        s->counts[i] = cmo_part(c->count, comm->least_local, i + 1) - cmo_part(c->count, comm->least_local, i);
    s->count = s->counts[comm->local];
    uint64_t slice = s->count * s->fold.size, whole = s->fold.widens ? c->count * s->fold.size : 0;
    uint64_t rounded = s->fold.widens ? s->count * s->fold.in_size : 0;
    if (!(s->scratch = malloc(whole + slice + rounded + 1)))
        return cmo_fail(CMO_ENOMEM, "%llu bytes to reduce in", (unsigned long long)(whole + slice + rounded));
    s->partial = s->scratch + whole;
    s->result = s->fold.widens ? s->partial + slice : s->partial;
    s->in = c->in;
    if (s->fold.widens) {
        cmo_fold_load(&s->fold, s->scratch, c->in, c->count);
        s->in = s->scratch;
    }
    return CMO_OK;
}

/* What is summed inside and across hosts; the mean's division comes after. */
static cmo_call hosts_partial_call(const cmo_op *op, cmo_kind kind)
{
    const hosts_reduce *s = op->state;
    cmo_redop sum = op->call.op == CMO_OP_MEAN ? CMO_OP_SUM : op->call.op;
    return (cmo_call){.kind = kind, .op = sum, .dtype = s->fold.dtype, .in = s->partial, .out = s->partial,
                      .count = s->count};
}

static cmo_err hosts_reduce_inside(cmo_op *op)
{
    const hosts_reduce *s = op->state;
    cmo_call call = hosts_partial_call(op, CMO_REDUCE_SCATTER);
    call.in = s->in;
    call.counts = s->counts;
    return cmo_child_start(op, op->comm->local_comm, &call);
}

static void hosts_reduce_store(cmo_op *op)
{
    const hosts_reduce *s = op->state;
    cmo_fold_store(&s->fold, s->result, s->partial, s->count, cmo_fold_divisor(&op->call, op->comm->size));
}

cmo_err cmo_hosts_allreduce_step(cmo_op *op)
{
    hosts_reduce *s = op->state;
    const cmo_call *c = &op->call;
    CO_BEGIN(op);
    CMO_TRY(hosts_reduce_prepare(op));
    CMO_TRY(hosts_reduce_inside(op));
    CO_WAIT(op, cmo_child_step(op));
    if (op->comm->cross_comm) {
        cmo_call across = hosts_partial_call(op, CMO_ALLREDUCE);
        CMO_TRY(cmo_child_start(op, op->comm->cross_comm, &across));
        CO_WAIT(op, cmo_child_step(op));
        hosts_reduce_store(op);
    }
    CMO_TRY(cmo_child_start(op, op->comm->local_comm,
                            &(cmo_call){.kind = CMO_ALLGATHER, .dtype = c->dtype, .in = s->result,
                                        .out = c->out, .count = s->count, .counts = s->counts}));
    CO_WAIT(op, cmo_child_step(op));
    CO_END(op);
}

cmo_err cmo_hosts_reduce_step(cmo_op *op)
{
    hosts_reduce *s = op->state;
    const cmo_call *c = &op->call;
    const cmo_comm *comm = op->comm;
    CO_BEGIN(op);
    CMO_TRY(hosts_reduce_prepare(op));
    CMO_TRY(hosts_reduce_inside(op));
    CO_WAIT(op, cmo_child_step(op));
    if (comm->cross_comm) {
        cmo_call across = hosts_partial_call(op, CMO_REDUCE);
        across.root = cmo_hosts_cross_rank(comm, c->root);
        CMO_TRY(cmo_child_start(op, comm->cross_comm, &across));
        CO_WAIT(op, cmo_child_step(op));
    }
    if (comm->host[comm->rank] == comm->host[c->root]) {
        hosts_reduce_store(op);
        CMO_TRY(cmo_child_start(op, comm->local_comm,
                                &(cmo_call){.kind = CMO_GATHER, .dtype = c->dtype, .in = s->result,
                                            .out = c->out, .root = cmo_hosts_place(comm, c->root),
                                            .count = s->count, .counts = s->counts}));
        CO_WAIT(op, cmo_child_step(op));
    }
    CO_END(op);
}

void cmo_hosts_reduce_finish(cmo_op *op)
{
    hosts_reduce *s = op->state;
    free(s->counts);
    free(s->scratch);
}
