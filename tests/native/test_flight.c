/* The flight recorder: the last calls are there and no others, whoever reads meanwhile is not misled, and nothing that
 * is found in another process's memory is trusted. Writer and readers are threads: ThreadSanitizer sees them. */
#include "comm/flight.h"

#include "check.h"

#include <pthread.h>
#include <string.h>

enum { ENTRIES = 8, ROUNDS = 200000, READERS = 2 };

static cmo_window *window;
static cmo_recorder recorder;
static cmo_neighbour neighbour;
static _Atomic bool over;

static void open_recorder(int64_t entries)
{
    const uint8_t job[16] = "the job's number";
    const cmo_flight_identity who = {.rank = 3, .size = 5, .generation = 1, .job = job, .host = "somewhere"};
    CHECK(cmo_window_create(&window, 2, 0, false) == CMO_OK);
    neighbour = (cmo_neighbour){.head = cmo_window_base(window), .size = cmo_window_size(window), .doorbell = -1,
                                .pidfd = -1};
    CHECK(!cmo_flight_look(&neighbour));
    CHECK(cmo_flight_open(&recorder, window, false, &who, entries) == CMO_OK);
}

static void close_recorder(void)
{
    cmo_flight_close(&recorder);
    cmo_window_destroy(window);
}

/* Every field of call k follows from k. */
static uint64_t record(uint64_t k, bool apart)
{
    return cmo_flight_record(&recorder, k + 1, k + 2, k + 3, 8, (int64_t)k + 4, (uint32_t)(k % 100), (int)(k % 1000),
                             cmo_flight_what(k % 11, k % 13, k % 7, CMO_FLIGHT_RUNNING, 0, apart));
}

static void end(uint64_t number, unsigned state, unsigned err)
{
    cmo_flight_entry *e = cmo_flight_of(&recorder, number);
    if (!e) return;
    CMO_FLIGHT_SET(e->end, (int64_t)number + 5);
    cmo_flight_state(e, state, err);
}

static bool is_whole(const cmo_flight_call *c)
{
    const uint64_t k = c->number;
    return c->comm == k + 1 && c->seq == k + 2 && c->count == k + 3 && c->start == (int64_t)k + 4 &&
           c->site == k % 100 && c->peer == (int)(k % 1000) && c->kind == k % 11 && c->op == k % 13 &&
           c->dtype == k % 7 && (c->state == CMO_FLIGHT_RUNNING || c->end == (int64_t)k + 5);
}

static void test_the_last_calls_are_there_and_no_others(void)
{
    cmo_flight_call call;
    bool in;
    open_recorder(ENTRIES - 1); /* rounded up */
    const cmo_flight *f = cmo_flight_look(&neighbour);
    CHECK(f && f == recorder.flight && f->rank == 3 && f->size == 5 && f->entries == ENTRIES);
    CHECK(f && !memcmp(f->job, "the job's number", 16) && !strcmp(f->host, "somewhere"));
    CHECK(!cmo_flight_latest(f, &call, &in) && !in);
    for (uint64_t k = 1; k <= 3 * ENTRIES + 3; k++) {
        CHECK(record(k, false) == k);
        CHECK(cmo_flight_latest(f, &call, &in) && in && call.number == k && is_whole(&call));
        end(k, k % 2 ? CMO_FLIGHT_DONE : CMO_FLIGHT_FAILED, k % 2 ? 0 : CMO_ETIMEOUT);
        CHECK(cmo_flight_latest(f, &call, &in) && !in && call.number == k && is_whole(&call));
        CHECK(call.err == (k % 2 ? 0u : CMO_ETIMEOUT) && call.end == (int64_t)k + 5);
        for (uint64_t n = 0; n <= k + 1; n++)
            CHECK(cmo_flight_copy(f, n, &call) == (n && n <= k && k - n < ENTRIES));
    }
    CHECK(atomic_load(&f->next) == 3 * ENTRIES + 3 && atomic_load(&f->bytes) == 8 * (3 * ENTRIES + 3));
    close_recorder();
}

static void test_a_call_whose_place_is_taken_ends_without_a_trace(void)
{
    cmo_flight_call call;
    open_recorder(ENTRIES);
    for (uint64_t k = 1; k <= ENTRIES + 1; k++) record(k, true);
    CHECK(!cmo_flight_of(&recorder, 1) && cmo_flight_of(&recorder, 2) && !cmo_flight_of(&recorder, 0));
    end(1, CMO_FLIGHT_FAILED, CMO_ETIMEOUT);
    CHECK(cmo_flight_copy(recorder.flight, ENTRIES + 1, &call) && call.state == CMO_FLIGHT_RUNNING);
    close_recorder();
}

/* A call that goes on by itself is what the rank is in only while it waits for one. */
static void test_what_a_rank_is_in(void)
{
    cmo_flight_call call;
    bool in;
    open_recorder(ENTRIES);
    record(1, true);
    record(2, true);
    end(2, CMO_FLIGHT_DONE, 0);
    CHECK(cmo_flight_latest(recorder.flight, &call, &in) && !in && call.number == 2);
    cmo_flight_inside(&recorder, true);
    CHECK(cmo_flight_latest(recorder.flight, &call, &in) && in && call.number == 1);
    cmo_flight_inside(&recorder, false);
    CHECK(cmo_flight_latest(recorder.flight, &call, &in) && !in);
    close_recorder();
}

static void *read_on(void *seen)
{
    const cmo_flight *f = recorder.flight;
    uint64_t last = 0, *count = seen;
    while (!atomic_load(&over)) {
        cmo_flight_call call;
        bool in;
        if (!cmo_flight_latest(f, &call, &in)) continue;
        CHECK(is_whole(&call) && call.number + ENTRIES > last);
        if (call.number > last) last = call.number;
        for (uint64_t n = last > ENTRIES ? last - ENTRIES : 1; n <= last; n++)
            if (cmo_flight_copy(f, n, &call)) {
                CHECK(call.number == n && is_whole(&call));
                ++*count;
            }
        char text[CMO_FLIGHT_SITE_BYTES];
        for (uint32_t s = 1; s <= CMO_FLIGHT_SITES; s++) {
            cmo_flight_site_text(f, s, text, sizeof text);
            CHECK(!text[0] || !strcmp(text, "a.py:7:main"));
        }
    }
    return NULL;
}

static void test_readers_are_not_misled(void)
{
    pthread_t reader[READERS];
    uint64_t seen[READERS] = {0};
    open_recorder(ENTRIES);
    atomic_store(&over, false);
    for (int i = 0; i < READERS; i++) CHECK(!pthread_create(&reader[i], NULL, read_on, &seen[i]));
    for (uint64_t k = 1; k <= ROUNDS; k++) {
        record(k, false);
        if (k % (ROUNDS / CMO_FLIGHT_SITES) == 0) cmo_flight_site(recorder.flight, "a.py", 7, "main");
        if (k > 2) end(k - 2, CMO_FLIGHT_DONE, 0);
    }
    atomic_store(&over, true);
    for (int i = 0; i < READERS; i++) CHECK(!pthread_join(reader[i], NULL));
    close_recorder();
}

static void test_a_writer_that_was_killed_while_it_wrote(void)
{
    cmo_flight_call call;
    bool in;
    open_recorder(ENTRIES);
    record(1, false);
    end(1, CMO_FLIGHT_DONE, 0);
    record(2, false);
    atomic_store(&cmo_flight_at(&recorder, 2)->number, 0);
    CHECK(cmo_flight_latest(recorder.flight, &call, &in) && !in && call.number == 1);
    close_recorder();
}

static void test_sites(void)
{
    char text[CMO_FLIGHT_SITE_BYTES], path[400];
    open_recorder(ENTRIES);
    cmo_flight *f = recorder.flight;
    CHECK(cmo_flight_site(f, "/home/me/train.py", 12, "Net.step") == 1);
    memset(path, 'd', sizeof path);
    strcpy(path + 300, "/long.py");
    CHECK(cmo_flight_site(f, path, 1, "main") == 2);
    CHECK(cmo_flight_site(f, "\x1b[31m.py", 1, path) == 3);
    cmo_flight_site_text(f, 1, text, sizeof text);
    CHECK(!strcmp(text, "/home/me/train.py:12:Net.step"));
    cmo_flight_site_text(f, 2, text, sizeof text);
    CHECK(strlen(text) == CMO_FLIGHT_SITE_BYTES - 1 && !strcmp(text + strlen(text) - 15, "/long.py:1:main"));
    cmo_flight_site_text(f, 3, text, sizeof text);
    CHECK(!strncmp(text, "?[31m.py:1:ddd", 14)); /* nothing that a terminal would obey */
    for (uint32_t n = 4; n <= CMO_FLIGHT_SITES; n++) CHECK(cmo_flight_site(f, "a.py", 1, "f") == n);
    CHECK(cmo_flight_site(f, "a.py", 1, "f") == 0);
    for (uint32_t n = 0; n < 2; n++) {
        cmo_flight_site_text(f, n ? CMO_FLIGHT_SITES + 1 : 0, text, sizeof text);
        CHECK(!text[0]);
    }
    close_recorder();
}

static void test_what_makes_no_sense_is_not_looked_at(void)
{
    open_recorder(ENTRIES);
    cmo_flight *f = recorder.flight, right = *f;
    cmo_window_head *head = neighbour.head;
    const uint64_t at = atomic_load(&head->flight);
    const uint64_t wrong[] = {1, CMO_PAGE - 64, neighbour.size - 64, neighbour.size, UINT64_MAX - 63, at + 64};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        atomic_store(&head->flight, wrong[i]);
        CHECK(!cmo_flight_look(&neighbour));
    }
    atomic_store(&head->flight, at);
    for (int i = 0; i < 7; i++) {
        memcpy(f, &right, sizeof right);
        CHECK(cmo_flight_look(&neighbour) == f);
        if (i == 0) f->magic++;
        if (i == 1) f->version++;
        if (i == 2) f->entries = 0;
        if (i == 3) f->entries = 7;
        if (i == 4) f->entries = UINT64_C(1) << 63;
        if (i == 5) f->entries_at += 64;
        if (i == 6) f->sites_at = UINT64_MAX;
        CHECK(!cmo_flight_look(&neighbour));
    }
    close_recorder();
}

static void test_off_and_alone(void)
{
    const cmo_flight_identity who = {.size = 1};
    cmo_recorder r;
    cmo_window *w;
    CHECK(cmo_window_create(&w, 1, 0, true) == CMO_OK);
    CHECK(cmo_flight_open(&r, w, true, &who, 0) == CMO_OK && !r.flight && !cmo_flight_of(&r, 1));
    cmo_flight_inside(&r, true);
    cmo_flight_close(&r);
    CHECK(cmo_flight_open(&r, w, true, &who, 100) == CMO_OK && r.flight && r.own && cmo_window_fd(r.own) >= 0);
    CHECK(cmo_window_used(w) == 0 && r.flight->entries == 128);
    cmo_flight_close(&r);
    CHECK(!r.flight);
    cmo_window_destroy(w);
}

int main(void)
{
    test_the_last_calls_are_there_and_no_others();
    test_a_call_whose_place_is_taken_ends_without_a_trace();
    test_what_a_rank_is_in();
    test_readers_are_not_misled();
    test_a_writer_that_was_killed_while_it_wrote();
    test_sites();
    test_what_makes_no_sense_is_not_looked_at();
    test_off_and_alone();
    return check_report();
}
