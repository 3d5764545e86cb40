#include "coll/fold.h"

enum { FOLD_BLOCK = 1024 }; /* elements widened at a time, on the stack: 4 KiB of float32 */

void cmo_fold_init(cmo_fold *f, const cmo_call *call)
{
    bool half = call->dtype == CMO_F16 || call->dtype == CMO_BF16;
    f->in_dtype = call->dtype;
    f->in_size = cmo_dtype_size(call->dtype);
    f->widens = half && (call->op == CMO_OP_SUM || call->op == CMO_OP_PROD || call->op == CMO_OP_MEAN);
    f->dtype = f->widens ? CMO_F32 : call->dtype;
    f->size = cmo_dtype_size(f->dtype);
    f->kernel = cmo_kernel_for(f->dtype, call->op);
}

void cmo_fold_load(const cmo_fold *f, void *partial, const void *in, size_t count)
{
    if (f->widens)
        cmo_half_to_float(f->in_dtype, partial, in, count);
    else
        /* Not memcpy: logical ops make 0 or 1 of a single operand too, in place as well. */
        f->kernel(partial, &in, 1, count, 0);
}

void cmo_fold_pair(const cmo_fold *f, void *dst, const void *a, const void *b, size_t count)
{
    f->kernel(dst, (const void *const[]){a, b}, 2, count, 0);
}

void cmo_fold_in(const cmo_fold *f, void *dst, const void *partial, const void *in, size_t count)
{
    if (!f->widens) {
        cmo_fold_pair(f, dst, partial, in, count);
        return;
    }
    float own[FOLD_BLOCK];
    for (size_t i = 0; i < count; i += FOLD_BLOCK) {
        size_t n = count - i < FOLD_BLOCK ? count - i : FOLD_BLOCK;
        cmo_half_to_float(f->in_dtype, own, (const char *)in + i * f->in_size, n);
        cmo_fold_pair(f, (float *)dst + i, (const float *)partial + i, own, n);
    }
}

void cmo_fold_store(const cmo_fold *f, void *out, const void *partial, size_t count, uint64_t divisor)
{
    if (!f->widens) {
        if (out != partial || divisor) f->kernel(out, &partial, 1, count, divisor);
        return;
    }
    float quotient[FOLD_BLOCK];
    for (size_t i = 0; i < count; i += FOLD_BLOCK) {
        size_t n = count - i < FOLD_BLOCK ? count - i : FOLD_BLOCK;
        const void *part = (const float *)partial + i;
        if (divisor) {
            f->kernel(quotient, &part, 1, n, divisor);
            part = quotient;
        }
        cmo_float_to_half(f->in_dtype, (char *)out + i * f->in_size, part, n);
    }
}

void cmo_fold_last(const cmo_fold *f, void *out, const void *partial, const void *in, size_t count, uint64_t divisor)
{
    if (!f->widens) {
        f->kernel(out, (const void *const[]){partial, in}, 2, count, divisor);
        return;
    }
    float total[FOLD_BLOCK];
    for (size_t i = 0; i < count; i += FOLD_BLOCK) {
        size_t n = count - i < FOLD_BLOCK ? count - i : FOLD_BLOCK;
        cmo_fold_in(f, total, (const float *)partial + i, (const char *)in + i * f->in_size, n);
        cmo_fold_store(f, (char *)out + i * f->in_size, total, n, divisor);
    }
}
