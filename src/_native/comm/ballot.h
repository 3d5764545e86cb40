/* What ranks say to each other while they come to an agreement (agree.c): layout, parsing, and the rule which part of
 * the ranks may decide. Pure functions, fuzzed.
 *
 * The payload of AGREE frames (transport/wire.h), little-endian; a set is a bit for each rank, in whole 8 bytes:
 *
 *     what     | payload
 *     CALL     | set of ranks whose votes the sender, who coordinates, still lacks
 *     VOTE     | kind 1 | error 1 | zero 6 | flag 8 | offset 8 | accepted 8 | set of ranks known to have ended
 *              | | set of others that the sender does not reach; and, unless `accepted` is 0, the proposal that it has
 *              | accepted in the ballot of that number
 *     PROPOSE  | kind 1 | error 1 | zero 6 | flag 8 | set of members | offset 8 of each rank
 *     ACCEPT   | none
 *     DECIDE   | as PROPOSE
 *     REFUSE   | none: the sender is on a side that may not decide
 *     ASK      | none: is the receiver, who has asked for this agreement, still in it?
 *     STAND    | none: the answer, in the header (transport/wire.h)
 *
 * The header's `tag` says what it is, `seq` which agreement of the communicator, `aux` which ballot. */
#ifndef CMO_BALLOT_H
#define CMO_BALLOT_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CMO_AGREE_CALL, CMO_AGREE_VOTE, CMO_AGREE_PROPOSE, CMO_AGREE_ACCEPT, CMO_AGREE_DECIDE, CMO_AGREE_REFUSE,
       CMO_AGREE_ASK, CMO_AGREE_STAND, CMO_AGREE_WHATS };

/* What is agreed on: the AND of everyone's flags, or who goes on. */
typedef enum { CMO_AGREE_FLAG, CMO_AGREE_SHRINK, CMO_AGREE_KINDS } cmo_agree_kind;

typedef struct cmo_proposal {
    uint8_t kind;     /* cmo_agree_kind */
    uint8_t error;    /* cmo_err: why nothing comes of it for anyone */
    uint64_t flag;
    uint8_t *member;  /* [size] 1: takes part, goes on */
    uint64_t *offset; /* [size] of the piece that each has reserved for the communicator of those who go on */
} cmo_proposal;

typedef struct cmo_vote {
    uint8_t kind, error;
    uint64_t flag, offset; /* the sender's own */
    uint64_t accepted;     /* ballot; 0: none */
    uint8_t *ended;        /* [size] 1: known to have ended */
    uint8_t *unreached;    /* [size] 1: the sender has no way to it, and it may live */
    cmo_proposal proposal; /* if accepted */
} cmo_vote;

size_t cmo_proposal_bytes(int size);
size_t cmo_vote_bytes(int size, bool accepted);

size_t cmo_set_bytes(int size);

void cmo_set_write(uint8_t *out, const uint8_t *set, int size);         /* cmo_set_bytes; set: [size] 0 or 1 */
void cmo_proposal_write(uint8_t *out, const cmo_proposal *p, int size); /* cmo_proposal_bytes */
void cmo_vote_write(uint8_t *out, const cmo_vote *v, int size);         /* cmo_vote_bytes */

/* Into arrays that the caller has allocated. CMO_EPROTO, with the reason, for what no rank writes. */
cmo_err cmo_set_parse(uint8_t *out, const uint8_t *in, size_t bytes, int size);
cmo_err cmo_proposal_parse(cmo_proposal *out, const uint8_t *in, size_t bytes, int size);
cmo_err cmo_vote_parse(cmo_vote *out, const uint8_t *in, size_t bytes, int size);

/* May those who are alive, as one of them sees it, decide for all?
 *
 * Whoever is neither alive nor known to have ended may live on the other side of a partition. Let N ranks be, a be
 * alive on one side with E known to have ended, and b, F on the other; E and F are true, so at least a + b ranks of N
 * have not ended. Those may decide who are more than half of N - E; or half of it, if the lowest of the N - E is
 * among them. Both sides cannot be: 2a > N - E ≥ a + b and 2b > N - F ≥ a + b exclude each other. 2a = N - E and
 * 2b ≥ N - F together mean a = b and N - E = N - F = a + b, so E = F, and the lowest is on one side. */
bool cmo_may_decide(int size, const uint8_t *alive, const uint8_t *ended);

#endif
