/* Private to reduce/ and its tests: the kernels as they were compiled for each instruction set.
 *
 * kernels.c is compiled once for each row below, each time into one table. A table whose instruction set the compiler
 * was not given is left without a name, so that every build links and the dispatcher passes over it. */
#ifndef CMO_REDUCE_ISA_H
#define CMO_REDUCE_ISA_H

#include "reduce.h"

#include <stdbool.h>

/* X(name), from the lowest to the highest: each includes all that stand before it. */
#if defined(__x86_64__)
#define CMO_ISAS(X) X(baseline) X(avx2) X(avx512)
#else
#define CMO_ISAS(X) X(baseline)
#endif

struct cmo_isa {
    const char *name; /* NULL: this set was not compiled */
    cmo_kernel kernel[CMO_NDTYPES][CMO_NOPS];
    void (*f16_to_f32)(float *dst, const void *src, size_t count);
    void (*f32_to_f16)(void *dst, const float *src, size_t count);
    void (*bf16_to_f32)(float *dst, const void *src, size_t count);
    void (*f32_to_bf16)(void *dst, const float *src, size_t count);
};

#define CMO_X(name) extern const struct cmo_isa cmo_isa_##name;
CMO_ISAS(CMO_X)
#undef CMO_X

/* The table called `isa`, or NULL where it was not compiled or this processor cannot run
 * it. Any thread; never blocks. */
const struct cmo_isa *cmo_isa_find(const char *isa);

/* As cmo_kernel_for, from the table called `isa`; NULL also where there is no such table. */
cmo_kernel cmo_kernel_for_isa(const char *isa, cmo_dtype dtype, cmo_redop op);

#endif
