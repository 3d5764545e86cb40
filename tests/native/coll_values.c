#include "coll_values.h"

#include "coll_case.h"

#include <string.h>

static bool is_half(cmo_dtype d) { return d == CMO_F16 || d == CMO_BF16; }

/* How many floating components an element has; 0: it is no floating type. */
static int components(cmo_dtype d)
{
    switch (d) {
    case CMO_F16: case CMO_BF16: case CMO_F32: case CMO_F64: return 1;
    case CMO_C64: case CMO_C128: return 2;
    default: return 0;
    }
}

static bool is_double(cmo_dtype d) { return d == CMO_F64 || d == CMO_C128; }

static double draw_value(cmo_redop op, uint64_t *state, bool inexact)
{
    static const double factors[] = {1, -1, 1, 2, 0.5, 1, -1, 1};
    if (inexact) return 0.9 + 0.2 * (double)coll_random(state, 1 << 20) / (1 << 20);
    if (op == CMO_OP_PROD) return factors[coll_random(state, 8)];
    return ((double)coll_random(state, 257) - 128) / 8;
}

static void put_value(cmo_dtype d, unsigned char *out, double value)
{
    float f = (float)value;
    if (is_double(d)) memcpy(out, &value, sizeof value);
    else if (is_half(d)) cmo_float_to_half(d, out, &f, 1);
    else memcpy(out, &f, sizeof f);
}

static double get_value(cmo_dtype d, const unsigned char *in)
{
    double value;
    float f;
    if (is_double(d)) {
        memcpy(&value, in, sizeof value);
        return value;
    }
    if (is_half(d)) cmo_half_to_float(d, &f, in, 1);
    else memcpy(&f, in, sizeof f);
    return f;
}

void coll_fill(void *out, cmo_dtype dtype, cmo_redop op, uint64_t count, uint64_t *state, bool inexact)
{
    size_t item = cmo_dtype_size(dtype);
    unsigned char *at = out;
    size_t parts = (size_t)components(dtype);
    for (uint64_t i = 0; i < count; i++, at += item) {
        for (size_t k = 0; k < parts; k++) put_value(dtype, at + k * (item / parts), draw_value(op, state, inexact));
        /* Real, so that products stay exact. */
        if (parts == 2 && op == CMO_OP_PROD && !inexact) put_value(dtype, at + item / 2, 0);
        if (parts) continue;
        uint64_t bits = coll_random(state, dtype == CMO_BOOL ? 2 : 0);
        if (dtype != CMO_BOOL && coll_random(state, 4) == 0) bits = 0; /* for the logical operations */
        memcpy(at, &bits, item < sizeof bits ? item : sizeof bits);
    }
}

static double precision(cmo_dtype d)
{
    switch (d) {
    case CMO_BF16: return 0x1p-7;
    case CMO_F16: return 0x1p-10;
    case CMO_F32: case CMO_C64: return 1e-4;
    default: return 1e-12;
    }
}

static double magnitude(double x) { return x < 0 ? -x : x; }

/* One element. What is lost in a component of a complex product is in proportion to the whole number. */
static bool values_differ(cmo_dtype d, const unsigned char *a, const unsigned char *b, bool inexact)
{
    size_t parts = (size_t)components(d), step = cmo_dtype_size(d) / parts;
    double size = 0, gap = 0;
    for (size_t k = 0; k < parts; k++) {
        double x = get_value(d, a + k * step), y = get_value(d, b + k * step);
        if (!inexact && x != y) return true;
        size += magnitude(x) + magnitude(y);
        gap += magnitude(x - y);
    }
    return inexact && !(gap <= precision(d) * size + 1e-6);
}

uint64_t coll_differ(cmo_dtype dtype, const void *a, const void *b, uint64_t count, bool inexact)
{
    size_t item = cmo_dtype_size(dtype), parts = (size_t)components(dtype);
    const unsigned char *x = a, *y = b;
    if (!count || !memcmp(a, b, count * item)) return UINT64_MAX;
    bool by_value = parts == 2 || (parts && inexact);
    for (uint64_t i = 0; i < count; i++, x += item, y += item) {
        if (by_value ? values_differ(dtype, x, y, inexact) : memcmp(x, y, item) != 0) return i;
    }
    return UINT64_MAX;
}
