/* May a communicator still be used? If not, what its user is told. */
#include "comm/internal.h"

#include <unistd.h>

enum { SETTLE_US = 1000 }; /* between looks whether the others have said where they stood when the communicator broke,
                              for which failure.c lets nobody wait long */

/* Give the others the time to say where they stand. What they have told may have waited for a driver. */
static void hear_out(cmo_comm *comm)
{
    cmo_engine *e = comm->engine;
    if (e->threadless) return;
    cmo_engine_poll(e);
    while (comm->failed && !cmo_failure_settled(comm)) {
        cmo_engine_take_ends(e); /* the system says how a lost rank ended */
        cmo_engine_poll(e);
        usleep(SETTLE_US);
    }
}

cmo_err cmo_comm_unheard(cmo_comm *comm)
{
    char text[CMO_TEXT];
    if (comm->outer || comm->explained) return CMO_OK;
    cmo_failure_look(comm);
    if (!comm->engine->threadless) cmo_engine_poll(comm->engine);
    if (!comm->failed) cmo_ask_last(comm);
    if (!cmo_failure_concerns(comm)) return CMO_OK;
    hear_out(comm);
    if (!cmo_failure_concerns(comm)) return CMO_OK; /* it was about a later one */
    cmo_failure_text(comm, text, sizeof text);
    return cmo_fail(CMO_EMISMATCH, "%s", text);
}

cmo_err cmo_comm_usable(cmo_op *op, cmo_comm *comm, const cmo_call *call)
{
    op->lost = -1;
    if (cmo_comm_healthy(comm)) return CMO_OK;
    if (comm->closed) return cmo_fail(CMO_EREVOKED, "the communicator is closed");
    /* A collective finds out in its first pass, when it has said what it is */
    if (!comm->failed && call) return CMO_OK;
    char text[CMO_TEXT];
    cmo_engine_enter(comm->engine);
    cmo_failure_look(comm);
    cmo_failure_late(comm, call);
    hear_out(comm);
    cmo_failure_text(comm, text, sizeof text);
    /* Of a lost rank all calls tell alike */
    cmo_err err = comm->failed == CMO_EPEERLOST ? cmo_fail(comm->failed, "%s", text)
                                                : cmo_fail(comm->failed, "the communicator is broken: %s", text);
    cmo_engine_leave(comm->engine);
    return err;
}
