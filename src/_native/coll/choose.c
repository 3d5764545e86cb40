/* The one table of algorithms, and when each may be used. The first row that fits a call is taken.
 *
 * Whether a row fits must come out alike on every rank. So the predicates look only at the communicator's shape, at
 * tunables, and at what every rank passes alike; for broadcast and scatter that leaves out the size. To add an
 * algorithm: a file, a line in coll/algorithms.h, and a row here, before the rows that it is to be preferred to. */
#include "coll/algorithms.h"
#include "coll/hosts.h"
#include "comm/engine.h"

static bool alone(const cmo_op *op) { return op->comm->size == 1; }

/* Counts that the ranks do not know of each other: they are exchanged first, then the call is made again without
 * this. */
static bool exchanges(const cmo_op *op) { return op->call.exchange; }

/* Fewer hosts than ranks, and more than one. */
static bool hosts(const cmo_op *op) { return op->comm->local_comm != NULL; }

/* The same, and as many ranks on each host. */
static bool even_hosts(const cmo_op *op)
{
    const cmo_comm *c = op->comm;
    return hosts(op) && c->size == c->nhosts * c->least_local;
}

/* The same as `hosts`, and the root has a counterpart on every host. */
static bool root_on_every_host(const cmo_op *op)
{
    const cmo_comm *c = op->comm;
    return hosts(op) && cmo_hosts_place(c, op->call.root) < c->least_local;
}

/* Latency matters more than bandwidth. */
static bool small(const cmo_op *op)
{
    uint64_t most = (uint64_t)cmo_engine_tunables(op->comm->engine)->doubling_bytes;
    return op->call.count <= most / cmo_dtype_size(op->call.dtype);
}

/* The same for the blocks of an allgather: those of all ranks, on average. Among two a ring has as few steps. */
static bool small_blocks(const cmo_op *op)
{
    const cmo_call *c = &op->call;
    if (op->comm->size == 2) return false;
    uint64_t most = (uint64_t)cmo_engine_tunables(op->comm->engine)->doubling_bytes / cmo_dtype_size(c->dtype);
    if (!c->counts) return c->count <= most;
    return cmo_block_start(c->counts, 0, op->comm->size) / (uint64_t)op->comm->size <= most;
}

const cmo_algorithm cmo_algorithms[] = {
    /* A communicator of one rank. */
    {"alone", CMO_BARRIER, alone, cmo_alone_step, NULL, CMO_STATE_NONE},
    {"alone", CMO_BROADCAST, alone, cmo_alone_step, NULL, CMO_STATE_NONE},
    {"alone", CMO_ALLREDUCE, alone, cmo_alone_step, NULL, CMO_STATE_NONE},
    {"alone", CMO_REDUCE, alone, cmo_alone_step, NULL, CMO_STATE_NONE},
    {"alone", CMO_REDUCE_SCATTER, alone, cmo_alone_step, NULL, CMO_STATE_NONE},
    {"alone", CMO_SCAN, alone, cmo_alone_step, NULL, CMO_STATE_NONE},
    {"alone", CMO_EXSCAN, alone, cmo_alone_step, NULL, CMO_STATE_NONE},
    {"alone", CMO_SCATTER, alone, cmo_alone_step, NULL, CMO_STATE_NONE},
    {"alone", CMO_GATHER, alone, cmo_alone_step, NULL, CMO_STATE_NONE},
    {"alone", CMO_ALLGATHER, alone, cmo_alone_step, NULL, CMO_STATE_NONE},
    {"alone", CMO_ALLTOALL, alone, cmo_alone_step, NULL, CMO_STATE_NONE},

    /* All ranks share memory. */
    {"shm_inline", CMO_BARRIER, cmo_shm_inline_fits, cmo_shm_inline_step, NULL, CMO_STATE_SMALL},
    {"shm_inline", CMO_ALLREDUCE, cmo_shm_inline_fits, cmo_shm_inline_step, NULL, CMO_STATE_SMALL},
    {"shm_inline", CMO_REDUCE, cmo_shm_inline_fits, cmo_shm_inline_step, NULL, CMO_STATE_SMALL},
    {"shm_inline", CMO_REDUCE_SCATTER, cmo_shm_inline_fits, cmo_shm_inline_step, NULL, CMO_STATE_SMALL},
    {"shm_inline", CMO_SCAN, cmo_shm_inline_fits, cmo_shm_inline_step, NULL, CMO_STATE_SMALL},
    {"shm_inline", CMO_EXSCAN, cmo_shm_inline_fits, cmo_shm_inline_step, NULL, CMO_STATE_SMALL},
    {"shm_inline", CMO_GATHER, cmo_shm_inline_fits, cmo_shm_inline_step, NULL, CMO_STATE_SMALL},
    {"shm_inline", CMO_ALLGATHER, cmo_shm_inline_fits, cmo_shm_inline_step, NULL, CMO_STATE_SMALL},
    {"shm_inline", CMO_ALLTOALL, cmo_shm_inline_fits, cmo_shm_inline_step, NULL, CMO_STATE_SMALL},
    {"shm_staged", CMO_ALLREDUCE, cmo_shm_staged_fits, cmo_shm_staged_step, NULL, CMO_STATE_INLINE},
    {"shm_staged", CMO_REDUCE, cmo_shm_staged_fits, cmo_shm_staged_step, NULL, CMO_STATE_INLINE},
    {"shm_staged", CMO_SCAN, cmo_shm_staged_fits, cmo_shm_staged_step, NULL, CMO_STATE_INLINE},
    {"shm_staged", CMO_EXSCAN, cmo_shm_staged_fits, cmo_shm_staged_step, NULL, CMO_STATE_INLINE},
    {"shm_sliced", CMO_ALLREDUCE, cmo_shm_fits, cmo_shm_sliced_step, NULL, CMO_STATE_INLINE},
    {"shm_sliced", CMO_REDUCE, cmo_shm_fits, cmo_shm_sliced_step, NULL, CMO_STATE_INLINE},
    {"shm_reduce_scatter", CMO_REDUCE_SCATTER, cmo_shm_fits, cmo_shm_reduce_scatter_step, NULL, CMO_STATE_INLINE},
    {"shm_rooted", CMO_BROADCAST, cmo_shm_fits, cmo_shm_rooted_step, NULL, CMO_STATE_INLINE},
    {"shm_rooted", CMO_SCATTER, cmo_shm_fits, cmo_shm_rooted_step, NULL, CMO_STATE_INLINE},
    {"shm_gather", CMO_GATHER, cmo_shm_fits, cmo_shm_gather_step, cmo_shm_gather_finish, CMO_STATE_INLINE},
    {"shm_gather", CMO_ALLGATHER, cmo_shm_fits, cmo_shm_gather_step, cmo_shm_gather_finish, CMO_STATE_INLINE},
    {"shm_alltoall", CMO_ALLTOALL, cmo_shm_fits, cmo_shm_alltoall_step, cmo_shm_alltoall_finish, CMO_STATE_INLINE},

    /* Unknown counts. */
    {"exchange", CMO_GATHER, exchanges, cmo_exchange_step, cmo_exchange_finish, CMO_STATE_INLINE},
    {"exchange", CMO_ALLGATHER, exchanges, cmo_exchange_step, cmo_exchange_finish, CMO_STATE_INLINE},
    {"exchange", CMO_ALLTOALL, exchanges, cmo_exchange_step, cmo_exchange_finish, CMO_STATE_INLINE},

    /* Several hosts with several ranks each. */
    {"hosts", CMO_BARRIER, hosts, cmo_hosts_barrier_step, NULL, CMO_STATE_NONE},
    {"hosts", CMO_BROADCAST, root_on_every_host, cmo_hosts_broadcast_step, NULL, CMO_STATE_HEAP},
    {"hosts_reduce", CMO_ALLREDUCE, hosts, cmo_hosts_allreduce_step, cmo_hosts_reduce_finish, CMO_STATE_INLINE},
    {"hosts_reduce", CMO_REDUCE, hosts, cmo_hosts_reduce_step, cmo_hosts_reduce_finish, CMO_STATE_INLINE},
    {"hosts_allgather", CMO_ALLGATHER, even_hosts, cmo_hosts_allgather_step, cmo_hosts_allgather_finish,
     CMO_STATE_INLINE},

    /* Messages. */
    {"dissemination", CMO_BARRIER, NULL, cmo_dissemination_step, NULL, CMO_STATE_HEAP},
    {"tree_broadcast", CMO_BROADCAST, NULL, cmo_tree_broadcast_step, cmo_tree_broadcast_finish, CMO_STATE_INLINE},
    {"recursive_doubling", CMO_ALLREDUCE, small, cmo_recursive_doubling_step, cmo_recursive_doubling_finish,
     CMO_STATE_HEAP},
    {"ring", CMO_ALLREDUCE, NULL, cmo_ring_step, cmo_ring_finish, CMO_STATE_HEAP},
    {"tree_reduce", CMO_REDUCE, small, cmo_tree_reduce_step, cmo_tree_reduce_finish, CMO_STATE_INLINE},
    {"ring_reduce", CMO_REDUCE, NULL, cmo_ring_reduce_step, cmo_ring_reduce_finish, CMO_STATE_INLINE},
    {"ring", CMO_REDUCE_SCATTER, NULL, cmo_ring_step, cmo_ring_finish, CMO_STATE_HEAP},
    {"scan_doubling", CMO_SCAN, small, cmo_scan_doubling_step, cmo_scan_doubling_finish, CMO_STATE_HEAP},
    {"scan_chain", CMO_SCAN, NULL, cmo_scan_chain_step, cmo_scan_chain_finish, CMO_STATE_HEAP},
    {"scan_doubling", CMO_EXSCAN, small, cmo_scan_doubling_step, cmo_scan_doubling_finish, CMO_STATE_HEAP},
    {"scan_chain", CMO_EXSCAN, NULL, cmo_scan_chain_step, cmo_scan_chain_finish, CMO_STATE_HEAP},
    {"tree_scatter", CMO_SCATTER, NULL, cmo_tree_scatter_step, cmo_tree_scatter_finish, CMO_STATE_HEAP},
    {"tree_gather", CMO_GATHER, NULL, cmo_tree_gather_step, cmo_tree_gather_finish, CMO_STATE_HEAP},
    {"bruck", CMO_ALLGATHER, small_blocks, cmo_bruck_step, cmo_bruck_finish, CMO_STATE_HEAP},
    {"ring", CMO_ALLGATHER, NULL, cmo_ring_step, cmo_ring_finish, CMO_STATE_HEAP},
    {"pairwise", CMO_ALLTOALL, NULL, cmo_pairwise_step, cmo_pairwise_finish, CMO_STATE_HEAP},
};

const int cmo_nalgorithms = sizeof cmo_algorithms / sizeof cmo_algorithms[0];

const cmo_algorithm *cmo_choose(const cmo_op *op)
{
    for (int i = 0; i < cmo_nalgorithms; i++) {
        const cmo_algorithm *a = &cmo_algorithms[i];
        if (a->kind == op->call.kind && (!a->fits || a->fits(op))) return a;
    }
    return NULL;
}
