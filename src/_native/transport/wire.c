#include "transport/wire.h"

void cmo_header_write(uint8_t out[CMO_HEADER_BYTES], const cmo_header *h)
{
    out[0] = h->kind;
    out[1] = h->space;
    out[2] = h->dtype;
    out[3] = h->ndim;
    cmo_wire_put(out + 4, h->generation, 4);
    cmo_wire_put(out + 8, h->comm, 8);
    cmo_wire_put(out + 16, h->seq, 8);
    cmo_wire_put(out + 24, (uint64_t)h->tag, 8);
    cmo_wire_put(out + 32, h->length, 8);
    cmo_wire_put(out + 40, h->id, 8);
    cmo_wire_put(out + 48, h->aux, 8);
    cmo_wire_put(out + 56, h->fingerprint, 8);
}

cmo_err cmo_header_parse(cmo_header *h, const uint8_t in[CMO_HEADER_BYTES])
{
    h->kind = in[0];
    h->space = in[1];
    h->dtype = in[2];
    h->ndim = in[3];
    h->generation = (uint32_t)cmo_wire_get(in + 4, 4);
    h->comm = cmo_wire_get(in + 8, 8);
    h->seq = cmo_wire_get(in + 16, 8);
    h->tag = (int64_t)cmo_wire_get(in + 24, 8);
    h->length = cmo_wire_get(in + 32, 8);
    h->id = cmo_wire_get(in + 40, 8);
    h->aux = cmo_wire_get(in + 48, 8);
    h->fingerprint = cmo_wire_get(in + 56, 8);
    if (h->kind < CMO_EAGER || h->kind >= CMO_NFRAMES)
        return cmo_fail(CMO_EPROTO, "a frame of unknown kind %u", h->kind);
    if (h->space >= CMO_NSPACES) return cmo_fail(CMO_EPROTO, "a frame of unknown space %u", h->space);
    if (h->length > (uint64_t)INT64_MAX || h->aux > (uint64_t)INT64_MAX)
        return cmo_fail(CMO_EPROTO, "a frame of impossible size");
    int announces = h->kind == CMO_EAGER || h->kind == CMO_RTS;
    if (h->ndim > (announces ? CMO_MAX_DIMS : 0)) return cmo_fail(CMO_EPROTO, "a frame with %u dimensions", h->ndim);
    if (h->kind == CMO_FAIL && h->length > CMO_MAX_FAIL_BYTES)
        return cmo_fail(CMO_EPROTO, "an error text of %llu bytes", (unsigned long long)h->length);
    if (h->kind == CMO_AGREE && h->length > CMO_MAX_AGREE_BYTES)
        return cmo_fail(CMO_EPROTO, "an agreement in %llu bytes", (unsigned long long)h->length);
    if (h->kind == CMO_DOING && h->length != CMO_DOING_BYTES)
        return cmo_fail(CMO_EPROTO, "what a rank does in %llu bytes", (unsigned long long)h->length);
    int bare = h->kind == CMO_CTS || h->kind == CMO_CREDIT || h->kind == CMO_BYE || h->kind == CMO_ASK;
    if (bare && h->length) return cmo_fail(CMO_EPROTO, "a frame of kind %u with a payload", h->kind);
    return CMO_OK;
}

void cmo_shape_write(uint8_t *out, const uint64_t *shape, int ndim)
{
    for (int i = 0; i < ndim; i++) cmo_wire_put(out + 8 * i, shape[i], 8);
}

cmo_err cmo_shape_parse(uint64_t *out, const uint8_t *in, int ndim, uint64_t itemsize, uint64_t length)
{
    uint64_t bytes = itemsize;
    int empty = 0;
    for (int i = 0; i < ndim; i++) {
        out[i] = cmo_wire_get(in + 8 * i, 8);
        if (out[i] == 0) empty = 1;
        else if (__builtin_mul_overflow(bytes, out[i], &bytes)) return cmo_fail(CMO_EPROTO, "a shape that overflows");
    }
    if (empty) bytes = 0;
    if (bytes != length)
        return cmo_fail(CMO_EPROTO, "a shape that does not fit its %llu bytes", (unsigned long long)length);
    return CMO_OK;
}
