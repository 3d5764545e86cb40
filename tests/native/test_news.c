/* What ranks tell each other beside their messages: failures, goodbyes and questions for communicators that are still
 * to be made or closed already; and that nothing which is told is believed unread. */
#include "base/clock.h"
#include "check.h"
#include "coll/coll.h"
#include "coll_case.h"
#include "comm/internal.h"

#include <string.h>

/* ------------------------------------------------------------------ news for a communicator that is still to be
 * made */

typedef struct pair { /* of ranks on hosts of their own, and a child of their communicator that rank 0 has made first */
    world *w;
    cmo_member members[2];
    cmo_comm *child[2];
    int64_t messages;
} pair;

/* A message from rank 0 to rank 1: what rank 0 has sent before has come when it has. */
static void pass_message(pair *p)
{
    static const uint64_t none = 0;
    world_task *send = world_add(p->w, 0), *receive = world_add(p->w, 1);
    send->what = TASK_SEND;
    send->message = (cmo_message){.peer = 1, .tag = ++p->messages, .dtype = CMO_U8, .ndim = 1, .shape = &none};
    receive->what = TASK_PROBE;
    receive->message = (cmo_message){.peer = 0, .tag = p->messages};
    CHECK(world_run(p->w));
}

static pair make_pair(void)
{
    world_settings settings = world_plain(2, WORLD_OWN_HOSTS, 1);
    settings.timeout = 60;
    pair p = {.w = world_create(&settings)};
    CHECK(p.w != NULL);
    for (int r = 0; r < 2; r++) CHECK(cmo_comm_offer(world_comm(p.w, r), 0, 0, &p.members[r]) == CMO_OK);
    pass_message(&p); /* they have met */
    CHECK(cmo_comm_build(world_comm(p.w, 0), p.members, &p.child[0]) == CMO_OK);
    return p;
}

static void make_other(pair *p) { CHECK(cmo_comm_build(world_comm(p->w, 1), p->members, &p->child[1]) == CMO_OK); }

static cmo_call gather_to(int root)
{
    static uint8_t in, out[2];
    return (cmo_call){.kind = CMO_GATHER, .dtype = CMO_U8, .root = root, .in = &in, .out = out, .count = 1};
}

/* Let a rank look around for some seconds. */
static void linger(const pair *p, int rank)
{
    for (int i = 0; i < 12; i++) {
        cmo_engine_poll(world_comm(p->w, rank)->engine);
        cmo_sim_sleep(world_sim(p->w), cmo_sim_now(world_sim(p->w)) + CMO_SECOND / 2);
    }
}

/* How a call of rank 1 in the child ends that nobody answers. */
static cmo_err call_ends(const pair *p, int root)
{
    static cmo_op op;
    cmo_comm *child = p->child[1];
    cmo_call call = gather_to(root);
    memset(&op, 0, sizeof op);
    cmo_err err = cmo_call_start(&op, child, &call, 60);
    if (!err) linger(p, 1);
    bool ended = err || op.signal == CMO_OP_ENDED;
    if (!ended) cmo_comm_close(child);
    return err ? err : ended ? op.err : CMO_AGAIN;
}

static void test_a_failure_waits_for_its_communicator(void)
{
    pair p = make_pair();
    cmo_comm_fail(p.child[0], CMO_EPEERLOST, "for the test");
    pass_message(&p);
    make_other(&p);
    CHECK(call_ends(&p, 1) == CMO_EPEERLOST);
    world_destroy(p.w);
}

static void test_a_goodbye_waits_for_its_communicator(void)
{
    pair p = make_pair();
    cmo_comm_close(p.child[0]);
    pass_message(&p);
    make_other(&p);
    CHECK(call_ends(&p, 1) == CMO_EPEERLOST);
    world_destroy(p.w);
}

static void test_a_question_waits_for_its_communicator(void)
{
    static cmo_op op;
    pair p = make_pair();
    cmo_call call = gather_to(0);
    memset(&op, 0, sizeof op);
    CHECK(cmo_call_start(&op, p.child[0], &call, 60) == CMO_OK);
    linger(&p, 0);
    pass_message(&p);
    make_other(&p);
    CHECK(call_ends(&p, 1) == CMO_EMISMATCH);
    world_destroy(p.w);
}

/* Rank 1 closes the child as if it had no connection by which to say goodbye. */
static void close_unheard(pair *p)
{
    make_other(p);
    cmo_engine *e = p->child[1]->engine;
    e->channel[0]->gone = true;
    cmo_comm_close(p->child[1]);
    e->channel[0]->gone = false;
}

/* Rank 0 has started an op in the child and waits for rank 1, which has closed it. Does it come to know? */
static void check_hears(pair *p, const cmo_op *op, const char *what)
{
    linger(p, 0);
    CHECKF(op->signal != CMO_OP_ENDED, "%s: before it was asked", what);
    pass_message(p);
    for (int i = 0; i < 3; i++) { /* the answer is on its way */
        cmo_engine_poll(world_comm(p->w, 1)->engine);
        cmo_sim_sleep(world_sim(p->w), cmo_sim_now(world_sim(p->w)) + CMO_SECOND);
        cmo_engine_poll(p->child[0]->engine);
    }
    CHECKF(op->signal == CMO_OP_ENDED && op->err == CMO_EPEERLOST, "%s: %s", what, cmo_err_name(op->err));
}

static void test_a_question_to_who_has_closed_is_answered(void)
{
    static cmo_op op;
    pair p = make_pair();
    close_unheard(&p);
    cmo_call call = gather_to(0);
    memset(&op, 0, sizeof op);
    CHECK(cmo_call_start(&op, p.child[0], &call, 60) == CMO_OK);
    check_hears(&p, &op, "a collective");
    world_destroy(p.w);
}

static cmo_err no_buffer(void *ctx, const cmo_layout *layout, void **address)
{
    (void)ctx, (void)layout, (void)address;
    return cmo_fail(CMO_EINVAL, "no message was sent");
}

/* So is one about a message: a receive, a probe, a send that is too long to go unasked. */
static void test_who_waits_for_a_message_of_who_has_closed_hears_of_it(void)
{
    static const char *const what[] = {"a receive", "a probe", "a send"};
    static uint8_t letter[1 << 20];
    static const uint64_t bytes = sizeof letter;
    static cmo_op op;
    for (int k = 0; k < 3; k++) {
        pair p = make_pair();
        cmo_message m = {.peer = 1, .tag = 1, .dtype = CMO_U8, .ndim = 1, .shape = &bytes, .buffer = letter,
                         .bytes = bytes, .allocate = no_buffer};
        cmo_status status;
        close_unheard(&p);
        memset(&op, 0, sizeof op);
        if (k == 0) CHECK(cmo_recv_start(&op, p.child[0], &m, 60, &status) == CMO_OK);
        if (k == 1) CHECK(cmo_probe_start(&op, p.child[0], 1, 1, 60, &status) == CMO_OK);
        if (k == 2) CHECK(cmo_send_start(&op, p.child[0], &m, 60) == CMO_OK);
        check_hears(&p, &op, what[k]);
        CHECKF(op.lost == 1, "%s: rank %d is lost", what[k], op.lost);
        world_destroy(p.w);
    }
}

/* Asking does no harm where the peer is only late, be the communicator made there or not. */
static void test_who_is_late_is_waited_for(void)
{
    static cmo_op op;
    for (int made = 0; made < 2; made++) {
        pair p = make_pair();
        cmo_status status;
        if (made) make_other(&p);
        memset(&op, 0, sizeof op);
        CHECK(cmo_probe_start(&op, p.child[0], 1, 1, 60, &status) == CMO_OK);
        linger(&p, 0);
        pass_message(&p);
        cmo_engine_poll(world_comm(p.w, 1)->engine);
        if (!made) make_other(&p);
        linger(&p, 1);
        linger(&p, 0);
        CHECK(op.signal != CMO_OP_ENDED && !p.child[0]->failed && !p.child[1]->failed);
        cmo_comm_close(p.child[1]); /* now there is a connection */
        linger(&p, 1);
        linger(&p, 0);
        CHECK(op.signal == CMO_OP_ENDED && op.err == CMO_EPEERLOST);
        world_destroy(p.w);
    }
}

/* Of communicators that never come to be, no more than the latest news are kept. */
static void test_news_of_no_communicator_do_not_pile_up(void)
{
    pair p = make_pair();
    cmo_engine *e = world_comm(p.w, 1)->engine;
    cmo_channel *c = e->channel[0];
    const cmo_frame_kind kinds[] = {CMO_BYE, CMO_FAIL, CMO_ASK};
    uint64_t last = 0;
    for (int i = 0; i < 3 * CMO_MOST_NEWS; i++) {
        cmo_xfer *x;
        cmo_unexpected *m;
        const uint8_t word = 0;
        cmo_header h = {.kind = (uint8_t)kinds[i % 3], .space = CMO_COLLECTIVE, .comm = last = 1000 + (uint64_t)i,
                        .tag = CMO_ASK_TAG, .length = kinds[i % 3] == CMO_FAIL};
        if (h.kind == CMO_ASK) cmo_match_arrived(c, &h, NULL, &x, &m);
        else CHECK(cmo_match_keep(c, &h, &word));
    }
    int kept = 0;
    bool has_last = false;
    CMO_EACH(n, &e->orphans) {
        kept++;
        has_last |= CMO_ENTRY(n, cmo_unexpected, node)->header.comm == last;
    }
    CHECK(kept == CMO_MOST_NEWS && c->news == kept && has_last);
    world_destroy(p.w);
}

/* What a peer says may fill what is kept of it, and still be heard, each word once, when the communicator is made. */
static void test_all_that_is_kept_is_heard(void)
{
    pair p = make_pair();
    cmo_channel *c = world_comm(p.w, 1)->engine->channel[0];
    CHECK(cmo_match_keep(c, &(cmo_header){.kind = CMO_BYE, .comm = p.child[0]->id, .seq = 5, .fingerprint = 7}, NULL));
    for (uint64_t i = 1; i < CMO_MOST_NEWS; i++)
        CHECK(cmo_match_keep(c, &(cmo_header){.kind = CMO_BYE, .comm = 1000 + i, .seq = 1}, NULL));
    make_other(&p);
    CHECK(p.child[1]->left[0] && c->news <= CMO_MOST_NEWS);
    world_destroy(p.w);
}

static void test_who_asks_again_and_again_is_answered_once(void)
{
    pair p = make_pair();
    close_unheard(&p);
    cmo_channel *c = world_comm(p.w, 1)->engine->channel[0];
    const cmo_header ask = {.kind = CMO_ASK, .space = CMO_COLLECTIVE, .comm = p.child[0]->id, .tag = CMO_ASK_TAG};
    int byes = 0, doings = 0;
    for (int i = 0; i < 10; i++) {
        cmo_xfer *x;
        cmo_unexpected *m;
        cmo_match_arrived(c, &ask, NULL, &x, &m);
        cmo_ask_heard(c);
    }
    CMO_EACH(n, &c->control) {
        byes += CMO_ENTRY(n, cmo_control, node)->data[0] == CMO_BYE;
        doings += CMO_ENTRY(n, cmo_control, node)->data[0] == CMO_DOING;
    }
    CHECK(byes == 1 && doings == 1);
    world_destroy(p.w);
}

/* ------------------------------------------------------------------ what a rank tells */

static cmo_told some_position(uint64_t seq)
{
    cmo_told told = {.heard = true, .in_call = true, .seq = seq};
    for (uint64_t s = seq < CMO_RECENT ? 1 : seq - CMO_RECENT + 1; s <= seq; s++)
        told.recent[s % CMO_RECENT] = (cmo_recent_call){.seq = s, .fingerprint = s * UINT64_C(0x9e3779b97f4a7c15),
                                             .count = s << 40, .root = 7, .kind = CMO_GATHER,
                                             .op = CMO_OP_SUM, .dtype = CMO_F64, .ndim = s % 2 ? CMO_UNTOLD : 2,
                                             .shape = {s % 2 ? 0 : s, s % 2 ? 0 : UINT64_C(1) << 40}};
    return told;
}

static void test_what_is_told_is_read_back(void)
{
    for (uint64_t seq = 0; seq < 20; seq++) {
        cmo_told told = some_position(seq), got;
        uint8_t bytes[CMO_TOLD_BYTES], again[CMO_TOLD_BYTES];
        cmo_told_write(bytes, &told);
        CHECK(cmo_told_parse(&got, bytes, sizeof bytes) == CMO_OK);
        cmo_told_write(again, &got);
        CHECK(!memcmp(bytes, again, sizeof bytes));
        CHECK(got.heard && got.in_call && got.seq == seq);
        for (int k = 0; k < CMO_RECENT; k++)
            CHECK(got.recent[k].seq == told.recent[k].seq && got.recent[k].fingerprint == told.recent[k].fingerprint &&
                  got.recent[k].count == told.recent[k].count && got.recent[k].root == told.recent[k].root &&
                  got.recent[k].kind == told.recent[k].kind && got.recent[k].dtype == told.recent[k].dtype &&
                  got.recent[k].ndim == told.recent[k].ndim && got.recent[k].shape[0] == told.recent[k].shape[0] &&
                  got.recent[k].shape[1] == told.recent[k].shape[1]);
    }
}

static void test_what_nobody_tells_is_refused(void)
{
    const struct {
        int at, value;
    } wrong[] = {
        {8, 2}, {15, 1},                                           /* in_call is neither 0 nor 1 */
        {16 + 28, CMO_NKINDS}, {16 + 29, CMO_NMEANINGS}, {16 + 30, CMO_NDTYPES}, {16 + 27, 0x80},
        {16 + 31, CMO_MAX_DIMS + 1}, {16 + 31, CMO_UNTOLD - 1},
        /* Calls of another place, of the future, long past */
        {16, 1}, {16, 24}, {16 + 64, 1}, {0, 15}, {0, 200},
    };
    cmo_told told = some_position(17), got;
    uint8_t bytes[CMO_TOLD_BYTES + 1];
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        cmo_told_write(bytes, &told);
        bytes[wrong[i].at] = (uint8_t)wrong[i].value;
        CHECKF(cmo_told_parse(&got, bytes, CMO_TOLD_BYTES) == CMO_EPROTO, "byte %d is %d", wrong[i].at, wrong[i].value);
    }
    cmo_told_write(bytes, &told);
    CHECK(cmo_told_parse(&got, bytes, 0) == CMO_EPROTO);
    CHECK(cmo_told_parse(&got, bytes, CMO_TOLD_BYTES - 1) == CMO_EPROTO);
    CHECK(cmo_told_parse(&got, bytes, CMO_TOLD_BYTES + 1) == CMO_EPROTO);
}

static void test_what_is_read_of_any_bytes_can_be_used(void)
{
    uint64_t state = 1;
    for (int i = 0; i < 20000; i++) {
        cmo_told told = some_position(coll_random(&state, 40)), got;
        uint8_t bytes[CMO_TOLD_BYTES];
        cmo_told_write(bytes, &told);
        for (int k = 0; k < 3; k++) bytes[coll_random(&state, sizeof bytes)] = (uint8_t)coll_random(&state, 256);
        if (cmo_told_parse(&got, bytes, sizeof bytes) != CMO_OK) continue;
        for (int k = 0; k < CMO_RECENT; k++)
            CHECK(got.recent[k].kind < CMO_NKINDS && got.recent[k].op < CMO_NMEANINGS &&
                  got.recent[k].dtype < CMO_NDTYPES &&
                  got.recent[k].root >= 0 && got.recent[k].seq <= got.seq &&
                  (got.recent[k].ndim <= CMO_MAX_DIMS || got.recent[k].ndim == CMO_UNTOLD));
    }
}

int main(void)
{
    test_a_failure_waits_for_its_communicator();
    test_a_goodbye_waits_for_its_communicator();
    test_a_question_waits_for_its_communicator();
    test_a_question_to_who_has_closed_is_answered();
    test_who_waits_for_a_message_of_who_has_closed_hears_of_it();
    test_who_is_late_is_waited_for();
    test_news_of_no_communicator_do_not_pile_up();
    test_all_that_is_kept_is_heard();
    test_who_asks_again_and_again_is_answered_once();
    test_what_is_told_is_read_back();
    test_what_nobody_tells_is_refused();
    test_what_is_read_of_any_bytes_can_be_used();
    return check_report();
}
