/* Assertions of the C tests' own, so that a release build (NDEBUG) does not compile them away.
 *
 * CHECK(condition) reports file, line and expression on standard error and goes on; CHECKF adds a message as printf
 * takes it. A test's main ends with `return check_report();`: 0 where every check held, else 1.
 */
#ifndef CMO_TESTS_CHECK_H
#define CMO_TESTS_CHECK_H

#include <stdatomic.h>
#include <stdio.h>

enum { CHECK_MAX_PRINTED = 50 };

static atomic_ulong check_done, check_failed; /* atomic: threads may check too */

/* Whether this failure should still be described: the first few are news, a thousand more are not. */
static inline int check_fail(const char *file, int line, const char *expression)
{
    const unsigned long before = atomic_fetch_add(&check_failed, 1);
    if (before == CHECK_MAX_PRINTED)
        fprintf(stderr, "further failures are counted, not printed\n");
    if (before >= CHECK_MAX_PRINTED)
        return 0;
    fprintf(stderr, "%s:%d: check failed: %s\n", file, line, expression);
    return 1;
}

static inline int check_report(void)
{
    const unsigned long failed = atomic_load(&check_failed), done = atomic_load(&check_done);
    fprintf(stderr, "%lu checks, %lu failed\n", done, failed);
    return failed != 0;
}

#define CHECK(condition)                                            \
    do {                                                            \
        atomic_fetch_add(&check_done, 1);                           \
        if (!(condition))                                           \
            (void)check_fail(__FILE__, __LINE__, #condition);       \
    } while (0)

#define CHECKF(condition, ...)                                      \
    do {                                                            \
        atomic_fetch_add(&check_done, 1);                           \
        if (!(condition) && check_fail(__FILE__, __LINE__, #condition)) { \
            fprintf(stderr, "    " __VA_ARGS__);                    \
            fputc('\n', stderr);                                    \
        }                                                           \
    } while (0)

#endif
