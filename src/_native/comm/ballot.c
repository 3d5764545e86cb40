#include "comm/ballot.h"

#include "transport/wire.h"

#include <string.h>

enum { PROPOSAL_HEAD = 16, VOTE_HEAD = 32 };

size_t cmo_set_bytes(int size) { return ((size_t)size + 63) / 64 * 8; }

size_t cmo_proposal_bytes(int size) { return PROPOSAL_HEAD + cmo_set_bytes(size) + 8 * (size_t)size; }

size_t cmo_vote_bytes(int size, bool accepted)
{
    return VOTE_HEAD + 2 * cmo_set_bytes(size) + (accepted ? cmo_proposal_bytes(size) : 0);
}

void cmo_set_write(uint8_t *out, const uint8_t *set, int size)
{
    memset(out, 0, cmo_set_bytes(size));
    for (int r = 0; r < size; r++)
        if (set[r]) out[r / 8] |= (uint8_t)(1 << r % 8);
}

cmo_err cmo_set_parse(uint8_t *set, const uint8_t *in, size_t bytes, int size)
{
    if (bytes != cmo_set_bytes(size)) return cmo_fail(CMO_EPROTO, "a set of %zu bytes of %d ranks", bytes, size);
    for (int r = 0; r < size; r++) set[r] = in[r / 8] >> r % 8 & 1;
    for (size_t r = (size_t)size; r < 8 * cmo_set_bytes(size); r++)
        if (in[r / 8] >> r % 8 & 1) return cmo_fail(CMO_EPROTO, "a set of ranks with a rank that does not exist");
    return CMO_OK;
}

static void head_write(uint8_t *out, uint8_t kind, uint8_t error, uint64_t flag)
{
    memset(out, 0, 8);
    out[0] = kind;
    out[1] = error;
    cmo_wire_put(out + 8, flag, 8);
}

static cmo_err head_parse(const uint8_t *in, uint8_t *kind, uint8_t *error, uint64_t *flag)
{
    *kind = in[0];
    *error = in[1];
    *flag = cmo_wire_get(in + 8, 8);
    if (*kind >= CMO_AGREE_KINDS || *error >= CMO_NERRORS || cmo_wire_get(in + 2, 6))
        return cmo_fail(CMO_EPROTO, "a peer would agree on what nobody can ask for");
    return CMO_OK;
}

void cmo_proposal_write(uint8_t *out, const cmo_proposal *p, int size)
{
    head_write(out, p->kind, p->error, p->flag);
    cmo_set_write(out + PROPOSAL_HEAD, p->member, size);
    out += PROPOSAL_HEAD + cmo_set_bytes(size);
    for (int r = 0; r < size; r++) cmo_wire_put(out + 8 * (size_t)r, p->offset[r], 8);
}

cmo_err cmo_proposal_parse(cmo_proposal *p, const uint8_t *in, size_t bytes, int size)
{
    if (bytes != cmo_proposal_bytes(size))
        return cmo_fail(CMO_EPROTO, "a proposal of %zu bytes for %d ranks", bytes, size);
    CMO_TRY(head_parse(in, &p->kind, &p->error, &p->flag));
    CMO_TRY(cmo_set_parse(p->member, in + PROPOSAL_HEAD, cmo_set_bytes(size), size));
    in += PROPOSAL_HEAD + cmo_set_bytes(size);
    for (int r = 0; r < size; r++) p->offset[r] = cmo_wire_get(in + 8 * (size_t)r, 8);
    return CMO_OK;
}

void cmo_vote_write(uint8_t *out, const cmo_vote *v, int size)
{
    head_write(out, v->kind, v->error, v->flag);
    cmo_wire_put(out + 16, v->offset, 8);
    cmo_wire_put(out + 24, v->accepted, 8);
    const size_t set = cmo_set_bytes(size);
    cmo_set_write(out + VOTE_HEAD, v->ended, size);
    cmo_set_write(out + VOTE_HEAD + set, v->unreached, size);
    if (v->accepted) cmo_proposal_write(out + VOTE_HEAD + 2 * set, &v->proposal, size);
}

cmo_err cmo_vote_parse(cmo_vote *v, const uint8_t *in, size_t bytes, int size)
{
    if (bytes != cmo_vote_bytes(size, false) && bytes != cmo_vote_bytes(size, true))
        return cmo_fail(CMO_EPROTO, "a vote of %zu bytes among %d ranks", bytes, size);
    CMO_TRY(head_parse(in, &v->kind, &v->error, &v->flag));
    v->offset = cmo_wire_get(in + 16, 8);
    v->accepted = cmo_wire_get(in + 24, 8);
    if (bytes != cmo_vote_bytes(size, v->accepted))
        return cmo_fail(CMO_EPROTO, "a vote that lacks what its sender has accepted, or has too much");
    const size_t set = cmo_set_bytes(size), at = VOTE_HEAD + 2 * set;
    CMO_TRY(cmo_set_parse(v->ended, in + VOTE_HEAD, set, size));
    CMO_TRY(cmo_set_parse(v->unreached, in + VOTE_HEAD + set, set, size));
    return v->accepted ? cmo_proposal_parse(&v->proposal, in + at, bytes - at, size) : CMO_OK;
}

bool cmo_may_decide(int size, const uint8_t *alive, const uint8_t *ended)
{
    int living = 0, possible = 0, lowest = -1;
    for (int r = 0; r < size; r++) {
        if (!alive[r] && ended[r]) continue;
        if (lowest < 0) lowest = r;
        possible++;
        living += alive[r];
    }
    return 2 * living > possible || (2 * living == possible && lowest >= 0 && alive[lowest]);
}
