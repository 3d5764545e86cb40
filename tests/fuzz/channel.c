/* An engine whose peers say anything: any bytes, cut anywhere, while calls of all kinds are in progress.
 *
 * The peers are authenticated, and may be buggy: whatever they say, nothing is read or written out of bounds, nothing
 * is touched that its caller has back, what came before its receive takes no more memory than was granted, every frame
 * that goes out is one, and the engine can be closed, which ends all calls. */
#include "channel.h"

#include "calls.h"
#include "fuzz.h"
#include "peer_net.h"

#include "base/clock.h"
#include "coll/coll.h"
#include "comm/agree.h"
#include "comm/internal.h"

_Static_assert((int)PEER_RANKS == (int)CALLS_RANKS, "as many peers as the calls have ranks");

enum { MOST_CALLS = 24, MOST_COMMS = 4, MOST_RECORDS = 96, WINDOW_BYTES = 1 << 16 };

typedef struct slot { /* a call in progress; freed as soon as it has ended, as its caller may */
    cmo_op op;
    call_arrays arrays;
    cmo_status status;
} slot;

typedef struct machine {
    fuzz_input in;
    int64_t now;
    cmo_tunables tunables;
    cmo_window *window;
    peer_net *net;
    cmo_engine *engine;
    cmo_comm *comms[MOST_COMMS]; /* [ncomms] open; the last is in use */
    int ncomms, nbuilt;
    slot *slots[MOST_CALLS];
} machine;

static int64_t clock_of(void *ctx) { return ((machine *)ctx)->now; }
static cmo_comm *in_use(const machine *m) { return m->ncomms ? m->comms[m->ncomms - 1] : NULL; }

static void machine_make(machine *m, uint8_t settings)
{
    static const int hosts[CALLS_RANKS] = {0, 1, 2, 3, 4};
    m->tunables = calls_tunables(settings);
    m->net = peer_net_create(CHANNEL_RANK);
    FUZZ_CHECK(cmo_window_create(&m->window, 1, WINDOW_BYTES, true) == CMO_OK);
    const cmo_neighbour self = {.head = cmo_window_base(m->window), .size = cmo_window_size(m->window), .doorbell = -1,
                                .pidfd = -1};
    const cmo_world w = {.rank = CHANNEL_RANK, .size = CALLS_RANKS, .generation = 1, .host = hosts, .window = m->window,
                         .neighbours = &self, .nlocal = 1, .share = true, .remote = &m->net->net,
                         .collectives = &cmo_coll, .tunables = m->tunables, .now = clock_of, .now_ctx = m,
                         .threadless = true};
    FUZZ_CHECK(cmo_engine_create(&m->engine, &w) == CMO_OK);
    m->comms[m->ncomms++] = cmo_engine_world(m->engine);
}

/* ------------------------------------------------------------------ what must hold at any time */

static uint64_t held_of(const cmo_node *list, const cmo_channel *c)
{
    uint64_t bytes = 0;
    CMO_EACH(n, list) {
        const cmo_unexpected *u = CMO_ENTRY(n, cmo_unexpected, node);
        if (u->channel == c && u->header.kind == CMO_EAGER) bytes += u->header.length;
    }
    return bytes;
}

/* What a peer has sent unasked, and nobody has received. */
static void check_window(const machine *m)
{
    for (int r = 0; r < CALLS_RANKS; r++) {
        const cmo_channel *c = m->engine->channel[r];
        if (!c) continue;
        uint64_t bytes = held_of(&m->engine->orphans, c);
        CMO_EACH(n, &m->engine->comms) bytes += held_of(&CMO_ENTRY(n, cmo_comm, node)->unexpected, c);
        FUZZ_CHECK(bytes <= (uint64_t)m->tunables.eager_window);
    }
}

static void slot_free(machine *m, int i)
{
    calls_free(&m->slots[i]->arrays);
    free(m->slots[i]);
    m->slots[i] = NULL;
}

static void collect(machine *m)
{
    for (int i = 0; i < MOST_CALLS; i++)
        if (m->slots[i] && cmo_op_ended(&m->slots[i]->op)) slot_free(m, i);
}

/* ------------------------------------------------------------------ records */

static slot *slot_new(machine *m, int *index)
{
    for (int i = 0; i < MOST_CALLS; i++) {
        if (m->slots[i]) continue;
        *index = i;
        m->slots[i] = aligned_alloc(_Alignof(slot), (sizeof(slot) + _Alignof(slot) - 1) / _Alignof(slot) *
                                                        _Alignof(slot));
        FUZZ_CHECK(m->slots[i] != NULL);
        memset(m->slots[i], 0, sizeof(slot));
        return m->slots[i];
    }
    return NULL;
}

static int source_of(uint8_t argument) { return (argument & 7) < CHANNEL_ANY ? argument & 7 : CMO_ANY; }
static int peer_of(uint8_t argument) { return (argument & 7) % CALLS_RANKS; }
static int higher_of(uint8_t argument) { return argument >> CHANNEL_HIGH & 7; }
static int64_t tag_of(uint8_t argument) { return argument >> CHANNEL_TAG; }

static void start(machine *m, channel_record what, uint8_t argument)
{
    int i;
    slot *s = in_use(m) ? slot_new(m, &i) : NULL;
    if (!s) return;
    const double timeout = 5;
    const uint64_t sizes[] = {0, 1, 30, 32, 33, 100, 600, 1500};
    cmo_message message = {.peer = source_of(argument), .tag = higher_of(argument) ? CMO_ANY : tag_of(argument),
                           .dtype = CMO_U8, .ndim = 1, .shape = s->arrays.shape,
                           .allocate = calls_allocate, .allocate_ctx = &s->arrays};
    cmo_err err;
    if (what == CHANNEL_CALL && argument == CHANNEL_AGREE) {
        err = cmo_agree_start(&s->op, in_use(m), 1, false, timeout);
    } else if (what == CHANNEL_CALL && argument == CHANNEL_SHRINK) {
        err = cmo_shrink_start(&s->op, in_use(m), timeout);
    } else if (what == CHANNEL_CALL) {
        const cmo_call call = calls_make(&s->arrays, argument, CHANNEL_RANK);
        err = cmo_call_start(&s->op, in_use(m), &call, timeout);
    } else if (what == CHANNEL_RECEIVE) {
        err = cmo_recv_start(&s->op, in_use(m), &message, timeout, &s->status);
    } else if (what == CHANNEL_PROBE) {
        err = cmo_probe_start(&s->op, in_use(m), message.peer, message.tag, timeout, &s->status);
    } else {
        message.peer = peer_of(argument);
        message.tag = tag_of(argument);
        message.bytes = s->arrays.shape[0] = sizes[higher_of(argument)];
        calls_fill(&s->arrays, message.bytes);
        message.buffer = s->arrays.in;
        err = cmo_send_start(&s->op, in_use(m), &message, timeout);
    }
    if (err) slot_free(m, i);
}

static void build(machine *m)
{
    const cmo_member members[CALLS_RANKS] = {0};
    if (m->ncomms == MOST_COMMS || m->nbuilt == 2 * MOST_COMMS || !m->ncomms) return;
    m->nbuilt++;
    if (cmo_comm_build(in_use(m), members, &m->comms[m->ncomms]) == CMO_OK) m->ncomms++;
}

static size_t count_of(fuzz_input *in)
{
    const size_t low = fuzz_byte(in);
    return low | (size_t)fuzz_byte(in) << 8;
}

/* A frame as an honest peer might send it, as far as `mend` says so. */
static void frame(machine *m, int rank)
{
    size_t head, bytes;
    const uint8_t mend = fuzz_byte(&m->in);
    uint8_t out[CMO_HEADER_BYTES + 8 + CHANNEL_PAYLOAD] = {0}, *to = out + CMO_HEADER_BYTES;
    const uint8_t *header = fuzz_take(&m->in, CMO_HEADER_BYTES, &head);
    memcpy(out, header, head);
    const uint8_t *payload = fuzz_take(&m->in, count_of(&m->in) & CHANNEL_PAYLOAD, &bytes);
    const cmo_comm *c = in_use(m);
    peer *p = &m->net->peers[rank];
    if (mend & CHANNEL_MEND_GENERATION) cmo_wire_put(out + 4, 1, 4);
    if (mend & CHANNEL_MEND_COMM && c) cmo_wire_put(out + 8, c->id, 8);
    if (mend & CHANNEL_MEND_CALL && c) {
        cmo_wire_put(out + 16, c->seq, 8);
        cmo_wire_put(out + 56, c->chain, 8);
    }
    if (mend & CHANNEL_MEND_LENGTH) cmo_wire_put(out + 32, bytes, 8);
    if (mend & CHANNEL_MEND_SHAPE) {
        out[2] = CMO_U8;
        out[3] = 1;
        memcpy(to, out + 32, 8);
        to += 8;
    }
    if (mend & CHANNEL_MEND_ID && out[0] == CMO_CTS) cmo_wire_put(out + 40, p->announced_id, 8);
    if (mend & CHANNEL_MEND_ID && out[0] == CMO_DATA && out[40] & CHANNEL_OFFERED) {
        cmo_wire_put(out + 40, p->announced_id, 8);
    } else if (mend & CHANNEL_MEND_ID && out[0] == CMO_DATA) {
        peer_transfer *t = &p->transfers[out[40] % PEER_TRANSFERS];
        cmo_wire_put(out + 40, t->id, 8);
        cmo_wire_put(out + 48, t->sent, 8);
        t->sent += bytes;
    }
    memcpy(to, payload, bytes);
    peer_feed(m->net, rank, out, (size_t)(to - out) + bytes);
}

static void feed(machine *m, int rank)
{
    size_t got;
    const uint8_t *bytes = fuzz_take(&m->in, count_of(&m->in), &got);
    peer_feed(m->net, rank, bytes, got);
}

static void record(machine *m)
{
    const channel_record what = (channel_record)(fuzz_byte(&m->in) % CHANNEL_NRECORDS);
    const uint8_t argument = fuzz_byte(&m->in);
    const int rank = peer_of(argument), other = rank == CHANNEL_RANK ? 0 : rank; /* this one says nothing to itself */
    switch (what) {
    case CHANNEL_FEED: feed(m, other); break;
    case CHANNEL_FRAME: frame(m, other); break;
    case CHANNEL_BUILD: build(m); break;
    case CHANNEL_CLOSE:
        if (m->ncomms) cmo_comm_close(m->comms[--m->ncomms]);
        break;
    case CHANNEL_TIME: m->now += argument * CMO_SECOND / 20; break;
    case CHANNEL_ROOM:
        m->net->peers[rank].room = higher_of(argument) == 7 ? SIZE_MAX : (size_t)higher_of(argument) * 48;
        break;
    case CHANNEL_END: peer_end(m->net, other); break;
    case CHANNEL_BREAK:
        if (in_use(m)) cmo_comm_fail(in_use(m), CMO_EREVOKED, "given up");
        break;
    default: start(m, what, argument); break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    machine m = {.in = {data, size}, .now = 1};
    machine_make(&m, fuzz_byte(&m.in));
    for (int i = 0; m.in.left && i < MOST_RECORDS; i++) {
        record(&m);
        for (int polls = 0; polls < 3; polls++) {
            cmo_engine_poll(m.engine);
            check_window(&m);
            collect(&m);
        }
    }
    cmo_engine_close(m.engine);
    collect(&m);
    for (int i = 0; i < MOST_CALLS; i++) FUZZ_CHECK(!m.slots[i]); /* all have ended */
    cmo_engine_destroy(m.engine); /* and the net with it */
    cmo_window_destroy(m.window);
    return 0;
}
