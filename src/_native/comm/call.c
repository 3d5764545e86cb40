#include "comm/call.h"

#include <inttypes.h>
#include <stdio.h>

const char *cmo_kind_name(cmo_kind kind)
{
    static const char *const names[] = {
#define CMO_X(e, name) name,
        CMO_KINDS(CMO_X)
#undef CMO_X
    };
    return (unsigned)kind < CMO_NKINDS ? names[kind] : "?";
}

const char *cmo_meaning_name(unsigned meaning)
{
    static const char *const names[] = {
#define CMO_X(e, name) name,
        CMO_MEANINGS(CMO_X)
#undef CMO_X
    };
    return meaning < CMO_NMEANINGS ? names[meaning] : "?";
}

void cmo_shape_text(char *out, size_t n, int ndim, const uint64_t *shape, int known)
{
    size_t at = (size_t)snprintf(out, n, "(");
    for (int i = 0; i < ndim && i < known && at < n; i++)
        at += (size_t)snprintf(out + at, n - at, "%s%" PRIu64, i ? ", " : "", shape[i]);
    if (at < n) snprintf(out + at, n - at, "%s)", ndim > known ? ", …" : ndim == 1 ? "," : "");
}
