/* One collective on every rank of a simulated world: made-up inputs, the call, and the check of what came out.
 *
 * Inputs are such that every order of reduction gives the same exact result (small multiples of 1/8 in floating types,
 * and powers of two for products), so the expected result is one kernel over all ranks' inputs. A half type that were
 * rounded more than once would show. `inexact` draws real fractions instead, for tests of bit equality. */
#ifndef CMO_TESTS_COLL_CASE_H
#define CMO_TESTS_COLL_CASE_H

#include "sim_world.h"

/* Where the arrays are that the ranks pass. Those in windows stand at odd places, and are overwritten the moment the
 * rank's call has ended: whoever still reads one then gets wrong results. */
typedef enum { COLL_ORDINARY, COLL_MIXED, COLL_SHARED } coll_place;

typedef struct coll_case {
    cmo_kind kind;
    cmo_redop op;
    cmo_dtype dtype;
    int root;
    uint64_t count;
    bool in_place;
    bool unequal;  /* counts that differ between ranks, zeros among them */
    bool learns;   /* BROADCAST, SCATTER: the others learn dtype and shape; GATHER, ALLGATHER, ALLTOALL: counts are
                      exchanged */
    bool inexact;
    coll_place place;
} coll_case;

typedef struct coll_run coll_run;

/* A case of this kind for `size` ranks, drawn from the state of a generator. `most` is a bound of count. */
coll_case coll_draw(uint64_t *state, cmo_kind kind, int size, uint64_t most);
uint64_t coll_random(uint64_t *state, uint64_t bound);

/* Give every rank of the world this call. Freed after the world's destruction. */
coll_run *coll_add(world *w, const coll_case *c, int number, uint64_t seed);
void coll_free(coll_run *run);

/* After a run of the world: were all of them well, and right? Complains through CHECKF. */
bool coll_check(coll_run *run, world *w);
/* The same of those that ended well, whatever became of the others. */
bool coll_check_well(coll_run *run, world *w);

const void *coll_out(const coll_run *run, int rank, size_t *bytes); /* what a rank has received; borrowed */
void coll_describe(const coll_case *c, char *out, size_t n);

#endif
