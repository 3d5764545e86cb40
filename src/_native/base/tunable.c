#include "base/tunable.h"

#include <errno.h>
#include <stdlib.h>

const cmo_tunable_row cmo_tunable_rows[] = {
#define CMO_X(field, env, def, least, greatest, doc) {#field, env, doc, def, least, greatest},
    CMO_TUNABLES(CMO_X)
#undef CMO_X
};

const int cmo_ntunables = sizeof cmo_tunable_rows / sizeof cmo_tunable_rows[0];

static cmo_err tunable_read(const cmo_tunable_row *row, int64_t *out)
{
    const char *text = getenv(row->env);
    *out = row->def;
    if (!text || !*text) return CMO_OK;
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno || *end || value < row->least || value > row->greatest)
        return cmo_fail(CMO_EINVAL, "%s=%s: a whole number from %lld to %lld is needed", row->env, text,
                        (long long)row->least, (long long)row->greatest);
    *out = value;
    return CMO_OK;
}

cmo_err cmo_tunables_read(cmo_tunables *out)
{
    const cmo_tunable_row *row = cmo_tunable_rows;
#define CMO_X(field, env, def, least, greatest, doc) CMO_TRY(tunable_read(row++, &out->field));
    CMO_TUNABLES(CMO_X)
#undef CMO_X
    return CMO_OK;
}
