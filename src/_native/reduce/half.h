/* Half types to float32 and back, one element at a time and without a branch, so that loops over them vectorize.
 *
 * Widening is exact. Narrowing rounds to the nearest, ties to even. A NaN keeps its sign and the leading bits of its
 * payload and becomes quiet, which is what the conversion instructions of F16C do, so both ways give the same bits.
 */
#ifndef CMO_REDUCE_HALF_H
#define CMO_REDUCE_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t half_float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float half_bits_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* By mask, not `?:`, of which the compiler makes a branch around the floating-point operations, and then no vectors. */
static inline uint32_t half_select(int condition, uint32_t if_true, uint32_t if_false)
{
    const uint32_t mask = 0u - (uint32_t)condition;
    return (if_true & mask) | (if_false & ~mask);
}

/* float16: 1 sign bit, 5 exponent bits (bias 15), 10 fraction bits. float32: 1, 8 (bias 127), 23. */
enum {
    HALF_FRACTION_SHIFT = 23 - 10,
    HALF_BIAS_SHIFT = (127 - 15) << 23,
    HALF_F32_QUIET = 1 << 22,
    HALF_F16_QUIET = 1 << 9,
    HALF_F16_INF = 0x1f << 10,
    HALF_F32_INF = 0xff << 23,
};

static inline float half_from_f16(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t magnitude = half & 0x7fffu;
    const uint32_t shifted = magnitude << HALF_FRACTION_SHIFT;
    const uint32_t normal = shifted + HALF_BIAS_SHIFT;
    /* A subnormal is fraction · 2^-24. Read behind the exponent of 2^-14 it is 2^-14 too
     * much, and the difference is exact. */
    const uint32_t smallest_normal = HALF_BIAS_SHIFT + (1u << 23);
    const uint32_t subnormal =
        half_float_bits(half_bits_float(shifted + smallest_normal) - half_bits_float(smallest_normal));
    const uint32_t special = shifted | HALF_F32_INF | half_select(magnitude > HALF_F16_INF, HALF_F32_QUIET, 0);
    const uint32_t finite = half_select(magnitude < 0x400u, subnormal, normal);
    return half_bits_float(sign | half_select(magnitude >= HALF_F16_INF, special, finite));
}

static inline uint16_t half_to_f16(float value)
{
    const uint32_t bits = half_float_bits(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    /* Adding just under half a unit of the last place kept, and one more where that place is odd, carries
     * exactly when rounding up is due; a carry out of the largest fraction steps into the next exponent,
     * and from 65504 into infinity. */
    const uint32_t odd = (magnitude >> HALF_FRACTION_SHIFT) & 1u;
    const uint32_t normal = (magnitude - HALF_BIAS_SHIFT + 0xfffu + odd) >> HALF_FRACTION_SHIFT;
    /* Below 2^-14 the unit is 2^-24, which is the unit of float32 at 0.5: the addition itself does the rounding. */
    const uint32_t subnormal = half_float_bits(half_bits_float(magnitude) + 0.5f) - half_float_bits(0.5f);
    const uint32_t nan = HALF_F16_INF | HALF_F16_QUIET | ((magnitude >> HALF_FRACTION_SHIFT) & 0x3ffu);
    const uint32_t finite = half_select(magnitude < HALF_BIAS_SHIFT + (1u << 23), subnormal, normal);
    /* 2^16; what lies between 65520 and it has been rounded up already. */
    const uint32_t too_large = (127u + 16u) << 23;
    const uint32_t special = half_select(magnitude > HALF_F32_INF, nan, HALF_F16_INF);
    return (uint16_t)(sign | half_select(magnitude >= too_large, special, finite));
}

/* bfloat16: the upper half of a float32. */
static inline float half_from_bf16(uint16_t half)
{
    return half_bits_float((uint32_t)half << 16);
}

static inline uint16_t half_to_bf16(float value)
{
    const uint32_t bits = half_float_bits(value);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const uint32_t nan = (bits >> 16) | 0x40u;
    return (uint16_t)half_select((bits & 0x7fffffffu) > HALF_F32_INF, nan, rounded);
}

#endif
