/* What a rank asks of a communicator: one collective call, before anything has moved. */
#ifndef CMO_CALL_H
#define CMO_CALL_H

#include "base/error.h"
#include "reduce/reduce.h"

#include <stdbool.h>
#include <stdint.h>

/* X(enumerator, name) */
#define CMO_KINDS(X)                     \
    X(BARRIER, "barrier")                \
    X(BROADCAST, "broadcast")            \
    X(ALLREDUCE, "allreduce")            \
    X(REDUCE, "reduce")                  \
    X(REDUCE_SCATTER, "reduce_scatter")  \
    X(SCAN, "scan")                      \
    X(EXSCAN, "exscan")                  \
    X(SCATTER, "scatter")                \
    X(GATHER, "gather")                  \
    X(ALLGATHER, "allgather")            \
    X(ALLTOALL, "alltoall")

typedef enum {
#define CMO_X(e, name) CMO_##e,
    CMO_KINDS(CMO_X)
#undef CMO_X
    CMO_NKINDS
} cmo_kind;

const char *cmo_kind_name(cmo_kind kind);

/* A shape as NumPy writes it: "(2, 3)". Of more than `known` dimensions only these: "(2, 3, …)". */
void cmo_shape_text(char *out, size_t n, int ndim, const uint64_t *shape, int known);

/* What the arrays of a call that only moves them stand for; it is in the fingerprint, in place of the operation. The
 * name is of the call that its user has made; empty: the kind's. X(enumerator, name) */
#define CMO_MEANINGS(X)                                      \
    X(ARRAYS, "")                                            \
    X(OBJECTS, "")                                           \
    X(BY_ALLREDUCE, "allreduce by a function")               \
    X(BY_REDUCE, "reduce by a function")                     \
    X(BY_REDUCE_SCATTER, "reduce_scatter by a function")     \
    X(BY_SCAN, "scan by a function")                         \
    X(BY_EXSCAN, "exscan by a function")                     \
    X(OBJECTS_ALLREDUCE, "allreduce of objects")             \
    X(OBJECTS_REDUCE, "reduce of objects")                   \
    X(SPLIT, "split")                                        \
    X(DUP, "dup")                                            \
    X(EMPTY, "empty")

typedef enum {
#define CMO_X(e, name) CMO_##e,
    CMO_MEANINGS(CMO_X)
#undef CMO_X
    CMO_NMEANINGS
} cmo_meaning;

const char *cmo_meaning_name(unsigned meaning);

/* What an incoming array looks like. Borrowed for the time of the call that passes it. */
typedef struct cmo_layout {
    cmo_dtype dtype;
    int ndim;
    const uint64_t *shape;  /* [ndim] */
    const uint64_t *counts; /* after an exchange of counts: elements from each rank, [size]; else NULL */
    int ncounts;
    uint32_t extra;         /* point to point: the sender's own word; travels in the header's `fingerprint` */
    int source;             /* point to point: rank of the sender */
    int64_t tag;            /* point to point: tag of the message */
} cmo_layout;

/* Give the address that receives an array with this layout, or refuse it with an error other than CMO_AGAIN. May be
 * called by another thread than the one that made the call; never blocks on another rank. */
typedef cmo_err (*cmo_allocate)(void *ctx, const cmo_layout *layout, void **address);

/*   kind            in                         out                           count, in elements
 *   BROADCAST       root: the array            all: the array (root: = in)   of the array (elsewhere with allocate: 0)
 *   ALLREDUCE       the array                  the result, may be `in`       of the array
 *   REDUCE          the array                  root: the result, may be `in` of the array
 *   REDUCE_SCATTER  size blocks                this rank's block             of one block, or counts[]
 *   SCAN, EXSCAN    the array                  the result, may be `in`       of the array; rank 0's out of an EXSCAN is
 *                                                                            left untouched
 *   SCATTER         root: size blocks          this rank's block             of one block, or counts[] (only root's)
 *   GATHER          this rank's block          root: size blocks             of one block, or counts[]
 *   ALLGATHER       this rank's block          size blocks                   of one block, or counts[]
 *   ALLTOALL        size blocks, to each rank  size blocks, from each rank   of one block, or counts[], recv_counts[]
 * Blocks lie end to end in rank order. Apart from where `may be in` is said, in and out do not overlap. */
typedef struct cmo_call {
    cmo_kind kind;
    cmo_redop op;                /* where nothing is reduced: a cmo_meaning */
    cmo_dtype dtype;
    int root;
    const void *in;              /* borrowed until the call has ended, like all below */
    void *out;
    uint64_t count;
    const uint64_t *counts;      /* [size] elements of each rank's block; NULL: all blocks have `count`. SCATTER of an
                                    array whose rows have no elements: rows, which elements cannot tell */
    const uint64_t *recv_counts; /* ALLTOALL with counts: elements that come from each rank */
    bool exchange;               /* GATHER, ALLGATHER, ALLTOALL: what others send is not known here. The counts travel
                                    first, then `allocate` is asked for `out` (at root only for GATHER). `count` (or
                                    counts[] for ALLTOALL) is what this rank sends. */
    int ndim;                    /* shape of the array that this rank sends, or, where it only receives, of `out`. It is
                                    in the fingerprint, but for axis 0 where ranks have different rows by right. From
                                    the root of BROADCAST and SCATTER (there the whole array's, blocks being along axis
                                    0) the others learn it; it must be that of their `out`, if they tell that */
    const uint64_t *shape;       /* [ndim]; NULL: not told */
    uint64_t alike;              /* what else must be alike, as a number: it is in the fingerprint */
    cmo_allocate allocate;       /* with exchange; and BROADCAST, SCATTER elsewhere than at root: if given, asked for
                                    `out` when dtype and shape are known (for SCATTER, the shape of this rank's block).
                                    If not given, dtype and bytes must equal the root's */
    void *allocate_ctx;
} cmo_call;

#endif
