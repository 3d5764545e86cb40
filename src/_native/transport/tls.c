/* Who this rank is and whom it trusts: OpenSSL's context, made of one PEM. */
#include "transport/tls_session.h"

#include <limits.h>
#include <stdlib.h>

/* Full records under one key of AES-GCM: RFC 8446 (5.5) allows 2^24.5. */
#define RECORDS_PER_KEY (UINT64_C(1) << 24)

enum {
    MAX_CHAIN_BYTES = 32 << 10,  /* that a stranger may send as certificates */
    READ_BUFFER = 4 * TLS_RECORD /* read at a time, and then decrypted record by record */
};

/* A key that is encrypted would have OpenSSL ask for its password at the terminal. */
static int no_password(char *out, int size, int writing, void *arg)
{
    (void)out, (void)size, (void)writing;
    *(bool *)arg = true;
    return -1;
}

static const char *why_openssl(const tls_library *l)
{
    const char *reason = l->ERR_reason_error_string(l->ERR_peek_last_error());
    return reason ? reason : "OpenSSL does not say why";
}

static cmo_err tls_take_key(cmo_tls *t, const cmo_tls_config *c)
{
    const tls_library *l = t->ssl;
    bool encrypted = false;
    tls_bio *in = l->BIO_new_mem_buf(c->pem, (int)c->bytes);
    tls_key *key = in ? l->PEM_read_bio_PrivateKey(in, NULL, no_password, &encrypted) : NULL;
    cmo_err err = CMO_OK;
    if (encrypted) err = cmo_fail(CMO_EINVAL, "its private key is encrypted; store it without a password, mode 0600");
    else if (!key) err = cmo_fail(CMO_EINVAL, "it holds no private key that can be read (%s)", why_openssl(l));
    else if (l->SSL_CTX_use_PrivateKey(t->context, key) != 1 || l->SSL_CTX_check_private_key(t->context) != 1)
        err = cmo_fail(CMO_EINVAL, "its private key is not that of its first certificate (%s)", why_openssl(l));
    if (key) l->EVP_PKEY_free(key);
    if (in) l->BIO_free(in);
    return err;
}

static cmo_err tls_take_certificates(cmo_tls *t, const cmo_tls_config *c)
{
    const tls_library *l = t->ssl;
    tls_bio *in = l->BIO_new_mem_buf(c->pem, (int)c->bytes);
    tls_certificate *own = in ? l->PEM_read_bio_X509(in, NULL, no_password, &(bool){false}) : NULL, *more;
    cmo_err err = CMO_OK;
    int trusted = 0;
    if (!own || l->SSL_CTX_use_certificate(t->context, own) != 1)
        err = cmo_fail(CMO_EINVAL, "it holds no certificate that can be used (%s)", why_openssl(l));
    while (!err && (more = l->PEM_read_bio_X509(in, NULL, no_password, &(bool){false}))) {
        trusted++;
        if (l->X509_STORE_add_cert(l->SSL_CTX_get_cert_store(t->context), more) != 1)
            err = cmo_fail(CMO_EINVAL, "its certificate %d cannot be trusted (%s)", 1 + trusted, why_openssl(l));
        /* Taken. Sent along too, since what lies between the first and the authority is what a peer need not have. */
        if (err || l->SSL_CTX_ctrl(t->context, SSL_CTRL_EXTRA_CHAIN_CERT, 0, more) != 1) l->X509_free(more);
    }
    if (!err && !trusted && l->X509_STORE_add_cert(l->SSL_CTX_get_cert_store(t->context), own) != 1)
        err = cmo_fail(CMO_EINVAL, "its certificate cannot be trusted (%s)", why_openssl(l));
    if (own) l->X509_free(own);
    if (in) l->BIO_free(in);
    return err;
}

static cmo_err tls_set_rules(cmo_tls *t, const cmo_tls_config *c)
{
    const tls_library *l = t->ssl;
    tls_context *x = t->context;
    l->SSL_CTX_set_options(x, SSL_OP_NO_RENEGOTIATION | (c->offload ? SSL_OP_ENABLE_KTLS : 0));
    l->SSL_CTX_ctrl(x, SSL_CTRL_SET_SESS_CACHE_MODE, 0, NULL);
    l->SSL_CTX_ctrl(x, SSL_CTRL_SET_MAX_CERT_LIST, MAX_CHAIN_BYTES, NULL);
    l->SSL_CTX_ctrl(x, SSL_CTRL_MODE, SSL_MODE_RELEASE_BUFFERS, NULL);
    /* So that a reading returns after each message of TLS's own, and nobody holds it up with them. */
    l->SSL_CTX_ctrl(x, SSL_CTRL_CLEAR_MODE, SSL_MODE_AUTO_RETRY, NULL);
    l->SSL_CTX_ctrl(x, SSL_CTRL_SET_READ_AHEAD, 1, NULL);
    l->SSL_CTX_set_default_read_buffer_len(x, READ_BUFFER);
    l->SSL_CTX_set_verify(x, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    l->SSL_CTX_set_msg_callback(x, cmo_tls_watch);
    if (l->SSL_CTX_ctrl(x, SSL_CTRL_SET_MIN_PROTO_VERSION, TLS1_3_VERSION, NULL) == 1 &&
        l->SSL_CTX_ctrl(x, SSL_CTRL_SET_MAX_PROTO_VERSION, TLS1_3_VERSION, NULL) == 1 &&
        l->SSL_CTX_set_num_tickets(x, 0) == 1 &&
        /* The first is the fastest with AES in the processor. */
        l->SSL_CTX_set_ciphersuites(x, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"))
        return CMO_OK;
    return cmo_fail(CMO_ESYS, "OpenSSL on this machine allows no TLS 1.3 (%s)", why_openssl(l));
}

cmo_err cmo_tls_open(cmo_tls **out, const cmo_tls_config *c)
{
    const tls_library *l = cmo_tls_library();
    if (!l) return CMO_ESYS;
    if (c->bytes > INT_MAX) return cmo_fail(CMO_EINVAL, "it has %zu bytes, which is no PEM", c->bytes);
    cmo_tls *t = calloc(1, sizeof *t);
    if (!t) return cmo_fail(CMO_ENOMEM, "TLS");
    l->ERR_clear_error();
    t->ssl = l;
    t->records_per_key = c->records_per_key ? c->records_per_key : RECORDS_PER_KEY;
    t->context = l->SSL_CTX_new(l->TLS_method());
    cmo_err err = t->context && cmo_tls_bio_make(t) ? CMO_OK : cmo_fail(CMO_ENOMEM, "TLS (%s)", why_openssl(l));
    if (!err) err = tls_set_rules(t, c);
    if (!err) err = tls_take_certificates(t, c);
    if (!err) err = tls_take_key(t, c);
    l->ERR_clear_error(); /* the end of the certificates is one */
    if (err) cmo_tls_close(t);
    else *out = t;
    return err;
}

void cmo_tls_close(cmo_tls *t)
{
    if (!t) return;
    if (t->context) t->ssl->SSL_CTX_free(t->context);
    if (t->bio) t->ssl->BIO_meth_free(t->bio);
    free(t);
}
