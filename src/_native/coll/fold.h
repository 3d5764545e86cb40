/* Partial results of a reduction: how they are kept while they travel, how they are combined, and how they end.
 *
 * A partial result has the call's dtype, except for sums, products and means of half types. Those are kept as float32
 * through all ranks and rounded once, when they are stored. A mean is a sum that is divided once, when it is stored.
 * Everything here combines `a op b` in the order in which the arguments stand. Counts are in elements. */
#ifndef CMO_FOLD_H
#define CMO_FOLD_H

#include "comm/call.h"

typedef struct cmo_fold {
    cmo_kernel kernel;  /* for partial results */
    cmo_dtype dtype;    /* of partial results */
    size_t size;        /* bytes of an element of a partial result */
    cmo_dtype in_dtype; /* of the call's arrays */
    size_t in_size;
    bool widens;        /* the two differ */
} cmo_fold;

void cmo_fold_init(cmo_fold *f, const cmo_call *call);

/* What `call` divides the reduction of `n` operands by: n for a mean, 0 (nothing) otherwise. */
static inline uint64_t cmo_fold_divisor(const cmo_call *call, int n)
{
    return call->op == CMO_OP_MEAN ? (uint64_t)n : 0;
}

/* partial = in */
void cmo_fold_load(const cmo_fold *f, void *partial, const void *in, size_t count);
/* dst = a op b, all partial results; dst may be a or b. */
void cmo_fold_pair(const cmo_fold *f, void *dst, const void *a, const void *b, size_t count);
/* dst = partial op in; dst may be the partial result, or `in` where nothing is widened. */
void cmo_fold_in(const cmo_fold *f, void *dst, const void *partial, const void *in, size_t count);
/* out = partial / divisor, rounded to the call's dtype; divisor 0: as it is. May be the same
 * address where nothing is widened. */
void cmo_fold_store(const cmo_fold *f, void *out, const void *partial, size_t count, uint64_t divisor);
/* out = (partial op in) / divisor, rounded; out may be `in`, or the partial result where nothing is widened. */
void cmo_fold_last(const cmo_fold *f, void *out, const void *partial, const void *in, size_t count, uint64_t divisor);

/* Whole elements of `size` bytes in a segment of about `bytes`, at least one; returned in bytes. */
static inline uint64_t cmo_segment(int64_t bytes, size_t size)
{
    uint64_t whole = (uint64_t)bytes / size * size;
    return whole ? whole : size;
}

/* How much of a message of `total` bytes, `done` of which have arrived, is to be worked on now:
 * whole segments, or all of it. */
static inline uint64_t cmo_whole_segments(uint64_t done, uint64_t total, uint64_t segment)
{
    return done < total ? done - done % segment : total;
}

#endif
