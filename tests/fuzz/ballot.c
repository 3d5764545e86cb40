/* What ranks say to each other in an agreement, as bytes: sets, proposals and votes among any number of ranks. What is
 * accepted is written again as it was. */
#include "comm/ballot.h"

#include "fuzz.h"

enum { MOST_RANKS = 130 };

typedef struct room { /* for what is parsed, in arrays of exactly their size */
    uint8_t *member, *ended, *unreached;
    uint64_t *offset;
} room;

static bool is_set(const uint8_t *set, int size)
{
    for (int r = 0; r < size; r++)
        if (set[r] > 1) return false;
    return true;
}

/* Returns whether they were accepted; then `again` is what was read, written again. */
static bool read_again(int which, const uint8_t *in, size_t bytes, int size, const room *at, uint8_t *again)
{
    cmo_err err;
    cmo_vote v = {.ended = at->ended, .unreached = at->unreached,
                  .proposal = {.member = at->member, .offset = at->offset}};
    if (which == 0) {
        if ((err = cmo_set_parse(at->ended, in, bytes, size)) == CMO_OK) cmo_set_write(again, at->ended, size);
    } else if (which == 1) {
        if ((err = cmo_proposal_parse(&v.proposal, in, bytes, size)) == CMO_OK) {
            FUZZ_CHECK(is_set(at->member, size) && v.proposal.kind < CMO_AGREE_KINDS);
            cmo_proposal_write(again, &v.proposal, size);
        }
    } else if ((err = cmo_vote_parse(&v, in, bytes, size)) == CMO_OK) {
        FUZZ_CHECK(is_set(at->ended, size) && is_set(at->unreached, size) && v.kind < CMO_AGREE_KINDS);
        FUZZ_CHECK(bytes == cmo_vote_bytes(size, v.accepted));
        cmo_vote_write(again, &v, size);
    }
    FUZZ_CHECK(err == CMO_OK || err == CMO_EPROTO);
    return err == CMO_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = {data, size};
    const int which = fuzz_byte(&in) % 3, ranks = 1 + fuzz_byte(&in) % MOST_RANKS;
    const size_t n = (size_t)ranks, bytes = in.left;
    room at = {.member = malloc(n), .ended = malloc(n), .unreached = malloc(n)};
    at.offset = malloc(n * sizeof *at.offset);
    uint8_t *exact = fuzz_exact(in.at, bytes), *again = malloc(cmo_vote_bytes(ranks, true));
    FUZZ_CHECK(at.member && at.ended && at.unreached && at.offset && again);
    if (read_again(which, exact, bytes, ranks, &at, again)) FUZZ_CHECK(!memcmp(exact, again, bytes));
    free(at.member);
    free(at.ended);
    free(at.unreached);
    free(at.offset);
    free(exact);
    free(again);
    return 0;
}
