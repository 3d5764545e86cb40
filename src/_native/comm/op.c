#include "comm/internal.h"

#include <stdio.h>

void cmo_op_fail(cmo_op *op, cmo_err err, const char *text)
{
    if (op->err) return;
    op->err = err;
    snprintf(op->text, sizeof op->text, "%s", text);
    op->comm->engine->moved = true;
}

bool cmo_op_drop(cmo_op *op, void (*on_done)(void *), void *ctx)
{
    pthread_mutex_lock(&op->engine->lock); /* whoever ends it does so under it */
    bool running = !cmo_op_ended(op);
    if (running) {
        op->on_done_ctx = ctx;
        op->on_done = on_done;
    }
    pthread_mutex_unlock(&op->engine->lock);
    return running;
}
