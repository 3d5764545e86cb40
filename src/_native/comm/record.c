/* What an engine writes into its flight recorder, of each call: when it is made, when it starts, when it ends. The
 * driver's. It adds tens of nanoseconds to the smallest call, so it reads a clock only where the call has waited. */
#include "comm/internal.h"

static uint64_t elements(const cmo_op *op)
{
    const cmo_call *c = &op->call;
    if (!c->counts) return c->count;
    uint64_t sum = 0;
    for (int r = 0; r < op->comm->size; r++) sum += c->counts[r];
    return sum;
}

static void record_collective(cmo_engine *e, cmo_op *op, unsigned state, uint64_t seq)
{
    const uint64_t count = elements(op);
    const uint64_t what = cmo_flight_what(op->call.kind, op->call.op, op->call.dtype, state, 0, op->apart);
    op->recorded = cmo_flight_record(&e->recorder, op->comm->id, seq, count, count * cmo_dtype_size(op->call.dtype),
                                     op->called ? op->called : cmo_flight_tick(), op->caller, op->call.root, what);
}

static void record_message(cmo_engine *e, cmo_op *op, unsigned state)
{
    const cmo_xfer *x = op->endures ? NULL : cmo_point_transfer(op);
    const bool known = x && (x->sends || (state == CMO_FLIGHT_BRIEF && op->known_as == CMO_FLIGHT_RECV));
    const unsigned dtype = known ? x->header.dtype : CMO_NDTYPES;
    const uint64_t bytes = known ? x->header.length : 0;
    op->recorded = cmo_flight_record(&e->recorder, op->comm->id, x ? (uint64_t)x->header.tag : 0,
                                     dtype < CMO_NDTYPES ? bytes / cmo_dtype_size((cmo_dtype)dtype) : 0, bytes,
                                     op->called ? op->called : cmo_flight_tick(), op->caller, x ? x->peer : -1,
                                     cmo_flight_what(op->known_as, 0, dtype, state, 0, op->apart));
}

void cmo_record_called(cmo_engine *e, cmo_op *op)
{
    if (op->point) record_message(e, op, CMO_FLIGHT_RUNNING);
    else record_collective(e, op, CMO_FLIGHT_CALLED, 0);
}

void cmo_record_begun(cmo_engine *e, cmo_op *op)
{
    const bool ended = cmo_op_ended(op);
    const unsigned state = ended && !op->timed ? CMO_FLIGHT_BRIEF : CMO_FLIGHT_RUNNING;
    if (op->point) record_message(e, op, state);
    else if (ended || op->step) record_collective(e, op, state, op->seq);
    else record_collective(e, op, CMO_FLIGHT_CALLED, 0);
    if (ended && (op->timed || op->err)) cmo_record_ended(e, op, op->err);
}

void cmo_record_started(cmo_engine *e, const cmo_op *op)
{
    cmo_flight_entry *entry = cmo_flight_of(&e->recorder, op->recorded);
    if (!entry) return;
    CMO_FLIGHT_SET(entry->seq, op->seq);
    cmo_flight_state(entry, CMO_FLIGHT_RUNNING, 0);
}

void cmo_record_timed(cmo_engine *e, const cmo_op *op)
{
    cmo_flight_entry *entry = cmo_flight_of(&e->recorder, op->recorded);
    if (entry) CMO_FLIGHT_SET(entry->start, op->called);
}

/* What a receive has received, and from whom. */
static void record_received(cmo_recorder *r, cmo_flight_entry *entry, cmo_op *op)
{
    const cmo_xfer *x = cmo_point_transfer(op);
    const uint8_t dtype = x->header.dtype;
    if (dtype >= CMO_NDTYPES) return;
    CMO_FLIGHT_SET(entry->peer, x->peer);
    CMO_FLIGHT_SET(entry->seq, (uint64_t)x->header.tag);
    CMO_FLIGHT_SET(entry->count, x->header.length / cmo_dtype_size((cmo_dtype)dtype));
    CMO_FLIGHT_SET(r->flight->bytes, r->bytes += x->header.length);
    const uint64_t what = atomic_load_explicit(&entry->what, memory_order_relaxed);
    CMO_FLIGHT_SET(entry->what, (what & ~(UINT64_C(0xff) << 16)) | (uint64_t)dtype << 16);
}

void cmo_record_ended(cmo_engine *e, cmo_op *op, cmo_err err)
{
    cmo_recorder *r = &e->recorder;
    cmo_flight_entry *entry = cmo_flight_of(r, op->recorded);
    if (!entry) return;
    if (!err && op->point && op->known_as == CMO_FLIGHT_RECV) record_received(r, entry, op);
    if (op->timed || err) CMO_FLIGHT_SET(entry->end, cmo_now());
    cmo_flight_state(entry, err ? CMO_FLIGHT_FAILED : op->timed ? CMO_FLIGHT_DONE : CMO_FLIGHT_BRIEF, err);
}

void cmo_record_sent(cmo_engine *e, const cmo_comm *comm, const cmo_message *m, int64_t start)
{
    if (!e->recorder.flight) return;
    const unsigned state = start ? CMO_FLIGHT_RUNNING : CMO_FLIGHT_BRIEF;
    const uint64_t number = cmo_flight_record(
        &e->recorder, comm->id, (uint64_t)m->tag, m->bytes / cmo_dtype_size(m->dtype), m->bytes,
        start ? start : cmo_flight_tick(), cmo_flight_caller, m->peer,
        cmo_flight_what(CMO_FLIGHT_SEND, 0, m->dtype, state, 0, true));
    if (!start) return;
    cmo_flight_entry *entry = cmo_flight_at(&e->recorder, number);
    CMO_FLIGHT_SET(entry->end, cmo_now());
    cmo_flight_state(entry, CMO_FLIGHT_DONE, 0);
}
