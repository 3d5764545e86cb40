#include "sim_world.h"

#include "base/clock.h"
#include "coll/coll.h"
#include "comm/agree.h"
#include "comm/internal.h"
#include "world_payload.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef struct world_rank {
    cmo_window *window;          /* the engine's once that exists */
    cmo_window_head *head;       /* the harness's own mapping: it outlives the engine, whose neighbours still look at
                                    it */
    size_t head_bytes;
    cmo_engine *engine;
    cmo_comm *comm;
    world_task *first, *last;    /* all tasks */
    world_task *start, *running; /* the next to be started, the first that may not have ended */
    int64_t start_at;
    int64_t look_at;             /* when its alarm goes off that makes it look at the clock */
    bool drawn;                  /* start_at is set */
    bool dead;
    int64_t noticed_at;          /* dead: when the ranks of its host are told of the end of its process */
    uint8_t *told;               /* [size] of whose end it has been told; NULL: of nobody's */
    int64_t paused_till;
    bool host_stirred;           /* of the host with this number: somebody there has moved */
} world_rank;

struct world {
    world_settings settings;
    int *host;
    bool shares;                 /* some ranks talk through memory, which the simulation does not see */
    bool stirred;                /* some host is */
    cmo_sim *sim;
    world_rank *ranks;
    int unfinished;              /* tasks */
    uint64_t polls;
    int64_t moved_at;            /* when anything last did */
    world_fault faults[WORLD_FAULTS];
    int nfaults, ndead;
    world_payload *payload;
};

enum { LAST_SWEEPS = 20 }; /* how often all engines must be found idle, one after the other, for a deadlock */

/* In a world with deadlines, who waits looks at the clock every so often, as in the one wait. */
static const int64_t slice = CMO_SECOND / 10;

/* Within this time the system tells the ranks of a host that the process of one has ended. */
static const int64_t notice = CMO_SECOND / 1000;

/* A deadlock there is what outlasts every deadline several times over: failures take a few rounds to be settled. */
static const int64_t most_timeouts = 16;

static const char *const layout_names[] = {
#define WORLD_X(e, text) text,
    WORLD_LAYOUTS(WORLD_X)
#undef WORLD_X
};

/* ------------------------------------------------------------------ settings */

static cmo_tunables default_tunables(void)
{
    return (cmo_tunables){
#define WORLD_X(field, env, def, least, greatest, doc) .field = def,
        CMO_TUNABLES(WORLD_X)
#undef WORLD_X
    };
}

world_settings world_plain(int size, world_layout layout, uint64_t seed)
{
    world_settings s = {.size = size, .layout = layout, .per_host = 4, .seed = seed, .tunables = default_tunables(),
                        .net = {.latency_ns = 10000, .ns_per_byte = 0.1}, .timeout = -1};
    s.tunables.slots = 512; /* by default these depend on the machine */
    s.tunables.pipe_bytes = 2 << 20;
    s.tunables.around_bytes = 16 << 20;
    s.tunables.attach_bytes = 0;
    return s;
}

static uint64_t settings_draw(uint64_t *state, uint64_t bound)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (*state >> 33) % bound;
}

world_settings world_rough(int size, world_layout layout, uint64_t seed)
{
    world_settings s = world_plain(size, layout, seed);
    uint64_t state = seed ^ UINT64_C(0x5851f42d4c957f2d);
    for (int i = 0; i < 4; i++) settings_draw(&state, 1);
    cmo_tunables *t = &s.tunables;
    t->slot_bytes = 64 << settings_draw(&state, 3);
    t->staged_bytes = settings_draw(&state, 2) ? 128 << settings_draw(&state, 3) : 0;
    t->slots = 3 + (int64_t)settings_draw(&state, 3);
    if (settings_draw(&state, 2)) t->slots *= 8; /* rounds of several */
    t->round_bytes = 64 << settings_draw(&state, 5);
    t->stream_bytes = 64 << settings_draw(&state, 3);
    t->around_bytes = settings_draw(&state, 2) ? 1 << 10 : 1 << 30;
    t->segment_bytes = 16 << settings_draw(&state, 3);
    t->eager_bytes = 16 * (int64_t)settings_draw(&state, 5);
    t->eager_window = settings_draw(&state, 2) ? 256 : 1 << 20;
    t->pipe_bytes = 64 << settings_draw(&state, 6);
    t->frame_bytes = 64 << settings_draw(&state, 4);
    t->doubling_bytes = settings_draw(&state, 3) ? 16 << settings_draw(&state, 5) : 0;
    s.net = (cmo_sim_settings){.latency_ns = 1000,
                               .jitter_ns = settings_draw(&state, 3) ? 20000 : 0,
                               .ns_per_byte = 1,
                               .capacity = 64 << settings_draw(&state, 6),
                               .short_moves = settings_draw(&state, 2) ? 0.3 : 0};
    s.per_host = 2 + (int)settings_draw(&state, 4);
    s.stagger_ns = settings_draw(&state, 2) ? 50000 : 1;
    t->staged_bytes = settings_draw(&state, 2) ? 16 << settings_draw(&state, 5) : 0;
    t->attach_bytes = settings_draw(&state, 2) ? 1 : 0;
    return s;
}

static int host_of(const world_settings *s, int rank)
{
    int left = rank, h = 0;
    switch (s->layout) {
    case WORLD_OWN_HOSTS: return rank;
    case WORLD_EVEN_HOSTS: return rank / s->per_host;
    case WORLD_SCATTERED_HOSTS: return rank * 7 % s->per_host;
    case WORLD_UNEVEN_HOSTS:
        while (left >= 1 + h % s->per_host) left -= 1 + h++ % s->per_host;
        return h;
    default: return 0;
    }
}

/* ------------------------------------------------------------------ making and ending */

static cmo_err rank_window(world *w, int r)
{
    int nlocal = 0;
    for (int i = 0; i < w->settings.size; i++) nlocal += w->host[i] == w->host[r];
    const cmo_tunables *t = &w->settings.tunables;
    /* For its pieces and, in case it talks to all of them, a pipe to every rank of its host. */
    const size_t piece = cmo_piece_head_bytes(nlocal) + (size_t)(t->slots * t->slot_bytes) + CMO_PAGE;
    const size_t pipes = (size_t)nlocal * ((size_t)t->pipe_bytes + 2 * CMO_PAGE);
    size_t bytes = CMO_PAGE * 8 + piece * (size_t)(1 + w->settings.children) + pipes;
    world_rank *rank = &w->ranks[r];
    CMO_TRY(cmo_window_create(&rank->window, nlocal, bytes, nlocal == 1));
    if (nlocal > 1) return cmo_window_map(cmo_window_fd(rank->window), nlocal, &rank->head, &rank->head_bytes);
    rank->head = cmo_window_base(rank->window);
    return CMO_OK;
}

static cmo_err rank_engine(world *w, int r)
{
    const world_settings *s = &w->settings;
    int nlocal = 0;
    cmo_neighbour *neighbours = calloc((size_t)s->size, sizeof *neighbours);
    if (!neighbours) return cmo_fail(CMO_ENOMEM, "neighbours");
    for (int i = 0; i < s->size; i++)
        if (w->host[i] == w->host[r])
            neighbours[nlocal++] = (cmo_neighbour){
                .head = w->ranks[i].head, .size = cmo_window_size(w->ranks[i].window), .doorbell = -1, .pidfd = -1};
    cmo_world given = {.rank = r, .size = s->size, .generation = 1, .host = w->host, .window = w->ranks[r].window,
                       .neighbours = neighbours, .nlocal = nlocal, .share = s->layout != WORLD_UNSHARED,
                       .collectives = &cmo_coll, .tunables = s->tunables, .now = cmo_sim_now, .now_ctx = w->sim,
                       .threadless = true, .tells_all = s->tells_all};
    cmo_err err = nlocal < s->size ? cmo_sim_net(w->sim, r, &given.remote) : CMO_OK;
    if (!err) err = cmo_engine_create(&w->ranks[r].engine, &given);
    free(neighbours);
    if (err) return err;
    w->ranks[r].comm = cmo_engine_world(w->ranks[r].engine);
    if (nlocal > 1) w->shares = true;
    return CMO_OK;
}

world *world_create(const world_settings *settings)
{
    world *w = calloc(1, sizeof *w);
    cmo_err err = CMO_ENOMEM;
    if (!w) return NULL;
    w->settings = *settings;
    w->host = calloc((size_t)settings->size, sizeof *w->host);
    w->ranks = calloc((size_t)settings->size, sizeof *w->ranks);
    if (!w->host || !w->ranks) goto fail;
    for (int r = 0; r < settings->size; r++) w->host[r] = host_of(settings, r);
    err = cmo_sim_create(&w->sim, settings->size, settings->seed, &settings->net);
    for (int r = 0; r < settings->size && !err; r++) err = rank_window(w, r);
    for (int r = 0; r < settings->size && !err; r++) err = rank_engine(w, r);
    if (!err) return w;
fail:
    fprintf(stderr, "a world cannot be made: %s: %s\n", cmo_err_name(err), cmo_reason());
    world_describe(w, stderr);
    world_destroy(w);
    return NULL;
}

void world_destroy(world *w)
{
    if (!w) return;
    for (int r = 0; w->ranks && r < w->settings.size; r++) {
        world_rank *rank = &w->ranks[r];
        if (rank->engine) cmo_engine_destroy(rank->engine);
        cmo_window_destroy(rank->window);
    }
    for (int r = 0; w->ranks && r < w->settings.size; r++) {
        world_rank *rank = &w->ranks[r];
        if (rank->head_bytes) cmo_window_unmap(rank->head, rank->head_bytes);
        free(rank->told);
        for (world_task *t = rank->first, *next; t; t = next) {
            next = t->next;
            free(t);
        }
    }
    cmo_sim_destroy(w->sim);
    world_payload_free(w->payload);
    free(w->ranks);
    free(w->host);
    free(w);
}

world_task *world_add(world *w, int r)
{
    world_rank *rank = &w->ranks[r];
    world_task *t = aligned_alloc(_Alignof(world_task), sizeof *t);
    if (!t) abort();
    memset(t, 0, sizeof *t);
    if (rank->last) rank->last->next = t;
    else rank->first = t;
    rank->last = t;
    if (!rank->start) rank->start = t;
    if (!rank->running) rank->running = t;
    w->unfinished++;
    return t;
}

world_task *world_tasks(world *w, int r) { return w->ranks[r].first; }
uint64_t world_random(world *w, uint64_t bound) { return cmo_sim_random(w->sim, bound); }
int world_size(const world *w) { return w->settings.size; }
cmo_comm *world_comm(world *w, int r) { return w->ranks[r].comm; }
cmo_window *world_window(world *w, int r) { return w->ranks[r].window; }
cmo_sim *world_sim(world *w) { return w->sim; }
const int *world_hosts(const world *w) { return w->host; }
uint64_t world_polls(const world *w) { return w->polls; }

bool world_is_dead(const world *w, int r) { return w->ranks[r].dead; }
void world_add_fault(world *w, world_fault fault)
{
    if (w->nfaults == WORLD_FAULTS) abort();
    w->faults[w->nfaults++] = fault;
}

/* ------------------------------------------------------------------ running */

static void task_end(world *w, world_task *t, cmo_err err)
{
    t->ended = true;
    t->err = err;
    t->ended_at = cmo_sim_now(w->sim);
    t->algorithm = t->what == TASK_CALL && t->op.algorithm ? t->op.algorithm : NULL;
    w->unfinished--;
}

static cmo_err task_start(world *w, world_rank *rank, world_task *t)
{
    double timeout = w->settings.timeout;
    t->started = true;
    t->started_at = cmo_sim_now(w->sim);
    switch (t->what) {
    case TASK_CALL: return cmo_call_start(&t->op, rank->comm, &t->call, timeout);
    case TASK_SEND: return cmo_send_start(&t->op, rank->comm, &t->message, timeout);
    case TASK_AGREE: return cmo_agree_start(&t->op, rank->comm, t->flag, false, timeout);
    case TASK_SHRINK: return cmo_shrink_start(&t->op, rank->comm, timeout);
    case TASK_RECV: return cmo_recv_start(&t->op, rank->comm, &t->message, timeout, &t->status);
    default: return cmo_probe_start(&t->op, rank->comm, t->message.peer, t->message.tag, timeout, &t->status);
    }
}

/* Start what is due here. */
static void rank_start(world *w, int r)
{
    world_rank *rank = &w->ranks[r];
    while (rank->start && !(rank->start->waits && rank->running != rank->start)) {
        if (!rank->drawn) {
            int64_t now = cmo_sim_now(w->sim);
            rank->start_at = now + (int64_t)cmo_sim_random(w->sim, (uint64_t)w->settings.stagger_ns + 1);
            rank->start_at += rank->start->delay;
            rank->drawn = true;
            if (rank->start_at > now && cmo_sim_alarm(w->sim, r, rank->start_at)) abort();
        }
        if (rank->start_at > cmo_sim_now(w->sim)) return;
        rank->drawn = false;
        world_task *t = rank->start;
        rank->start = t->next;
        cmo_err err = task_start(w, rank, t);
        if (!err) continue;
        snprintf(t->op.text, sizeof t->op.text, "%s", cmo_reason());
        task_end(w, t, err);
    }
}

static cmo_err task_result(world_rank *rank, world_task *t)
{
    if (!t->op.err && t->what == TASK_AGREE) t->flag = cmo_agree_flag(&t->op);
    return !t->op.err && t->what == TASK_SHRINK ? cmo_agree_build(rank->comm, &rank->comm) : t->op.err;
}

/* Note what has ended here. */
static void rank_collect(world *w, int r)
{
    world_rank *rank = &w->ranks[r];
    for (world_task *t = rank->running; t != rank->start; t = t->next)
        if (!t->ended && atomic_load_explicit(&t->op.signal, memory_order_acquire) == CMO_OP_ENDED)
            task_end(w, t, task_result(rank, t));
    while (rank->running != rank->start && rank->running->ended) rank->running = rank->running->next;
}

static void world_kill(world *w, int r)
{
    world_rank *rank = &w->ranks[r];
    rank->dead = true;
    for (world_task *t = rank->running; t; t = t->next)
        if (!t->ended) task_end(w, t, CMO_EPEERLOST);
    rank->start = rank->running = NULL;
    rank->noticed_at = cmo_sim_now(w->sim) + (int64_t)cmo_sim_random(w->sim, (uint64_t)notice + 1);
    w->ndead++;
    if (cmo_sim_kill(w->sim, r)) abort();
    for (int i = 0; i < w->settings.size; i++)
        if (w->host[i] == w->host[r] && cmo_sim_alarm(w->sim, i, rank->noticed_at)) abort();
}

static void happen(world *w, world_fault *f)
{
    const bool linked = w->host[f->rank] != w->host[f->other];
    f->done = true;
    if (f->what == FAULT_KILL && !w->ranks[f->rank].dead) world_kill(w, f->rank);
    if (f->what == FAULT_CUT && linked && cmo_sim_cut(w->sim, f->rank, f->other)) abort();
    if (f->what == FAULT_PAUSE) w->ranks[f->rank].paused_till = cmo_sim_now(w->sim) + f->pause;
}

/* The ranks of a host learn of each other's ends from the system. */
static void notice_ends(world *w, int r)
{
    world_rank *rank = &w->ranks[r];
    int place = -1;
    if (!rank->told && !(rank->told = calloc((size_t)w->settings.size, 1))) abort();
    for (int i = 0; i < w->settings.size; i++) {
        if (w->host[i] != w->host[r]) continue;
        place++;
        if (!w->ranks[i].dead || rank->told[i] || cmo_sim_now(w->sim) < w->ranks[i].noticed_at) continue;
        cmo_engine_neighbour_ended(rank->engine, place);
        rank->told[i] = 1;
    }
}

/* A number that changes when a rank tells its neighbours something through memory. */
static uint64_t memory_mark(const world_rank *rank)
{
    const cmo_comm *c = rank->comm->local_comm ? rank->comm->local_comm : rank->comm;
    if (!c->piece) return 0;
    cmo_piece *p = c->piece[c->local];
    return atomic_load_explicit(&p->staged, memory_order_relaxed) +
           atomic_load_explicit(&p->reduced, memory_order_relaxed) +
           atomic_load_explicit(&p->consumed, memory_order_relaxed) +
           atomic_load_explicit(&p->finished, memory_order_relaxed);
}

/* Who waits looks again before long, whatever happens. */
static void rank_sleep(world *w, int r)
{
    world_rank *rank = &w->ranks[r];
    int64_t now = cmo_sim_now(w->sim);
    if (w->settings.timeout < 0 || rank->running == rank->start || rank->look_at > now) return;
    rank->look_at = now + slice;
    if (cmo_sim_alarm(w->sim, r, rank->look_at)) abort();
}

static bool rank_poll(world *w, int r)
{
    world_rank *rank = &w->ranks[r];
    for (int i = 0; i < w->nfaults; i++)
        if (!w->faults[i].done && w->polls >= w->faults[i].polls) happen(w, &w->faults[i]);
    if (rank->dead) return false;
    if (rank->paused_till > cmo_sim_now(w->sim)) {
        if (cmo_sim_alarm(w->sim, r, rank->paused_till)) abort();
        return false;
    }
    if (w->ndead) notice_ends(w, r);
    rank_start(w, r);
    w->polls++;
    const int before = w->unfinished;
    const uint64_t mark = memory_mark(rank);
    bool moved = cmo_engine_poll(rank->engine);
    rank_collect(w, r);
    if (w->unfinished < before) rank_start(w, r); /* what waited for the end of others */
    moved = moved || w->unfinished < before || memory_mark(rank) != mark;
    if (moved) cmo_sim_wake(w->sim, r);
    if (moved) w->moved_at = cmo_sim_now(w->sim);
    rank_sleep(w, r);
    if (moved && w->shares) w->stirred = w->ranks[w->host[r]].host_stirred = true;
    return moved;
}

/* Poll those to whom something has happened, in random order, until there are none. */
static bool poll_woken(world *w)
{
    bool moved = false;
    for (int r; w->unfinished && (r = cmo_sim_take(w->sim)) >= 0;) moved |= rank_poll(w, r);
    return moved;
}

/* Memory wakes nobody here: let the ranks look that share a host with one that has moved. False if there are none. */
static bool wake_neighbours(world *w)
{
    bool any = w->stirred;
    for (int r = 0; any && r < w->settings.size; r++)
        if (w->ranks[w->host[r]].host_stirred) cmo_sim_wake(w->sim, r);
    for (int h = 0; any && h < w->settings.size; h++) w->ranks[h].host_stirred = false;
    w->stirred = false;
    return any;
}

/* Before it is called a deadlock, everybody is asked again. */
static bool sweeps(world *w, int n)
{
    bool moved = false;
    for (int i = 0; i < n && !moved; i++) {
        for (int r = 0; r < w->settings.size; r++) cmo_sim_wake(w->sim, r);
        moved = poll_woken(w);
    }
    return moved;
}

static void report(const world *w)
{
    enum { MOST = 12 };
    int shown = 0;
    fprintf(stderr, "deadlock: nothing moves and %d tasks are unfinished; ", w->unfinished);
    world_describe(w, stderr);
    for (int r = 0; r < w->settings.size; r++)
        for (const world_task *t = w->ranks[r].running; t && shown < MOST; t = t->next) {
            if (t->ended) continue;
            shown++;
            if (t->what != TASK_CALL)
                fprintf(stderr, "    rank %d: point to point task %d, peer %d\n", r, t->number, t->message.peer);
            else
                fprintf(stderr, "    rank %d: task %d, %s (%s), count %" PRIu64 "%s, number %" PRIu64 ", at line %d\n",
                        r, t->number, cmo_kind_name(t->call.kind),
                        t->op.algorithm ? t->op.algorithm->name : "not begun", t->call.count,
                        t->started ? "" : ", not started", t->op.seq, t->op.pc);
            break;
        }
}

static bool outlasted(const world *w)
{
    int64_t most = (int64_t)(w->settings.timeout * 1e9) * most_timeouts;
    return w->settings.timeout >= 0 && cmo_sim_now(w->sim) - w->moved_at > most;
}

bool world_run(world *w)
{
    for (int r = 0; r < w->settings.size; r++) cmo_sim_wake(w->sim, r);
    while (w->unfinished) {
        poll_woken(w);
        if (!w->unfinished) break;
        if (wake_neighbours(w)) continue;
        /* Who is asked once more may only set itself an alarm */
        if (!outlasted(w) && (cmo_sim_advance(w->sim) || sweeps(w, LAST_SWEEPS) || cmo_sim_advance(w->sim))) continue;
        if (!w->unfinished) break;
        report(w);
        return false;
    }
    return true;
}

/* ------------------------------------------------------------------ measurements */

void world_count_payload(world *w)
{
    w->payload = world_payload_create(w->settings.size);
    if (w->payload) cmo_sim_tap(w->sim, world_payload_tap, w->payload);
}

uint64_t world_payload_sent(const world *w, int r) { return w->payload->sent[r]; }
uint64_t world_messages_sent(const world *w, int r) { return w->payload->messages[r]; }

void world_describe(const world *w, FILE *out)
{
    const world_settings *s = &w->settings;
    const cmo_tunables *t = &s->tunables;
    fprintf(out, "seed %" PRIu64 ", %d ranks, %s (%d); slots %" PRId64 " × %" PRId64 ", rounds %" PRId64 " or %" PRId64
                 ", around %" PRId64 ", staged %" PRId64
                 ", segment %" PRId64 ", eager %" PRId64 " of %" PRId64 ", pipe %" PRId64 ", frame %" PRId64
                 ", doubling %" PRId64 "\n",
            s->seed, s->size, layout_names[s->layout], s->per_host, t->slots, t->slot_bytes, t->round_bytes,
            t->stream_bytes, t->around_bytes, t->staged_bytes, t->segment_bytes, t->eager_bytes, t->eager_window,
            t->pipe_bytes, t->frame_bytes, t->doubling_bytes);
}
