/* Where an array goes that comes from the root, and of which this rank knows nothing, or must agree with the root. */
#ifndef CMO_INCOMING_H
#define CMO_INCOMING_H

#include "coll/coll.h"

/* A cmo_allocate whose context is the op of a BROADCAST or SCATTER, elsewhere than at its root: asks call.allocate if
 * there is one; otherwise gives call.out if dtype, number of elements and, where it is told, shape are the call's, and
 * CMO_EMISMATCH, with both, if not. */
cmo_err cmo_incoming(void *op, const cmo_layout *layout, void **address);

/* Elements of one row of an array with this shape, of ndim ≥ 1; CMO_EPROTO where they, or their bytes, do not fit. */
cmo_err cmo_row_elements(cmo_dtype dtype, int ndim, const uint64_t *shape, uint64_t *elements);

/* Elements of an array of this shape; CMO_EPROTO where they, or their bytes, do not fit 64 bits. */
cmo_err cmo_layout_elements(const cmo_layout *layout, uint64_t *elements);

#endif
