#include "comm/told.h"

#include "comm/call.h"
#include "transport/wire.h"

#include <string.h>

enum { RECENT_AT = 16, RECENT_BYTES = 64 };
enum { MOST_OPS = (int)CMO_NMEANINGS > (int)CMO_NOPS ? (int)CMO_NMEANINGS : (int)CMO_NOPS };

static void recent_write(uint8_t *out, const cmo_recent_call *recent)
{
    cmo_wire_put(out, recent->seq, 8);
    cmo_wire_put(out + 8, recent->fingerprint, 8);
    cmo_wire_put(out + 16, recent->count, 8);
    cmo_wire_put(out + 24, (uint64_t)recent->root, 4);
    out[28] = recent->kind;
    out[29] = recent->op;
    out[30] = recent->dtype;
    out[31] = recent->ndim;
    for (int i = 0; i < CMO_RECENT_DIMS; i++)
        cmo_wire_put(out + 32 + 8 * i, cmo_told_dims(recent->ndim) ? recent->shape[i] : 0, 8);
}

void cmo_told_write(uint8_t out[CMO_TOLD_BYTES], const cmo_told *told)
{
    cmo_wire_put(out, told->seq, 8);
    cmo_wire_put(out + 8, told->in_call, 8);
    for (int k = 0; k < CMO_RECENT; k++) recent_write(out + RECENT_AT + k * RECENT_BYTES, &told->recent[k]);
}

static cmo_err recent_parse(cmo_recent_call *recent, const uint8_t *in)
{
    uint64_t root = cmo_wire_get(in + 24, 4);
    *recent = (cmo_recent_call){.seq = cmo_wire_get(in, 8), .fingerprint = cmo_wire_get(in + 8, 8),
                       .count = cmo_wire_get(in + 16, 8), .root = (int)root,
                       .kind = in[28], .op = in[29], .dtype = in[30], .ndim = in[31]};
    for (int i = 0; i < CMO_RECENT_DIMS; i++) recent->shape[i] = cmo_wire_get(in + 32 + 8 * i, 8);
    bool untold = false; /* a shape where none is told */
    for (int i = 0; i < CMO_RECENT_DIMS; i++) untold |= !cmo_told_dims(recent->ndim) && recent->shape[i];
    if (recent->kind >= CMO_NKINDS || recent->op >= MOST_OPS || recent->dtype >= CMO_NDTYPES || root > INT32_MAX ||
        (recent->ndim > CMO_MAX_DIMS && recent->ndim != CMO_UNTOLD) || untold)
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
    for (int k = 0; k < CMO_RECENT; k++) {
        cmo_recent_call *recent = &told->recent[k];
        CMO_TRY(recent_parse(recent, in + RECENT_AT + k * RECENT_BYTES));
        if (!recent->seq) continue;
        if (recent->seq % CMO_RECENT != (uint64_t)k || recent->seq > told->seq ||
            told->seq - recent->seq >= CMO_RECENT)
            return cmo_fail(CMO_EPROTO, "a peer tells of its calls in a wrong order");
    }
    return CMO_OK;
}

void cmo_told_look(cmo_told *out, const cmo_piece *piece)
{
    *out = (cmo_told){.heard = true};
    for (int k = 0; k < CMO_ANNOUNCEMENTS; k++) {
        const cmo_announcement *a = &piece->announcement[k];
        const cmo_record *r = &piece->record[k];
        uint64_t seq = atomic_load_explicit(&a->seq, memory_order_acquire);
        if (seq > out->seq) out->seq = seq;
        out->recent[k] = (cmo_recent_call){.seq = seq, .fingerprint = a->fingerprint, .count = r->count,
                                           .root = r->root, .kind = r->kind, .op = r->op, .dtype = r->dtype,
                                           .ndim = r->flags & CMO_RECORD_SHAPE ? r->ndim : CMO_UNTOLD};
        for (int i = 0; cmo_told_dims(out->recent[k].ndim) && i < CMO_RECENT_DIMS && i < r->ndim; i++)
            out->recent[k].shape[i] = r->shape[i];
    }
    out->in_call = out->seq > atomic_load_explicit(&piece->finished, memory_order_acquire);
}
_Static_assert((int)CMO_RECENT == (int)CMO_ANNOUNCEMENTS, "announcements and recent calls have the same places");
