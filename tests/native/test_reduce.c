/* Every kernel of reduce/ against loops that do one element at a time, on every instruction set that runs here. */
#define _POSIX_C_SOURCE 200809L

#include "check.h"
#include "reduce/isa.h"
#include "reduce_reference.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    SMALL = 70,    /* every count up to here */
    LARGE = 4999,  /* more than a block of every dtype, and odd */
    MARGIN = 64,   /* bytes kept clear on both sides of dst */
    CANARY = 0xa5,
    MAX_SIZE = 2 * sizeof(long double),
};

/* No two threads meet in the arithmetic: ThreadSanitizer, which would take minutes over it, gets a taste. */
#if defined(__SANITIZE_THREAD__)
#define THREAD_SANITIZER 1
#elif defined(__has_feature)
#define THREAD_SANITIZER __has_feature(thread_sanitizer)
#else
#define THREAD_SANITIZER 0
#endif
enum { HIGHEST_NSRC = THREAD_SANITIZER ? 2 : MAX_NSRC };

static const char *const isas[] = {"baseline", "avx2", "avx512"};
enum { NISAS = sizeof isas / sizeof isas[0] };

static int has_meaning(cmo_dtype dtype, cmo_redop op)
{
    const int integral = dtype < CMO_F16, complex = dtype >= CMO_C64;
    switch (op) {
    case CMO_OP_MEAN: return !integral;
    case CMO_OP_MIN: case CMO_OP_MAX: return !complex;
    case CMO_OP_BAND: case CMO_OP_BOR: case CMO_OP_BXOR: return integral;
    default: return 1;
    }
}

/* ---- data */

static uint64_t random_bits(void)
{
    static uint64_t state = 0x9e3779b97f4a7c15u; /* xorshift64: the same data in every run */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static int has_nan(size_t column)
{
    return column % 12 == 0;
}

/* Ordinary numbers, and in a third of the columns something awkward in one source: a NaN at most, because which of two
 * NaNs survives an addition is open. Infinities may meet (each other, or zero) in columns without a NaN. */
static float awkward(size_t column, int source, int nsrc)
{
    static const float values[] = {0.0f, -0.0f, INFINITY, -INFINITY, 65504.0f, 3e38f, -6e-8f, 1e-40f, 1e-5f};
    if (column % 3 == 0 && source == (int)(column / 3 % (size_t)nsrc)) {
        if (has_nan(column))
            return column % 8 == 0 ? NAN : -NAN;
        return values[column / 3 % (sizeof values / sizeof values[0])];
    }
    if (column % 15 == 7)
        return values[random_bits() % 4];
    return (float)((double)(random_bits() >> 40) / (1 << 22) - 2.0);
}

static void fill_element(cmo_dtype dtype, void *element, size_t column, int source, int nsrc)
{
    const float x = awkward(column, source, nsrc), y = has_nan(column) ? 1 : awkward(column + 1, source, nsrc);
    const uint64_t bits = random_bits();
    switch (dtype) {
    case CMO_BOOL: *(uint8_t *)element = column % 7 == 0 ? (uint8_t)bits : bits & 1; break;
    case CMO_F16: *(uint16_t *)element = reference_narrow(f16_format, x); break;
    case CMO_BF16: *(uint16_t *)element = reference_narrow(bf16_format, x); break;
    case CMO_F32: *(float *)element = x; break;
    case CMO_F64: *(double *)element = x; break;
    case CMO_LDBL: *(long double *)element = x; break;
    case CMO_C64: ((float *)element)[0] = x, ((float *)element)[1] = y; break;
    case CMO_C128: ((double *)element)[0] = x, ((double *)element)[1] = y; break;
    case CMO_CLDBL: ((long double *)element)[0] = x, ((long double *)element)[1] = y; break;
    default: /* integers: zeros too, for the logical ops */
        memcpy(element, &bits, cmo_dtype_size(dtype));
        if (bits >> 62 == 0)
            memset(element, 0, cmo_dtype_size(dtype));
    }
}

static int same_ldbl(const void *a, const void *b)
{
    long double x, y; /* compared as values, for their bytes have padding */
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (isnan(x) && isnan(y)) || (x == y && !signbit(x) == !signbit(y));
}

static int same_element(cmo_dtype dtype, const unsigned char *a, const unsigned char *b, int exact)
{
    const size_t size = cmo_dtype_size(dtype);
    if (memcmp(a, b, size) == 0)
        return 1;
    if (dtype == CMO_LDBL || dtype == CMO_CLDBL)
        return same_ldbl(a, b) && (dtype == CMO_LDBL || same_ldbl(a + size / 2, b + size / 2));
    if (exact || dtype < CMO_F16)
        return 0;
    /* The reference may come to another NaN. */
    const size_t part = dtype >= CMO_C64 ? size / 2 : size;
    for (size_t at = 0; at < size; at += part) {
        float f = 0;
        double d = 0, e = 0;
        if (part == 8) {
            memcpy(&d, a + at, 8);
            memcpy(&e, b + at, 8);
        } else if (part == 4) {
            memcpy(&f, a + at, 4), d = f;
            memcpy(&f, b + at, 4), e = f;
        } else {
            uint16_t h[2];
            memcpy(&h[0], a, 2);
            memcpy(&h[1], b, 2);
            d = reference_widen(dtype == CMO_F16 ? f16_format : bf16_format, h[0]);
            e = reference_widen(dtype == CMO_F16 ? f16_format : bf16_format, h[1]);
        }
        if (memcmp(a + at, b + at, part) != 0 && !(isnan(d) && isnan(e)))
            return 0;
    }
    return 1;
}

/* The first element that differs, or count. */
static size_t first_difference(cmo_dtype dtype, const unsigned char *a, const unsigned char *b, size_t count, int exact)
{
    const size_t size = cmo_dtype_size(dtype);
    if (memcmp(a, b, count * size) == 0)
        return count;
    size_t i = 0;
    while (i < count && same_element(dtype, a + i * size, b + i * size, exact))
        i++;
    return i;
}

/* ---- the grid */

struct arrays {
    unsigned char *source[MAX_NSRC]; /* (LARGE elements,) each, borrowed by run() */
    unsigned char *expected, *first_isa, *column, *memory;
};

static unsigned char *allocate(size_t bytes)
{
    unsigned char *memory = calloc(bytes, 1); /* long doubles are compared with their padding */
    if (memory == NULL)
        abort();
    return memory;
}

/* One call, dst being source number `alias` or, at -1, apart. Each array starts `skew` bytes further from alignment
 * than the last. The results of the first instruction set are kept, and the others' must be the same bits. */
static void run(const struct arrays *arrays, const char *isa, cmo_kernel kernel, cmo_dtype dtype, cmo_redop op,
                int nsrc, size_t count, int alias, size_t skew, uint64_t divisor, int first)
{
    const size_t bytes = count * cmo_dtype_size(dtype);
    const size_t room = bytes + 3 * MARGIN + MAX_NSRC * skew;
    unsigned char *memory = arrays->memory;
    unsigned char *dst = memory + MARGIN + skew;
    const void *srcs[MAX_NSRC];
    memset(memory, CANARY, MARGIN + skew);
    memset(dst + bytes, CANARY, MARGIN);
    for (int k = 0; k < nsrc; k++) {
        unsigned char *copy = k == alias ? dst : memory + (size_t)(k + 1) * room / MARGIN * MARGIN + (size_t)k * skew;
        if (bytes != 0)
            memcpy(copy, arrays->source[k], bytes);
        srcs[k] = copy;
    }
    kernel(dst, srcs, nsrc, count, divisor);

    size_t wrong = first_difference(dtype, dst, arrays->expected, count, 0);
    CHECKF(wrong == count, "%s %s %s nsrc %d count %zu alias %d skew %zu divisor %d: element %zu", isa,
           cmo_dtype_name(dtype), cmo_redop_name(op), nsrc, count, alias, skew, (int)divisor, wrong);
    if (first)
        memcpy(arrays->first_isa, dst, bytes);
    wrong = first_difference(dtype, dst, arrays->first_isa, count, 1);
    CHECKF(wrong == count, "%s differs from baseline: %s %s nsrc %d count %zu alias %d: element %zu", isa,
           cmo_dtype_name(dtype), cmo_redop_name(op), nsrc, count, alias, wrong);
    int clear = 1;
    for (size_t i = 0; i < MARGIN; i++)
        clear &= dst[bytes + i] == CANARY && memory[i] == CANARY;
    CHECKF(clear, "%s %s %s wrote beside dst: nsrc %d count %zu", isa, cmo_dtype_name(dtype), cmo_redop_name(op), nsrc,
           count);
    for (int k = 0; k < nsrc; k++)
        CHECK(k == alias || memcmp(srcs[k], arrays->source[k], bytes) == 0);
}

static void expect(const struct arrays *arrays, cmo_dtype dtype, cmo_redop op, int nsrc, size_t count, uint64_t divisor)
{
    const size_t size = cmo_dtype_size(dtype);
    for (size_t i = 0; i < count; i++) {
        for (int k = 0; k < nsrc; k++)
            memcpy(arrays->column + (size_t)k * size, arrays->source[k] + i * size, size);
        reference(dtype, op, arrays->expected + i * size, arrays->column, nsrc, divisor);
    }
}

static void check_pair(const struct arrays *arrays, cmo_dtype dtype, cmo_redop op)
{
    static const size_t large[] = {511, 512, 513, LARGE};
    const size_t size = cmo_dtype_size(dtype);
    for (int nsrc = 1; nsrc <= HIGHEST_NSRC; nsrc++) {
        for (int k = 0; k < nsrc; k++)
            for (size_t i = 0; i < LARGE; i++)
                fill_element(dtype, arrays->source[k] + i * size, i, k, nsrc);
        const uint64_t divisors[] = {0, (uint64_t)nsrc, 1000003};
        for (int d = 0; d < (op == CMO_OP_MEAN ? 3 : 1); d++) {
            const int with_large = nsrc == 1 || nsrc == 2 || nsrc == 4 || nsrc == 5 || nsrc == 9;
            expect(arrays, dtype, op, nsrc, with_large ? LARGE : SMALL, divisors[d]);
            for (int isa = 0; isa < NISAS; isa++) {
                const cmo_kernel kernel = cmo_kernel_for_isa(isas[isa], dtype, op);
                if (kernel == NULL)
                    continue; /* that exactly the meaningful pairs have kernels is checked before */
                for (size_t count = 0; count <= SMALL; count++)
                    for (int alias = -1; alias < nsrc; alias++)
                        run(arrays, isas[isa], kernel, dtype, op, nsrc, count, alias, (count + (size_t)nsrc) % 4,
                            divisors[d], isa == 0);
                for (size_t c = 0; with_large && c < sizeof large / sizeof large[0]; c++)
                    for (int alias = -1; alias < nsrc; alias += (nsrc + 1) / 2)
                        run(arrays, isas[isa], kernel, dtype, op, nsrc, large[c], alias, c % 2, divisors[d], isa == 0);
            }
        }
    }
}

static void test_every_dtype_and_op(void)
{
    struct arrays arrays;
    for (int k = 0; k < MAX_NSRC; k++)
        arrays.source[k] = allocate(LARGE * MAX_SIZE);
    arrays.expected = allocate(LARGE * MAX_SIZE);
    arrays.first_isa = allocate(LARGE * MAX_SIZE);
    arrays.column = allocate(MAX_NSRC * MAX_SIZE);
    arrays.memory = allocate((MAX_NSRC + 2) * (LARGE * MAX_SIZE + 4 * MARGIN));
    for (int dtype = 0; dtype < CMO_NDTYPES; dtype++)
        for (int op = 0; op < CMO_NOPS; op++) {
            const int meaning = has_meaning((cmo_dtype)dtype, (cmo_redop)op);
            CHECK((cmo_kernel_for((cmo_dtype)dtype, (cmo_redop)op) != NULL) == meaning);
            for (int isa = 0; isa < NISAS; isa++)
                if (cmo_isa_find(isas[isa]) != NULL)
                    CHECK((cmo_kernel_for_isa(isas[isa], (cmo_dtype)dtype, (cmo_redop)op) != NULL) == meaning);
            if (meaning)
                check_pair(&arrays, (cmo_dtype)dtype, (cmo_redop)op);
        }
    for (int k = 0; k < MAX_NSRC; k++)
        free(arrays.source[k]);
    free(arrays.expected);
    free(arrays.first_isa);
    free(arrays.column);
    free(arrays.memory);
}

/* ---- half conversions */

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static void check_half(const char *isa, cmo_dtype dtype)
{
    enum { ALL = 1 << 16, AROUND = 5 };
    const struct cmo_isa *table = cmo_isa_find(isa);
    const struct format format = dtype == CMO_F16 ? f16_format : bf16_format;
    const uint32_t half_unit = 1u << (22 - format.fraction_bits);
    uint16_t *half = (uint16_t *)allocate(ALL * AROUND * sizeof *half);
    float *wide = (float *)allocate(ALL * AROUND * sizeof *wide);
    for (size_t i = 0; i < ALL; i++)
        half[i] = (uint16_t)i;
    (dtype == CMO_F16 ? table->f16_to_f32 : table->bf16_to_f32)(wide, half, ALL);
    for (size_t i = 0; i < ALL; i++) {
        /* bfloat16 widens by a shift, so a signalling NaN stays one until arithmetic or narrowing quiets it. */
        const uint32_t quieted = isnan(wide[i]) ? bits_of(wide[i]) | 0x400000u : bits_of(wide[i]);
        CHECKF((dtype == CMO_F16 ? bits_of(wide[i]) : quieted) == bits_of(reference_widen(format, (uint16_t)i)),
               "%s %s widens %zx", isa, cmo_dtype_name(dtype), i);
    }
    /* Back: every value, the point half-way to the next, and the neighbours of that in
     * float32; then anything at all. */
    for (size_t i = 0; i < ALL; i++) {
        const uint32_t bits = bits_of(reference_widen(format, (uint16_t)i));
        wide[AROUND * i] = float_of(bits);
        for (uint32_t k = 0; k < 3; k++)
            wide[AROUND * i + 1 + k] = float_of(bits + half_unit - 1 + k);
        wide[AROUND * i + 4] = float_of((uint32_t)random_bits());
    }
    (dtype == CMO_F16 ? table->f32_to_f16 : table->f32_to_bf16)(half, wide, ALL * AROUND);
    for (size_t i = 0; i < ALL * AROUND; i++)
        CHECKF(half[i] == reference_narrow(format, wide[i]), "%s %s narrows %08x to %04x, not %04x", isa,
               cmo_dtype_name(dtype), (unsigned)bits_of(wide[i]), half[i], reference_narrow(format, wide[i]));
    free(half);
    free(wide);
}

static void test_half_conversions(void)
{
    for (int isa = 0; isa < NISAS; isa++)
        if (cmo_isa_find(isas[isa]) != NULL) {
            check_half(isas[isa], CMO_F16);
            check_half(isas[isa], CMO_BF16);
        }
    const float one[3] = {1.0f, -2.5f, 0.125f};
    uint16_t half[3];
    float back[3];
    for (int dtype = CMO_F16; dtype <= CMO_BF16; dtype++) {
        cmo_float_to_half((cmo_dtype)dtype, half, one, 3);
        cmo_half_to_float((cmo_dtype)dtype, back, half, 3);
        CHECK(memcmp(one, back, sizeof one) == 0);
    }
}

/* Halves are rounded once: 2048 + 1 + 1 + 1 + 1 is 2052 in float32, while rounding each
 * sum to float16 stays at 2048. */
static void test_half_sums_round_once(void)
{
    const float terms[5] = {2048, 1, 1, 1, 1};
    uint16_t half[5], sum;
    cmo_float_to_half(CMO_F16, half, terms, 5);
    const void *const srcs[] = {&half[0], &half[1], &half[2], &half[3], &half[4]};
    cmo_kernel_for(CMO_F16, CMO_OP_SUM)(&sum, srcs, 5, 1, 0);
    CHECK(reference_widen(f16_format, sum) == 2052);
}

/* ---- names and dispatch */

static void test_names_and_sizes(void)
{
    CHECK(strcmp(cmo_dtype_name(CMO_BOOL), "bool") == 0 && cmo_dtype_size(CMO_BOOL) == 1);
    CHECK(strcmp(cmo_dtype_name(CMO_CLDBL), "clongdouble") == 0 &&
          cmo_dtype_size(CMO_CLDBL) == 2 * sizeof(long double));
    CHECK(strcmp(cmo_redop_name(CMO_OP_SUM), "sum") == 0 && strcmp(cmo_redop_name(CMO_OP_LXOR), "lxor") == 0);
}

static void test_enumerators_out_of_range_are_refused(void)
{
    static const int outside[] = {-1, CMO_NDTYPES, 1 << 20};
    for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++) {
        CHECK(cmo_kernel_for((cmo_dtype)outside[i], CMO_OP_SUM) == NULL);
        CHECK(cmo_kernel_for(CMO_F32, (cmo_redop)outside[i]) == NULL);
        CHECK(cmo_dtype_size((cmo_dtype)outside[i]) == 0);
        CHECK(strcmp(cmo_dtype_name((cmo_dtype)outside[i]), "unknown") == 0);
        CHECK(strcmp(cmo_redop_name((cmo_redop)outside[i]), "unknown") == 0);
    }
    CHECK(cmo_isa_find("mmx") == NULL && cmo_kernel_for_isa("mmx", CMO_F32, CMO_OP_SUM) == NULL);
}

static void *isa_name_in_thread(void *unused)
{
    (void)unused;
    return (void *)(uintptr_t)cmo_isa_name();
}

/* In a child, because the choice is made once in a process; by several threads, because they must all get the same. */
static int chosen_index_with(const char *setting)
{
    const pid_t child = fork();
    if (child == 0) {
        pthread_t threads[4];
        void *name;
        int agree = setting == NULL ? unsetenv("COMMOPS_ISA") == 0 : setenv("COMMOPS_ISA", setting, 1) == 0;
        for (int t = 0; t < 4; t++)
            agree &= pthread_create(&threads[t], NULL, isa_name_in_thread, NULL) == 0;
        for (int t = 0; t < 4; t++)
            agree &= pthread_join(threads[t], &name) == 0 && name == (void *)(uintptr_t)cmo_isa_name();
        int index = 0;
        while (index < NISAS && strcmp(cmo_isa_name(), isas[index]) != 0)
            index++;
        const cmo_kernel expected = cmo_kernel_for_isa(cmo_isa_name(), CMO_F32, CMO_OP_SUM);
        _exit(agree && cmo_kernel_for(CMO_F32, CMO_OP_SUM) == expected ? index : NISAS);
    }
    int status = -1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* Before anything else in this process has made the choice. */
static void test_environment_lowers_the_choice(void)
{
    int highest = 0;
    for (int isa = 0; isa < NISAS; isa++) {
        if (cmo_isa_find(isas[isa]) != NULL)
            highest = isa;
        CHECK(chosen_index_with(isas[isa]) == (isa > highest ? highest : isa));
    }
    CHECK(chosen_index_with(NULL) == highest);
    CHECK(chosen_index_with("no such set") == highest);
}

static void test_a_name_that_is_none_is_reported(void)
{
    static const char *const good[] = {"", "baseline"}, *const bad[] = {"AVX2", "avx", "baseline "};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        CHECK(setenv("COMMOPS_ISA", good[i], 1) == 0 && cmo_isa_check() == CMO_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK(setenv("COMMOPS_ISA", bad[i], 1) == 0 && cmo_isa_check() == CMO_EINVAL);
        CHECK(strstr(cmo_reason(), "COMMOPS_ISA=") && strstr(cmo_reason(), bad[i]) && strstr(cmo_reason(), "baseline"));
    }
    CHECK(unsetenv("COMMOPS_ISA") == 0 && cmo_isa_check() == CMO_OK);
}

int main(void)
{
    test_environment_lowers_the_choice();
    test_a_name_that_is_none_is_reported();
    test_names_and_sizes();
    test_enumerators_out_of_range_are_refused();
    test_half_conversions();
    test_half_sums_round_once();
    test_every_dtype_and_op();
    return check_report();
}
