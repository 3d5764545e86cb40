/* Inputs of the channel target: what ranks say to one of them in collectives and messages, recorded in a simulated
 * world; and frames one by one, which the target mends. */
#include "seeds.h"

#include "calls.h"
#include "channel.h"
#include "comm/ballot.h"
#include "sim_world.h"

static void record(seed *s, channel_record what, int argument)
{
    seed_byte(s, what);
    seed_byte(s, argument);
}

static void count(seed *s, size_t n)
{
    seed_byte(s, (int)(n & 255));
    seed_byte(s, (int)(n >> 8));
}

/* ------------------------------------------------------------------ what real ranks say */

static void listen_in(void *ctx, int from, int to, const void *bytes, size_t n)
{
    seed *s = ctx;
    if (to != CHANNEL_RANK) return;
    record(s, CHANNEL_FEED, from);
    count(s, n);
    seed_add(s, bytes, n);
}

static world *make_world(int settings)
{
    world_settings w = world_plain(CALLS_RANKS, WORLD_OWN_HOSTS, 1);
    w.tunables = calls_tunables((uint8_t)settings);
    w.timeout = 5;
    return world_create(&w);
}

static void record_calls(int settings, const uint8_t *names, int n)
{
    static seed s;
    static call_arrays arrays[8][CALLS_RANKS];
    world *w = make_world(settings);
    FUZZ_CHECK(w && n <= 8);
    s.size = 0;
    seed_byte(&s, settings);
    for (int i = 0; i < n; i++) {
        record(&s, CHANNEL_CALL, names[i]);
        for (int r = 0; r < CALLS_RANKS; r++) {
            world_task *t = world_add(w, r);
            t->what = TASK_CALL;
            t->call = calls_make(&arrays[i][r], names[i], r);
        }
    }
    cmo_sim_tap(world_sim(w), listen_in, &s);
    FUZZ_CHECK(world_run(w));
    for (int r = 0; r < CALLS_RANKS; r++)
        for (const world_task *t = world_tasks(w, r); t; t = t->next)
            if (t->err) fprintf(stderr, "call %d of rank %d: %s\n", names[0], r, cmo_err_name(t->err)), exit(1);
    world_destroy(w);
    for (int i = 0; i < n; i++)
        for (int r = 0; r < CALLS_RANKS; r++) calls_free(&arrays[i][r]);
    seed_write(&s, "channel", "calls-%d-%d-%d", settings, names[0], n);
}

/* ------------------------------------------------------------------ frames one by one */

static void frame(seed *s, int peer, int mend, const cmo_header *h, const void *payload, size_t bytes)
{
    uint8_t head[CMO_HEADER_BYTES];
    cmo_header_write(head, h);
    record(s, CHANNEL_FRAME, peer);
    seed_byte(s, mend);
    seed_add(s, head, sizeof head);
    count(s, bytes);
    seed_add(s, payload, bytes);
}

enum { MEND_ALWAYS = CHANNEL_MEND_GENERATION | CHANNEL_MEND_COMM };

/* A receive before, or after, its message; unasked, or announced and then sent in pieces. */
static void message_seeds(void)
{
    static const uint8_t text[40] = "forty bytes";
    for (int k = 0; k < 8; k++) {
        const int late = k & 1, large = k >> 1 & 1, mend = MEND_ALWAYS | CHANNEL_MEND_SHAPE;
        seed s = {.size = 0};
        seed_byte(&s, 1);
        if (k & 4) record(&s, CHANNEL_BUILD, 0);
        if (!late) record(&s, CHANNEL_RECEIVE, CHANNEL_ANY | 1 << CHANNEL_HIGH);
        const cmo_header h = {.kind = large ? CMO_RTS : CMO_EAGER, .length = 40, .id = 5};
        frame(&s, 1, mend, &h, text, large ? 0 : sizeof text);
        if (late) record(&s, CHANNEL_PROBE, 1);
        if (late) record(&s, CHANNEL_RECEIVE, 1);
        for (int piece = 0; large && piece < 2; piece++)
            frame(&s, 1, MEND_ALWAYS | CHANNEL_MEND_ID | CHANNEL_MEND_LENGTH, &(cmo_header){.kind = CMO_DATA}, text,
                  20);
        record(&s, CHANNEL_CLOSE, 0);
        seed_write(&s, "channel", "receive-%d", k);
    }
    for (int size = 0; size < 8; size++) {
        seed s = {.size = 0};
        seed_byte(&s, 1);
        record(&s, CHANNEL_ROOM, 1 | 2 << CHANNEL_HIGH);
        record(&s, CHANNEL_SEND, 1 | size << CHANNEL_HIGH);
        record(&s, CHANNEL_ROOM, 1 | 7 << CHANNEL_HIGH);
        frame(&s, 1, MEND_ALWAYS | CHANNEL_MEND_ID, &(cmo_header){.kind = CMO_CTS, .aux = 9}, NULL, 0);
        frame(&s, 1, MEND_ALWAYS, &(cmo_header){.kind = CMO_CREDIT, .aux = 64}, NULL, 0);
        record(&s, CHANNEL_END, 1);
        seed_write(&s, "channel", "send-%d", size);
    }
    /* Bytes for a message that goes the other way */
    seed s = {.size = 0};
    seed_byte(&s, 1);
    record(&s, CHANNEL_SEND, 1 | 5 << CHANNEL_HIGH);
    frame(&s, 1, MEND_ALWAYS | CHANNEL_MEND_ID | CHANNEL_MEND_LENGTH,
          &(cmo_header){.kind = CMO_DATA, .id = CHANNEL_OFFERED}, text, 20);
    seed_write(&s, "channel", "bytes-for-a-sender");
}

/* The number of the first communicator that is made from that of all ranks. */
static uint64_t child_id(void)
{
    const cmo_member members[CALLS_RANKS] = {0};
    world *w = make_world(0);
    cmo_comm *child;
    FUZZ_CHECK(w && cmo_comm_build(world_comm(w, CHANNEL_RANK), members, &child) == CMO_OK);
    const uint64_t id = child->id;
    world_destroy(w);
    return id;
}

/* What is said beside messages: of this communicator, of one that is to come, of one that is no more. */
static void news_seeds(void)
{
    uint8_t failure[CMO_FAIL_BYTES];
    const uint64_t child = child_id();
    const cmo_header news[] = {
        {.kind = CMO_BYE},
        {.kind = CMO_ASK, .space = CMO_COLLECTIVE, .tag = CMO_ASK_TAG},
        {.kind = CMO_ASK, .space = CMO_POINT, .tag = CMO_ASK_TAG},
        {.kind = CMO_DOING, .length = CMO_DOING_BYTES},
        {.kind = CMO_FAIL, .id = CMO_EMISMATCH, .length = CMO_FAIL_BYTES},
        {.kind = CMO_FAIL, .id = CMO_EPEERLOST, .aux = 1, .length = CMO_FAIL_BYTES},
    };
    seed_failure(failure, 1);
    for (size_t i = 0; i < sizeof news / sizeof *news; i++)
        for (int when = 0; when < 3; when++) {
            seed s = {.size = 0};
            seed_byte(&s, 2);
            if (when == 2) record(&s, CHANNEL_BUILD, 0);
            if (when == 2) record(&s, CHANNEL_CLOSE, 0);
            record(&s, CHANNEL_CALL, CMO_BARRIER);
            record(&s, CHANNEL_RECEIVE, 1);
            cmo_header h = news[i];
            h.comm = when ? child : CMO_WORLD_ID;
            frame(&s, 1, CHANNEL_MEND_GENERATION | (when ? 0 : CHANNEL_MEND_CALL), &h, failure, (size_t)h.length);
            record(&s, CHANNEL_TIME, 30);
            if (when == 1) record(&s, CHANNEL_BUILD, 0);
            record(&s, CHANNEL_TIME, 120);
            record(&s, CHANNEL_BREAK, 0);
            seed_write(&s, "channel", "news-%d-%d", (int)i, when);
        }
}

/* Agreements, of a communicator that has failed or has not: the others vote, propose and decide. */
static void agreement_seeds(void)
{
    static uint64_t offset[CALLS_RANKS];
    static uint8_t all[CALLS_RANKS] = {1, 1, 1, 1, 1}, none[CALLS_RANKS];
    uint8_t set[8], vote[256], proposal[256];
    for (int k = 0; k < 4; k++) {
        const uint8_t kind = k & 1 ? CMO_AGREE_SHRINK : CMO_AGREE_FLAG;
        const cmo_proposal p = {.kind = kind, .flag = 1, .member = all, .offset = offset};
        const cmo_vote v = {.kind = kind, .flag = 1, .ended = none, .unreached = k == 3 ? all : none};
        cmo_set_write(set, all, CALLS_RANKS);
        cmo_vote_write(vote, &v, CALLS_RANKS);
        cmo_proposal_write(proposal, &p, CALLS_RANKS);
        const struct said {
            int64_t what;
            const void *bytes;
            size_t n;
        } said[] = {{CMO_AGREE_CALL, set, cmo_set_bytes(CALLS_RANKS)},
                    {CMO_AGREE_VOTE, vote, cmo_vote_bytes(CALLS_RANKS, false)},
                    {CMO_AGREE_PROPOSE, proposal, cmo_proposal_bytes(CALLS_RANKS)},
                    {CMO_AGREE_ACCEPT, NULL, 0},
                    {CMO_AGREE_REFUSE, NULL, 0},
                    {CMO_AGREE_DECIDE, proposal, cmo_proposal_bytes(CALLS_RANKS)}};
        seed s = {.size = 0};
        seed_byte(&s, 0);
        for (int r = 0; k & 2 && r < CALLS_RANKS - 2; r++) record(&s, CHANNEL_END, r); /* then this one coordinates */
        record(&s, CHANNEL_CALL, k & 1 ? CHANNEL_SHRINK : CHANNEL_AGREE);
        for (size_t i = 0; i < sizeof said / sizeof *said; i++)
            frame(&s, k & 2 ? CALLS_RANKS - 2 : 0, MEND_ALWAYS | CHANNEL_MEND_LENGTH,
                  &(cmo_header){.kind = CMO_AGREE, .seq = 1, .tag = said[i].what, .aux = 1}, said[i].bytes, said[i].n);
        record(&s, CHANNEL_TIME, 120);
        seed_write(&s, "channel", "agreement-%d", k);
    }
}

void channel_seeds(void)
{
    for (int settings = 0; settings < 4; settings++)
        for (int name = 0; name < 256; name++) /* every kind, each with half of its variants */
            if ((name + settings) % 2 || name / CMO_NKINDS >= 4) record_calls(settings, &(uint8_t){(uint8_t)name}, 1);
    const uint8_t several[] = {CMO_ALLREDUCE, CMO_BROADCAST, CMO_BARRIER, CMO_GATHER, CMO_SCATTER};
    for (int settings = 0; settings < 4; settings++) record_calls(settings, several, 5);
    message_seeds();
    news_seeds();
    agreement_seeds();
}
