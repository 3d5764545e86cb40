/* A rank's engine: what it is made of, and one pass over all that is in progress. Who makes the passes is in
 * drive.c. */
#include "comm/agree.h"
#include "comm/internal.h"
#include "transport/attach.h"
#include "transport/shm.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { PASSES_PER_LOOK = 64, /* how often deadlines and abort words are looked at while polling */
       TELLS_ALL = 128 };

cmo_comm *cmo_engine_world(cmo_engine *e) { return e->world; }
const cmo_tunables *cmo_engine_tunables(const cmo_engine *e) { return &e->tunables; }
cmo_flight *cmo_engine_flight(const cmo_engine *e) { return e->recorder.flight; }
void cmo_engine_attach(cmo_engine *e, cmo_comm *comm) { cmo_list_append(&e->comms, &comm->node); }

cmo_comm *cmo_engine_find(cmo_engine *e, uint64_t id)
{
    CMO_EACH(n, &e->comms) {
        cmo_comm *c = CMO_ENTRY(n, cmo_comm, node);
        if (c->id == id) return c;
    }
    return NULL;
}

cmo_fate cmo_engine_fate(cmo_engine *e, int world)
{
    if (e->dead[world] == CMO_ENDED) return CMO_FATE_ENDED;
    if (e->neighbour_of[world] >= 0) return CMO_FATE_UNKNOWN;
    return e->remote && e->remote->ops->fate ? e->remote->ops->fate(e->remote, world) : CMO_FATE_UNKNOWN;
}

/* ------------------------------------------------------------------ one pass */

/* The caller may now change the arrays that others may still read: they must see that first. */
static void op_quits(const cmo_op *op)
{
    for (; op; op = op->child) {
        if (!op->step || !op->comm->piece) continue;
        cmo_piece *own = op->comm->piece[op->comm->local];
        if (!atomic_load_explicit(&own->quit, memory_order_relaxed))
            atomic_store_explicit(&own->quit, op->seq, memory_order_relaxed);
    }
    atomic_thread_fence(memory_order_release);
}

void cmo_op_end(cmo_engine *e, cmo_op *op, cmo_err err, const char *text)
{
    if (err && !op->point) op_quits(op);
    void (*on_done)(void *) = op->on_done;
    void *ctx = op->on_done_ctx;
    cmo_list_remove(&op->node);
    if (!op->point && cmo_list_empty(&op->comm->queue)) cmo_list_remove(&op->comm->busy);
    if (op->point && op->pc == 0) e->unposted--;
    if (op->point) cmo_point_end(op);
    else e->collectives->end(op);
    op->err = err;
    if (op->recorded) cmo_record_ended(e, op, err);
    if (err && text != op->text) snprintf(op->text, sizeof op->text, "%s", text);
    e->running--;
    e->moved = true;
    if (op->shared) {
        /* Under the lock, so that the op's owner, who takes it once after seeing the signal, cannot free it
         * meanwhile. */
        pthread_mutex_lock(&e->lock);
        bool waited = op->waited;
        on_done = op->on_done; /* its owner may have let go of it a moment ago */
        ctx = op->on_done_ctx;
        atomic_store_explicit(&op->signal, CMO_OP_ENDED, memory_order_release);
        if (waited) cmo_futex_wake(&op->signal);
        pthread_mutex_unlock(&e->lock);
    } else {
        atomic_store_explicit(&op->signal, CMO_OP_ENDED, memory_order_relaxed);
    }
    if (on_done) on_done(ctx);
}

void cmo_op_abandon(cmo_op *op) { cmo_op_end(op->comm->engine, op, CMO_EREVOKED, "the communicator was closed"); }

/* Start or go on with a call. True if it has ended well. What goes wrong is in op->err and op->text. The fast path does
 * the same, less what it need not (fast.c): a change to one belongs in the other. */
static bool op_steps(cmo_engine *e, cmo_comm *comm, cmo_op *op)
{
    cmo_err err = CMO_OK;
    if (!op->step) {
        cmo_call call = op->call;
        err = e->collectives->start(op, comm, &call);
        if (op->recorded) cmo_record_started(e, op);
        e->moved = true;
        cmo_failure_look(comm); /* it may have broken since the last call */
        /* When others disagree about this call, it must still be announced in shared memory, for them to say what each
         * rank called. Elsewhere they are told, and a step would take their messages for those of this call. */
        if (comm->failed && (comm->failed != CMO_EMISMATCH || !comm->piece)) return false;
    }
    unsigned before = op->advanced;
    if (err == CMO_OK) err = op->step(op);
    if (op->advanced != before) e->moved = true;
    if (op->err || err == CMO_AGAIN) return false;
    if (err != CMO_OK) cmo_op_fail(op, err, cmo_reason());
    return err == CMO_OK && comm->failed != CMO_EMISMATCH;
}

static void pass_collective(cmo_engine *e, cmo_comm *comm)
{
    cmo_op *op = CMO_ENTRY(comm->queue.next, cmo_op, node);
    /* What a peer did before it was lost still counts, so there is one more step after that; not after other
     * failures. */
    bool steps = !op->err && (!comm->failed || (comm->failed == CMO_EPEERLOST && op->step));
    /* Others disagree about this call, and it is not under way: it is only said what it is. In shared memory its first
     * step says it. */
    if (comm->failed == CMO_EMISMATCH && !op->step && !comm->has_called) {
        comm->has_called = true;
        if (comm->piece) steps = true;
        else cmo_failure_late(comm, &op->call);
    }
    if (steps && op_steps(e, comm, op)) {
        cmo_op_end(e, op, CMO_OK, NULL);
        return;
    }
    if (op->err && !comm->failed) {
        char text[CMO_TEXT];
        memcpy(text, op->text, sizeof text);
        cmo_comm_fail(comm, op->err, text);
    }
    if (comm->failed && cmo_failure_settled(comm)) {
        char text[CMO_TEXT];
        cmo_failure_text(comm, text, sizeof text);
        cmo_op_end(e, op, comm->failed, text);
    }
}

static void pass_point(cmo_engine *e, cmo_op *op)
{
    cmo_comm *c = op->comm;
    cmo_err err = op->step(op);
    /* Of a lost rank all calls tell alike, when the ranks have told each other */
    const bool loss = c->failed == CMO_EPEERLOST && !op->endures && (op->err == CMO_EPEERLOST || !op->err);
    if (op->err && !loss) {
        cmo_op_end(e, op, op->err, op->text);
    } else if (err != CMO_AGAIN) {
        cmo_op_end(e, op, err, cmo_reason());
    } else if (c->failed && !op->endures && (!loss || cmo_failure_settled(c))) {
        char text[CMO_TEXT];
        cmo_failure_why(c, text, sizeof text);
        c->explained = true;
        op->lost = -1; /* the communicator knows */
        cmo_op_end(e, op, c->failed, text);
    }
}

void cmo_point_start(cmo_engine *e, cmo_op *op)
{
    pass_point(e, op);
    cmo_xfer *x = cmo_point_transfer(op);
    if (!cmo_op_ended(op) && !op->endures && x->sends && x->channel && cmo_channel_pump(x->channel)) pass_point(e, op);
    if (e->has_control) cmo_flush_control(e);
}

/* The op's time is up. */
static void op_expire(cmo_engine *e, cmo_op *op)
{
    char text[CMO_TEXT];
    if (op->point) {
        if (op->endures) cmo_agree_describe(op, text, sizeof text);
        else cmo_point_describe(op, text, sizeof text);
        cmo_op_end(e, op, CMO_ETIMEOUT, text);
        return;
    }
    snprintf(text, sizeof text, "%s passed its deadline of %g s", cmo_kind_name(op->call.kind), op->timeout);
    cmo_comm_fail(op->comm, CMO_ETIMEOUT, text);
}

/* Has this process stood still until long after the deadline? Then the others may have given up, and what they say of
 * it is still to be heard. */
static bool op_oversleeps(cmo_op *op, int64_t now)
{
    if (op->overslept || now - op->deadline < CMO_LATE) return false;
    op->overslept = true;
    op->deadline = now + CMO_LATE;
    return true;
}

static void pass_look(cmo_engine *e)
{
    int64_t now = cmo_engine_now(e);
    e->look = false;
    e->looked = now;
    CMO_EACH(n, &e->busy) {
        cmo_comm *c = CMO_ENTRY(n, cmo_comm, busy);
        cmo_failure_look(c);
        cmo_op *op = CMO_ENTRY(c->queue.next, cmo_op, node);
        if (op->deadline <= now && !c->failed && !op_oversleeps(op, now)) op_expire(e, op);
        else cmo_ask_look(c, now);
    }
    CMO_EACH(n, &e->points) {
        cmo_op *op = CMO_ENTRY(n, cmo_op, node);
        cmo_failure_look(op->comm);
        if (op->deadline <= now) op_expire(e, op);
        else cmo_ask_point(op, now);
    }
}

static void enqueue(cmo_engine *e, cmo_op *op)
{
    e->running++;
    /* What may end at once is recorded when it has, or has not */
    if (e->recorder.flight && op->begun != CMO_BEGUN_DRIVES) cmo_record_called(e, op);
    if (op->point) {
        if (op->pc == 0) e->unposted++;
        cmo_list_append(&e->points, &op->node);
        return;
    }
    if (cmo_list_empty(&op->comm->queue)) cmo_list_append(&e->busy, &op->comm->busy);
    cmo_list_append(&op->comm->queue, &op->node);
}

/* Enqueue it; if another thread has closed the communicator since the call looked, end it. Not under the lock. */
static void admit(cmo_engine *e, cmo_op *op)
{
    enqueue(e, op);
    if (op->comm->closed) cmo_op_abandon(op);
}

void cmo_engine_take_submitted(cmo_engine *e)
{
    cmo_node taken;
    cmo_list_init(&taken);
    pthread_mutex_lock(&e->lock);
    CMO_EACH(n, &e->submitted) {
        cmo_op *op = CMO_ENTRY(n, cmo_op, node);
        cmo_list_remove(n);
        if (op->comm->closed) cmo_list_append(&taken, n);
        else enqueue(e, op);
    }
    atomic_store_explicit(&e->nsubmitted, 0, memory_order_relaxed);
    pthread_mutex_unlock(&e->lock);
    CMO_EACH(n, &taken) { /* to end one takes the lock */
        cmo_op *op = CMO_ENTRY(n, cmo_op, node);
        cmo_list_remove(n);
        admit(e, op);
    }
}

void cmo_engine_submit(cmo_engine *e, cmo_op *op)
{
    /* A call that this thread made before may still be on the list: it had a driver to hand it to, who has left
     * since. */
    if (atomic_load_explicit(&e->nsubmitted, memory_order_relaxed)) cmo_engine_take_submitted(e);
    admit(e, op);
}

/* Is somebody waiting for bytes from another host, or for a message? Else its sockets are looked at less often. */
static bool wants_remote(cmo_engine *e)
{
    if (!cmo_list_empty(&e->points)) return true;
    CMO_EACH(n, &e->busy)
        if (!cmo_comm_shares_memory(CMO_ENTRY(n, cmo_comm, busy))) return true;
    return false;
}

bool cmo_engine_poll(cmo_engine *e)
{
    if (atomic_load_explicit(&e->nsubmitted, memory_order_relaxed)) cmo_engine_take_submitted(e);
    bool looks = e->look || e->threadless || ++e->passes % PASSES_PER_LOOK == 0;
    if (e->shm) e->shm->ops->poll(e->shm);
    if (e->remote && (looks || wants_remote(e)) && e->remote->ops->poll(e->remote) != CMO_OK)
        cmo_net_failed(e, cmo_reason());
    CMO_EACH(n, &e->channels)
        if (cmo_channel_pump(CMO_ENTRY(n, cmo_channel, node))) e->moved = true;
    CMO_EACH(n, &e->busy) pass_collective(e, CMO_ENTRY(n, cmo_comm, busy));
    CMO_EACH(n, &e->points) pass_point(e, CMO_ENTRY(n, cmo_op, node));
    if (looks) pass_look(e);
    if (e->moved) /* what the steps have posted goes out at once */
        CMO_EACH(n, &e->channels) cmo_channel_pump(CMO_ENTRY(n, cmo_channel, node));
    bool moved = e->moved;
    e->moved = false; /* what moves between two passes counts for the second */
    e->progress += moved; /* now, and not with the next pass: a waiter that sees none goes to sleep */
    return moved;
}

/* ------------------------------------------------------------------ making and ending */

static int usable_cores(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
}

static cmo_err engine_epoll(cmo_engine *e)
{
    e->epoll = epoll_create1(EPOLL_CLOEXEC);
    e->thread_bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (e->epoll < 0 || e->thread_bell < 0)
        return cmo_fail(CMO_ESYS, "no descriptors for an engine: %s", strerror(errno));
    int bad = 0;
    for (int i = 0; i < e->nlocal; i++) {
        int fd = i == e->self ? e->neighbours[i].doorbell : e->neighbours[i].pidfd;
        struct epoll_event ev = {.events = EPOLLIN, .data.u64 = (uint64_t)i};
        if (fd >= 0) bad |= epoll_ctl(e->epoll, EPOLL_CTL_ADD, fd, &ev);
    }
    return bad ? cmo_fail(CMO_ESYS, "an engine's epoll") : CMO_OK;
}

static cmo_err engine_world(cmo_engine *e, const cmo_world *w)
{
    size_t n = (size_t)w->size;
    int *members = malloc(n * sizeof *members), *host = malloc(n * sizeof *host);
    uint64_t *offset = calloc(n, sizeof *offset), own = 0;
    cmo_err err = CMO_ENOMEM;
    if (!members || !host || !offset) goto done;
    /* The first piece of every window: at the same offset in all of them. */
    if (e->share && e->nlocal > 1 && (err = cmo_window_alloc(e->window, cmo_comm_piece_bytes(e), &own)) != CMO_OK)
        goto done;
    for (int r = 0; r < w->size; r++) {
        members[r] = r;
        host[r] = e->share ? w->host[r] : r;
        if (e->neighbour_of[r] >= 0) offset[r] = own;
    }
    err = cmo_comm_create(&e->world, e, CMO_WORLD_ID, members, host, w->size, w->rank, offset, NULL);
done:
    free(members);
    free(host);
    free(offset);
    return err;
}

static cmo_err engine_tables(cmo_engine *e, const cmo_world *w)
{
    size_t n = (size_t)w->size, local = (size_t)w->nlocal;
    e->neighbours = malloc(local * sizeof *e->neighbours);
    e->neighbour_world = malloc(local * sizeof *e->neighbour_world);
    e->neighbour_of = malloc(n * sizeof *e->neighbour_of);
    e->channel = calloc(n, sizeof *e->channel);
    e->dead = calloc(n, 1);
    e->cause = calloc(n, sizeof *e->cause);
    if (!e->neighbours || !e->neighbour_world || !e->neighbour_of || !e->channel || !e->dead || !e->cause)
        return cmo_fail(CMO_ENOMEM, "an engine for %d ranks", w->size);
    memcpy(e->neighbours, w->neighbours, local * sizeof *e->neighbours);
    if (w->host_names && !(e->host_names = calloc(n, sizeof *e->host_names)))
        return cmo_fail(CMO_ENOMEM, "the names of the hosts of %d ranks", w->size);
    for (size_t r = 0; w->host_names && r < n; r++)
        if (!(e->host_names[r] = strdup(w->host_names[r])))
            return cmo_fail(CMO_ENOMEM, "the names of the hosts of %d ranks", w->size);
    int i = 0;
    for (int r = 0; r < w->size; r++) {
        e->neighbour_of[r] = -1;
        if (w->host[r] != w->host[w->rank]) continue;
        if (i == w->nlocal) return cmo_fail(CMO_EINVAL, "more ranks on this host than neighbours");
        if (r == w->rank) e->self = i;
        e->neighbour_world[i] = r;
        e->neighbour_of[r] = i++;
    }
    return i == w->nlocal ? CMO_OK : cmo_fail(CMO_EINVAL, "%d neighbours for %d ranks on this host", w->nlocal, i);
}

/* Which neighbours' memory can be read here? They learn whether it is that of all. */
static void engine_attach(cmo_engine *e)
{
    bool all = e->share && e->nlocal > 1;
    for (int i = 0; all && i < e->nlocal; i++) {
        e->neighbours[i].pid = 0;
        if (i != e->self) cmo_attach(&e->neighbours[i]);
        all = i == e->self || e->neighbours[i].pid;
    }
    if (all) atomic_store_explicit(&e->neighbours[e->self].head->attaches, 1, memory_order_relaxed);
}

static void engine_free(cmo_engine *e)
{
    CMO_EACH(n, &e->comms) {
        cmo_comm *c = CMO_ENTRY(n, cmo_comm, node);
        if (!c->outer) cmo_comm_free(c), n_next = e->comms.next; /* its parts have gone with it */
    }
    CMO_EACH(n, &e->retired) cmo_comm_free(CMO_ENTRY(n, cmo_comm, node));
    CMO_EACH(n, &e->orphans) cmo_unexpected_free(CMO_ENTRY(n, cmo_unexpected, node));
    CMO_EACH(n, &e->channels) cmo_channel_free(CMO_ENTRY(n, cmo_channel, node));
    if (e->shm) e->shm->ops->close(e->shm);
    cmo_flight_close(&e->recorder);
    if (e->epoll >= 0) close(e->epoll);
    if (e->thread_bell >= 0) close(e->thread_bell);
    free(e->neighbours);
    free(e->neighbour_world);
    free(e->neighbour_of);
    free(e->channel);
    free(e->dead);
    for (int r = 0; e->cause && r < e->size; r++) free(e->cause[r]);
    for (int r = 0; e->host_names && r < e->size; r++) free(e->host_names[r]);
    free(e->host_names);
    free(e->cause);
    free(e->xfers);
    free(e->xfer_generation);
    pthread_mutex_destroy(&e->lock);
    pthread_mutex_destroy(&e->driving);
    free(e);
}

void cmo_engine_release(cmo_engine *e)
{
    cmo_net *remote = e->remote;
    for (int i = 0; i < e->nlocal; i++) {
        cmo_neighbour *n = &e->neighbours[i];
        if (n->doorbell >= 0) close(n->doorbell);
        if (n->pidfd >= 0) close(n->pidfd);
        if (i != e->self && !e->keeps_mappings) cmo_window_unmap(n->head, n->size);
    }
    engine_free(e);
    if (remote) remote->ops->close(remote);
}

bool cmo_engine_shares_core(void *engine)
{
    enum { NEIGHBOURS = 8 }; /* that are asked at a time: each is a cache line, which its owner writes now and then */
    cmo_engine *e = engine;
    const int32_t core = 1 + sched_getcpu();
    _Atomic int32_t *shown = &cmo_window_base(e->window)->core;
    if (atomic_load_explicit(shown, memory_order_relaxed) != core)
        atomic_store_explicit(shown, core, memory_order_relaxed);
    for (int asked = 0; asked < e->nlocal && asked < NEIGHBOURS; asked++) {
        const int i = (int)(e->core_asked++ % (unsigned)e->nlocal);
        const cmo_window_head *head = e->neighbours[i].head;
        if (i != e->self && head && atomic_load_explicit(&head->core, memory_order_relaxed) == core) return true;
    }
    return false;
}

static cmo_err engine_recorder(cmo_engine *e, const cmo_world *w)
{
    const cmo_flight_identity who = {.rank = e->rank, .size = e->size, .generation = e->generation, .job = w->job,
                                     .host = e->host_names ? e->host_names[e->rank] : NULL};
    CMO_TRY(cmo_flight_open(&e->recorder, e->window, e->nlocal == 1, &who, e->tunables.flight));
    e->recorder.exact = w->exact;
    return CMO_OK;
}

cmo_err cmo_engine_create(cmo_engine **out, const cmo_world *w)
{
    CMO_TRY(cmo_isa_check()); /* a mistake in the environment, as cmo_tunables_read finds them */
    cmo_engine *e = calloc(1, sizeof *e);
    if (!e) return cmo_fail(CMO_ENOMEM, "an engine");
    e->rank = w->rank;
    e->size = w->size;
    e->generation = w->generation;
    e->tunables = w->tunables;
    e->collectives = w->collectives;
    e->now = w->now;
    e->now_ctx = w->now_ctx;
    e->looked = cmo_engine_now(e);
    e->threadless = w->threadless;
    e->tells_all = w->tells_all ? w->tells_all : TELLS_ALL;
    e->keeps_mappings = w->keeps_mappings || w->threadless;
    e->window = w->window;
    e->nlocal = w->nlocal;
    e->share = w->share;
    e->remote = w->remote;
    e->epoll = e->thread_bell = -1;
    pthread_mutex_init(&e->lock, NULL);
    pthread_mutex_init(&e->driving, NULL);
    cmo_node *lists[] = {&e->channels, &e->comms, &e->busy, &e->retired, &e->orphans, &e->points, &e->submitted};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) cmo_list_init(lists[i]);
    cmo_err err = engine_tables(e, w);
    if (!err) engine_attach(e);
    if (!err)
        err = cmo_shm_net(&e->shm, e->window, e->neighbours, e->neighbour_world, e->nlocal, e->self,
                          (size_t)e->tunables.pipe_bytes);
    if (err) goto fail;
    e->shm->on_link = cmo_channel_adopt;
    e->shm->ctx = e;
    if (e->remote) {
        e->remote->on_link = cmo_channel_adopt;
        e->remote->ctx = e;
    }
    bool crowded = e->nlocal > usable_cores();
    int64_t spin = e->tunables.spin_us >= 0 ? e->tunables.spin_us * 1000 : crowded ? 20000 : 50000;
    e->asleep = &cmo_window_base(e->window)->asleep;
    if (!e->threadless && (err = engine_epoll(e)) != CMO_OK) goto fail;
    const int sockets = e->remote ? e->remote->fd : -1;
    e->waiter = (cmo_waiter){.epoll = e->epoll, .sockets = sockets, .asleep = e->asleep, .spin = spin,
                             .crowded = crowded, .shares_core = cmo_engine_shares_core, .shares_core_ctx = e,
                             .progress = &e->progress,
                             .interrupted = w->interrupted, .interrupt_ctx = w->interrupt_ctx};
    e->thread_waiter = (cmo_waiter){.epoll = e->epoll, .sockets = sockets, .asleep = e->asleep, .spin = 0,
                                    .crowded = crowded, .progress = &e->progress};
    if ((err = engine_world(e, w)) != CMO_OK) goto fail;
    if (!e->threadless && (err = engine_recorder(e, w)) != CMO_OK) goto fail;
    if (!e->threadless && (err = cmo_engine_start_thread(e)) != CMO_OK) goto fail;
    *out = e;
    return CMO_OK;
fail:
    engine_free(e);
    return err;
}
