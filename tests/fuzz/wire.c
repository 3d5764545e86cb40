/* Frames as bytes: any header, any shape, any account of a failure. What is accepted says one thing only: written again
 * it is the same bytes. */
#include "fuzz.h"

#include "comm/internal.h"

typedef unsigned __int128 wide;

/* shape × itemsize; what 64 bits do not hold is not exact, only too large for them. */
static wide product(const uint64_t *shape, int ndim, uint64_t itemsize)
{
    wide bytes = itemsize;
    for (int i = 0; i < ndim; i++)
        if (!shape[i]) return 0;
    for (int i = 0; i < ndim && bytes <= UINT64_MAX; i++) bytes *= shape[i];
    return bytes;
}

static void shape_of(const cmo_header *h, fuzz_input *in)
{
    uint64_t shape[CMO_MAX_DIMS];
    uint8_t again[8 * CMO_MAX_DIMS];
    const size_t bytes = 8 * (size_t)h->ndim;
    if (h->dtype >= CMO_NDTYPES || in->left < bytes) return;
    size_t got;
    uint8_t *exact = fuzz_exact(fuzz_take(in, bytes, &got), bytes);
    const uint64_t itemsize = cmo_dtype_size(h->dtype);
    const cmo_err err = cmo_shape_parse(shape, exact, h->ndim, itemsize, h->length);
    FUZZ_CHECK(err == CMO_OK || err == CMO_EPROTO);
    if (err == CMO_OK) {
        FUZZ_CHECK(product(shape, h->ndim, itemsize) == h->length);
        cmo_shape_write(again, shape, h->ndim);
        FUZZ_CHECK(!memcmp(again, exact, bytes));
    }
    free(exact);
}

static void check_told(const cmo_told *told, const uint8_t *bytes)
{
    uint8_t again[CMO_TOLD_BYTES];
    cmo_told_write(again, told);
    FUZZ_CHECK(!memcmp(again, bytes, sizeof again));
    for (int k = 0; k < CMO_RECENT; k++)
        FUZZ_CHECK(told->recent[k].kind < CMO_NKINDS && told->recent[k].op < CMO_NMEANINGS &&
                   told->recent[k].dtype < CMO_NDTYPES && told->recent[k].root >= 0);
}

static void failure_of(const cmo_header *h, fuzz_input *in)
{
    cmo_told told;
    size_t got;
    const uint8_t *bytes = fuzz_take(in, (size_t)h->length, &got);
    if (got < h->length) return;
    uint8_t *exact = fuzz_exact(bytes, got);
    const cmo_err err = cmo_failure_parse(h, exact, &told);
    FUZZ_CHECK(err == CMO_OK || err == CMO_EPROTO);
    if (err == CMO_OK) check_told(&told, exact);
    free(exact);
}

/* Where a rank stands, of any length. */
static void told_of(fuzz_input *in)
{
    cmo_told told;
    size_t got;
    uint8_t *exact = fuzz_exact(in->at, in->left);
    fuzz_take(in, in->left, &got);
    const cmo_err err = cmo_told_parse(&told, exact, got);
    FUZZ_CHECK(err == CMO_OK || err == CMO_EPROTO);
    FUZZ_CHECK(err != CMO_OK || got == CMO_TOLD_BYTES);
    if (err == CMO_OK) check_told(&told, exact);
    free(exact);
}

/* A stream of frames, each with all that belongs to it, as far as they are frames; or an account alone. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = {data, size};
    if (fuzz_byte(&in) & 1) {
        told_of(&in);
        return 0;
    }
    while (in.left >= CMO_HEADER_BYTES) {
        cmo_header h;
        uint8_t again[CMO_HEADER_BYTES];
        size_t got;
        uint8_t *exact = fuzz_exact(fuzz_take(&in, CMO_HEADER_BYTES, &got), CMO_HEADER_BYTES);
        const cmo_err err = cmo_header_parse(&h, exact);
        FUZZ_CHECK(err == CMO_OK || err == CMO_EPROTO);
        if (err == CMO_OK) {
            cmo_header_write(again, &h);
            FUZZ_CHECK(!memcmp(again, exact, sizeof again));
            FUZZ_CHECK(h.length <= (uint64_t)INT64_MAX && h.aux <= (uint64_t)INT64_MAX && h.ndim <= CMO_MAX_DIMS);
        }
        free(exact);
        if (err != CMO_OK) return 0;
        shape_of(&h, &in);
        if (h.kind == CMO_FAIL) failure_of(&h, &in);
    }
    return 0;
}
