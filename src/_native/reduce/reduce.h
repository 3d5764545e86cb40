/* The arithmetic of the collectives: dtype × op kernels, chosen at run time for the processor.
 *
 * A kernel folds several arrays of one dtype into one, in the order given, so the result depends on that order
 * alone. Half types (f16, bf16) are folded in f32 and rounded once, when the result is stored. Integers wrap
 * modulo 2^bits, as NumPy's do. min and max return NaN where any operand is NaN (numpy.minimum, numpy.maximum).
 * Results are the same bits for every instruction set: kernels are elementwise and floating-point contraction is off.
 */
#ifndef CMO_REDUCE_H
#define CMO_REDUCE_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

/* X(enumerator, name as NumPy spells it, bytes of an element) */
#define CMO_DTYPES(X)                \
    X(BOOL, "bool", 1)               \
    X(I8, "int8", 1)                 \
    X(I16, "int16", 2)               \
    X(I32, "int32", 4)               \
    X(I64, "int64", 8)               \
    X(U8, "uint8", 1)                \
    X(U16, "uint16", 2)              \
    X(U32, "uint32", 4)              \
    X(U64, "uint64", 8)              \
    X(F16, "float16", 2)             \
    X(BF16, "bfloat16", 2)           \
    X(F32, "float32", 4)             \
    X(F64, "float64", 8)             \
    X(LDBL, "longdouble", sizeof(long double))   \
    X(C64, "complex64", 8)           \
    X(C128, "complex128", 16)        \
    X(CLDBL, "clongdouble", 2 * sizeof(long double))

typedef enum {
#define CMO_X(e, name, size) CMO_##e,
    CMO_DTYPES(CMO_X)
#undef CMO_X
    CMO_NDTYPES
} cmo_dtype;

#define CMO_OPS(X)  \
    X(SUM, "sum")   \
    X(PROD, "prod") \
    X(MIN, "min")   \
    X(MAX, "max")   \
    X(MEAN, "mean") \
    X(BAND, "band") \
    X(BOR, "bor")   \
    X(BXOR, "bxor") \
    X(LAND, "land") \
    X(LOR, "lor")   \
    X(LXOR, "lxor")

typedef enum {
#define CMO_X(e, name) CMO_OP_##e,
    CMO_OPS(CMO_X)
#undef CMO_X
    CMO_NOPS
} cmo_redop;

/* dst[i] = srcs[0][i] op srcs[1][i] op … op srcs[nsrc-1][i] for i in [0, count), nsrc ≥ 1.
 * `divisor`: 0, or for CMO_OP_MEAN the number by which the sum is divided before it is stored.
 * dst may be the same pointer as any one of srcs; otherwise nothing overlaps. Pointers are borrowed, and need only the
 * alignment of a byte. Never blocks, never allocates, may be called by any thread. */
typedef void (*cmo_kernel)(void *dst, const void *const *srcs, int nsrc, size_t count, uint64_t divisor);

/* The kernel for (dtype, op) on this processor, or NULL where the pair has no meaning: mean of integers and bool; min
 * and max of complex; band, bor, bxor of floating and complex types. */
cmo_kernel cmo_kernel_for(cmo_dtype dtype, cmo_redop op);

size_t cmo_dtype_size(cmo_dtype dtype);
const char *cmo_dtype_name(cmo_dtype dtype);
const char *cmo_redop_name(cmo_redop op);

/* Half types to float32 and back, round to nearest even; dst and src do not overlap. For algorithms that carry partial
 * sums of half types between ranks in float32. */
void cmo_half_to_float(cmo_dtype dtype, float *dst, const void *src, size_t count);
void cmo_float_to_half(cmo_dtype dtype, void *dst, const float *src, size_t count);

/* "baseline", "avx2" or "avx512" (x86-64), "baseline" elsewhere. COMMOPS_ISA names a lower one, for tests. */
const char *cmo_isa_name(void);

/* CMO_EINVAL, with the reason, where COMMOPS_ISA names none of these. For whoever starts to use the kernels: they
 * themselves take such a value for no limit. */
cmo_err cmo_isa_check(void);

#endif
