/* Frames: what is written is parsed back, and nothing that a peer may send is believed. */
#include "transport/wire.h"

#include "check.h"

#include <stdlib.h>
#include <string.h>

static uint64_t draw(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void test_header_round_trip(void)
{
    cmo_header h = {.kind = CMO_EAGER, .space = CMO_COLLECTIVE, .dtype = 7, .ndim = 3, .comm = 0xfedcba98,
                    .seq = UINT64_MAX, .tag = -5, .length = 1 << 20, .id = 42, .aux = 7,
                    .fingerprint = UINT64_C(0x0123456789abcdef), .generation = 3};
    uint8_t bytes[CMO_HEADER_BYTES], again[CMO_HEADER_BYTES];
    cmo_header_write(bytes, &h);
    cmo_header got = {0};
    CHECK(cmo_header_parse(&got, bytes) == CMO_OK);
    cmo_header_write(again, &got);
    CHECK(!memcmp(bytes, again, sizeof bytes));
    CHECK(got.tag == -5 && got.seq == UINT64_MAX && got.comm == h.comm && got.fingerprint == h.fingerprint);
    CHECK(got.length == h.length && got.id == 42 && got.aux == 7 && got.generation == 3);
}

static void test_header_is_little_endian_at_fixed_places(void)
{
    uint8_t bytes[CMO_HEADER_BYTES];
    cmo_header_write(bytes, &(cmo_header){.kind = CMO_DATA, .comm = 0x04030201, .length = 0x0807060504030201});
    static const uint8_t comm[] = {1, 2, 3, 4}, length[] = {1, 2, 3, 4, 5, 6, 7, 8};
    CHECK(bytes[0] == CMO_DATA && !memcmp(bytes + 8, comm, 4) && !memcmp(bytes + 32, length, 8));
}

/* A valid header of this kind, changed by the caller, must be refused. */
static cmo_err parse_changed(cmo_frame_kind kind, void (*change)(cmo_header *))
{
    cmo_header h = {.kind = (uint8_t)kind, .length = kind == CMO_DOING ? CMO_DOING_BYTES : 0}, got;
    uint8_t bytes[CMO_HEADER_BYTES];
    cmo_header_write(bytes, &h);
    CHECK(cmo_header_parse(&got, bytes) == CMO_OK);
    change(&h);
    cmo_header_write(bytes, &h);
    return cmo_header_parse(&got, bytes);
}

static void no_kind(cmo_header *h) { h->kind = 0; }
static void large_kind(cmo_header *h) { h->kind = CMO_NFRAMES; }
static void large_space(cmo_header *h) { h->space = CMO_NSPACES; }
static void negative_length(cmo_header *h) { h->length = UINT64_MAX; }
static void negative_offset(cmo_header *h) { h->aux = (uint64_t)INT64_MAX + 1; }
static void too_many_dims(cmo_header *h) { h->ndim = CMO_MAX_DIMS + 1; }
static void one_dim(cmo_header *h) { h->ndim = 1; }
static void payload(cmo_header *h) { h->length++; }
static void long_agreement(cmo_header *h) { h->length = CMO_MAX_AGREE_BYTES + 1; }
static void long_text(cmo_header *h) { h->length = CMO_MAX_FAIL_BYTES + 1; }

static void test_impossible_headers_are_refused(void)
{
    for (cmo_frame_kind kind = CMO_EAGER; kind < CMO_NFRAMES; kind++) {
        CHECK(parse_changed(kind, no_kind) == CMO_EPROTO);
        CHECK(parse_changed(kind, large_kind) == CMO_EPROTO);
        CHECK(parse_changed(kind, large_space) == CMO_EPROTO);
        CHECK(parse_changed(kind, negative_length) == CMO_EPROTO);
        CHECK(parse_changed(kind, negative_offset) == CMO_EPROTO);
        CHECK(parse_changed(kind, too_many_dims) == CMO_EPROTO);
        int announces = kind == CMO_EAGER || kind == CMO_RTS;
        CHECK(parse_changed(kind, one_dim) == (announces ? CMO_OK : CMO_EPROTO));
        int carries = announces || kind == CMO_DATA || kind == CMO_FAIL || kind == CMO_AGREE;
        CHECK(parse_changed(kind, payload) == (carries ? CMO_OK : CMO_EPROTO));
    }
    CHECK(parse_changed(CMO_FAIL, long_text) == CMO_EPROTO);
    CHECK(parse_changed(CMO_AGREE, long_agreement) == CMO_EPROTO);
}

static cmo_err parse_shape(const uint64_t *shape, int ndim, uint64_t itemsize, uint64_t length)
{
    uint8_t bytes[8 * CMO_MAX_DIMS];
    uint64_t got[CMO_MAX_DIMS];
    cmo_shape_write(bytes, shape, ndim);
    cmo_err err = cmo_shape_parse(got, bytes, ndim, itemsize, length);
    if (!err && ndim) CHECK(!memcmp(shape, got, 8 * (size_t)ndim));
    return err;
}

static void test_shapes_must_fit_their_bytes(void)
{
    CHECK(parse_shape(NULL, 0, 8, 8) == CMO_OK); /* 0-d: one element */
    CHECK(parse_shape(NULL, 0, 8, 0) == CMO_EPROTO);
    CHECK(parse_shape((uint64_t[]){2, 3}, 2, 4, 24) == CMO_OK);
    CHECK(parse_shape((uint64_t[]){2, 3}, 2, 4, 23) == CMO_EPROTO);
    CHECK(parse_shape((uint64_t[]){2, 0, 5}, 3, 4, 0) == CMO_OK);
    CHECK(parse_shape((uint64_t[]){2, 0, 5}, 3, 4, 40) == CMO_EPROTO);
    CHECK(parse_shape((uint64_t[]){UINT64_C(1) << 32, UINT64_C(1) << 32}, 2, 1, 0) == CMO_EPROTO);
    CHECK(parse_shape((uint64_t[]){UINT64_C(1) << 62}, 1, 16, 0) == CMO_EPROTO);
    CHECK(parse_shape((uint64_t[]){UINT64_C(1) << 40, 1 << 10}, 2, 2, UINT64_C(1) << 51) == CMO_OK);
}

/* Whatever is parsed can be written again to the same bytes; nothing is read beyond
 * them (AddressSanitizer looks on). */
static void test_random_bytes(void)
{
    uint64_t state = UINT64_C(0x2545f4914f6cdd1d);
    unsigned long accepted = 0;
    uint8_t *bytes = malloc(CMO_HEADER_BYTES), again[CMO_HEADER_BYTES];
    for (int n = 0; n < 200000; n++) {
        for (int i = 0; i < CMO_HEADER_BYTES; i += 8) {
            uint64_t word = draw(&state);
            memcpy(bytes + i, &word, 8);
        }
        for (int i = 0; i < 4; i++) /* kind, space, dtype, ndim: mostly small, so that some pass */
            if (bytes[i] & 1) bytes[i] = (bytes[i] >> 1) % 9;
        if (n & 1) bytes[39] = bytes[55] = 0;
        if (n & 2) memset(bytes + 32, 0, 8);
        cmo_header h;
        cmo_err err = cmo_header_parse(&h, bytes);
        CHECK(err == CMO_OK || err == CMO_EPROTO);
        if (err) continue;
        accepted++;
        cmo_header_write(again, &h);
        CHECK(!memcmp(bytes, again, CMO_HEADER_BYTES));
    }
    CHECK(accepted > 1000);
    free(bytes);
}

int main(void)
{
    test_header_round_trip();
    test_header_is_little_endian_at_fixed_places();
    test_impossible_headers_are_refused();
    test_shapes_must_fit_their_bytes();
    test_random_bytes();
    return check_report();
}
