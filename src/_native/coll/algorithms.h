/* The algorithms, a line each: their steps, and what frees their state. Those of cmo_ring are in coll/ring.c, and so
 * on, unless a comment says otherwise. The table in coll/choose.c says which is used when. */
#ifndef CMO_ALGORITHMS_H
#define CMO_ALGORITHMS_H

#include "coll/coll.h"

/* Most bytes that the state of an algorithm may take: inline costs no allocation when a call starts. A file asserts
 * that its own state fits in the one that its row of the table names. */
enum { CMO_STATE_NONE = 0, CMO_STATE_SMALL = 64, CMO_STATE_INLINE = CMO_OP_INLINE_STATE, CMO_STATE_HEAP = 2048 };

/* One rank alone, and counts that the ranks do not know of each other. */
cmo_err cmo_alone_step(cmo_op *op);
cmo_err cmo_exchange_step(cmo_op *op);              void cmo_exchange_finish(cmo_op *op);

/* Ranks that share memory: coll/shm.h tells them apart. */
bool cmo_shm_fits(const cmo_op *op);
bool cmo_shm_inline_fits(const cmo_op *op);         cmo_err cmo_shm_inline_step(cmo_op *op);
bool cmo_shm_staged_fits(const cmo_op *op);         cmo_err cmo_shm_staged_step(cmo_op *op);
cmo_err cmo_shm_sliced_step(cmo_op *op);
cmo_err cmo_shm_reduce_scatter_step(cmo_op *op);
cmo_err cmo_shm_rooted_step(cmo_op *op);
cmo_err cmo_shm_gather_step(cmo_op *op);            void cmo_shm_gather_finish(cmo_op *op);
cmo_err cmo_shm_alltoall_step(cmo_op *op);          void cmo_shm_alltoall_finish(cmo_op *op);

/* Several ranks on each of several hosts. */
cmo_err cmo_hosts_barrier_step(cmo_op *op);                                                     /* coll/hosts.c */
cmo_err cmo_hosts_broadcast_step(cmo_op *op);
cmo_err cmo_hosts_allreduce_step(cmo_op *op);       void cmo_hosts_reduce_finish(cmo_op *op); /* coll/hosts_reduce.c */
cmo_err cmo_hosts_reduce_step(cmo_op *op);
cmo_err cmo_hosts_allgather_step(cmo_op *op);       void cmo_hosts_allgather_finish(cmo_op *op);

/* Messages between any ranks. */
cmo_err cmo_dissemination_step(cmo_op *op);
cmo_err cmo_tree_broadcast_step(cmo_op *op);        void cmo_tree_broadcast_finish(cmo_op *op);
cmo_err cmo_tree_reduce_step(cmo_op *op);           void cmo_tree_reduce_finish(cmo_op *op);
cmo_err cmo_tree_gather_step(cmo_op *op);           void cmo_tree_gather_finish(cmo_op *op);
cmo_err cmo_tree_scatter_step(cmo_op *op);          void cmo_tree_scatter_finish(cmo_op *op);
cmo_err cmo_recursive_doubling_step(cmo_op *op);    void cmo_recursive_doubling_finish(cmo_op *op);
cmo_err cmo_bruck_step(cmo_op *op);                 void cmo_bruck_finish(cmo_op *op);
cmo_err cmo_ring_step(cmo_op *op);                  void cmo_ring_finish(cmo_op *op);
cmo_err cmo_ring_reduce_step(cmo_op *op);           void cmo_ring_reduce_finish(cmo_op *op);
cmo_err cmo_scan_doubling_step(cmo_op *op);         void cmo_scan_doubling_finish(cmo_op *op);  /* coll/scan.c */
cmo_err cmo_scan_chain_step(cmo_op *op);            void cmo_scan_chain_finish(cmo_op *op);
cmo_err cmo_pairwise_step(cmo_op *op);              void cmo_pairwise_finish(cmo_op *op);

#endif
