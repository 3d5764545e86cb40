/* The messages of the handshake: every field survives the way there and back, and no bytes whatever do harm. */
#include "check.h"

#include "transport/handshake.h"

#include <stdlib.h>
#include <string.h>

static uint64_t dice_state = 88172645463325252u;

static uint64_t dice64(void)
{
    dice_state ^= dice_state << 13;
    dice_state ^= dice_state >> 7;
    dice_state ^= dice_state << 17;
    return dice_state;
}

static void fill(uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)(dice64() >> 24);
}

static void test_hello_round_trip(void)
{
    for (int i = 0; i < 1000; i++) {
        cmo_hello a = {.version = (uint32_t)dice64(), .src = (uint32_t)dice64(), .dst = (uint32_t)dice64(),
                       .size = (uint32_t)dice64(), .generation = (uint32_t)dice64()}, b;
        uint8_t bytes[CMO_HELLO_BYTES], again[CMO_HELLO_BYTES];
        fill(a.job, sizeof a.job);
        fill(a.nonce, sizeof a.nonce);
        memset(bytes, 0xaa, sizeof bytes);
        cmo_hello_write(bytes, &a);
        CHECK(cmo_hello_parse(&b, bytes) == CMO_OK);
        CHECK(a.version == b.version && a.src == b.src && a.dst == b.dst && a.size == b.size &&
              a.generation == b.generation);
        CHECK(!memcmp(a.job, b.job, sizeof a.job) && !memcmp(a.nonce, b.nonce, sizeof a.nonce));
        cmo_hello_write(again, &b);
        CHECK(!memcmp(bytes, again, sizeof bytes));
    }
}

static void test_hello_layout(void)
{
    const cmo_hello h = {.version = 0x01020304, .src = 0x11121314, .dst = 0x21222324, .size = 0x31323334,
                         .generation = 0x41424344, .job = "0123456789abcde", .nonce = "nonce"};
    static const uint8_t start[32] =
        "cmoHELLO\4\3\2\1\x14\x13\x12\x11\x24\x23\x22\x21\x34\x33\x32\x31\x44\x43\x42\x41\0\0\0";
    uint8_t bytes[CMO_HELLO_BYTES];
    cmo_hello_write(bytes, &h);
    CHECK(!memcmp(bytes, start, 32));
    CHECK(!memcmp(bytes + 32, h.job, 16) && !memcmp(bytes + 48, h.nonce, 32));
}

static void test_a_wrong_beginning_is_seen_at_its_first_byte(void)
{
    uint8_t bytes[CMO_HELLO_BYTES];
    const cmo_hello h = {.version = CMO_HANDSHAKE_VERSION};
    cmo_hello parsed;
    cmo_hello_write(bytes, &h);
    for (size_t n = 0; n <= sizeof bytes; n++) CHECK(cmo_hello_begins(bytes, n));
    for (size_t at = 0; at < 8; at++) {
        bytes[at] ^= 0x20;
        CHECK(cmo_hello_begins(bytes, at));
        for (size_t n = at + 1; n <= sizeof bytes; n++) CHECK(!cmo_hello_begins(bytes, n));
        CHECK(cmo_hello_parse(&parsed, bytes) == CMO_EPROTO);
        bytes[at] ^= 0x20;
    }
}

static void test_answer_round_trip(void)
{
    for (uint32_t status = 0; status < CMO_NANSWERS + 5; status++) {
        cmo_answer a = {.version = CMO_HANDSHAKE_VERSION, .status = status}, b;
        uint8_t bytes[CMO_ANSWER_BYTES];
        fill(a.nonce, sizeof a.nonce);
        fill(a.mac, sizeof a.mac);
        cmo_answer_write(bytes, &a);
        const cmo_err err = cmo_answer_parse(&b, bytes);
        CHECK(err == (status < CMO_NANSWERS ? CMO_OK : CMO_EPROTO));
        CHECK(b.version == a.version && b.status == status);
        CHECK(!memcmp(a.nonce, b.nonce, sizeof a.nonce) && !memcmp(a.mac, b.mac, sizeof a.mac));
    }
    /* Another version can say that it is another version, and nothing else. */
    cmo_answer a = {.version = CMO_HANDSHAKE_VERSION + 1, .status = CMO_ANSWER_WRONG_VERSION}, b;
    uint8_t bytes[CMO_ANSWER_BYTES];
    cmo_answer_write(bytes, &a);
    CHECK(cmo_answer_parse(&b, bytes) == CMO_OK);
    a.status = CMO_ANSWER_ACCEPTED;
    cmo_answer_write(bytes, &a);
    CHECK(cmo_answer_parse(&b, bytes) == CMO_EPROTO);
}

static void test_a_hello_that_comes_back_is_no_answer(void)
{
    uint8_t bytes[CMO_HELLO_BYTES];
    const cmo_hello h = {.version = CMO_HANDSHAKE_VERSION};
    cmo_answer a;
    cmo_hello_write(bytes, &h); /* as when a socket has been connected to itself */
    CHECK(cmo_answer_parse(&a, bytes) == CMO_EPROTO);
}

static void test_welcome(void)
{
    uint8_t bytes[CMO_WELCOME_BYTES];
    cmo_welcome_write(bytes);
    CHECK(cmo_welcome_parse(bytes) == CMO_OK);
    for (int bit = 0; bit < 8 * CMO_WELCOME_BYTES; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        CHECK(cmo_welcome_parse(bytes) == CMO_EPROTO);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

static void test_judgement(void)
{
    const cmo_hello own = {.version = CMO_HANDSHAKE_VERSION, .src = 2, .size = 5, .generation = 9, .job = "job"};
    const cmo_hello good = {.version = CMO_HANDSHAKE_VERSION, .src = 4, .dst = 2, .size = 5, .generation = 9,
                            .job = "job"};
    cmo_hello h = good;
    CHECK(cmo_hello_judge(&h, &own) == CMO_ANSWER_ACCEPTED);
#define WITH(field, value, verdict)                     \
    do {                                                \
        h = good;                                       \
        h.field = value;                                \
        CHECK(cmo_hello_judge(&h, &own) == (verdict));  \
    } while (0)
    WITH(version, 0, CMO_ANSWER_WRONG_VERSION);
    WITH(version, CMO_HANDSHAKE_VERSION + 1, CMO_ANSWER_WRONG_VERSION);
    WITH(job[15], 1, CMO_ANSWER_WRONG_JOB);
    WITH(job[0], 'b', CMO_ANSWER_WRONG_JOB);
    WITH(size, 4, CMO_ANSWER_WRONG_SIZE);
    WITH(generation, 8, CMO_ANSWER_WRONG_GENERATION);
    WITH(dst, 3, CMO_ANSWER_NOT_YOU);
    WITH(dst, UINT32_MAX, CMO_ANSWER_NOT_YOU);
    WITH(src, 2, CMO_ANSWER_BAD_SOURCE);
    WITH(src, 5, CMO_ANSWER_BAD_SOURCE);
    WITH(src, UINT32_MAX, CMO_ANSWER_BAD_SOURCE);
    WITH(src, 0x80000000, CMO_ANSWER_BAD_SOURCE);
#undef WITH
    for (uint32_t v = 0; v < CMO_NANSWERS + 2; v++) CHECK(*cmo_answer_text(v));
}

/* Change any one bit of what both have said, and both codes are made over something else. */
static void test_codes_cover_everything(void)
{
    uint8_t hello[CMO_HELLO_BYTES], answer[CMO_ANSWER_BYTES];
    uint8_t server[CMO_SIGNED_BYTES], client[CMO_SIGNED_BYTES], other[CMO_SIGNED_BYTES];
    fill(hello, sizeof hello);
    fill(answer, sizeof answer);
    cmo_server_signed(server, hello, answer);
    cmo_client_signed(client, hello, answer);
    CHECK(memcmp(server, client, sizeof server)); /* the one is no use as the other */
    for (int bit = 0; bit < 8 * CMO_HELLO_BYTES; bit++) {
        hello[bit / 8] ^= (uint8_t)(1 << bit % 8);
        cmo_server_signed(other, hello, answer);
        CHECK(memcmp(server, other, sizeof server));
        cmo_client_signed(other, hello, answer);
        CHECK(memcmp(client, other, sizeof client));
        hello[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (int bit = 0; bit < 8 * (CMO_ANSWER_BYTES - CMO_MAC_BYTES); bit++) {
        answer[bit / 8] ^= (uint8_t)(1 << bit % 8);
        cmo_server_signed(other, hello, answer);
        CHECK(memcmp(server, other, sizeof server));
        answer[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

static void test_comparing_codes(void)
{
    uint8_t a[CMO_MAC_BYTES], b[CMO_MAC_BYTES];
    fill(a, sizeof a);
    memcpy(b, a, sizeof a);
    CHECK(cmo_mac_equal(a, b));
    for (int bit = 0; bit < 8 * CMO_MAC_BYTES; bit++) {
        b[bit / 8] ^= (uint8_t)(1 << bit % 8);
        CHECK(!cmo_mac_equal(a, b));
        b[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

/* Bytes of any kind, and good messages with some of their bytes spoilt. The buffers have exactly a message's size, so
 * that AddressSanitizer sees a read beyond it. */
static void test_hostile_bytes(void)
{
    const cmo_hello own = {.version = CMO_HANDSHAKE_VERSION, .src = 1, .size = 4};
    for (int i = 0; i < 50000; i++) {
        uint8_t *bytes = malloc(CMO_HELLO_BYTES), *small = malloc(CMO_WELCOME_BYTES);
        cmo_hello h;
        cmo_answer a;
        fill(bytes, CMO_HELLO_BYTES);
        fill(small, CMO_WELCOME_BYTES);
        if (i % 3 == 1) cmo_hello_write(bytes, &own);
        if (i % 3 == 2) cmo_answer_write(bytes, &(cmo_answer){.version = CMO_HANDSHAKE_VERSION});
        for (int k = i % 5; k > 0; k--) bytes[dice64() % CMO_HELLO_BYTES] = (uint8_t)dice64();
        const cmo_err as_hello = cmo_hello_parse(&h, bytes), as_answer = cmo_answer_parse(&a, bytes);
        CHECK(as_hello == CMO_OK || as_hello == CMO_EPROTO);
        CHECK(as_answer == CMO_OK || as_answer == CMO_EPROTO);
        CHECK(as_hello || as_answer); /* never both */
        if (!as_hello) {
            const cmo_answer_status v = cmo_hello_judge(&h, &own);
            CHECK(v < CMO_NANSWERS && (v != CMO_ANSWER_ACCEPTED || (h.src < 4 && h.src != 1 && h.dst == 1)));
        }
        if (!as_answer) CHECK(a.status < CMO_NANSWERS);
        CHECK(cmo_welcome_parse(small) == CMO_EPROTO);
        free(bytes);
        free(small);
    }
}

int main(void)
{
    test_hello_round_trip();
    test_hello_layout();
    test_a_wrong_beginning_is_seen_at_its_first_byte();
    test_answer_round_trip();
    test_a_hello_that_comes_back_is_no_answer();
    test_welcome();
    test_judgement();
    test_codes_cover_everything();
    test_comparing_codes();
    test_hostile_bytes();
    return check_report();
}
