/* What is said of a failure: who had called what, and who had not come. Where a failure asks for it, the others are
 * given some time to say where they stand. */
#include "base/process.h"
#include "comm/internal.h"

#include <stdio.h>
#include <string.h>

/* Its parts come from other ranks. */
void cmo_describe_call(char *out, size_t n, const cmo_recent_call *call)
{
    const cmo_kind kind = (cmo_kind)call->kind;
    const unsigned op = call->op, dtype = call->dtype;
    char what[160] = "", at[32] = "", shape[96] = "";
    const bool shaped = call->ndim <= CMO_MAX_DIMS;
    bool reduces = kind == CMO_ALLREDUCE || kind == CMO_REDUCE || kind == CMO_REDUCE_SCATTER || kind == CMO_SCAN ||
                   kind == CMO_EXSCAN;
    if (kind >= CMO_NKINDS || op >= (reduces ? (unsigned)CMO_NOPS : (unsigned)CMO_NMEANINGS) || dtype >= CMO_NDTYPES) {
        snprintf(out, n, "an unknown call");
        return;
    }
    if (shaped && call->ndim != 1) {
        strcpy(shape, " of shape ");
        cmo_shape_text(shape + strlen(shape), sizeof shape - strlen(shape), call->ndim, call->shape, CMO_RECENT_DIMS);
    }
    bool rooted = kind == CMO_BROADCAST || kind == CMO_REDUCE || kind == CMO_SCATTER || kind == CMO_GATHER;
    bool learns = (kind == CMO_BROADCAST || kind == CMO_SCATTER) && !call->count && !shaped; /* has no array */
    if (kind != CMO_BARRIER && !learns)
        snprintf(what, sizeof what, "%llu × %s%s%s%s", (unsigned long long)call->count,
                 cmo_dtype_name((cmo_dtype)dtype), shape, reduces ? ", op=" : "",
                 reduces ? cmo_redop_name((cmo_redop)op) : "");
    if (rooted) snprintf(at, sizeof at, "%sroot=%d", what[0] ? ", " : "", call->root);
    const char *as = reduces ? "" : cmo_meaning_name(op), *of = !reduces && op == CMO_OBJECTS ? " of objects" : "";
    snprintf(out, n, "%s%s(%s%s)", as[0] ? as : cmo_kind_name(kind), of, what, at);
}

/* ------------------------------------------------------------------ what another rank is doing */

/* The same of any call in a flight recorder, with its number and where it was made: in short, "train.py:12". */
static void describe_recorded(char *out, size_t n, const cmo_flight *f, const cmo_flight_call *call)
{
    static const char *const others[] = {[CMO_FLIGHT_SEND - CMO_NKINDS] = "send to",
                                         [CMO_FLIGHT_RECV - CMO_NKINDS] = "recv from",
                                         [CMO_FLIGHT_PROBE - CMO_NKINDS] = "probe of",
                                         [CMO_FLIGHT_AGREE - CMO_NKINDS] = "agree",
                                         [CMO_FLIGHT_SHRINK - CMO_NKINDS] = "shrink"};
    char what[128], number[48] = "", at[80] = "", text[CMO_FLIGHT_SITE_BYTES];
    const unsigned other = call->kind - CMO_NKINDS; /* a huge number for collectives */
    if (other >= CMO_FLIGHT_AGREE - CMO_NKINDS && other < sizeof others / sizeof *others)
        snprintf(what, sizeof what, "%s", others[other]);
    else if (other < sizeof others / sizeof *others && call->peer < 0)
        snprintf(what, sizeof what, "%s any rank", others[other]);
    else if (other < sizeof others / sizeof *others)
        snprintf(what, sizeof what, "%s rank %d", others[other], call->peer);
    else
        cmo_describe_call(what, sizeof what, &(cmo_recent_call){.kind = (uint8_t)call->kind, .op = (uint8_t)call->op,
                                                                .dtype = (uint8_t)call->dtype, .ndim = CMO_UNTOLD,
                                                                .count = call->count, .root = call->peer});
    if (call->kind < CMO_NKINDS && call->seq)
        snprintf(number, sizeof number, ", number %llu", (unsigned long long)call->seq);
    cmo_flight_site_text(f, call->site, text, sizeof text);
    char *function = strrchr(text, ':');
    if (function) *function = 0;
    const char *name = strrchr(text, '/');
    if (text[0]) snprintf(at, sizeof at, ", at %.70s", name ? name + 1 : text);
    snprintf(out, n, "%s%s%s", what, number, at);
}

static const cmo_flight *flight_of(const cmo_engine *e, int world)
{
    const int place = e->recorder.flight ? e->neighbour_of[world] : -1; /* off here: off */
    return place < 0 ? NULL : cmo_flight_look(&e->neighbours[place]);
}

void cmo_describe_lost(const cmo_engine *e, int world, char *out, size_t n)
{
    const cmo_flight *f = flight_of(e, world);
    cmo_flight_call call;
    char what[256];
    bool in;
    out[0] = 0;
    if (!f) return;
    if (!cmo_flight_latest(f, &call, &in)) {
        snprintf(out, n, ", before its first call");
        return;
    }
    describe_recorded(what, sizeof what, f, &call);
    snprintf(out, n, ", %s %s", in ? "in" : "after", what);
}

/* pidfd: of the process, to see whether it is stopped; -1: it is not. */
static void describe_doing(const cmo_flight *f, int pidfd, char *out, size_t n)
{
    cmo_flight_call call;
    char what[256], since[48] = "";
    bool in;
    const bool any = cmo_flight_latest(f, &call, &in);
    if (any) describe_recorded(what, sizeof what, f, &call);
    const int64_t from = !any ? 0 : in ? call.start : call.end ? call.end : call.start;
    const int64_t ago = cmo_now() - from;
    if (from > 0 && ago > 0) snprintf(since, sizeof since, " since %.1f s", (double)ago / 1e9);
    if (pidfd >= 0 && cmo_process_stopped(pidfd))
        snprintf(out, n, "is stopped (SIGSTOP)%s%s", !any ? "" : in ? ", in " : ", after ", any ? what : "");
    else if (!any)
        snprintf(out, n, "has called nothing yet");
    else if (in)
        snprintf(out, n, "is in %s%s", what, since);
    else
        snprintf(out, n, "computes%s, after %s", since, what);
}

void cmo_describe_missing(const cmo_engine *e, int world, char *out, size_t n)
{
    const cmo_flight *f = flight_of(e, world);
    out[0] = 0;
    if (f && world != e->rank && !e->dead[world])
        describe_doing(f, e->neighbours[e->neighbour_of[world]].pidfd, out, n);
}

void cmo_describe_own(const cmo_engine *e, char *out, size_t n)
{
    out[0] = 0;
    if (e->recorder.flight) describe_doing(e->recorder.flight, -1, out, n);
}

/* ------------------------------------------------------------------ who stands where */

/* Has a rank that shares our memory taken note of the failure, if it is in a call and so must? */
static bool answers(const cmo_comm *c, int r)
{
    cmo_told told;
    cmo_told_look(&told, c->piece[r]);
    return r == c->rank || !told.in_call || atomic_load_explicit(&c->piece[r]->verdict.err, memory_order_acquire);
}

/* Is it known where this rank stands, for a failure of collective `seq`? */
static bool position_known(const cmo_comm *c, int r, uint64_t seq)
{
    cmo_told told;
    if (r == c->rank || c->lost[r] || c->left[r] || c->engine->dead[c->world[r]]) return true;
    if (!c->piece) return c->told[r].heard;
    if (c->failed == CMO_ETIMEOUT) return answers(c, r);
    cmo_told_look(&told, c->piece[r]);
    return told.seq >= seq;
}

static cmo_told position(const cmo_comm *c, int r)
{
    cmo_told told = c->told[r];
    if (c->piece && r != c->rank) cmo_told_look(&told, c->piece[r]);
    return told;
}

/* Does this call differ from one of another rank's that counts as the same? Its array may: how the root's looks is not
 * in the fingerprint of a broadcast. */
static bool differs(const cmo_recent_call *a, const cmo_recent_call *b)
{
    if (a->fingerprint != b->fingerprint) return true;
    if (a->kind != CMO_BROADCAST || a->ndim == CMO_UNTOLD || b->ndim == CMO_UNTOLD) return false;
    if (a->dtype != b->dtype || a->ndim != b->ndim || a->count != b->count) return true;
    return cmo_told_dims(a->ndim) && memcmp(a->shape, b->shape, sizeof a->shape);
}

/* The first collective that ranks are known to have called differently; `seq` if none is known. */
static uint64_t first_difference(const cmo_comm *c, uint64_t seq)
{
    uint64_t last = 0;
    for (int r = 0; r < c->size; r++) {
        cmo_told told = position(c, r);
        if (told.heard && told.seq > last) last = told.seq;
    }
    for (uint64_t s = last > CMO_RECENT ? last - CMO_RECENT + 1 : 1; s <= last; s++) {
        cmo_recent_call known = {.ndim = CMO_UNTOLD};
        for (int r = 0; r < c->size; r++) {
            cmo_told told = position(c, r);
            const cmo_recent_call *recent = &told.recent[s % CMO_RECENT];
            if (!told.heard || recent->seq != s) continue;
            if (known.seq && differs(&known, recent)) return s;
            if (known.ndim == CMO_UNTOLD) known = *recent;
        }
    }
    return seq;
}

/* Where ranks that made different calls all wait, no message between them has shown it. What they say when the deadline
 * has passed does. */
static void reconsider_deadline(cmo_comm *c)
{
    if (c->failed != CMO_ETIMEOUT || !c->told) return;
    uint64_t seq = first_difference(c, 0);
    if (!seq) return;
    c->failed = CMO_EMISMATCH;
    c->failed_seq = seq;
    if (c->local_comm) c->local_comm->failed = c->failed;
    if (c->cross_comm) c->cross_comm->failed = c->failed;
}

/* Is there somebody on the host of the lost rank, whom the system tells how it ended? */
static bool has_witness(const cmo_comm *c)
{
    int lost = 0;
    while (lost < c->size && !c->lost[lost]) lost++;
    for (int r = 0; r < c->size && lost < c->size; r++)
        if (c->host[r] == c->host[lost] && !c->lost[r] && !c->left[r] && !c->engine->dead[c->world[r]]) return true;
    return false;
}

static bool all_have_told(cmo_comm *c)
{
    bool asks = c->failed == CMO_EMISMATCH || c->failed == CMO_ETIMEOUT || (!c->piece && c->failed == CMO_EPEERLOST);
    if (!asks || !c->told || cmo_engine_now(c->engine) >= c->settle) return true;
    if (c->failed == CMO_EPEERLOST && !c->word.first_hand && has_witness(c)) return false;
    uint64_t seq = c->failed == CMO_EMISMATCH ? first_difference(c, c->failed_seq) : c->failed_seq;
    for (int r = 0; r < c->size; r++)
        if (!position_known(c, r, seq)) return false;
    return true;
}

bool cmo_failure_settled(cmo_comm *comm)
{
    cmo_comm *c = cmo_comm_outermost(comm);
    if (!all_have_told(c)) return false;
    c->word.given = true;
    reconsider_deadline(c);
    return true;
}

static void list_calls(const cmo_comm *c, uint64_t seq, char *out, size_t n)
{
    size_t at = 0;
    out[0] = 0;
    for (int r = 0; r < c->size && at + 1 < n; r++) {
        char call[256] = "has not arrived";
        cmo_told told = position(c, r);
        const cmo_recent_call *recent = &told.recent[seq % CMO_RECENT];
        if (told.heard && recent->seq == seq) cmo_describe_call(call, sizeof call, recent);
        else if (told.heard && told.seq > seq) snprintf(call, sizeof call, "went on");
        at += (size_t)snprintf(out + at, n - at, "%srank %d: %s", r ? "; " : "", r, call);
    }
}

typedef enum { ARRIVED, MISSING, SILENT } standing;

/* Silent: it has come, and says nothing now that the call has failed. */
static standing standing_of(const cmo_comm *c, int r, uint64_t seq)
{
    cmo_told told = position(c, r);
    if (!told.heard || told.seq < seq) return MISSING;
    return c->piece && !answers(c, r) ? SILENT : ARRIVED;
}

static void list_ranks(const cmo_comm *c, uint64_t seq, standing which, char *out, size_t n)
{
    size_t at = 0;
    out[0] = 0;
    for (int r = 0; r < c->size && at + 1 < n; r++)
        if (standing_of(c, r, seq) == which) at += (size_t)snprintf(out + at, n - at, "%s%d", at ? ", " : "", r);
    if (!at && which != SILENT) snprintf(out, n, "none");
}

/* What those do who are missing, and those who have stopped moving: as this host's memory shows it, or as they say. */
static void list_missing(const cmo_comm *c, char *out, size_t n, size_t at)
{
    enum { MOST = 4 };
    for (int r = 0, told = 0; r < c->size && told < MOST && at < n; r++) {
        char doing[300];
        if (standing_of(c, r, c->failed_seq) == ARRIVED) continue;
        cmo_describe_missing(c->engine, c->world[r], doing, sizeof doing);
        if (c->left[r]) snprintf(doing, sizeof doing, "has closed the communicator");
        if (!doing[0] && !c->piece)
            snprintf(doing, sizeof doing, "%s", c->told[r].heard ? c->told[r].doing : "does not answer");
        if (!doing[0]) continue;
        at += (size_t)snprintf(out + at, n - at, "; rank %d %s", r, doing);
        told++;
    }
}

void cmo_failure_why(const cmo_comm *c, char *out, size_t n)
{
    const char *whose = c->given_up ? "the other ranks have given up waiting for this one: " : "";
    snprintf(out, n, "%s%.450s", whose, c->failed_text);
}

bool cmo_failure_differed(const cmo_comm *c)
{
    const uint64_t seq = c->told ? first_difference(c, 0) : 0;
    return seq && seq <= c->seq;
}

bool cmo_failure_concerns(const cmo_comm *c)
{
    if (c->failed != CMO_EMISMATCH || c->explained) return false;
    const bool known = c->told && first_difference(c, 0); /* else it is in what the text tells */
    return known ? cmo_failure_differed(c) : c->seq > 0;
}

void cmo_failure_text(cmo_comm *comm, char *out, size_t n)
{
    cmo_comm *c = cmo_comm_outermost(comm);
    char a[CMO_TEXT], b[CMO_TEXT];
    c->explained = true;
    /* Without a difference between calls it is one in what root alone knows (sizes), which the first text tells. */
    uint64_t seq = c->failed == CMO_EMISMATCH && c->told ? first_difference(c, 0) : 0;
    if (seq) {
        list_calls(c, seq, a, sizeof a);
        snprintf(out, n, "ranks made different calls as number %llu of this communicator: %s",
                 (unsigned long long)seq, a);
    } else if (c->failed == CMO_ETIMEOUT && c->told) {
        char silent[CMO_TEXT];
        list_ranks(c, c->failed_seq, ARRIVED, a, sizeof a);
        list_ranks(c, c->failed_seq, MISSING, b, sizeof b);
        list_ranks(c, c->failed_seq, SILENT, silent, sizeof silent);
        int at = snprintf(out, n, "%.150s; arrived: %.100s; missing: %.100s%s%.100s", c->failed_text, a, b,
                          silent[0] ? "; arrived, but does not move: " : "", silent);
        list_missing(c, out, n, (size_t)at);
    } else {
        cmo_failure_why(c, out, n);
    }
}
