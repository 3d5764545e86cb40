#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char reason[CMO_TEXT];

cmo_err cmo_fail(cmo_err err, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(reason, sizeof reason, format, args);
    va_end(args);
    return err;
}

const char *cmo_reason(void) { return reason; }

const char *cmo_err_name(cmo_err err)
{
    static const char *const names[] = {
#define CMO_X(e, text) #e,
        CMO_ERRORS(CMO_X)
#undef CMO_X
    };
    return (unsigned)err < CMO_NERRORS ? names[err] : "?";
}
