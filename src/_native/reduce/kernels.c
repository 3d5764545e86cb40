/* Every kernel of reduce.h, for one instruction set. Compiled once per set with -DCMO_ISA=<name> and that set's flags.
 *
 * Three layers:
 *   step    the inner loop of one op over one representation: folds 2, 3 or 4 arrays in one pass. Generated from the
 *           tables of expressions below; the compiler vectorizes it.
 *   fold    any number of arrays by steps, in blocks that stay in the first-level cache, so that dst is written once.
 *   kernel  what the table at the end holds: a fold of one step. Dtypes share it where the bits allow: signed sums are
 *           unsigned sums, a complex sum is a real sum of twice the length, bool is logic on bytes.
 *
 * To add an op: a row in reduce.h, its expression in the tables of the families that have it, its name in their rows at
 * the end. To add a dtype: a row in reduce.h, its representation with its family's expressions, a row at the end.
 *
 * Same bits everywhere: the expressions are elementwise, built with -ffp-contract=off and without
 * -ffast-math. Open is only which NaN comes out where two different NaNs meet in an addition or
 * multiplication: compilers may swap the operands. */
#include "half.h"
#include "isa.h"

#ifndef CMO_ISA
#define CMO_ISA baseline
#endif
#define TABLE_NAME_(isa) cmo_isa_##isa
#define TABLE_NAME(isa) TABLE_NAME_(isa)
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

/* Ask for a set that the compiler was not given the flags for, and the table stays empty. */
#define ISA_IS_baseline 1
#if defined(__AVX2__) && defined(__F16C__)
#define ISA_IS_avx2 1
#else
#define ISA_IS_avx2 0
#endif
#if ISA_IS_avx2 && defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define ISA_IS_avx512 1
#else
#define ISA_IS_avx512 0
#endif
#define ISA_COMPILED_(isa) ISA_IS_##isa
#define ISA_COMPILED(isa) ISA_COMPILED_(isa)

#if !ISA_COMPILED(CMO_ISA)

const struct cmo_isa TABLE_NAME(CMO_ISA) = {.name = NULL};

#else

#if defined(__F16C__)
#include <immintrin.h>
#endif

/* dst is one of the sources or apart from all of them, so no iteration touches what another one reads. */
#if defined(__clang__)
#pragma clang diagnostic ignored "-Wpass-failed" /* long double has no vectors: no news */
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

#if defined(__has_builtin)
#if __has_builtin(__builtin_assoc_barrier)
#define ROUNDED(x) __builtin_assoc_barrier(x)
#endif
#endif
#if !defined(ROUNDED)
#define ROUNDED(x) (x)
#endif

enum {
    MAX_ARITY = 4,      /* arrays that one step reads */
    BLOCK_BYTES = 4096, /* of an accumulator: with the four streams that a step reads it fits any first-level cache */
    HALF_BLOCK = 512,   /* elements: an accumulator and three widened sources in f32, 8 KiB */
};

typedef void (*step_fn)(void *out, const void *const *in, int arity, size_t count);
typedef void (*divide_fn)(void *values, size_t count, uint64_t divisor);
typedef void (*widen_fn)(float *dst, const void *src, size_t count);
typedef void (*narrow_fn)(void *dst, const float *src, size_t count);

/* ---- representations: name, and name_at for elements at any address, in memory declared with whatever type */

#define REPRESENTATION(R, type) \
    typedef type R;             \
    typedef type R##_at __attribute__((aligned(1), may_alias));

#define COMPLEX_REPRESENTATION(R, part)                                       \
    typedef struct __attribute__((packed, may_alias)) { part re, im; } R;     \
    typedef R R##_at;

REPRESENTATION(i8, int8_t)
REPRESENTATION(i16, int16_t)
REPRESENTATION(i32, int32_t)
REPRESENTATION(i64, int64_t)
REPRESENTATION(u8, uint8_t)
REPRESENTATION(u16, uint16_t)
REPRESENTATION(u32, uint32_t)
REPRESENTATION(u64, uint64_t)
REPRESENTATION(f32, float)
REPRESENTATION(f64, double)
REPRESENTATION(ldbl, long double)
COMPLEX_REPRESENTATION(c64, float)
COMPLEX_REPRESENTATION(c128, double)
COMPLEX_REPRESENTATION(cldbl, long double)

/* ---- folds */

/* `single` is what becomes of one source alone: NULL is a copy, else a step that is applied to it and itself. */
static void fold_blocks(step_fn step, step_fn single, divide_fn divide, size_t size, void *dst, const void *const *srcs,
                        int nsrc, size_t count, uint64_t divisor)
{
    _Alignas(64) unsigned char partial[BLOCK_BYTES];
    const size_t block = BLOCK_BYTES / size;
    for (size_t first = 0; first < count; first += block) {
        const size_t n = count - first < block ? count - first : block;
        const size_t offset = first * size;
        unsigned char *out = (unsigned char *)dst + offset;
        const void *in[MAX_ARITY] = {(const unsigned char *)srcs[0] + offset};
        if (nsrc == 1 && single != NULL) {
            in[1] = in[0];
            single(out, in, 2, n);
        } else if (nsrc == 1 && out != in[0]) {
            memcpy(out, in[0], n * size);
        }
        /* Partial results stay out of dst, which may be a source that is still to be read. */
        for (int used = 1; used < nsrc;) {
            int arity = 1;
            while (arity < MAX_ARITY && used < nsrc)
                in[arity++] = (const unsigned char *)srcs[used++] + offset;
            step(used == nsrc ? out : partial, in, arity, n);
            in[0] = partial;
        }
        if (divide != NULL && divisor != 0)
            divide(out, n, divisor);
    }
}

static inline void fold(step_fn step, step_fn single, divide_fn divide, size_t size, void *dst, const void *const *srcs,
                        int nsrc, size_t count, uint64_t divisor)
{
    if (nsrc >= 2 && nsrc <= MAX_ARITY && (divide == NULL || divisor == 0))
        step(dst, srcs, nsrc, count); /* one pass; two sources are the commonest call */
    else
        fold_blocks(step, single, divide, size, dst, srcs, nsrc, count, divisor);
}

/* Half types: each block is widened to f32, folded there by the steps of f32, and rounded once. */
static void fold_half(step_fn step, step_fn single, divide_fn divide, widen_fn widen, narrow_fn narrow, void *dst,
                      const void *const *srcs, int nsrc, size_t count, uint64_t divisor)
{
    _Alignas(64) float wide[MAX_ARITY][HALF_BLOCK];
    for (size_t first = 0; first < count; first += HALF_BLOCK) {
        const size_t n = count - first < HALF_BLOCK ? count - first : HALF_BLOCK;
        const size_t offset = first * sizeof(uint16_t);
        widen(wide[0], (const unsigned char *)srcs[0] + offset, n);
        if (nsrc == 1 && single != NULL)
            single(wide[0], (const void *const[]){wide[0], wide[0]}, 2, n);
        for (int used = 1; used < nsrc;) {
            int arity = 1;
            while (arity < MAX_ARITY && used < nsrc)
                widen(wide[arity++], (const unsigned char *)srcs[used++] + offset, n);
            step(wide[0], (const void *const[]){wide[0], wide[1], wide[2], wide[3]}, arity, n);
        }
        if (divide != NULL && divisor != 0)
            divide(wide[0], n, divisor);
        narrow((unsigned char *)dst + offset, wide[0], n);
    }
}

/* ---- half conversions */

static void f16_widen(float *dst, const void *src, size_t count)
{
    f32_at *out = (f32_at *)dst;
    const u16_at *in = src;
    size_t i = 0;
#if defined(__AVX512F__)
    for (; count - i >= 16; i += 16)
        _mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(in + i))));
#endif
#if defined(__F16C__)
    for (; count - i >= 8; i += 8)
        _mm256_storeu_ps((float *)(out + i), _mm256_cvtph_ps(_mm_loadu_si128((const void *)(in + i))));
#endif
    INDEPENDENT
    for (; i < count; i++)
        out[i] = half_from_f16(in[i]);
}

static void f16_narrow(void *dst, const float *src, size_t count)
{
    u16_at *out = dst;
    const f32_at *in = (const f32_at *)src;
    size_t i = 0;
#if defined(__AVX512F__)
    for (; count - i >= 16; i += 16)
        _mm256_storeu_si256((void *)(out + i), _mm512_cvtps_ph(_mm512_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT));
#endif
#if defined(__F16C__)
    for (; count - i >= 8; i += 8)
        _mm_storeu_si128((void *)(out + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps((const float *)(in + i)), _MM_FROUND_TO_NEAREST_INT));
#endif
    INDEPENDENT
    for (; i < count; i++)
        out[i] = half_to_f16(in[i]);
}

static void bf16_widen(float *dst, const void *src, size_t count)
{
    f32_at *out = (f32_at *)dst;
    const u16_at *in = src;
    INDEPENDENT
    for (size_t i = 0; i < count; i++)
        out[i] = half_from_bf16(in[i]);
}

static void bf16_narrow(void *dst, const float *src, size_t count)
{
    u16_at *out = dst;
    const f32_at *in = (const f32_at *)src;
    INDEPENDENT
    for (size_t i = 0; i < count; i++)
        out[i] = half_to_bf16(in[i]);
}

/* ---- the tables of expressions: X(representation, op, single, expression in a and b) */

/* Multiplied by 1u, so that u16 · u16 is not promoted to int, which it could overflow. */
#define MODULAR_OPS(X, R)                \
    X(R, sum, NULL, (R)(a + b))          \
    X(R, prod, NULL, (R)(1u * a * b))    \
    X(R, band, NULL, (R)(a & b))         \
    X(R, bor, NULL, (R)(a | b))          \
    X(R, bxor, NULL, (R)(a ^ b))

#define ORDERED_OPS(X, R)            \
    X(R, min, NULL, a < b ? a : b)   \
    X(R, max, NULL, a > b ? a : b)

/* A NaN on either side comes out. Of equal operands the second does, which decides min(0.0, -0.0) as NumPy decides it
 * for float32 and float64 on x86-64; NumPy itself differs between dtypes and machines. */
#define FLOAT_OPS(X, R)                                 \
    X(R, sum, NULL, a + b)                              \
    X(R, prod, NULL, a * b)                             \
    X(R, min, NULL, ((a < b) | (a != a)) ? a : b)       \
    X(R, max, NULL, ((a > b) | (a != a)) ? a : b)

/* The textbook product, as NumPy's: infinities are not recovered as C11 Annex G would. Each part product is
 * rounded by itself: GCC 12 for AVX-512 makes vfmaddsub of the alternating sum in spite of -ffp-contract=off,
 * unless something stands between. */
#define COMPLEX_OPS(X, R)                                               \
    X(R, prod, NULL,                                                    \
      (R){ROUNDED(a.re * b.re) - ROUNDED(a.im * b.im), ROUNDED(a.re * b.im) + ROUNDED(a.im * b.re)})

/* Nonzero is true, and so is NaN. One source alone becomes 0 or 1 as well. */
#define LOGICAL_OPS(X, R)                                      \
    X(R, lor, R##_lor_step, (R)((a != 0) | (b != 0)))          \
    X(R, land, R##_lor_step, (R)((a != 0) & (b != 0)))         \
    X(R, lxor, R##_lor_step, (R)((a != 0) ^ (b != 0)))

#define TRUTH(z) (((z).re != 0) | ((z).im != 0))
#define COMPLEX_LOGICAL_OPS(X, R)                                       \
    X(R, lor, R##_lor_step, (R){.re = TRUTH(a) | TRUTH(b)})             \
    X(R, land, R##_lor_step, (R){.re = TRUTH(a) & TRUTH(b)})            \
    X(R, lxor, R##_lor_step, (R){.re = TRUTH(a) ^ TRUTH(b)})

/* ---- steps and kernels */

#define KERNEL(name, ...)                                                                                       \
    static void name(void *dst, const void *const *srcs, int nsrc, size_t count, uint64_t divisor)              \
    {                                                                                                           \
        (void)divisor; /* only a mean divides */                                                                \
        __VA_ARGS__;                                                                                            \
    }

#define EACH INDEPENDENT for (size_t i = 0; i < count; i++)

#define STEP_AND_KERNEL(R, op, single, ... /* expression */)                                        \
    static inline R R##_##op##_of(R a, R b)                                                    \
    {                                                                                          \
        return __VA_ARGS__;                                                                    \
    }                                                                                          \
    static void R##_##op##_step(void *out, const void *const *in, int arity, size_t count)     \
    {                                                                                          \
        R##_at *to = out;                                                                      \
        const R##_at *a = in[0], *b = in[1];                                                   \
        if (arity == 2) {                                                                      \
            EACH to[i] = R##_##op##_of(a[i], b[i]);                                            \
            return;                                                                            \
        }                                                                                      \
        const R##_at *c = in[2];                                                               \
        if (arity == 3) {                                                                      \
            EACH to[i] = R##_##op##_of(R##_##op##_of(a[i], b[i]), c[i]);                       \
            return;                                                                            \
        }                                                                                      \
        const R##_at *d = in[3];                                                               \
        EACH to[i] = R##_##op##_of(R##_##op##_of(R##_##op##_of(a[i], b[i]), c[i]), d[i]);      \
    }                                                                                          \
    KERNEL(R##_##op, fold(R##_##op##_step, single, NULL, sizeof(R), dst, srcs, nsrc, count, 0))

#define INTEGER_KERNELS(U, I)           \
    MODULAR_OPS(STEP_AND_KERNEL, U)     \
    LOGICAL_OPS(STEP_AND_KERNEL, U)     \
    ORDERED_OPS(STEP_AND_KERNEL, U)     \
    ORDERED_OPS(STEP_AND_KERNEL, I)

#define FLOAT_KERNELS(R)                                                         \
    FLOAT_OPS(STEP_AND_KERNEL, R)                                                \
    LOGICAL_OPS(STEP_AND_KERNEL, R)                                              \
    static void R##_divide(void *values, size_t count, uint64_t divisor)         \
    {                                                                            \
        R##_at *x = values;                                                      \
        const R by = (R)divisor;                                                 \
        EACH x[i] /= by;                                                         \
    }                                                                            \
    KERNEL(R##_mean, fold(R##_sum_step, NULL, R##_divide, sizeof(R), dst, srcs, nsrc, count, divisor))

#define COMPLEX_KERNELS(R, PART)                                                                         \
    COMPLEX_OPS(STEP_AND_KERNEL, R)                                                                      \
    COMPLEX_LOGICAL_OPS(STEP_AND_KERNEL, R)                                                              \
    KERNEL(R##_sum, PART##_sum(dst, srcs, nsrc, 2 * count, 0))                                           \
    KERNEL(R##_mean, PART##_mean(dst, srcs, nsrc, 2 * count, divisor))

#define HALF_KERNEL(H, op, single, divide, step) \
    KERNEL(H##_##op, fold_half(step, single, divide, H##_widen, H##_narrow, dst, srcs, nsrc, count, divisor))

#define HALF_KERNELS(H)                                         \
    HALF_KERNEL(H, sum, NULL, NULL, f32_sum_step)               \
    HALF_KERNEL(H, prod, NULL, NULL, f32_prod_step)             \
    HALF_KERNEL(H, min, NULL, NULL, f32_min_step)               \
    HALF_KERNEL(H, max, NULL, NULL, f32_max_step)               \
    HALF_KERNEL(H, mean, NULL, f32_divide, f32_sum_step)        \
    HALF_KERNEL(H, land, f32_lor_step, NULL, f32_land_step)     \
    HALF_KERNEL(H, lor, f32_lor_step, NULL, f32_lor_step)       \
    HALF_KERNEL(H, lxor, f32_lor_step, NULL, f32_lxor_step)

INTEGER_KERNELS(u8, i8)
INTEGER_KERNELS(u16, i16)
INTEGER_KERNELS(u32, i32)
INTEGER_KERNELS(u64, i64)
FLOAT_KERNELS(f32)
FLOAT_KERNELS(f64)
FLOAT_KERNELS(ldbl)
COMPLEX_KERNELS(c64, f32)
COMPLEX_KERNELS(c128, f64)
COMPLEX_KERNELS(cldbl, ldbl)
HALF_KERNELS(f16)
HALF_KERNELS(bf16)

/* ---- the table: a row for each dtype; what a row leaves out has no meaning and stays NULL */

#define LOGICAL_ENTRIES(R) [CMO_OP_LAND] = R##_land, [CMO_OP_LOR] = R##_lor, [CMO_OP_LXOR] = R##_lxor
#define ORDERED_ENTRIES(R) [CMO_OP_MIN] = R##_min, [CMO_OP_MAX] = R##_max
#define FIELD_ENTRIES(R) [CMO_OP_SUM] = R##_sum, [CMO_OP_PROD] = R##_prod, [CMO_OP_MEAN] = R##_mean
#define MODULAR_ENTRIES(R)                                                                                  \
    [CMO_OP_SUM] = R##_sum, [CMO_OP_PROD] = R##_prod, [CMO_OP_BAND] = R##_band, [CMO_OP_BOR] = R##_bor,     \
    [CMO_OP_BXOR] = R##_bxor

#define INTEGER(R, U) {MODULAR_ENTRIES(U), ORDERED_ENTRIES(R), LOGICAL_ENTRIES(U)}
#define FLOATING(R) {FIELD_ENTRIES(R), ORDERED_ENTRIES(R), LOGICAL_ENTRIES(R)}
#define COMPLEX(R) {FIELD_ENTRIES(R), LOGICAL_ENTRIES(R)}
/* On truth values sum and max are "or", prod and min are "and"; a byte that is neither 0 nor 1 counts as 1. */
#define BOOLEAN                                                                                             \
    {                                                                                                       \
        [CMO_OP_SUM] = u8_lor, [CMO_OP_PROD] = u8_land, [CMO_OP_MIN] = u8_land, [CMO_OP_MAX] = u8_lor,      \
        [CMO_OP_BAND] = u8_land, [CMO_OP_BOR] = u8_lor, [CMO_OP_BXOR] = u8_lxor, LOGICAL_ENTRIES(u8)        \
    }

const struct cmo_isa TABLE_NAME(CMO_ISA) = {
    .name = TEXT(CMO_ISA),
    .f16_to_f32 = f16_widen,
    .f32_to_f16 = f16_narrow,
    .bf16_to_f32 = bf16_widen,
    .f32_to_bf16 = bf16_narrow,
    .kernel =
        {
            [CMO_BOOL] = BOOLEAN,
            [CMO_I8] = INTEGER(i8, u8),
            [CMO_I16] = INTEGER(i16, u16),
            [CMO_I32] = INTEGER(i32, u32),
            [CMO_I64] = INTEGER(i64, u64),
            [CMO_U8] = INTEGER(u8, u8),
            [CMO_U16] = INTEGER(u16, u16),
            [CMO_U32] = INTEGER(u32, u32),
            [CMO_U64] = INTEGER(u64, u64),
            [CMO_F16] = FLOATING(f16),
            [CMO_BF16] = FLOATING(bf16),
            [CMO_F32] = FLOATING(f32),
            [CMO_F64] = FLOATING(f64),
            [CMO_LDBL] = FLOATING(ldbl),
            [CMO_C64] = COMPLEX(c64),
            [CMO_C128] = COMPLEX(c128),
            [CMO_CLDBL] = COMPLEX(cldbl),
        },
};

#endif
