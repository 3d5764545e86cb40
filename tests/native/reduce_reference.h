/* What the kernels of reduce/ must give, one element at a time and by the definitions, slow and plain.
 *
 * NaN operands: the value is a NaN, which one is left open. Nothing here shares code with the kernels.
 */
#ifndef CMO_TESTS_REDUCE_REFERENCE_H
#define CMO_TESTS_REDUCE_REFERENCE_H

#include "reduce/reduce.h"

#include <math.h>
#include <string.h>

enum { MAX_NSRC = 9 };

/* ---- reference: half types by their definition, in double */

struct format {
    int fraction_bits, bias;
};
static const struct format f16_format = {10, 15}, bf16_format = {7, 127};

static float reference_widen(struct format f, uint16_t half)
{
    const int fraction = half & ((1 << f.fraction_bits) - 1);
    const int exponent = (half & 0x7fff) >> f.fraction_bits;
    const int largest = 2 * f.bias + 1;
    if (exponent == largest && fraction != 0) {
        const uint32_t bits = (half & 0x8000u) << 16 | 0x7fc00000u | (uint32_t)fraction << (23 - f.fraction_bits);
        float nan;
        memcpy(&nan, &bits, sizeof nan);
        return nan;
    }
    double magnitude;
    if (exponent == largest)
        magnitude = INFINITY;
    else if (exponent == 0)
        magnitude = ldexp(fraction, 1 - f.bias - f.fraction_bits);
    else
        magnitude = ldexp(fraction + (1 << f.fraction_bits), exponent - f.bias - f.fraction_bits);
    return (float)((half & 0x8000) ? -magnitude : magnitude);
}

static uint16_t reference_narrow(struct format f, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t sign = signbit(value) ? 0x8000u : 0;
    const uint32_t infinity = (2u * (uint32_t)f.bias + 1) << f.fraction_bits;
    if (isnan(value))
        return (uint16_t)(sign | infinity | 1u << (f.fraction_bits - 1) | (bits & 0x7fffffu) >> (23 - f.fraction_bits));
    const double magnitude = fabs((double)value);
    if (magnitude == 0 || isinf(magnitude))
        return (uint16_t)(sign | (magnitude == 0 ? 0 : infinity));
    int exponent = ilogb(magnitude);
    if (exponent < 1 - f.bias)
        exponent = 1 - f.bias;
    /* In units of the last place; nearbyint rounds ties to even. The hidden bit of a normal
     * number adds one to the exponent. */
    const double units = nearbyint(ldexp(magnitude, f.fraction_bits - exponent));
    const double encoded = ldexp(exponent + f.bias - 1, f.fraction_bits) + units;
    return (uint16_t)(sign | (encoded >= infinity ? infinity : (uint32_t)encoded));
}

/* ---- reference: one element of n sources, folded in order */

#define DEFINE_INTEGER_REFERENCE(T)                                              \
    static T reference_##T(cmo_redop op, const T *x, int n)                      \
    {                                                                            \
        unsigned long long wrapped = (unsigned long long)x[0];                   \
        T extreme = x[0];                                                        \
        int truth = x[0] != 0;                                                   \
        for (int k = 1; k < n; k++) {                                            \
            const unsigned long long next = (unsigned long long)x[k];            \
            switch (op) {                                                        \
            case CMO_OP_SUM: wrapped += next; break;                             \
            case CMO_OP_PROD: wrapped *= next; break;                            \
            case CMO_OP_BAND: wrapped &= next; break;                            \
            case CMO_OP_BOR: wrapped |= next; break;                             \
            case CMO_OP_BXOR: wrapped ^= next; break;                            \
            case CMO_OP_MIN: extreme = x[k] < extreme ? x[k] : extreme; break;   \
            case CMO_OP_MAX: extreme = x[k] > extreme ? x[k] : extreme; break;   \
            case CMO_OP_LAND: truth = truth && next; break;                      \
            case CMO_OP_LOR: truth = truth || next; break;                       \
            case CMO_OP_LXOR: truth = truth != (next != 0); break;               \
            default: break;                                                      \
            }                                                                    \
        }                                                                        \
        if (op == CMO_OP_MIN || op == CMO_OP_MAX)                                \
            return extreme;                                                      \
        if (op == CMO_OP_LAND || op == CMO_OP_LOR || op == CMO_OP_LXOR)          \
            return (T)truth;                                                     \
        return (T)wrapped;                                                       \
    }

DEFINE_INTEGER_REFERENCE(int8_t)
DEFINE_INTEGER_REFERENCE(int16_t)
DEFINE_INTEGER_REFERENCE(int32_t)
DEFINE_INTEGER_REFERENCE(int64_t)
DEFINE_INTEGER_REFERENCE(uint8_t)
DEFINE_INTEGER_REFERENCE(uint16_t)
DEFINE_INTEGER_REFERENCE(uint32_t)
DEFINE_INTEGER_REFERENCE(uint64_t)

static uint8_t reference_bool(cmo_redop op, const uint8_t *x, int n)
{
    int any = 0, all = 1, odd = 0;
    for (int k = 0; k < n; k++) {
        any |= x[k] != 0;
        all &= x[k] != 0;
        odd ^= x[k] != 0;
    }
    switch (op) {
    case CMO_OP_PROD: case CMO_OP_MIN: case CMO_OP_BAND: case CMO_OP_LAND: return (uint8_t)all;
    case CMO_OP_BXOR: case CMO_OP_LXOR: return (uint8_t)odd;
    default: return (uint8_t)any;
    }
}

#define DEFINE_FLOAT_REFERENCE(name, T)                                                                     \
    static T reference_##name(cmo_redop op, const T *x, int n, uint64_t divisor)                            \
    {                                                                                                       \
        T acc = x[0];                                                                                       \
        int truth = x[0] != 0;                                                                              \
        for (int k = 1; k < n; k++) {                                                                       \
            switch (op) {                                                                                   \
            case CMO_OP_SUM: case CMO_OP_MEAN: acc = acc + x[k]; break;                                     \
            case CMO_OP_PROD: acc = acc * x[k]; break;                                                      \
            case CMO_OP_MIN: acc = isnan(acc) ? acc : isnan(x[k]) ? x[k] : acc < x[k] ? acc : x[k]; break;  \
            case CMO_OP_MAX: acc = isnan(acc) ? acc : isnan(x[k]) ? x[k] : acc > x[k] ? acc : x[k]; break;  \
            case CMO_OP_LAND: truth = truth && x[k] != 0; break;                                            \
            case CMO_OP_LOR: truth = truth || x[k] != 0; break;                                             \
            case CMO_OP_LXOR: truth = truth != (x[k] != 0); break;                                          \
            default: break;                                                                                 \
            }                                                                                               \
        }                                                                                                   \
        if (op == CMO_OP_LAND || op == CMO_OP_LOR || op == CMO_OP_LXOR)                                     \
            return (T)truth;                                                                                \
        return op == CMO_OP_MEAN && divisor != 0 ? acc / (T)divisor : acc;                                  \
    }                                                                                                       \
    static void reference_complex_##name(T *out, cmo_redop op, const T *x, int n, uint64_t divisor)         \
    {                                                                                                       \
        T re[MAX_NSRC], im[MAX_NSRC], true_parts[MAX_NSRC];                                                 \
        for (int k = 0; k < n; k++) {                                                                       \
            re[k] = x[2 * k];                                                                               \
            im[k] = x[2 * k + 1];                                                                           \
            true_parts[k] = re[k] != 0 || im[k] != 0;                                                       \
        }                                                                                                   \
        if (op == CMO_OP_SUM || op == CMO_OP_MEAN) {                                                        \
            out[0] = reference_##name(op, re, n, divisor);                                                  \
            out[1] = reference_##name(op, im, n, divisor);                                                  \
        } else if (op == CMO_OP_PROD) {                                                                     \
            for (int k = 1; k < n; k++) {                                                                   \
                const T real = re[0] * re[k] - im[0] * im[k];                                               \
                im[0] = re[0] * im[k] + im[0] * re[k];                                                      \
                re[0] = real;                                                                               \
            }                                                                                               \
            out[0] = re[0];                                                                                 \
            out[1] = im[0];                                                                                 \
        } else {                                                                                            \
            out[0] = reference_##name(op, true_parts, n, 0);                                                \
            out[1] = 0;                                                                                     \
        }                                                                                                   \
    }

DEFINE_FLOAT_REFERENCE(float, float)
DEFINE_FLOAT_REFERENCE(double, double)
DEFINE_FLOAT_REFERENCE(ldbl, long double)

static uint16_t reference_half(struct format f, cmo_redop op, const uint16_t *x, int n, uint64_t divisor)
{
    float wide[MAX_NSRC];
    for (int k = 0; k < n; k++)
        wide[k] = reference_widen(f, x[k]);
    return reference_narrow(f, reference_float(op, wide, n, divisor));
}

/* `column` holds the n operands one after another. */
static void reference(cmo_dtype dtype, cmo_redop op, void *out, const void *column, int n, uint64_t divisor)
{
    switch (dtype) {
    case CMO_BOOL: *(uint8_t *)out = reference_bool(op, column, n); break;
    case CMO_I8: *(int8_t *)out = reference_int8_t(op, column, n); break;
    case CMO_I16: *(int16_t *)out = reference_int16_t(op, column, n); break;
    case CMO_I32: *(int32_t *)out = reference_int32_t(op, column, n); break;
    case CMO_I64: *(int64_t *)out = reference_int64_t(op, column, n); break;
    case CMO_U8: *(uint8_t *)out = reference_uint8_t(op, column, n); break;
    case CMO_U16: *(uint16_t *)out = reference_uint16_t(op, column, n); break;
    case CMO_U32: *(uint32_t *)out = reference_uint32_t(op, column, n); break;
    case CMO_U64: *(uint64_t *)out = reference_uint64_t(op, column, n); break;
    case CMO_F16: *(uint16_t *)out = reference_half(f16_format, op, column, n, divisor); break;
    case CMO_BF16: *(uint16_t *)out = reference_half(bf16_format, op, column, n, divisor); break;
    case CMO_F32: *(float *)out = reference_float(op, column, n, divisor); break;
    case CMO_F64: *(double *)out = reference_double(op, column, n, divisor); break;
    case CMO_LDBL: *(long double *)out = reference_ldbl(op, column, n, divisor); break;
    case CMO_C64: reference_complex_float(out, op, column, n, divisor); break;
    case CMO_C128: reference_complex_double(out, op, column, n, divisor); break;
    case CMO_CLDBL: reference_complex_ldbl(out, op, column, n, divisor); break;
    case CMO_NDTYPES: break;
    }
}

#endif
