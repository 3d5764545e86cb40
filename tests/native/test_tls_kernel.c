/* TLS whose records the kernel makes (its module tls), on machines whose kernel cannot: this program stands in for it.
 * It takes the place of setsockopt, send and sendmsg, for OpenSSL too, and encrypts what goes to a socket that has been
 * given keys, as Documentation/networking/tls.rst says the kernel does. */
#include "certificates.h"
#include "check.h"
#include "tcp_talk.h"

#include "transport/tls_library.h"

#include <dlfcn.h>
#include <netinet/tcp.h>
#include <sys/syscall.h>

#define REPLACES __attribute__((visibility("default")))

enum { FDS = 64, OF_TLS = 282 /* SOL_TLS */, TO_SEND = 1 /* TLS_TX */, RECORD_TYPE = 1 /* TLS_SET_RECORD_TYPE */ };
enum { DATA = 23, AES_128_GCM = 51, TAG = 16, GET_TAG = 16 /* EVP_CTRL_AEAD_GET_TAG */ };

typedef struct keys { /* struct tls12_crypto_info_aes_gcm_128 */
    uint16_t version, cipher;
    uint8_t iv[8], key[16], salt[4], sequence[8];
} keys;

typedef struct offloaded {
    bool module, on;
    keys k;
    uint8_t left[1 << 15]; /* of a record that the socket had no room for */
    size_t at, bytes;
    size_t records, controls;
} offloaded;
static offloaded of[FDS];
static bool has_module = true;

static struct {
    void *(*new)(void);
    void (*free)(void *);
    const void *(*gcm)(void);
    int (*init)(void *, const void *, void *, const uint8_t *, const uint8_t *);
    int (*update)(void *, uint8_t *, int *, const uint8_t *, int);
    int (*final)(void *, uint8_t *, int *);
    int (*ctrl)(void *, int, int, void *);
} evp;

static bool evp_load(void)
{
    void *h = dlopen("libcrypto.so.3", RTLD_NOW);
    return h && (*(void **)&evp.new = dlsym(h, "EVP_CIPHER_CTX_new")) &&
           (*(void **)&evp.free = dlsym(h, "EVP_CIPHER_CTX_free")) &&
           (*(void **)&evp.gcm = dlsym(h, "EVP_aes_128_gcm")) &&
           (*(void **)&evp.init = dlsym(h, "EVP_EncryptInit_ex")) &&
           (*(void **)&evp.update = dlsym(h, "EVP_EncryptUpdate")) &&
           (*(void **)&evp.final = dlsym(h, "EVP_EncryptFinal_ex")) &&
           (*(void **)&evp.ctrl = dlsym(h, "EVP_CIPHER_CTX_ctrl"));
}

/* Make a record of at most 2^14 bytes, and keep it for the socket. */
static void make_record(offloaded *o, uint8_t type, const uint8_t *data, size_t n)
{
    const size_t body = n + 1 + TAG;
    uint8_t nonce[12], *out = o->left;
    const uint8_t head[5] = {DATA, 3, 3, (uint8_t)(body >> 8), (uint8_t)body};
    int k, k2;
    memcpy(nonce, o->k.salt, 4);
    memcpy(nonce + 4, o->k.iv, 8);
    for (int i = 0; i < 8; i++) nonce[4 + i] ^= o->k.sequence[i];
    for (int i = 7; i >= 0 && !++o->k.sequence[i]; i--) {}
    memcpy(out, head, sizeof head);
    void *c = evp.new();
    CHECK(evp.init(c, evp.gcm(), NULL, o->k.key, nonce) == 1 && evp.update(c, NULL, &k, head, sizeof head) == 1 &&
          evp.update(c, out + 5, &k, data, (int)n) == 1 && evp.update(c, out + 5 + n, &k2, &type, 1) == 1 &&
          evp.final(c, out + 5 + n + 1, &k) == 1 && evp.ctrl(c, GET_TAG, TAG, out + 5 + n + 1) == 1);
    evp.free(c);
    o->at = 0;
    o->bytes = sizeof head + body;
    o->records++;
    if (type != DATA) o->controls++;
}

/* What is kept goes out. False: not all of it. */
static bool push(int fd)
{
    offloaded *o = &of[fd];
    while (o->bytes) {
        const ssize_t k = syscall(SYS_sendto, fd, o->left + o->at, o->bytes, MSG_NOSIGNAL | MSG_DONTWAIT, NULL, 0);
        if (k < 0) return false;
        o->at += (size_t)k;
        o->bytes -= (size_t)k;
    }
    return true;
}

static ssize_t encrypt(int fd, uint8_t type, const struct iovec *iov, size_t n)
{
    ssize_t taken = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t at = 0; at < iov[i].iov_len;) {
            const size_t left = iov[i].iov_len - at, part = left < 16384 ? left : 16384;
            if (!push(fd)) return taken ? taken : -1;
            make_record(&of[fd], type, (const uint8_t *)iov[i].iov_base + at, part);
            at += part;
            taken += (ssize_t)part;
        }
    push(fd);
    return taken;
}

REPLACES int setsockopt(int fd, int level, int option, const void *value, socklen_t n)
{
    if (fd < 0 || fd >= FDS || !((level == IPPROTO_TCP && option == TCP_ULP) || level == OF_TLS))
        return (int)syscall(SYS_setsockopt, fd, level, option, value, n);
    offloaded *o = &of[fd];
    const bool fine = level == OF_TLS ? o->module && option == TO_SEND && n == sizeof o->k &&
                                            ((const keys *)value)->cipher == AES_128_GCM
                                      : has_module;
    if (!fine) {
        errno = ENOENT;
        return -1;
    }
    if (level == IPPROTO_TCP) {
        memset(o, 0, sizeof *o); /* it may be another socket of this number */
        o->module = true;
    } else {
        o->on = true;
        memcpy(&o->k, value, sizeof o->k);
    }
    return 0;
}

REPLACES ssize_t send(int fd, const void *bytes, size_t n, int flags)
{
    const struct iovec iov = {(void *)(uintptr_t)bytes, n};
    if (fd < FDS && of[fd].on) return encrypt(fd, DATA, &iov, 1);
    return syscall(SYS_sendto, fd, bytes, n, flags, NULL, 0);
}

REPLACES ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
    if (fd >= FDS || !of[fd].on) return syscall(SYS_sendmsg, fd, m, flags);
    const struct cmsghdr *c = CMSG_FIRSTHDR(m);
    const bool control = c && c->cmsg_level == OF_TLS && c->cmsg_type == RECORD_TYPE;
    return encrypt(fd, control ? *CMSG_DATA(c) : DATA, m->msg_iov, m->msg_iovlen);
}

/* ------------------------------------------------------------------ tests */

static void open_two(world *w)
{
    memset(of, 0, sizeof of);
    CHECK(world_prepare(w, 2, AF_INET));
    for (int i = 0; i < 2; i++) {
        w->pem[i] = PEM_KEY PEM_CERTIFICATE PEM_AUTHORITY;
        cmo_tcp_config c = world_config(w, i);
        CHECKF(cmo_tcp_net(&w->net[i], &c) == CMO_OK, "%s", cmo_reason());
    }
}

static size_t sum(bool controls)
{
    size_t total = 0;
    for (int fd = 0; fd < FDS; fd++) total += controls ? of[fd].controls : of[fd].records;
    return total;
}

static void test_streams_are_whole(void)
{
    enum { BYTES = 8 << 20, PART = 100000 };
    static uint8_t out[PART], in[PART];
    world w;
    open_two(&w);
    check_talk(&w, 0, 1);
    CHECK(cmo_tcp_offloaded(w.net[0]) && cmo_tcp_offloaded(w.net[1]));
    for (int from = 0; from < 2; from++) {
        cmo_link *a = open_link(&w, from, 1 - from), *b = open_link(&w, 1 - from, from);
        size_t sent = 0, got = 0, moved = 0;
        cmo_err err = CMO_OK;
        const int64_t deadline = cmo_deadline(20);
        while (got < BYTES && !err && cmo_now() < deadline) {
            const size_t part = PART < BYTES - sent ? PART : BYTES - sent;
            for (size_t k = 0; k < part; k++) out[k] = (uint8_t)((sent + k) * 31 >> 3);
            const struct iovec iov[] = {{out, 3}, {out + 3, 0}, {out + 3, part > 3 ? part - 3 : 0}};
            if (part) CHECK(a->net->ops->write(a, iov, 3, &moved) == CMO_OK);
            if (part) sent += moved;
            for (int fd = 0; fd < FDS; fd++) push(fd);
            poll_world(&w);
            err = read_bytes(b, in, sizeof in, &moved);
            for (size_t k = 0; k < moved; k++)
                if (in[k] != (uint8_t)((got + k) * 31 >> 3)) {
                    CHECKF(false, "byte %zu", got + k);
                    return;
                }
            got += moved;
        }
        CHECKF(got == BYTES, "%zu bytes, %s", got, err ? cmo_reason() : "late");
    }
    CHECKF(sum(false) > 2 * BYTES / 16384, "%zu", sum(false));
    world_close(&w);
}

static void test_a_farewell_is_one(void)
{
    world w;
    open_two(&w);
    check_talk(&w, 0, 1);
    cmo_link *l = open_link(&w, 1, 0);
    CHECK(write_bytes(open_link(&w, 0, 1), "last", 4) == 4);
    world_close_rank(&w, 0);
    CHECK(sum(true) == 1);
    CHECK(end_of(&w, l) == CMO_EPEERLOST);
    reason_has("it closed its connection"); /* and was not cut off */
    world_close(&w);
}

static void test_writing_to_who_has_gone_raises_no_signal(void)
{
    world w;
    open_two(&w);
    check_talk(&w, 0, 1);
    world_close_rank(&w, 1);
    for (int i = 0; i < 20; i++) {
        write_bytes(open_link(&w, 0, 1), "x", 1);
        nap();
    }
    world_close(&w); /* with a farewell to nobody */
}

static void test_without_the_module_openssl_does_it(void)
{
    world w;
    has_module = false;
    open_two(&w);
    check_talk(&w, 0, 1);
    CHECK(!cmo_tcp_offloaded(w.net[0]) && !cmo_tcp_offloaded(w.net[1]) && !sum(false));
    world_close(&w);
    has_module = true;
}

#define TEST(f) {test_##f, #f}
int main(int argc, char **argv)
{
    static const tcp_test tests[] = {
        TEST(streams_are_whole),
        TEST(a_farewell_is_one),
        TEST(writing_to_who_has_gone_raises_no_signal),
        TEST(without_the_module_openssl_does_it),
    };
    world w;
    if (!cmo_tls_version() || !evp_load()) return 77;
    open_two(&w);
    check_talk(&w, 0, 1);
    const bool can = cmo_tcp_offloaded(w.net[0]);
    world_close(&w);
    if (!can) {
        fprintf(stderr, "this OpenSSL was built without the kernel's TLS\n");
        return 77; /* skipped */
    }
    return run_tests(tests, sizeof tests / sizeof *tests, argc, argv);
}
