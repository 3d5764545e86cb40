#include "base/tunable.h"

#include "base/cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const cmo_tunable_row cmo_tunable_rows[] = {
#define CMO_X(field, env, def, least, greatest, doc) {#field, env, doc, def, least, greatest},
    CMO_TUNABLES(CMO_X)
#undef CMO_X
};

const int cmo_ntunables = sizeof cmo_tunable_rows / sizeof cmo_tunable_rows[0];

int64_t cmo_tunable_default(const cmo_tunable_row *row)
{
    switch (row->def) {
    case CMO_HALF_SHARED: return cmo_cache_shared() / 2;
    case CMO_TWICE_OWN: return 2 * cmo_cache_own();
    case CMO_TWICE_OWN_SLOTS: return 2 * cmo_cache_own() / (4 << 10);
    default: return row->def;
    }
}

static cmo_err tunable_read(const cmo_tunable_row *row, int64_t *out)
{
    const char *text = getenv(row->env);
    if (!text || !*text) {
        *out = cmo_tunable_default(row);
        return CMO_OK;
    }
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

cmo_err cmo_tunable_set(cmo_tunables *tunables, const char *name, int64_t value)
{
    for (int i = 0; i < cmo_ntunables; i++) {
        const cmo_tunable_row *row = &cmo_tunable_rows[i];
        if (strcmp(name, row->name)) continue;
        if (value < row->least || value > row->greatest)
            return cmo_fail(CMO_EINVAL, "%s=%lld: a whole number from %lld to %lld is needed", name,
                            (long long)value, (long long)row->least, (long long)row->greatest);
        ((int64_t *)tunables)[i] = value; /* whose fields are these rows */
        return CMO_OK;
    }
    return cmo_fail(CMO_EINVAL, "there is no tunable %s", name);
}
