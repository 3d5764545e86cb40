/* Arrays that are read where they lie, in the windows of their owners: coll/shm_direct.c (overview: coll/shm.h). */
#ifndef CMO_SHM_DIRECT_H
#define CMO_SHM_DIRECT_H

#include "coll/shm_rounds.h"

/* Offer `bytes` at `array` to the others, if they lie in this rank's window and are worth it: *place (offer.in or
 * offer.out) says so. They then need not be staged. Before the announcement. */
void cmo_shm_offer_array(const cmo_op *op, uint64_t *place, const void *array, uint64_t bytes);

/* The same for what the others only copy, each a part: if it does not lie there, they may copy it from this rank's own
 * memory, where `weight` reaches attach_bytes. */
void cmo_shm_offer_copy(const cmo_op *op, uint64_t *place, const void *array, uint64_t bytes, uint64_t weight);

/* Where to read [from, from + bytes) of a member's array: there, if it offers it, else at `in_slot` bytes of its slot
 * of round t. The member's part of the round has been staged. CMO_EPROTO: what it offers is not in its window. */
cmo_err cmo_shm_part(const cmo_op *op, cmo_shm *s, int member, uint64_t t, uint64_t from, uint64_t bytes,
                     uint64_t in_slot, const void **at);

/* Copy that to `to`, a part of the result. Here the array may lie in its owner's own memory. */
cmo_err cmo_shm_fetch(const cmo_op *op, cmo_shm *s, int member, uint64_t t, uint64_t from, uint64_t bytes,
                      uint64_t in_slot, void *to);

/* The same of an array that is offered at `place`. */
cmo_err cmo_shm_fetch_array(const cmo_op *op, cmo_shm *s, int member, uint64_t place, uint64_t from, uint64_t bytes,
                            void *to);

/* As cmo_shm_part, for the result that a member has reduced. */
cmo_err cmo_shm_result(const cmo_op *op, cmo_shm *s, int member, uint64_t t, uint64_t from, uint64_t bytes,
                       uint64_t in_slot, const void **at);

cmo_err cmo_shm_await_readers(cmo_op *op, cmo_shm *s, int first, int last); /* the slow half of cmo_shm_leave */

/* As cmo_shm_end, in a wait: but where this rank has offered something, only when members [first, last), its readers,
 * read it no more; and where it has read what others offered, only if they have stood by it. */
static inline cmo_err cmo_shm_leave(cmo_op *op, cmo_shm *s, int first, int last)
{
    if (s->offer.in | s->offer.out | s->borrows) CMO_TRY(cmo_shm_await_readers(op, s, first, last));
    cmo_shm_end(op, s);
    return CMO_OK;
}

#endif
