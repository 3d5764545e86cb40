/* Copies: every length and alignment around the borders of the ways to copy, and nothing beside the bytes touched. */
#include "base/copy.h"
#include "check.h"

enum { HALF_PAGE = 2048, MARGIN = 128, MOST = 20000, ALIGNMENTS = 65 };

typedef void (*copy)(void *to, const void *from, size_t bytes);

static unsigned char from[MOST + HALF_PAGE + 2 * MARGIN], to[MOST + 2 * MARGIN];

static void check_copy(copy f, size_t bytes, size_t to_at, size_t from_at)
{
    memset(to, 0xEE, bytes + 2 * MARGIN);
    f(to + to_at, from + from_at, bytes);
    CHECK(!memcmp(to + to_at, from + from_at, bytes));
    for (size_t i = 0; i < to_at; i++) CHECK(to[i] == 0xEE);
    for (size_t i = to_at + bytes; i < bytes + 2 * MARGIN; i++) CHECK(to[i] == 0xEE);
}

static void test_lengths_and_alignments(copy f)
{
    static const size_t lengths[] = {0, 1, 15, 16, 63, 64, 65, 127, 128, 129, 1000, 4095, 4096, 4097, 8192, MOST};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (size_t at = 0; at < ALIGNMENTS; at += 1 + (lengths[i] > 4096) * 6)
            for (size_t other = 0; other < ALIGNMENTS; other += 21) {
                check_copy(f, lengths[i], at, other); /* around the caches one of these goes up and one down */
                check_copy(f, lengths[i], at, other + HALF_PAGE);
            }
}

/* Whichever way is taken at the moment, the bytes are the same. */
static void test_stage_over_and_over(void)
{
    for (size_t i = 0; i < 2000; i++) {
        check_copy(cmo_stage, 4096 + i * 7 % 9000, i % 64, i % 61);
        check_copy(cmo_stage_message, 4096 + i * 7 % 9000, i % 64, i % 61);
    }
}

static void test_null_with_no_bytes(void)
{
    cmo_copy(NULL, NULL, 0);
    cmo_copy_around(NULL, NULL, 0);
    cmo_stage(NULL, NULL, 0);
    cmo_stage_message(NULL, NULL, 0);
}

int main(void)
{
    for (size_t i = 0; i < sizeof from; i++) from[i] = (unsigned char)(i * 31 + i / 256 + 1);
    test_lengths_and_alignments(cmo_copy);
    test_lengths_and_alignments(cmo_copy_around);
    test_lengths_and_alignments(cmo_stage);
    test_lengths_and_alignments(cmo_stage_message);
    test_stage_over_and_over();
    test_null_with_no_bytes();
    return check_report();
}
