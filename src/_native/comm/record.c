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

static uint64_t bytes_of(uint64_t count, unsigned dtype)
{
    return dtype < CMO_NDTYPES ? count * cmo_dtype_size((cmo_dtype)dtype) : 0;
}

static int64_t clock_of(const cmo_engine *e)
{
    return e->recorder.exact ? cmo_now() : cmo_flight_tick();
}

void cmo_record_called(cmo_engine *e, cmo_op *op)
{
    cmo_recorder *r = &e->recorder;
    const bool sends = op->point && !op->endures && cmo_point_transfer(op)->sends;
    uint64_t count = 0, bytes = 0, seq = 0;
    unsigned dtype = CMO_NDTYPES, state = CMO_FLIGHT_RUNNING, code = 0;
    int peer = -1;
    if (!op->point) {
        count = elements(op);
        dtype = op->call.dtype;
        code = op->call.op;
        bytes = bytes_of(count, dtype);
        peer = op->call.root;
        state = CMO_FLIGHT_CALLED;
    } else if (!op->endures) {
        const cmo_xfer *x = cmo_point_transfer(op);
        peer = x->peer;
        seq = (uint64_t)x->header.tag;
        if (sends) {
            dtype = x->header.dtype;
            bytes = x->length;
            count = bytes / cmo_dtype_size((cmo_dtype)dtype);
        }
    }
    if (r->exact && !op->timed) {
        op->called = cmo_now();
        op->timed = true;
    }
    op->recorded = cmo_flight_record(r, op->comm->id, seq, count, bytes, op->called ? op->called : clock_of(e),
                                     op->caller, peer,
                                     cmo_flight_what(op->point ? op->known_as : op->call.kind, code, dtype, state, 0,
                                                     op->apart));
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

void cmo_record_sent(cmo_engine *e, const cmo_comm *comm, const cmo_message *m)
{
    if (!e->recorder.flight) return;
    const int64_t now = clock_of(e);
    const uint64_t what = cmo_flight_what(CMO_FLIGHT_SEND, 0, m->dtype, CMO_FLIGHT_BRIEF, 0, true);
    cmo_flight_record(&e->recorder, comm->id, (uint64_t)m->tag, m->bytes / cmo_dtype_size(m->dtype), m->bytes, now,
                      cmo_flight_caller, m->peer, what);
}
