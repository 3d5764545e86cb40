#include "comm/told.h"

#include "comm/call.h"
#include "transport/wire.h"

#include <string.h>

enum { PAST_AT = 16, PAST_BYTES = 32 };

static void past_write(uint8_t *out, const cmo_past *past)
{
    cmo_wire_put(out, past->seq, 8);
    cmo_wire_put(out + 8, past->fingerprint, 8);
    cmo_wire_put(out + 16, past->count, 8);
    cmo_wire_put(out + 24, (uint64_t)past->root, 4);
    out[28] = past->kind;
    out[29] = past->op;
    out[30] = past->dtype;
    out[31] = 0;
}

void cmo_told_write(uint8_t out[CMO_TOLD_BYTES], const cmo_told *told)
{
    cmo_wire_put(out, told->seq, 8);
    cmo_wire_put(out + 8, told->in_call, 8);
    for (int k = 0; k < CMO_PAST; k++) past_write(out + PAST_AT + k * PAST_BYTES, &told->past[k]);
}

static cmo_err past_parse(cmo_past *past, const uint8_t *in)
{
    uint64_t root = cmo_wire_get(in + 24, 4);
    *past = (cmo_past){.seq = cmo_wire_get(in, 8), .fingerprint = cmo_wire_get(in + 8, 8),
                       .count = cmo_wire_get(in + 16, 8), .root = (int)root,
                       .kind = in[28], .op = in[29], .dtype = in[30]};
    if (past->kind >= CMO_NKINDS || past->op >= CMO_NOPS || past->dtype >= CMO_NDTYPES || root > INT32_MAX || in[31])
        return cmo_fail(CMO_EPROTO, "a peer tells of a call that nobody can make");
    return CMO_OK;
}

cmo_err cmo_told_parse(cmo_told *told, const uint8_t *in, size_t bytes)
{
    memset(told, 0, sizeof *told);
    if (bytes != CMO_TOLD_BYTES) return cmo_fail(CMO_EPROTO, "a peer tells where it stands in %zu bytes", bytes);
    uint64_t in_call = cmo_wire_get(in + 8, 8);
    told->heard = true;
    told->in_call = in_call;
    told->seq = cmo_wire_get(in, 8);
    if (in_call > 1) return cmo_fail(CMO_EPROTO, "a peer is neither in a call nor in none");
    for (int k = 0; k < CMO_PAST; k++) {
        cmo_past *past = &told->past[k];
        CMO_TRY(past_parse(past, in + PAST_AT + k * PAST_BYTES));
        if (!past->seq) continue;
        if (past->seq % CMO_PAST != (uint64_t)k || past->seq > told->seq || told->seq - past->seq >= CMO_PAST)
            return cmo_fail(CMO_EPROTO, "a peer tells of its calls in a wrong order");
    }
    return CMO_OK;
}
