#include "comm/internal.h"

#include <stdio.h>

void cmo_op_fail(cmo_op *op, cmo_err err, const char *text)
{
    if (op->err) return;
    op->err = err;
    snprintf(op->text, sizeof op->text, "%s", text);
    op->comm->engine->moved = true;
}
