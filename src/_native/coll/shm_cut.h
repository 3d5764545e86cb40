/* Rounds with a part for every other member, for reduce_scatter and alltoall: one part for each destination. Where a
 * round is too small for that many cache lines, destinations take turns: `together` of them, the member itself counted,
 * are served in one round. */
#ifndef CMO_SHM_CUT_H
#define CMO_SHM_CUT_H

#include "coll/shm_rounds.h"

typedef struct cmo_shm_cut {
    int together;      /* destinations in a round */
    uint64_t elements; /* of one destination in a round */
    uint64_t stride;   /* bytes from part to part */
    uint64_t turns;    /* rounds that a destination needs */
} cmo_shm_cut;

/* As cmo_shm_begin, for blocks of up to `longest` elements. */
void cmo_shm_begin_cut(const cmo_op *op, cmo_shm *s, size_t itemsize, uint64_t longest);

/* longest: elements of the longest block that any member sends. Returns the number of rounds. */
uint64_t cmo_shm_cut_round(cmo_shm_cut *cut, const cmo_op *op, const cmo_shm *s, size_t itemsize, uint64_t longest);

/* Which destinations a round serves, [first, last), and from which element of their blocks on. */
typedef struct cmo_shm_turn {
    int first, last;
    uint64_t from;
} cmo_shm_turn;

static inline cmo_shm_turn cmo_shm_turn_of(const cmo_shm_cut *cut, int size, uint64_t round)
{
    int first = (int)(round / cut->turns) * cut->together, last = first + cut->together;
    return (cmo_shm_turn){first, last < size ? last : size, round % cut->turns * cut->elements};
}

/* Elements of a block of `count` that a round moves which starts at element `from`. */
static inline uint64_t cmo_shm_part_of(const cmo_shm_cut *cut, uint64_t count, uint64_t from)
{
    return from < count ? cmo_shm_min(cut->elements, count - from) : 0;
}

/* Where in the round of `owner` the part for `to` starts, in bytes: there is none for the owner. */
static inline uint64_t cmo_shm_part_start(const cmo_shm_cut *cut, cmo_shm_turn turn, int size, int owner, int to)
{
    bool skips = turn.last - turn.first == size && to > owner;
    return (uint64_t)(to - turn.first - skips) * cut->stride;
}

/* Copy what this rank has for every destination of the turn but itself into its round at `slot`. */
void cmo_shm_stage_parts(const cmo_op *op, unsigned char *slot, const cmo_shm_cut *cut, cmo_shm_turn turn);

#endif
