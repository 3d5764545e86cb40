/* Communicators: their members, hosts and shared memory; how children come to be and how they end. */
#include "comm/agree.h"
#include "comm/internal.h"

#include <stdlib.h>
#include <string.h>

int cmo_comm_rank_of(const cmo_comm *comm, int world)
{
    /* Members are mostly in rising order of world rank: look where that would put it, then everywhere. */
    for (int i = world < comm->size ? world : comm->size - 1; i >= 0; i--)
        if (comm->world[i] == world) return i;
    for (int i = 0; i < comm->size; i++)
        if (comm->world[i] == world) return i;
    return -1;
}

size_t cmo_comm_piece_bytes(const cmo_engine *e)
{
    return cmo_piece_head_bytes(e->nlocal) + (size_t)(e->tunables.slots * e->tunables.slot_bytes);
}

static void comm_map_hosts(cmo_comm *c, const int *host)
{
    int *last = c->locals; /* not in use yet: the last rank whose host had this number, modulo size; -1: none */
    c->nhosts = 0;
    for (int r = 0; r < c->size; r++) last[r] = -1;
    for (int r = 0; r < c->size; r++) {
        int same = last[(unsigned)host[r] % (unsigned)c->size];
        if (same >= 0 && host[same] != host[r]) /* two hosts share a place */
            for (same = r - 1; same >= 0 && host[same] != host[r]; same--) {}
        c->host[r] = same >= 0 ? c->host[same] : c->nhosts++;
        last[(unsigned)host[r] % (unsigned)c->size] = r;
    }
    for (int r = 0; r < c->size; r++)
        if (c->host[r] == c->host[c->rank]) c->locals[c->nlocal++] = r;
    for (int i = 0; i < c->nlocal; i++)
        if (c->locals[i] == c->rank) c->local = i;
}

/* Rounds are 2^k slots where that divides all slots, so that none wraps around, and a quarter of them at most: three
 * are in use at a time. */
static cmo_rotation comm_rotation(uint64_t slots, uint64_t slot_bytes, uint64_t round_bytes)
{
    uint64_t widest = 1;
    while (slots % (2 * widest) == 0 && 8 * widest <= slots && 2 * widest * slot_bytes <= round_bytes) widest *= 2;
    return (cmo_rotation){slots, widest};
}

static void comm_size_rounds(cmo_comm *c, const cmo_tunables *t)
{
    const uint64_t slots = (uint64_t)t->slots, part = c->nlocal == 2 ? 2 : 4;
    c->slot_bytes = (uint64_t)t->slot_bytes / CMO_LINE * CMO_LINE;
    c->all = comm_rotation(slots, c->slot_bytes, (uint64_t)t->round_bytes);
    c->some = slots % (4 * part) ? c->all : comm_rotation(slots / part, c->slot_bytes, (uint64_t)t->round_bytes);
    c->turning = slots;
    c->around_bytes = (uint64_t)t->around_bytes / (uint64_t)c->nlocal;
    c->attach_bytes = t->attach_bytes ? (uint64_t)t->attach_bytes : UINT64_MAX;
}

/* Find every local member's piece. An offset comes from a peer and is checked. */
static cmo_err comm_map_pieces(cmo_comm *c, const uint64_t *offset)
{
    cmo_engine *e = c->engine;
    size_t bytes = cmo_comm_piece_bytes(e), head = cmo_piece_head_bytes(e->nlocal);
    c->piece = calloc((size_t)c->nlocal, sizeof *c->piece);
    c->staging = calloc((size_t)c->nlocal, sizeof *c->staging);
    c->neighbour = calloc((size_t)c->nlocal, sizeof *c->neighbour);
    if (!c->piece || !c->staging || !c->neighbour) return cmo_fail(CMO_ENOMEM, "the pieces of %d ranks", c->nlocal);
    for (int i = 0; i < c->nlocal; i++) {
        int r = c->locals[i];
        c->neighbour[i] = &e->neighbours[e->neighbour_of[c->world[r]]];
        c->piece[i] = cmo_window_at(c->neighbour[i], offset[r], bytes);
        if (!c->piece[i]) return cmo_fail(CMO_EPROTO, "rank %d offers shared memory outside its window", r);
        c->staging[i] = (unsigned char *)c->piece[i] + head;
    }
    comm_size_rounds(c, &e->tunables);
    c->piece_offset = offset[c->rank];
    c->piece_bytes = bytes;
    return CMO_OK;
}

/* Ids need no agreement: ranks that make a communicator make it from the same parent, as the same child of it. Nor can
 * threads that make several at once upset each other. 64 bits, so that no two meet by chance. */
static uint64_t derived_id(uint64_t parent, uint64_t number)
{
    uint64_t h = parent * UINT64_C(0x9e3779b97f4a7c15) + number;
    h = (h ^ h >> 32) * UINT64_C(0xd6e8feb86659fd93);
    h = (h ^ h >> 32) * UINT64_C(0xd6e8feb86659fd93);
    return h ^ h >> 32;
}

/* The parts of a communicator that spans hosts: the members on this host, and those with this rank's place on every
 * host. */
static cmo_err comm_make_parts(cmo_comm *c, const uint64_t *piece_offset)
{
    int *place = malloc((size_t)c->size * sizeof *place), *members = malloc((size_t)c->size * sizeof *members);
    int *host = malloc((size_t)c->size * sizeof *host), *count = calloc((size_t)c->nhosts, sizeof *count);
    uint64_t *offset = malloc((size_t)c->size * sizeof *offset);
    cmo_err err = CMO_OK;
    if (!place || !members || !host || !count || !offset) {
        err = cmo_fail(CMO_ENOMEM, "the parts of a communicator of %d ranks", c->size);
        goto done;
    }
    for (int r = 0; r < c->size; r++) place[r] = count[c->host[r]]++;
    c->least_local = c->size;
    for (int h = 0; h < c->nhosts; h++)
        if (count[h] < c->least_local) c->least_local = count[h];
    for (int i = 0; i < c->nlocal; i++) {
        members[i] = c->world[c->locals[i]];
        host[i] = 0;
        offset[i] = piece_offset[c->locals[i]];
    }
    err = cmo_comm_create(&c->local_comm, c->engine, derived_id(c->id, 1), members, host, c->nlocal, c->local,
                          offset, c);
    if (err || c->local >= c->least_local) goto done;
    int n = 0, mine = 0;
    for (int r = 0; r < c->size; r++) {
        if (place[r] != c->local) continue;
        if (r == c->rank) mine = n;
        host[n] = n;
        offset[n] = 0;
        members[n++] = c->world[r];
    }
    err = cmo_comm_create(&c->cross_comm, c->engine, derived_id(c->id, 2), members, host, n, mine, offset, c);
done:
    free(place);
    free(members);
    free(host);
    free(count);
    free(offset);
    return err;
}

cmo_err cmo_comm_create(cmo_comm **out, cmo_engine *e, uint64_t id, const int *world, const int *host, int size,
                        int rank, const uint64_t *piece_offset, cmo_comm *outer)
{
    cmo_err err;
    cmo_comm *c = calloc(1, sizeof *c);
    if (!c) return cmo_fail(CMO_ENOMEM, "a communicator");
    c->engine = e;
    c->id = id;
    c->rank = rank;
    c->size = size;
    c->outer = outer;
    cmo_list_init(&c->node);
    cmo_list_init(&c->busy);
    cmo_list_init(&c->queue);
    cmo_list_init(&c->posted);
    cmo_list_init(&c->unexpected);
    size_t n = (size_t)size;
    c->world = malloc(n * sizeof *c->world);
    c->host = malloc(n * sizeof *c->host);
    c->locals = malloc(n * sizeof *c->locals);
    c->lost = calloc(n, 1);
    c->left = calloc(n, 1);
    if (!c->world || !c->host || !c->locals || !c->lost || !c->left) {
        err = cmo_fail(CMO_ENOMEM, "a communicator of %d ranks", size);
        goto fail;
    }
    memcpy(c->world, world, n * sizeof *c->world);
    comm_map_hosts(c, host);
    c->least_local = c->nlocal;
    if (c->nhosts > 1 && c->nhosts < c->size) {
        err = comm_make_parts(c, piece_offset);
        if (err) goto fail;
    } else if (c->nhosts == 1 && c->size > 1 && e->share) {
        err = comm_map_pieces(c, piece_offset);
        if (err) goto fail;
    }
    cmo_engine_attach(e, c);
    int lost = -1;
    for (int r = 0; r < size; r++) {
        if (!e->dead[c->world[r]]) continue;
        c->lost[r] = 1;
        if (lost < 0) lost = r;
    }
    /* It was lost after it had agreed to this communicator: nothing would tell again */
    const char *cause = lost < 0 ? NULL : e->cause[c->world[lost]];
    if (lost >= 0 && !outer) cmo_comm_fail(c, CMO_EPEERLOST, cause ? cause : "it was lost before the first call");
    *out = c;
    return CMO_OK;
fail:
    cmo_comm_free(c);
    return err;
}

void cmo_comm_free(cmo_comm *c)
{
    if (!c) return;
    cmo_comm_free(c->local_comm);
    cmo_comm_free(c->cross_comm);
    cmo_agree_free(c);
    CMO_EACH(n, &c->unexpected) cmo_unexpected_free(CMO_ENTRY(n, cmo_unexpected, node));
    cmo_list_remove(&c->node);
    free(c->world);
    free(c->host);
    free(c->locals);
    free(c->piece);
    free(c->staging);
    free(c->neighbour);
    free(c->lost);
    free(c->left);
    free(c->told);
    free(c);
}

/* ------------------------------------------------------------------ children */

cmo_err cmo_comm_offer(cmo_comm *parent, int64_t color, int64_t key, cmo_member *own)
{
    cmo_engine *e = parent->engine;
    *own = (cmo_member){.color = color, .key = key};
    if (color >= 0 && e->share && parent->nlocal > 1)
        own->error = cmo_window_alloc(e->window, cmo_comm_piece_bytes(e), &own->piece_offset);
    return own->error ? (cmo_err)own->error : CMO_OK;
}

typedef struct child_place { /* a member of the child, to be sorted */
    int64_t key;
    int rank;
} child_place;

static int child_compare(const void *a, const void *b)
{
    const child_place *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->rank - y->rank;
}

static cmo_err child_build(cmo_comm *parent, const cmo_member *members, uint64_t id, cmo_comm **out)
{
    cmo_engine *e = parent->engine;
    const cmo_member *own = &members[parent->rank];
    size_t n = (size_t)parent->size;
    int size = 0, rank = 0;
    cmo_err err = CMO_OK;
    child_place *place = malloc(n * sizeof *place);
    int *world = malloc(n * sizeof *world), *host = malloc(n * sizeof *host);
    uint64_t *offset = malloc(n * sizeof *offset);
    *out = NULL;
    if (!place || !world || !host || !offset) {
        err = cmo_fail(CMO_ENOMEM, "a child of a communicator of %d ranks", parent->size);
        goto done;
    }
    for (int r = 0; r < parent->size; r++) {
        if (members[r].error && !err)
            err = cmo_fail(CMO_ENOMEM, "rank %d cannot reserve shared memory for the new communicator", r);
        if (members[r].color == own->color) place[size++] = (child_place){members[r].key, r};
    }
    if (err || own->color < 0) goto done;
    qsort(place, (size_t)size, sizeof *place, child_compare);
    for (int i = 0; i < size; i++) {
        int r = place[i].rank;
        if (r == parent->rank) rank = i;
        world[i] = parent->world[r];
        host[i] = parent->host[r];
        offset[i] = members[r].piece_offset;
    }
    err = cmo_comm_create(out, e, id, world, host, size, rank, offset, NULL);
    if (!err) {
        /* Messages of its parts before the news that somebody left */
        cmo_comm *made[] = {(*out)->local_comm, (*out)->cross_comm, *out};
        for (int i = 0; i < 3; i++)
            if (made[i]) cmo_match_orphans(e, made[i]);
    }
    bool used = !err && ((*out)->piece || ((*out)->local_comm && (*out)->local_comm->piece));
    /* Alone on its host */
    if (!err && !used && own->piece_offset) cmo_window_free(e->window, own->piece_offset, cmo_comm_piece_bytes(e));
done:
    if (err && own->piece_offset) cmo_window_free(e->window, own->piece_offset, cmo_comm_piece_bytes(e));
    free(place);
    free(world);
    free(host);
    free(offset);
    return err;
}

cmo_err cmo_comm_build(cmo_comm *parent, const cmo_member *members, cmo_comm **out)
{
    return child_build(parent, members, derived_id(parent->id, 2 + ++parent->children), out); /* 1, 2: its parts */
}

/* Ranks whose calls failed in the middle of others may have counted different numbers of children. */
cmo_err cmo_comm_build_agreed(cmo_comm *parent, const cmo_member *members, uint64_t number, cmo_comm **out)
{
    return child_build(parent, members, derived_id(parent->id, number | UINT64_C(1) << 63), out);
}

/* ------------------------------------------------------------------ the end */

/* Tell the members on this host that this rank will neither call anything more nor touch their memory. */
static void comm_leave_pieces(cmo_comm *c)
{
    if (!c->piece) return;
    for (int i = 0; i < c->nlocal; i++) {
        if (i == c->local) continue;
        atomic_fetch_add_explicit(&c->piece[i]->nleft, 1, memory_order_release);
        cmo_ring(c->neighbour[i]);
        atomic_store_explicit(&c->piece[i]->left[c->local], 1, memory_order_release); /* after all of its reads */
    }
}

/* Give the piece of a closed communicator back, when no member of this host can touch it any more, and free the rest
 * when its user has let go of it. */
static void comm_retire(cmo_comm *c)
{
    cmo_engine *e = c->engine;
    cmo_comm *p = cmo_comm_with_pieces(c);
    if (!cmo_list_empty(&c->queue)) return;
    for (int i = 0; p->piece && i < p->nlocal && !c->retired; i++)
        if (i != p->local && !e->dead[p->world[p->locals[i]]] &&
            !atomic_load_explicit(&p->piece[p->local]->left[i], memory_order_acquire))
            return;
    if (!c->retired) {
        if (p->piece) cmo_window_free(e->window, p->piece_offset, p->piece_bytes);
        cmo_agree_release(c);
    }
    c->retired = true;
    if (!atomic_load_explicit(&c->held, memory_order_acquire)) cmo_comm_free(c);
}

static void comm_close(cmo_comm *c)
{
    if (c->closed) return;
    cmo_engine *e = c->engine;
    cmo_engine_take_submitted(e); /* its calls among them are to end too */
    c->closed = true;
    /* After all of its announcements, and before its calls in progress end and their arrays may change: who reads them
     * looks at this last. */
    if (c->piece) atomic_store_explicit(&c->piece[c->local]->closed, 1, memory_order_seq_cst);
    if (c->local_comm) comm_close(c->local_comm);
    if (c->cross_comm) comm_close(c->cross_comm);
    CMO_EACH(n, &c->queue) cmo_op_abandon(CMO_ENTRY(n, cmo_op, node));
    CMO_EACH(n, &e->points)
        if (CMO_ENTRY(n, cmo_op, node)->comm == c) cmo_op_abandon(CMO_ENTRY(n, cmo_op, node));
    const cmo_header bye = {.kind = CMO_BYE, .comm = c->id, .seq = c->seq, .fingerprint = c->chain};
    for (int r = 0; r < c->size && !c->outer; r++) {
        cmo_channel *channel = r == c->rank ? NULL : e->channel[c->world[r]];
        if (channel && !channel->gone) {
            cmo_channel_control(channel, &bye, NULL, 0);
            cmo_channel_pump(channel);
        }
    }
    comm_leave_pieces(c);
    if (c->outer) return;
    cmo_list_remove(&c->node);
    if (c->local_comm) cmo_list_remove(&c->local_comm->node);
    if (c->cross_comm) cmo_list_remove(&c->cross_comm->node);
    e->closed_ids[e->nclosed++ % CMO_CLOSED_IDS] = c->id;
    cmo_list_append(&e->retired, &c->node);
    CMO_EACH(n, &e->retired) comm_retire(CMO_ENTRY(n, cmo_comm, node));
}

cmo_err cmo_comm_close(cmo_comm *comm)
{
    const cmo_err err = comm->closed ? CMO_OK : cmo_comm_unheard(comm);
    comm_close(comm);
    return err;
}
