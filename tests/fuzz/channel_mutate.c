/* How libFuzzer changes an input of the channel target: whole records are left out or repeated, and the 64-bit
 * words of what a peer says become numbers at which arithmetic goes wrong. The rest is libFuzzer's own doing. */
#include "channel.h"

#include "fuzz.h"

#include "transport/wire.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed);

enum { MOST_RECORDS = 128 };

typedef struct extent { /* of a record; `words`: of what the peer says in it */
    size_t start, end, words;
} extent;

static size_t number_at(const uint8_t *data, size_t size, size_t at)
{
    return at + 2 <= size ? (size_t)data[at] | (size_t)data[at + 1] << 8 : 0;
}

static int find_records(const uint8_t *data, size_t size, extent out[MOST_RECORDS])
{
    int n = 0;
    for (size_t at = 1; at < size && n < MOST_RECORDS; n++) {
        extent *e = &out[n];
        const unsigned what = data[at] % CHANNEL_NRECORDS;
        *e = (extent){.start = at, .end = at + 2, .words = at + 2};
        if (what == CHANNEL_FEED) {
            e->words = at + 4;
            e->end = e->words + number_at(data, size, at + 2);
        } else if (what == CHANNEL_FRAME) {
            e->words = at + 3;
            e->end = e->words + CMO_HEADER_BYTES + 2;
            e->end += number_at(data, size, e->end - 2) & CHANNEL_PAYLOAD;
        }
        if (e->end > size) e->end = size;
        if (e->words > e->end) e->words = e->end;
        at = e->end;
    }
    return n;
}

static uint32_t draw(uint64_t *state, size_t below)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((*state >> 33) % below);
}

static void change_word(uint8_t *data, const extent *e, uint64_t *state)
{
    const size_t words = (e->end - e->words) / 8;
    if (!words) return;
    uint8_t *at = data + e->words + 8 * draw(state, words);
    const uint64_t power = UINT64_C(1) << draw(state, 64), small = draw(state, 20);
    const uint64_t now = cmo_wire_get(at, 8);
    const uint64_t values[] = {power - small, power + small, now + small, now - small, small, 0 - small, now ^ power};
    cmo_wire_put(at, values[draw(state, sizeof values / sizeof *values)], 8);
}

static size_t leave_out(uint8_t *data, size_t size, const extent *e)
{
    memmove(data + e->start, data + e->end, size - e->end);
    return size - (e->end - e->start);
}

/* A copy of the record before another one, or at the end. */
static size_t repeat(uint8_t *data, size_t size, size_t most, const extent *e, size_t before)
{
    const size_t bytes = e->end - e->start;
    if (size + bytes > most) return size;
    uint8_t *copy = fuzz_exact(data + e->start, bytes);
    memmove(data + before + bytes, data + before, size - before);
    memcpy(data + before, copy, bytes);
    free(copy);
    return size + bytes;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed)
{
    static extent records[MOST_RECORDS];
    uint64_t state = seed;
    const int n = find_records(data, size, records);
    if (!n || draw(&state, 3) == 0) return LLVMFuzzerMutate(data, size, most);
    const extent *e = &records[draw(&state, (size_t)n)], *other = &records[draw(&state, (size_t)n)];
    switch (draw(&state, 8)) {
    case 0: return leave_out(data, size, e);
    case 1: return repeat(data, size, most, e, other->start);
    case 2: return repeat(data, size, most, e, size);
    default: change_word(data, e, &state); return size;
    }
}
