/* The messages of the handshake as bytes. What is accepted is written again as it was; every beginning of a HELLO is
 * known for one, and nothing else; nobody is accepted who is not asked for. */
#include "fuzz.h"

#include "transport/handshake.h"

enum { RESERVED_AT = 28, RESERVED = 4 }; /* of a HELLO: zero, for versions to come */

static void hello(uint8_t *bytes, fuzz_input *rest)
{
    cmo_hello h, own = {.version = CMO_HANDSHAKE_VERSION, .job = "a job of fuzzing"};
    uint8_t again[CMO_HELLO_BYTES];
    bool begins = true;
    for (size_t n = 0; n <= CMO_HELLO_BYTES; n++) {
        const bool so_far = cmo_hello_begins(bytes, n);
        FUZZ_CHECK(begins || !so_far);
        begins = so_far;
    }
    const cmo_err err = cmo_hello_parse(&h, bytes);
    FUZZ_CHECK(err == (begins ? CMO_OK : CMO_EPROTO));
    if (err) return;
    cmo_hello_write(again, &h);
    memset(bytes + RESERVED_AT, 0, RESERVED);
    FUZZ_CHECK(!memcmp(again, bytes, sizeof again));

    own.src = fuzz_byte(rest);
    own.size = fuzz_byte(rest);
    own.generation = fuzz_byte(rest);
    const cmo_answer_status status = cmo_hello_judge(&h, &own);
    const bool fits = h.version == own.version && !memcmp(h.job, own.job, sizeof h.job) && h.size == own.size &&
                      h.generation == own.generation && h.dst == own.src && h.src != own.src && h.src < own.size;
    FUZZ_CHECK((status == CMO_ANSWER_ACCEPTED) == fits);
    FUZZ_CHECK(status >= 0 && status < CMO_NANSWERS);
    FUZZ_CHECK((h.version != own.version) == (status == CMO_ANSWER_WRONG_VERSION)); /* versions are told of first */
}

static void answer(const uint8_t *bytes)
{
    cmo_answer a;
    uint8_t again[CMO_ANSWER_BYTES];
    const cmo_err err = cmo_answer_parse(&a, bytes);
    FUZZ_CHECK(err == CMO_OK || err == CMO_EPROTO);
    if (err) return;
    FUZZ_CHECK(a.status < CMO_NANSWERS);
    FUZZ_CHECK(a.status != CMO_ANSWER_ACCEPTED || a.version == CMO_HANDSHAKE_VERSION);
    FUZZ_CHECK(cmo_answer_text(a.status) != NULL);
    cmo_answer_write(again, &a);
    FUZZ_CHECK(!memcmp(again, bytes, sizeof again));
}

/* Two codes, and what they are made over. */
static void proof(const uint8_t *bytes)
{
    uint8_t server[CMO_SIGNED_BYTES], client[CMO_SIGNED_BYTES];
    FUZZ_CHECK(cmo_mac_equal(bytes, bytes + CMO_MAC_BYTES) == !memcmp(bytes, bytes + CMO_MAC_BYTES, CMO_MAC_BYTES));
    cmo_server_signed(server, bytes, bytes);
    cmo_client_signed(client, bytes, bytes);
    FUZZ_CHECK(memcmp(server, client, CMO_LABEL_BYTES) &&
               !memcmp(server + CMO_LABEL_BYTES, client + CMO_LABEL_BYTES, sizeof server - CMO_LABEL_BYTES));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = {data, size};
    size_t got;
    const uint8_t which = fuzz_byte(&in) % 4;
    const size_t bytes = which == 3 ? CMO_WELCOME_BYTES : CMO_HELLO_BYTES;
    _Static_assert((int)CMO_ANSWER_BYTES == (int)CMO_HELLO_BYTES && 2 * CMO_MAC_BYTES <= CMO_HELLO_BYTES, "one size");
    if (in.left < bytes) {
        FUZZ_CHECK(cmo_hello_begins(in.at, 0)); /* nothing has come that could be wrong */
        return 0;
    }
    uint8_t *exact = fuzz_exact(fuzz_take(&in, bytes, &got), bytes);
    if (which == 0) hello(exact, &in);
    if (which == 1) answer(exact);
    if (which == 2) proof(exact);
    if (which == 3) {
        uint8_t again[CMO_WELCOME_BYTES];
        cmo_welcome_write(again);
        FUZZ_CHECK((cmo_welcome_parse(exact) == CMO_OK) == !memcmp(again, exact, sizeof again));
    }
    free(exact);
    return 0;
}
