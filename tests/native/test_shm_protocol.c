/* Ranks that share memory and do not agree: different calls are an error on all of them that says who called what, and
 * nothing that a peer writes into shared memory is believed unchecked. */
#include "base/clock.h"
#include "check.h"
#include "coll/shm.h"
#include "sim_world.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { RANKS = 3, PASSES = 10000 };

typedef struct trio {
    world *world;
    cmo_op op[RANKS];
    bool started[RANKS], lied;
    double in[RANKS][64], out[RANKS][64];
} trio;

static void trio_make(trio *t)
{
    memset(t, 0, sizeof *t);
    world_settings s = world_plain(RANKS, WORLD_ONE_HOST, 1);
    s.tunables.slot_bytes = 64;
    s.tunables.staged_bytes = 128;
    t->world = world_create(&s);
    CHECK(t->world != NULL);
}

static void trio_free(trio *t) { world_destroy(t->world); }

static void trio_pass(trio *t, int rank) { cmo_engine_poll(world_comm(t->world, rank)->engine); }

static void trio_start(trio *t, int rank, cmo_call call)
{
    call.in = t->in[rank];
    call.out = call.kind == CMO_BROADCAST && rank == call.root ? t->in[rank] : t->out[rank];
    t->op[rank] = (cmo_op){0};
    cmo_err err = cmo_call_start(&t->op[rank], world_comm(t->world, rank), &call, -1);
    CHECK(err == CMO_OK);
    t->started[rank] = err == CMO_OK;
}

static bool trio_ended(trio *t, int rank)
{
    return !t->started[rank] || atomic_load_explicit(&t->op[rank].signal, memory_order_acquire) == CMO_OP_ENDED;
}

/* Run until all calls have ended; they must. */
static void trio_run(trio *t)
{
    for (int i = 0; i < PASSES && !(trio_ended(t, 0) && trio_ended(t, 1) && trio_ended(t, 2)); i++)
        trio_pass(t, i * 7 % 5 % RANKS);
    for (int r = 0; r < RANKS; r++) CHECKF(trio_ended(t, r), "rank %d has not ended", r);
}

/* ------------------------------------------------------------------ different calls */

static cmo_call reduction(cmo_kind kind, uint64_t count)
{
    return (cmo_call){.kind = kind, .op = CMO_OP_SUM, .dtype = CMO_F64, .count = count};
}

static void disagree(cmo_call a, cmo_call b, cmo_call c, const char *says)
{
    trio t;
    trio_make(&t);
    trio_start(&t, 0, a);
    trio_start(&t, 1, b);
    trio_start(&t, 2, c);
    trio_run(&t);
    for (int r = 0; r < RANKS; r++) {
        CHECKF(t.op[r].err == CMO_EMISMATCH, "rank %d: %s: %s", r, cmo_err_name(t.op[r].err), t.op[r].text);
        CHECKF(strstr(t.op[r].text, says) != NULL, "rank %d: \"%s\" is not in \"%s\"", r, says, t.op[r].text);
    }
    trio_free(&t);
}

static void test_different_calls_are_an_error_on_all_ranks(void)
{
    const cmo_call barrier = {.kind = CMO_BARRIER};
    disagree(barrier, reduction(CMO_ALLREDUCE, 1), barrier, "rank 1: allreduce(1 × float64");
    disagree(reduction(CMO_ALLREDUCE, 1), reduction(CMO_ALLREDUCE, 2), reduction(CMO_ALLREDUCE, 1),
             "rank 1: allreduce(2 × float64"); /* inline */
    disagree(reduction(CMO_ALLREDUCE, 8), reduction(CMO_ALLREDUCE, 8), reduction(CMO_ALLREDUCE, 9),
             "rank 2: allreduce(9 × float64"); /* staged */
    disagree(reduction(CMO_ALLREDUCE, 60), reduction(CMO_ALLREDUCE, 61), reduction(CMO_ALLREDUCE, 60),
             "rank 1: allreduce(61 × float64"); /* sliced */
    disagree(reduction(CMO_ALLREDUCE, 60), reduction(CMO_ALLREDUCE, 1), barrier, "rank 2: barrier()");
    disagree(reduction(CMO_ALLGATHER, 8), reduction(CMO_ALLTOALL, 8), reduction(CMO_ALLGATHER, 8),
             "rank 1: alltoall(8 × float64)");
    disagree(reduction(CMO_REDUCE_SCATTER, 8), reduction(CMO_REDUCE_SCATTER, 8), reduction(CMO_ALLREDUCE, 8),
             "rank 2: allreduce(8 × float64");
}

/* Who does not wait for the others has returned when they find out; its next call says so. */
static void later(cmo_call root, cmo_call other, cmo_call third)
{
    trio t;
    trio_make(&t);
    trio_start(&t, 0, root);
    trio_start(&t, 1, other);
    trio_start(&t, 2, third);
    trio_run(&t);
    CHECKF(t.op[1].err == CMO_EMISMATCH, "%s: %s", cmo_err_name(t.op[1].err), t.op[1].text);
    for (int i = 0; i < 100; i++) trio_pass(&t, i % RANKS);
    cmo_op next[RANKS] = {0};
    cmo_err err[RANKS];
    for (int r = 0; r < RANKS; r++)
        err[r] = cmo_call_start(&next[r], world_comm(t.world, r), &(cmo_call){.kind = CMO_BARRIER}, -1);
    for (int i = 0; i < PASSES; i++) {
        /* A failure waits for all to say where they are, but not for ever. */
        if (i == PASSES / 2) cmo_sim_sleep(world_sim(t.world), 4 * CMO_SECOND);
        trio_pass(&t, i % RANKS);
    }
    for (int r = 0; r < RANKS; r++) {
        if (!err[r]) CHECKF(atomic_load(&next[r].signal) == CMO_OP_ENDED, "rank %d has not ended", r);
        if (!err[r]) err[r] = next[r].err;
        CHECKF(err[r] == CMO_EMISMATCH, "rank %d: %s", r, cmo_err_name(err[r]));
    }
    trio_free(&t);
}

static void test_sizes_that_only_the_root_knows_are_compared(void)
{
    const uint64_t shape[] = {8}, blocks[] = {24};
    cmo_call sends = {.kind = CMO_BROADCAST, .dtype = CMO_F64, .count = 8, .ndim = 1, .shape = shape};
    cmo_call fits = {.kind = CMO_BROADCAST, .dtype = CMO_F64, .count = 8}, shorter = fits, other = fits;
    shorter.count = 7;
    other.dtype = CMO_I64;
    later(sends, shorter, fits);
    later(sends, other, fits);
    sends = (cmo_call){.kind = CMO_SCATTER, .dtype = CMO_F64, .count = 8, .ndim = 1, .shape = blocks};
    fits.kind = shorter.kind = CMO_SCATTER;
    later(sends, shorter, fits);
}

static void test_alltoall_counts_are_compared(void)
{
    const uint64_t two[] = {2, 2, 2}, three[] = {2, 3, 2};
    cmo_call call = {.kind = CMO_ALLTOALL, .dtype = CMO_F64, .counts = two, .recv_counts = two}, wrong = call;
    wrong.recv_counts = three;
    later(call, wrong, call);
}

/* ------------------------------------------------------------------ lies in shared memory */

static cmo_err allocate(void *ctx, const cmo_layout *layout, void **address)
{
    trio *t = ctx;
    (void)layout;
    *address = t->out[1];
    CHECKF(!t->lied, "asked to allocate for what a peer made up");
    return CMO_OK;
}

static uint64_t window_bytes; /* of the rank that lies */

typedef void lie_fn(cmo_announcement *, cmo_record *, unsigned char *slot);

/* Rank 0 announces `call`; `lie` changes what it has announced; rank 1, in `other`, must not believe it. `size`:
 * the lie is about how much there is, so nobody is to be asked for memory. */
static void deceive_about(const char *name, cmo_call call, cmo_call other, lie_fn *lie, bool size)
{
    trio t;
    trio_make(&t);
    other.allocate = allocate;
    other.allocate_ctx = &t;
    trio_start(&t, 0, call);
    trio_start(&t, 1, other);
    trio_start(&t, 2, other);
    trio_pass(&t, 0);
    trio_pass(&t, 2);
    t.lied = size;
    cmo_comm *comm = world_comm(t.world, 1);
    window_bytes = comm->neighbour[0]->size;
    lie(&comm->piece[0]->announcement[1], &comm->piece[0]->record[1], comm->staging[0]); /* collective 1, round 0 */
    for (int i = 0; i < 10; i++) trio_pass(&t, 1);
    CHECKF(trio_ended(&t, 1) && t.op[1].err == CMO_EPROTO, "%s about its %s: %s: %s", name, cmo_kind_name(call.kind),
           cmo_err_name(t.op[1].err), t.op[1].text);
    trio_free(&t);
}

static void deceive(const char *name, cmo_call call, cmo_call other, lie_fn *lie)
{
    deceive_about(name, call, other, lie, true);
}

#define LIE(name, statement)                                                       \
    static void lie_##name(cmo_announcement *p, cmo_record *r, unsigned char *slot)        \
    {                                                                              \
        (void)p, (void)r, (void)slot, statement;                                   \
    }
LIE(type, r->dtype = 200)
LIE(dimensions, r->ndim = 65)
LIE(count, r->count = UINT64_MAX / 4)
LIE(shape, r->shape[0] = 9)
LIE(shape_overflow, r->shape[0] = UINT64_MAX / 4)
LIE(row, r->shape[1] = 5)
LIE(row_overflow, r->shape[1] = UINT64_MAX / 4)
LIE(number, atomic_store(&p->seq, 1 + CMO_ANNOUNCEMENTS))
LIE(blocks, memset(slot, 0xff, sizeof(uint64_t)))
LIE(length, memset(p->payload, 0xff, sizeof(uint64_t)))

static void put_place(cmo_announcement *p, uint64_t in, uint64_t out)
{
    memcpy(p->payload + offsetof(cmo_shm_offer, in), &in, sizeof in);
    memcpy(p->payload + offsetof(cmo_shm_offer, out), &out, sizeof out);
}

LIE(far, put_place(p, UINT64_MAX, 0))
LIE(page, put_place(p, 65, 0))
LIE(end, put_place(p, 1 + window_bytes - 16, 0))

static void test_where_a_peer_says_that_its_array_is_is_checked(void)
{
    const uint64_t shape[] = {48};
    const cmo_call calls[] = {
        reduction(CMO_ALLREDUCE, 16), reduction(CMO_ALLREDUCE, 48), reduction(CMO_REDUCE_SCATTER, 16),
        reduction(CMO_SCAN, 48), reduction(CMO_ALLGATHER, 16), reduction(CMO_ALLTOALL, 16),
        {.kind = CMO_BROADCAST, .dtype = CMO_F64, .count = 48, .ndim = 1, .shape = shape},
        {.kind = CMO_SCATTER, .dtype = CMO_F64, .count = 16, .ndim = 1, .shape = shape},
        {.kind = CMO_ALLGATHER, .dtype = CMO_F64, .count = 16, .exchange = true},
    };
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        cmo_call other = calls[i];
        if (other.kind == CMO_BROADCAST || other.kind == CMO_SCATTER) other.count = other.ndim = 0;
        deceive_about("lie_far", calls[i], other, lie_far, false);
        deceive_about("lie_page", calls[i], other, lie_page, false);
        deceive_about("lie_end", calls[i], other, lie_end, false);
    }
}

static void test_what_a_peer_announces_is_checked(void)
{
    const uint64_t shape[] = {8}, rows[] = {9, 1}, counts[] = {2, 3, 4};
    const cmo_call broadcast = {.kind = CMO_BROADCAST, .dtype = CMO_F64, .count = 8, .ndim = 1, .shape = shape};
    const cmo_call scatter = {.kind = CMO_SCATTER, .dtype = CMO_F64, .counts = counts, .ndim = 2, .shape = rows};
    const cmo_call receive = {.kind = CMO_BROADCAST}, take = {.kind = CMO_SCATTER};
    deceive("lie_type", broadcast, receive, lie_type);
    deceive("lie_dimensions", broadcast, receive, lie_dimensions);
    deceive("lie_count", broadcast, receive, lie_count);
    deceive("lie_shape", broadcast, receive, lie_shape);
    deceive("lie_shape_overflow", broadcast, receive, lie_shape_overflow);
    deceive("lie_number", broadcast, receive, lie_number);
    deceive("lie_type", scatter, take, lie_type);
    deceive("lie_dimensions", scatter, take, lie_dimensions);
    deceive("lie_count", scatter, take, lie_count);
    deceive("lie_row", scatter, take, lie_row);
    deceive("lie_row_overflow", scatter, take, lie_row_overflow);
    deceive("lie_blocks", scatter, take, lie_blocks);
    const cmo_call gather = {.kind = CMO_ALLGATHER, .dtype = CMO_F64, .count = 2, .exchange = true};
    deceive("lie_length", gather, gather, lie_length);
    const cmo_call alltoall = {.kind = CMO_ALLTOALL, .dtype = CMO_F64, .count = 2, .exchange = true};
    deceive("lie_number", alltoall, alltoall, lie_number);
}

int main(void)
{
    test_different_calls_are_an_error_on_all_ranks();
    test_sizes_that_only_the_root_knows_are_compared();
    test_alltoall_counts_are_compared();
    test_what_a_peer_announces_is_checked();
    test_where_a_peer_says_that_its_array_is_is_checked();
    return check_report();
}
