#include "comm/call.h"

const char *cmo_kind_name(cmo_kind kind)
{
    static const char *const names[] = {
#define CMO_X(e, name) name,
        CMO_KINDS(CMO_X)
#undef CMO_X
    };
    return (unsigned)kind < CMO_NKINDS ? names[kind] : "?";
}
