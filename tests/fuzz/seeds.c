/* Writes the inputs that fuzzing begins with, a folder for each target: `seeds FOLDER`. They come from the code that
 * writes these bytes in earnest, so after a change of a format they can be made anew (`make fuzz-corpus`). */
#include "seeds.h"

#include "comm/ballot.h"
#include "tcp_script.h"

#include <errno.h>
#include <stdarg.h>
#include <sys/stat.h>

static const char *seeds_folder;

static void make_folder(const char *path)
{
    if (mkdir(path, 0777) && errno != EEXIST) {
        perror(path);
        exit(1);
    }
}

void seed_write(const seed *s, const char *target, const char *format, ...)
{
    char folder[2048], name[256], path[4096];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    snprintf(folder, sizeof folder, "%s/%s", seeds_folder, target);
    make_folder(folder);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(s->bytes, 1, s->size, f) != s->size || fclose(f)) {
        perror(path);
        exit(1);
    }
}

void seed_add(seed *s, const void *bytes, size_t n)
{
    FUZZ_CHECK(n <= sizeof s->bytes - s->size);
    if (n) memcpy(s->bytes + s->size, bytes, n);
    s->size += n;
}

void seed_byte(seed *s, int byte) { seed_add(s, &(uint8_t){(uint8_t)byte}, 1); }

void seed_frame(seed *s, const cmo_header *h, const uint64_t *shape, const void *payload)
{
    uint8_t head[CMO_HEADER_BYTES + 8 * CMO_MAX_DIMS];
    cmo_header_write(head, h);
    cmo_shape_write(head + CMO_HEADER_BYTES, shape, h->ndim);
    seed_add(s, head, CMO_HEADER_BYTES + 8 * (size_t)h->ndim);
    if (payload) seed_add(s, payload, (size_t)h->length);
}

void seed_failure(uint8_t out[CMO_FAIL_BYTES], uint64_t seq)
{
    cmo_told told = {.heard = true, .in_call = true, .seq = seq};
    for (uint64_t q = seq < CMO_RECENT ? 1 : seq - CMO_RECENT + 1; q <= seq; q++)
        told.recent[q % CMO_RECENT] = (cmo_recent_call){.seq = q, .fingerprint = q * UINT64_C(0x9e3779b97f4a7c15),
                                                        .count = q, .root = 1, .kind = CMO_GATHER, .dtype = CMO_F64,
                                                        .ndim = 2, .shape = {1, q}};
    memset(out, 0, CMO_FAIL_BYTES);
    cmo_told_write(out, &told);
    strcpy((char *)out + CMO_TOLD_BYTES, "a rank made another call");
    strcpy((char *)out + CMO_TOLD_BYTES + CMO_TEXT, "computes since 3.0 s, after barrier(), number 4, at f.py:12");
}

/* ------------------------------------------------------------------ wire */

static void wire_seeds(void)
{
    static const uint64_t shape[] = {2, 3, 0, 5};
    uint8_t failure[CMO_FAIL_BYTES];
    const cmo_header headers[] = {
        {.kind = CMO_EAGER, .space = CMO_POINT, .dtype = CMO_U8, .tag = 7, .length = 1},
        {.kind = CMO_EAGER, .space = CMO_COLLECTIVE, .dtype = CMO_F64, .ndim = 2, .seq = 3, .length = 48},
        {.kind = CMO_RTS, .space = CMO_POINT, .dtype = CMO_I16, .ndim = 4, .id = 1},
        {.kind = CMO_CTS, .id = 1, .aux = UINT64_C(1) << 32 | 1},
        {.kind = CMO_DATA, .id = UINT64_C(1) << 32 | 1, .aux = 64, .length = 5},
        {.kind = CMO_CREDIT, .aux = 4096},
        {.kind = CMO_BYE, .comm = 1},
        {.kind = CMO_ASK, .space = CMO_COLLECTIVE, .comm = 1, .seq = 9, .tag = CMO_ASK_TAG, .fingerprint = 1},
        {.kind = CMO_DOING, .comm = 1, .length = CMO_DOING_BYTES},
        {.kind = CMO_FAIL, .comm = 1, .id = CMO_EMISMATCH, .aux = 1, .length = CMO_FAIL_BYTES},
    };
    enum { HEADERS = sizeof headers / sizeof *headers };
    seed all = {.size = 0};
    seed_byte(&all, 0);
    seed_failure(failure, 5);
    for (int i = 0; i < HEADERS; i++) {
        const void *payload = headers[i].kind == CMO_FAIL ? failure : NULL; /* of others the target reads none */
        seed one = {.size = 0};
        seed_byte(&one, 0);
        seed_frame(&one, &headers[i], shape, payload);
        seed_write(&one, "wire", "frame-%d", headers[i].kind * 10 + i);
        seed_frame(&all, &headers[i], shape, payload);
    }
    seed_write(&all, "wire", "all-frames");
    for (uint64_t seq = 0; seq < 20; seq += 3) {
        seed told = {.size = 0};
        seed_byte(&told, 1);
        seed_failure(failure, seq);
        seed_add(&told, failure, CMO_TOLD_BYTES);
        seed_write(&told, "wire", "told-%d", (int)seq);
    }
}

/* ------------------------------------------------------------------ ballot */

static void ballot_seeds(void)
{
    static uint64_t offset[3] = {4096, 0, 8192};
    static uint8_t set[3] = {1, 0, 1}, reached[3] = {0, 1, 0};
    uint8_t bytes[256];
    const cmo_proposal p = {.kind = CMO_AGREE_SHRINK, .flag = 5, .member = set, .offset = offset};
    for (int which = 0; which < 4; which++) {
        cmo_vote v = {.kind = CMO_AGREE_FLAG, .flag = 3, .offset = 64, .accepted = which == 3 ? 2 : 0, .ended = set,
                      .unreached = reached, .proposal = p};
        size_t n = which == 0 ? cmo_set_bytes(3) : which == 1 ? cmo_proposal_bytes(3) : cmo_vote_bytes(3, v.accepted);
        seed s = {.size = 0};
        if (which == 0) cmo_set_write(bytes, set, 3);
        else if (which == 1) cmo_proposal_write(bytes, &p, 3);
        else cmo_vote_write(bytes, &v, 3);
        seed_byte(&s, which < 2 ? which : 2);
        seed_byte(&s, 3 - 1);
        seed_add(&s, bytes, n);
        seed_write(&s, "ballot", "said-%d", which);
    }
}

/* ------------------------------------------------------------------ handshake */

static void handshake_seeds(void)
{
    const cmo_hello right = {.version = CMO_HANDSHAKE_VERSION, .src = 0, .dst = 1, .size = 3, .generation = 7,
                             .job = "a job of fuzzing", .nonce = "fresh"};
    for (int wrong = 0; wrong < 8; wrong++) {
        cmo_hello h = right;
        if (wrong == 1) h.version++;
        if (wrong == 2) h.job[0]++;
        if (wrong == 3) h.size++;
        if (wrong == 4) h.generation++;
        if (wrong == 5) h.dst = 2;
        if (wrong == 6) h.src = 1;
        if (wrong == 7) h.src = 3;
        uint8_t bytes[CMO_HELLO_BYTES];
        seed s = {.size = 0};
        cmo_hello_write(bytes, &h);
        seed_byte(&s, 0);
        seed_add(&s, bytes, sizeof bytes);
        seed_add(&s, "\1\3\7", 3);
        seed_write(&s, "handshake", "hello-%d", wrong);
    }
    for (uint32_t status = 0; status <= CMO_NANSWERS; status++) {
        const bool newer = status == CMO_NANSWERS;
        cmo_answer a = {.version = CMO_HANDSHAKE_VERSION + newer, .nonce = "fresh too", .mac = "code"};
        uint8_t bytes[CMO_ANSWER_BYTES];
        seed s = {.size = 0};
        a.status = newer ? (uint32_t)CMO_ANSWER_WRONG_VERSION : status;
        cmo_answer_write(bytes, &a);
        seed_byte(&s, 1);
        seed_add(&s, bytes, sizeof bytes);
        seed_write(&s, "handshake", "answer-%u", status);
    }
    uint8_t codes[CMO_HELLO_BYTES] = {0};
    for (int differ = 0; differ < 2; differ++) {
        seed s = {.size = 0};
        codes[CMO_MAC_BYTES - 1] = (uint8_t)differ;
        seed_byte(&s, 2);
        seed_add(&s, codes, sizeof codes);
        seed_write(&s, "handshake", "codes-%d", differ);
    }
    uint8_t welcome[CMO_WELCOME_BYTES];
    seed s = {.size = 0};
    cmo_welcome_write(welcome);
    seed_byte(&s, 3);
    seed_add(&s, welcome, sizeof welcome);
    seed_write(&s, "handshake", "welcome");
}

/* ------------------------------------------------------------------ tcp */

static void tcp_record(seed *s, int connection, script_record what)
{
    seed_byte(s, connection + (int)what * SCRIPT_CONNECTIONS);
}

static void tcp_said(seed *s, int connection, script_record what, int argument)
{
    tcp_record(s, connection, what);
    seed_byte(s, argument);
}

static void tcp_bytes(seed *s, int connection, const void *bytes, int n)
{
    tcp_said(s, connection, SCRIPT_SAY, n);
    seed_add(s, bytes, (size_t)n);
}

/* Connections that are made to the net (from: their ranks), one after the other. */
static void tcp_inbound(const char *name, int n, const int *from)
{
    seed s = {.size = 0};
    for (int i = 0; i < n; i++) {
        tcp_record(&s, i, SCRIPT_CONNECT);
        tcp_said(&s, i, SCRIPT_HELLO, from[i]);
        tcp_record(&s, i, SCRIPT_PROOF);
        tcp_bytes(&s, i, "words", 5);
    }
    tcp_record(&s, 0, SCRIPT_HANG_UP);
    seed_write(&s, "tcp", "%s", name);
}

static void tcp_seeds(void)
{
    tcp_inbound("from-all", 3, (const int[]){0, 2, 3});
    tcp_inbound("twice", 2, (const int[]){2, 2});
    tcp_inbound("from-nobody", 2, (const int[]){SCRIPT_SELF, SCRIPT_RANKS});
    for (int peer = 0; peer < SCRIPT_RANKS; peer++)
        for (int status = 0; status < CMO_NANSWERS; status++) {
            seed s = {.size = 0};
            tcp_said(&s, 0, SCRIPT_DIAL, peer);
            tcp_said(&s, 1, SCRIPT_DIAL, peer);
            tcp_record(&s, 2, SCRIPT_CONNECT); /* the peer is connecting too */
            tcp_said(&s, 2, SCRIPT_HELLO, peer);
            tcp_said(&s, 0, SCRIPT_ANSWER, status);
            if (status & 1) tcp_record(&s, 2, SCRIPT_PROOF);
            tcp_record(&s, 0, SCRIPT_WELCOME);
            tcp_bytes(&s, 0, "words", 5);
            seed_write(&s, "tcp", "dial-%d-%d", peer, status);
        }
    const cmo_hello h = {.version = CMO_HANDSHAKE_VERSION, .dst = SCRIPT_SELF, .size = SCRIPT_RANKS, .generation = 7,
                         .job = "a job of fuzzing"};
    uint8_t bytes[CMO_HELLO_BYTES];
    cmo_hello_write(bytes, &h);
    seed s = {.size = 0};
    tcp_record(&s, 0, SCRIPT_CONNECT);
    tcp_bytes(&s, 0, bytes, 30);
    tcp_bytes(&s, 0, bytes + 30, CMO_HELLO_BYTES - 30);
    tcp_bytes(&s, 0, bytes, CMO_PROOF_BYTES); /* which it is not */
    tcp_record(&s, 1, SCRIPT_CONNECT);
    tcp_bytes(&s, 1, "GET / HTTP/1.1", 14);
    seed_write(&s, "tcp", "strangers");
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    seeds_folder = argv[1];
    make_folder(seeds_folder);
    wire_seeds();
    ballot_seeds();
    handshake_seeds();
    tcp_seeds();
    channel_seeds();
    return 0;
}
