/* Made-up arrays, and how they are compared. */
#ifndef CMO_TESTS_COLL_VALUES_H
#define CMO_TESTS_COLL_VALUES_H

#include "reduce/reduce.h"

#include <stdbool.h>

/* Elements whose reduction by `op` is exact in every order; with `inexact`, fractions in [0.9, 1.1). */
void coll_fill(void *out, cmo_dtype dtype, cmo_redop op, uint64_t count, uint64_t *state, bool inexact);

/* The first element in which two arrays differ, UINT64_MAX if none: by their bits, complex numbers by value (their
 * zeros may differ in sign); with `inexact`, by more than the dtype's precision explains. */
uint64_t coll_differ(cmo_dtype dtype, const void *a, const void *b, uint64_t count, bool inexact);

#endif
