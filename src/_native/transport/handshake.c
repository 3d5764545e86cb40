#include "transport/handshake.h"

#include <string.h>

enum { MAGIC_BYTES = 8 };
static const uint8_t hello_magic[MAGIC_BYTES] = {'c', 'm', 'o', 'H', 'E', 'L', 'L', 'O'};
static const uint8_t answer_magic[MAGIC_BYTES] = {'c', 'm', 'o', 'A', 'N', 'S', 'W', 'R'};
static const uint8_t welcome_magic[MAGIC_BYTES] = {'c', 'm', 'o', 'W', 'E', 'L', 'C', 'M'};

static const uint8_t server_label[CMO_LABEL_BYTES] = "commops server";
static const uint8_t client_label[CMO_LABEL_BYTES] = "commops client";

static void put32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> 8 * i);
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

void cmo_hello_write(uint8_t out[CMO_HELLO_BYTES], const cmo_hello *h)
{
    memcpy(out, hello_magic, MAGIC_BYTES);
    put32(out + 8, h->version);
    put32(out + 12, h->src);
    put32(out + 16, h->dst);
    put32(out + 20, h->size);
    put32(out + 24, h->generation);
    put32(out + 28, 0);
    memcpy(out + 32, h->job, CMO_JOB_BYTES);
    memcpy(out + 48, h->nonce, CMO_NONCE_BYTES);
}

cmo_err cmo_hello_parse(cmo_hello *out, const uint8_t in[CMO_HELLO_BYTES])
{
    if (!cmo_hello_begins(in, MAGIC_BYTES)) return cmo_fail(CMO_EPROTO, "a connection does not begin with a HELLO");
    out->version = get32(in + 8);
    out->src = get32(in + 12);
    out->dst = get32(in + 16);
    out->size = get32(in + 20);
    out->generation = get32(in + 24);
    memcpy(out->job, in + 32, CMO_JOB_BYTES);
    memcpy(out->nonce, in + 48, CMO_NONCE_BYTES);
    return CMO_OK;
}

bool cmo_hello_begins(const uint8_t *in, size_t n)
{
    return !memcmp(in, hello_magic, n < MAGIC_BYTES ? n : MAGIC_BYTES);
}

cmo_answer_status cmo_hello_judge(const cmo_hello *h, const cmo_hello *own)
{
    if (h->version != own->version) return CMO_ANSWER_WRONG_VERSION;
    if (memcmp(h->job, own->job, CMO_JOB_BYTES)) return CMO_ANSWER_WRONG_JOB;
    if (h->size != own->size) return CMO_ANSWER_WRONG_SIZE;
    if (h->generation != own->generation) return CMO_ANSWER_WRONG_GENERATION;
    if (h->dst != own->src) return CMO_ANSWER_NOT_YOU;
    if (h->src >= own->size || h->src == own->src) return CMO_ANSWER_BAD_SOURCE;
    return CMO_ANSWER_ACCEPTED;
}

void cmo_answer_write(uint8_t out[CMO_ANSWER_BYTES], const cmo_answer *a)
{
    memcpy(out, answer_magic, MAGIC_BYTES);
    put32(out + 8, a->version);
    put32(out + 12, a->status);
    memcpy(out + 16, a->nonce, CMO_NONCE_BYTES);
    memcpy(out + 48, a->mac, CMO_MAC_BYTES);
}

cmo_err cmo_answer_parse(cmo_answer *out, const uint8_t in[CMO_ANSWER_BYTES])
{
    if (memcmp(in, answer_magic, MAGIC_BYTES)) return cmo_fail(CMO_EPROTO, "what listens there is no rank of commops");
    out->version = get32(in + 8);
    out->status = get32(in + 12);
    memcpy(out->nonce, in + 16, CMO_NONCE_BYTES);
    memcpy(out->mac, in + 48, CMO_MAC_BYTES);
    /* Another version refuses us, with that status; it cannot accept what it does not know. */
    if (out->version != CMO_HANDSHAKE_VERSION ? out->status != CMO_ANSWER_WRONG_VERSION : out->status >= CMO_NANSWERS)
        return cmo_fail(CMO_EPROTO, "an answer of version %u has the status %u", out->version, out->status);
    return CMO_OK;
}

void cmo_welcome_write(uint8_t out[CMO_WELCOME_BYTES]) { memcpy(out, welcome_magic, MAGIC_BYTES); }

cmo_err cmo_welcome_parse(const uint8_t in[CMO_WELCOME_BYTES])
{
    if (memcmp(in, welcome_magic, MAGIC_BYTES)) return cmo_fail(CMO_EPROTO, "a handshake does not end with WELCOME");
    return CMO_OK;
}

const char *cmo_answer_text(uint32_t status)
{
    static const char *const texts[] = {
#define CMO_X(e, text) text,
        CMO_ANSWER_STATUSES(CMO_X)
#undef CMO_X
    };
    return status < CMO_NANSWERS ? texts[status] : "it refuses for an unknown reason";
}

static void signed_bytes(uint8_t *out, const uint8_t *label, const uint8_t *hello, const uint8_t *answer)
{
    memcpy(out, label, CMO_LABEL_BYTES);
    memcpy(out + CMO_LABEL_BYTES, hello, CMO_HELLO_BYTES);
    memcpy(out + CMO_LABEL_BYTES + CMO_HELLO_BYTES, answer, CMO_ANSWER_BYTES - CMO_MAC_BYTES);
}

void cmo_server_signed(uint8_t out[CMO_SIGNED_BYTES], const uint8_t *hello, const uint8_t *answer)
{
    signed_bytes(out, server_label, hello, answer);
}

void cmo_client_signed(uint8_t out[CMO_SIGNED_BYTES], const uint8_t *hello, const uint8_t *answer)
{
    signed_bytes(out, client_label, hello, answer);
}

bool cmo_mac_equal(const uint8_t a[CMO_MAC_BYTES], const uint8_t b[CMO_MAC_BYTES])
{
    volatile uint8_t differ = 0; /* volatile: the compiler may not leave the loop early */
    for (int i = 0; i < CMO_MAC_BYTES; i++) differ |= (uint8_t)(a[i] ^ b[i]);
    return !differ;
}
