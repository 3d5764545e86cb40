/* Which instruction set this process uses, chosen once, and the lookups of reduce.h on top of it. */
#include "isa.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>

static bool isa_runs_baseline(void)
{
    return true;
}

static bool isa_runs_avx2(void)
{
    /* Not every compiler's __builtin_cpu_supports knows F16C; the processor does. AVX2 implies that the system saves
     * the registers that F16C uses. */
    unsigned int eax, ebx, ecx = 0, edx;
    return __builtin_cpu_supports("avx2") && __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C) != 0;
}

static bool isa_runs_avx512(void)
{
    return isa_runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

static void isa_init(void)
{
    __builtin_cpu_init();
}
#else
static bool isa_runs_baseline(void)
{
    return true;
}

static void isa_init(void)
{
}
#endif

static const struct {
    const char *name;
    const struct cmo_isa *table;
    bool (*runs)(void);
} isa_list[] = {
#define CMO_X(name) {#name, &cmo_isa_##name, isa_runs_##name},
    CMO_ISAS(CMO_X)
#undef CMO_X
};

/* The highest set that was compiled and runs here, no higher than the one called `limit` (NULL or an unknown name: no
 * limit). */
static const struct cmo_isa *isa_highest(const char *limit)
{
    const struct cmo_isa *best = &cmo_isa_baseline;
    isa_init();
    for (size_t i = 0; i < sizeof isa_list / sizeof isa_list[0]; i++) {
        if (isa_list[i].table->name != NULL && isa_list[i].runs())
            best = isa_list[i].table;
        if (limit != NULL && strcmp(limit, isa_list[i].name) == 0)
            break;
    }
    return best;
}

cmo_err cmo_isa_check(void)
{
    const char *text = getenv("COMMOPS_ISA");
    char names[64] = "";
    if (text == NULL || *text == 0)
        return CMO_OK;
    for (size_t i = 0; i < sizeof isa_list / sizeof isa_list[0]; i++) {
        if (strcmp(text, isa_list[i].name) == 0)
            return CMO_OK;
        const size_t at = strlen(names);
        snprintf(names + at, sizeof names - at, "%s%s", i ? ", " : "", isa_list[i].name);
    }
    return cmo_fail(CMO_EINVAL, "COMMOPS_ISA=%s: one of these is needed: %s", text, names);
}

static const struct cmo_isa *isa_chosen(void)
{
    /* Relaxed is enough: the pointer leads to constant data. Where threads race to choose, the first to publish decides
     * for all. */
    static _Atomic(const struct cmo_isa *) chosen;
    const struct cmo_isa *isa = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (isa != NULL)
        return isa;
    const struct cmo_isa *candidate = isa_highest(getenv("COMMOPS_ISA"));
    if (atomic_compare_exchange_strong_explicit(&chosen, &isa, candidate, memory_order_relaxed, memory_order_relaxed))
        return candidate;
    return isa;
}

/* The enumerators may come from outside, so both are checked; the comparison is unsigned
 * because an enum may be signed. */
static cmo_kernel isa_kernel(const struct cmo_isa *isa, cmo_dtype dtype, cmo_redop op)
{
    if (isa == NULL || (unsigned)dtype >= CMO_NDTYPES || (unsigned)op >= CMO_NOPS)
        return NULL;
    return isa->kernel[dtype][op];
}

const struct cmo_isa *cmo_isa_find(const char *isa)
{
    isa_init();
    for (size_t i = 0; i < sizeof isa_list / sizeof isa_list[0]; i++)
        if (strcmp(isa, isa_list[i].name) == 0)
            return isa_list[i].table->name != NULL && isa_list[i].runs() ? isa_list[i].table : NULL;
    return NULL;
}

cmo_kernel cmo_kernel_for_isa(const char *isa, cmo_dtype dtype, cmo_redop op)
{
    return isa_kernel(cmo_isa_find(isa), dtype, op);
}

cmo_kernel cmo_kernel_for(cmo_dtype dtype, cmo_redop op)
{
    return isa_kernel(isa_chosen(), dtype, op);
}

const char *cmo_isa_name(void)
{
    return isa_chosen()->name;
}

void cmo_half_to_float(cmo_dtype dtype, float *dst, const void *src, size_t count)
{
    if (dtype == CMO_F16)
        isa_chosen()->f16_to_f32(dst, src, count);
    else if (dtype == CMO_BF16)
        isa_chosen()->bf16_to_f32(dst, src, count);
}

void cmo_float_to_half(cmo_dtype dtype, void *dst, const float *src, size_t count)
{
    if (dtype == CMO_F16)
        isa_chosen()->f32_to_f16(dst, src, count);
    else if (dtype == CMO_BF16)
        isa_chosen()->f32_to_bf16(dst, src, count);
}

size_t cmo_dtype_size(cmo_dtype dtype)
{
    static const size_t sizes[CMO_NDTYPES] = {
#define CMO_X(e, name, size) [CMO_##e] = (size),
        CMO_DTYPES(CMO_X)
#undef CMO_X
    };
    return (unsigned)dtype < CMO_NDTYPES ? sizes[dtype] : 0;
}

const char *cmo_dtype_name(cmo_dtype dtype)
{
    static const char *const names[CMO_NDTYPES] = {
#define CMO_X(e, name, size) [CMO_##e] = name,
        CMO_DTYPES(CMO_X)
#undef CMO_X
    };
    return (unsigned)dtype < CMO_NDTYPES ? names[dtype] : "unknown";
}

const char *cmo_redop_name(cmo_redop op)
{
    static const char *const names[CMO_NOPS] = {
#define CMO_X(e, name) [CMO_OP_##e] = name,
        CMO_OPS(CMO_X)
#undef CMO_X
    };
    return (unsigned)op < CMO_NOPS ? names[op] : "unknown";
}
