/* One list makes the error codes and their names, and says what they mean. */
#ifndef CMO_ERROR_H
#define CMO_ERROR_H

/* X(enumerator, what it means) */
#define CMO_ERRORS(X)                                              \
    X(OK, "success")                                               \
    X(AGAIN, "not finished: call again when something has moved")  \
    X(EINVAL, "an argument is wrong")                              \
    X(ETYPE, "a type does not fit")                                \
    X(ENOMEM, "out of memory")                                     \
    X(ESYS, "a system call failed")                                \
    X(ETIMEOUT, "the deadline passed")                             \
    X(EPEERLOST, "a peer is gone")                                 \
    X(EMISMATCH, "ranks made different calls")                     \
    X(EORDER, "ranks called an agreement in place of this")        \
    X(EREVOKED, "the communicator is closed or broken")            \
    X(EAUTH, "a peer did not prove that it belongs to the job")    \
    X(EPROTO, "a peer broke the protocol")                         \
    X(EINTERRUPT, "interrupted by a signal")

typedef enum {
#define CMO_X(e, text) CMO_##e,
    CMO_ERRORS(CMO_X)
#undef CMO_X
    CMO_NERRORS
} cmo_err;

enum { CMO_TEXT = 512 }; /* bytes that an explanation may take, its end included */

/* Record why this thread's call fails, printf-style, and return `err`: `return cmo_fail(CMO_ESYS, "mmap: %s", …)`. */
cmo_err cmo_fail(cmo_err err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The explanation that cmo_fail last recorded on this thread. Borrowed; valid until the thread's next cmo_fail. */
const char *cmo_reason(void);

const char *cmo_err_name(cmo_err err); /* "ETIMEOUT" */

/* Leave the calling function with the first error. */
#define CMO_TRY(expression)                      \
    do {                                         \
        cmo_err try_err_ = (expression);         \
        if (__builtin_expect(try_err_ != CMO_OK, 0)) return try_err_; \
    } while (0)

#endif
