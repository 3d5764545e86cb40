/* Point to point: random messages between random pairs, sizes around the limits of eager sending, receives by name and
 * by wildcard, posted before and after the messages come; order per (source, tag); shapes; probes; refusals. SEED=n
 * replays one world. */
#include "check.h"
#include "comm/internal.h"
#include "sim_world.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_RANKS = 9, MESSAGES = 120, TAGS = 3, LETTER_DIMS = 3 };

typedef enum { BY_NAME, ANY_TAG, ANY_SOURCE, ANY_BOTH, NMODES } receive_mode;

typedef struct letter {
    int source, dest, index; /* index: among those of the same source, destination and tag */
    int64_t tag;
    cmo_dtype dtype;
    int ndim;
    uint64_t shape[LETTER_DIMS], bytes;
    unsigned char *data;
    world_task *task;
} letter;

typedef struct mailbox { /* what one receive has got */
    unsigned char *data;
    uint64_t bytes, shape[LETTER_DIMS];
    cmo_layout layout;
    world_task *task;
    cmo_err refuse;
} mailbox;

typedef struct post {
    int size, nletters;
    letter letters[MESSAGES];
    mailbox boxes[MESSAGES];
} post;

static cmo_err open_box(void *ctx, const cmo_layout *layout, void **address)
{
    mailbox *box = ctx;
    if (box->refuse) return cmo_fail(box->refuse, "refused");
    box->layout = *layout;
    box->bytes = cmo_dtype_size(layout->dtype);
    for (int d = 0; d < layout->ndim; d++) box->bytes *= box->shape[d] = layout->shape[d];
    *address = box->data = malloc(box->bytes + 1);
    return box->data ? CMO_OK : CMO_ENOMEM;
}

static void write_letter(world *w, post *p, letter *l, int64_t eager)
{
    static const cmo_dtype dtypes[] = {CMO_U8, CMO_I16, CMO_F32, CMO_C64};
    l->source = (int)world_random(w, (uint64_t)p->size);
    l->dest = (int)world_random(w, (uint64_t)p->size);
    l->tag = (int64_t)world_random(w, TAGS);
    for (const letter *o = p->letters; o < l; o++)
        l->index += o->source == l->source && o->dest == l->dest && o->tag == l->tag;
    l->dtype = dtypes[world_random(w, 4)];
    l->ndim = (int)world_random(w, LETTER_DIMS + 1);
    l->bytes = cmo_dtype_size(l->dtype);
    uint64_t around = (uint64_t)eager / l->bytes;
    for (int d = 0; d < l->ndim; d++) {
        l->shape[d] = d ? world_random(w, 4) : around + world_random(w, 5) - (around < 2 ? 0 : 2);
        l->bytes *= l->shape[d];
    }
    l->data = malloc(l->bytes + 1);
    for (uint64_t i = 0; i < l->bytes; i++) l->data[i] = (unsigned char)world_random(w, 256);
}

static cmo_message send_of(const letter *l)
{
    return (cmo_message){.peer = l->dest, .tag = l->tag, .dtype = l->dtype, .extra = (uint32_t)l->index,
                         .ndim = l->ndim, .shape = l->shape, .buffer = l->data, .bytes = l->bytes};
}

static cmo_message receive_of(mailbox *box, int source, int64_t tag)
{
    return (cmo_message){.peer = source, .tag = tag, .allocate = open_box, .allocate_ctx = box};
}

static world_task *add_task(world *w, int rank, task_what what, cmo_message m)
{
    world_task *t = world_add(w, rank);
    t->what = what;
    t->message = m;
    return t;
}

static const letter *find_letter(const post *p, int source, int dest, int64_t tag, int index)
{
    for (int i = 0; i < p->nletters; i++) {
        const letter *l = &p->letters[i];
        if (l->source == source && l->dest == dest && l->tag == tag && l->index == index) return l;
    }
    return NULL;
}

/* The receive of letter i's rank: what it got is some letter to that rank, whole, and in order. */
static bool check_box(const post *p, int dest, const mailbox *box, int *next)
{
    const world_task *t = box->task;
    if (t->err || !box->data) return false;
    const cmo_status *s = &t->status;
    const letter *l = find_letter(p, s->source, dest, s->tag, (int)s->extra);
    if (!l || s->bytes != l->bytes || s->dtype != l->dtype || s->ndim != l->ndim) return false;
    if (box->layout.source != s->source || box->layout.tag != s->tag || box->layout.extra != s->extra) return false;
    size_t dims = (size_t)l->ndim * sizeof *l->shape;
    if (dims && (memcmp(s->shape, l->shape, dims) || memcmp(box->shape, l->shape, dims))) return false;
    if (box->bytes != l->bytes || memcmp(box->data, l->data, l->bytes)) return false;
    return next[s->source * TAGS + (int)s->tag]++ == l->index;
}

static void free_post(post *p)
{
    for (int i = 0; i < p->nletters; i++) {
        free(p->letters[i].data);
        free(p->boxes[i].data);
    }
    free(p);
}

static void test_random_letters(uint64_t seed)
{
    static const world_layout layouts[] = {WORLD_UNSHARED, WORLD_OWN_HOSTS, WORLD_EVEN_HOSTS, WORLD_ONE_HOST};
    int size = 1 + (int)(seed % MOST_RANKS);
    world_settings settings = world_rough(size, layouts[seed / MOST_RANKS % 4], seed);
    world *w = world_create(&settings);
    post *p = calloc(1, sizeof *p);
    CHECK(w && p);
    *p = (post){.size = size, .nletters = MESSAGES};
    receive_mode mode[MOST_RANKS];
    for (int r = 0; r < size; r++) mode[r] = (receive_mode)world_random(w, NMODES);
    for (int i = 0; i < MESSAGES; i++) write_letter(w, p, &p->letters[i], settings.tunables.eager_bytes);
    for (int i = 0; i < MESSAGES; i++) { /* receives lag behind sends or run ahead of them, by rank */
        letter *l = &p->letters[i];
        bool any_source = mode[l->dest] == ANY_SOURCE || mode[l->dest] == ANY_BOTH,
             any_tag = mode[l->dest] == ANY_TAG || mode[l->dest] == ANY_BOTH;
        cmo_message receive = receive_of(&p->boxes[i], any_source ? CMO_ANY : l->source, any_tag ? CMO_ANY : l->tag);
        l->task = add_task(w, l->source, TASK_SEND, send_of(l));
        p->boxes[i].task = add_task(w, l->dest, TASK_RECV, receive);
    }
    bool right = world_run(w);
    int next[MOST_RANKS][MOST_RANKS * TAGS] = {{0}};
    for (int i = 0; i < MESSAGES && right; i++) {
        right = !p->letters[i].task->err && check_box(p, p->letters[i].dest, &p->boxes[i], next[p->letters[i].dest]);
        if (!right) fprintf(stderr, "letter %d from %d to %d is wrong\n", i, p->letters[i].source, p->letters[i].dest);
    }
    CHECKF(right, "SEED=%llu", (unsigned long long)seed);
    if (!right) world_describe(w, stderr);
    world_destroy(w);
    free_post(p);
}

static void test_a_probe_tells_and_takes_nothing(uint64_t bytes)
{
    world_settings settings = world_rough(3, WORLD_OWN_HOSTS, 5);
    settings.tunables.eager_bytes = 32;
    world *w = world_create(&settings);
    unsigned char data[64] = "probe";
    mailbox box = {0};
    uint64_t shape[2] = {bytes / 4, 4};
    add_task(w, 1, TASK_SEND,
             (cmo_message){.peer = 2, .tag = 7, .dtype = CMO_U8, .extra = 9, .ndim = 2, .shape = shape, .buffer = data,
                           .bytes = bytes});
    world_task *probes[2] = {add_task(w, 2, TASK_PROBE, (cmo_message){.peer = CMO_ANY, .tag = CMO_ANY}),
                             add_task(w, 2, TASK_PROBE, (cmo_message){.peer = 1, .tag = 7})};
    box.task = add_task(w, 2, TASK_RECV, receive_of(&box, 1, 7));
    box.task->waits = true;
    CHECK(world_run(w));
    for (int i = 0; i < 2; i++) {
        const cmo_status *s = &probes[i]->status;
        CHECK(!probes[i]->err && s->source == 1 && s->tag == 7 && s->bytes == bytes && s->dtype == CMO_U8 &&
              s->extra == 9);
        CHECK(s->ndim == 2 && s->shape[0] == bytes / 4 && s->shape[1] == 4);
    }
    CHECK(!box.task->err && box.bytes == bytes && !memcmp(box.data, data, bytes));
    cmo_status status;
    static cmo_op op;
    CHECK(cmo_probe_now(&op, world_comm(w, 2), CMO_ANY, CMO_ANY, &status) == CMO_AGAIN);
    world_destroy(w);
    free(box.data);
}

static void test_a_refused_message_stays(uint64_t bytes)
{
    world_settings settings = world_rough(2, WORLD_UNSHARED, 11);
    settings.tunables.eager_bytes = 32;
    world *w = world_create(&settings);
    unsigned char data[64] = "refused";
    mailbox no = {.refuse = CMO_ETYPE}, yes = {0};
    uint64_t shape[1] = {bytes};
    world_task *sent = add_task(w, 0, TASK_SEND,
                                (cmo_message){.peer = 1, .dtype = CMO_U8, .ndim = 1, .shape = shape, .buffer = data,
                                              .bytes = bytes});
    no.task = add_task(w, 1, TASK_RECV, receive_of(&no, 0, 0));
    yes.task = add_task(w, 1, TASK_RECV, receive_of(&yes, 0, 0));
    yes.task->waits = true;
    CHECK(world_run(w));
    CHECK(no.task->err == CMO_ETYPE);
    CHECK(!sent->err && !yes.task->err && yes.bytes == bytes && !memcmp(yes.data, data, bytes));
    world_destroy(w);
    free(yes.data);
}

/* A frame that says "one element" and brings eight: the receiver has made room for one. */
static void test_a_message_without_a_shape_is_one_element(void)
{
    world_settings settings = world_plain(2, WORLD_OWN_HOSTS, 1);
    world *w = world_create(&settings);
    mailbox box = {0};
    unsigned char payload[64] = {0};
    box.task = add_task(w, 1, TASK_RECV, receive_of(&box, 0, 7));
    cmo_header h = {.kind = CMO_EAGER, .space = CMO_POINT, .comm = CMO_WORLD_ID, .tag = 7, .dtype = CMO_F64,
                    .length = sizeof payload};
    cmo_channel_control(cmo_channel_to(world_comm(w, 0)->engine, 1), &h, payload, sizeof payload);
    CHECK(world_run(w));
    CHECK(box.task->err == CMO_EPROTO && !box.data);
    world_destroy(w);
}

static void test_a_receive_without_a_message_meets_its_deadline(void)
{
    world_settings settings = world_plain(2, WORLD_OWN_HOSTS, 1);
    settings.timeout = 0.5;
    world *w = world_create(&settings);
    mailbox box = {0};
    box.task = add_task(w, 1, TASK_RECV, receive_of(&box, CMO_ANY, CMO_ANY));
    CHECK(world_run(w));
    CHECK(box.task->err == CMO_ETIMEOUT && !box.data);
    world_destroy(w);
}

int main(void)
{
    const char *seed = getenv("SEED"), *quick = getenv("QUICK");
    if (seed) {
        test_random_letters(strtoull(seed, NULL, 10));
        return check_report();
    }
    for (uint64_t s = 0; s < (quick && *quick != '0' ? 72 : 720); s++) test_random_letters(s);
    test_a_probe_tells_and_takes_nothing(8);
    test_a_probe_tells_and_takes_nothing(64);
    test_a_refused_message_stays(8);
    test_a_refused_message_stays(64);
    test_a_message_without_a_shape_is_one_element();
    test_a_receive_without_a_message_meets_its_deadline();
    return check_report();
}
