/* Collectives of ranks that share memory: what their algorithms have in common. Protocol and invariants: comm/piece.h.
 *
 *     file                  used for                                       waits for others
 *     shm_inline.c          anything that fits in an announcement          once
 *     shm_staged.c          reductions of small arrays; scan, exscan       once a round
 *     shm_sliced.c          allreduce and reduce of large arrays           twice a round
 *     shm_reduce_scatter.c  reduce_scatter                                 once a round
 *     shm_rooted.c          broadcast and scatter; only root knows sizes   readers once a round, root never
 *     shm_gather.c          gather and allgather                           receivers once a round
 *     shm_alltoall.c        alltoall                                       once a round
 *     shm_direct.c          what they do where arrays lie in windows       once more, for the readers
 *
 * and what these are made of:
 *
 *     shm_call.h            the state of one call; announcing it, and seeing what others have announced
 *     shm_rounds.h          slots, and the counts that say when they may be read and written again
 *     shm_direct.h          arrays that are read where they lie
 *     shm_cut.h             slots with a part for every member
 *
 * In a communicator whose members share memory a member's place on its host is its rank, so pieces and slots are
 * indexed by rank here. Rounds of an operation are counted from 0; round t of it is round base + t of the communicator.
 *
 * What all of them agree on: a member stages its round 0 before it announces. So whoever has seen an announcement may
 * read round 0, and an operation of one round costs one cache line of synchronization. `staged` speaks of later rounds
 * only. A member whose array is read where it lies (shm_direct.c) stages nothing: its announcement stands for all
 * rounds. */
#ifndef CMO_SHM_H
#define CMO_SHM_H

#include "coll/shm_call.h"
#include "coll/shm_direct.h"
#include "coll/shm_rounds.h"

#endif
