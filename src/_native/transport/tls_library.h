/* What is used of OpenSSL 3, loaded when TLS is first asked for: to build or to install commops nothing of it is
 * needed, and a program without TLS never loads it. The prototypes are those of its manual, and its numbers part of its
 * ABI: both stay as long as the library is called libssl.so.3. For the files of TLS alone. */
#ifndef CMO_TLS_LIBRARY_H
#define CMO_TLS_LIBRARY_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

/* OpenSSL's types, of which nothing but the address is used. */
typedef struct tls_bio tls_bio;           /* BIO */
typedef struct tls_bio_kind tls_bio_kind; /* BIO_METHOD */
typedef struct tls_certificate tls_certificate; /* X509 */
typedef struct tls_context tls_context;   /* SSL_CTX */
typedef struct tls_key tls_key;           /* EVP_PKEY */
typedef struct tls_method tls_method;     /* SSL_METHOD */
typedef struct tls_ssl tls_ssl;           /* SSL */
typedef struct tls_trusted tls_trusted;   /* X509_STORE */

typedef int tls_password(char *out, int size, int writing, void *arg);
typedef int tls_verify(int fine, void *store);
typedef void tls_watcher(int sent, int version, int type, const void *message, size_t n, tls_ssl *, void *arg);
typedef int tls_bio_write(tls_bio *, const char *, int);
typedef int tls_bio_read(tls_bio *, char *, int);
typedef long tls_bio_ctrl(tls_bio *, int, long, void *);
typedef int tls_bio_change(tls_bio *);

/* X(what it returns, its name, its arguments) */
#define CMO_OPENSSL(X)                                                                               \
    X(int, OPENSSL_init_ssl, (uint64_t, const void *))                                               \
    X(const char *, OpenSSL_version, (int))                                                          \
    X(const tls_method *, TLS_method, (void))                                                        \
    X(tls_context *, SSL_CTX_new, (const tls_method *))                                              \
    X(void, SSL_CTX_free, (tls_context *))                                                           \
    X(long, SSL_CTX_ctrl, (tls_context *, int, long, void *))                                        \
    X(uint64_t, SSL_CTX_set_options, (tls_context *, uint64_t))                                      \
    X(int, SSL_CTX_set_num_tickets, (tls_context *, size_t))                                         \
    X(int, SSL_CTX_set_ciphersuites, (tls_context *, const char *))                                  \
    X(void, SSL_CTX_set_verify, (tls_context *, int, tls_verify *))                                  \
    X(void, SSL_CTX_set_default_read_buffer_len, (tls_context *, size_t))                            \
    X(void, SSL_CTX_set_msg_callback, (tls_context *, tls_watcher *))                                \
    X(int, SSL_CTX_use_certificate, (tls_context *, tls_certificate *))                              \
    X(int, SSL_CTX_use_PrivateKey, (tls_context *, tls_key *))                                       \
    X(int, SSL_CTX_check_private_key, (const tls_context *))                                         \
    X(tls_trusted *, SSL_CTX_get_cert_store, (const tls_context *))                                  \
    X(tls_ssl *, SSL_new, (tls_context *))                                                           \
    X(void, SSL_free, (tls_ssl *))                                                                   \
    X(long, SSL_ctrl, (tls_ssl *, int, long, void *))                                                \
    X(void, SSL_set_bio, (tls_ssl *, tls_bio *, tls_bio *))                                          \
    X(void, SSL_set_accept_state, (tls_ssl *))                                                       \
    X(void, SSL_set_connect_state, (tls_ssl *))                                                      \
    X(int, SSL_read_ex, (tls_ssl *, void *, size_t, size_t *))                                       \
    X(int, SSL_write_ex, (tls_ssl *, const void *, size_t, size_t *))                                \
    X(int, SSL_has_pending, (const tls_ssl *))                                                       \
    X(int, SSL_is_init_finished, (const tls_ssl *))                                                  \
    X(int, SSL_shutdown, (tls_ssl *))                                                                \
    X(int, SSL_key_update, (tls_ssl *, int))                                                         \
    X(long, SSL_get_verify_result, (const tls_ssl *))                                                \
    X(int, SSL_export_keying_material, (tls_ssl *, uint8_t *, size_t, const char *, size_t, const uint8_t *, \
                                        size_t, int))                                                \
    X(tls_bio *, BIO_new, (const tls_bio_kind *))                                                    \
    X(tls_bio *, BIO_new_mem_buf, (const void *, int))                                               \
    X(int, BIO_free, (tls_bio *))                                                                    \
    X(long, BIO_int_ctrl, (tls_bio *, int, long, int))                                               \
    X(void, BIO_set_flags, (tls_bio *, int))                                                         \
    X(void, BIO_clear_flags, (tls_bio *, int))                                                       \
    X(int, BIO_test_flags, (const tls_bio *, int))                                                   \
    X(void, BIO_set_callback_arg, (tls_bio *, char *))                                               \
    X(char *, BIO_get_callback_arg, (const tls_bio *))                                               \
    X(const tls_bio_kind *, BIO_s_socket, (void))                                                    \
    X(tls_bio_kind *, BIO_meth_new, (int, const char *))                                             \
    X(void, BIO_meth_free, (tls_bio_kind *))                                                         \
    X(tls_bio_write *, BIO_meth_get_write, (const tls_bio_kind *))                                   \
    X(tls_bio_ctrl *, BIO_meth_get_ctrl, (const tls_bio_kind *))                                     \
    X(tls_bio_change *, BIO_meth_get_create, (const tls_bio_kind *))                                 \
    X(tls_bio_change *, BIO_meth_get_destroy, (const tls_bio_kind *))                                \
    X(int, BIO_meth_set_write, (tls_bio_kind *, tls_bio_write *))                                    \
    X(int, BIO_meth_set_read, (tls_bio_kind *, tls_bio_read *))                                      \
    X(int, BIO_meth_set_ctrl, (tls_bio_kind *, tls_bio_ctrl *))                                      \
    X(int, BIO_meth_set_create, (tls_bio_kind *, tls_bio_change *))                                  \
    X(int, BIO_meth_set_destroy, (tls_bio_kind *, tls_bio_change *))                                 \
    X(tls_certificate *, PEM_read_bio_X509, (tls_bio *, tls_certificate **, tls_password *, void *)) \
    X(tls_key *, PEM_read_bio_PrivateKey, (tls_bio *, tls_key **, tls_password *, void *))           \
    X(int, X509_STORE_add_cert, (tls_trusted *, tls_certificate *))                                  \
    X(const char *, X509_verify_cert_error_string, (long))                                           \
    X(void, X509_free, (tls_certificate *))                                                          \
    X(void, EVP_PKEY_free, (tls_key *))                                                              \
    X(void, ERR_clear_error, (void))                                                                 \
    X(unsigned long, ERR_peek_last_error, (void))                                                    \
    X(const char *, ERR_reason_error_string, (unsigned long))

typedef struct tls_library {
#define CMO_X(returns, name, arguments) returns (*name) arguments;
    CMO_OPENSSL(CMO_X)
#undef CMO_X
} tls_library;

/* The numbers of OpenSSL's headers that are used, under their names there. */
enum {
    OPENSSL_INIT_NO_ATEXIT = 0x80000,
    SSL_CTRL_EXTRA_CHAIN_CERT = 14,
    SSL_CTRL_SET_MSG_CALLBACK_ARG = 16,
    SSL_CTRL_MODE = 33,
    SSL_CTRL_SET_READ_AHEAD = 41,
    SSL_CTRL_SET_SESS_CACHE_MODE = 44,
    SSL_CTRL_SET_MAX_CERT_LIST = 51,
    SSL_CTRL_CLEAR_MODE = 78,
    SSL_CTRL_SET_MIN_PROTO_VERSION = 123,
    SSL_CTRL_SET_MAX_PROTO_VERSION = 124,
    TLS1_3_VERSION = 0x304,
    SSL_MODE_AUTO_RETRY = 4,
    SSL_MODE_RELEASE_BUFFERS = 16,
    SSL_OP_ENABLE_KTLS = 1 << 3,
    SSL_OP_NO_RENEGOTIATION = 1 << 30,
    SSL_VERIFY_PEER = 1,
    SSL_VERIFY_FAIL_IF_NO_PEER_CERT = 2,
    SSL_KEY_UPDATE_NOT_REQUESTED = 0,
    SSL3_RT_ALERT = 21,
    SSL3_RT_HANDSHAKE = 22,
    SSL_AD_CLOSE_NOTIFY = 0,
    SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE = 199,
    SSL_AD_REASON_OFFSET = 1000, /* of an alert's number among the reasons */
    BIO_TYPE_SOCKET = 5 | 0x100 | 0x400,
    BIO_FLAGS_READ = 1,
    BIO_FLAGS_RETRY = 0xF, /* READ, WRITE, IO_SPECIAL, SHOULD_RETRY */
    BIO_FLAGS_SHOULD_RETRY = 8,
    BIO_FLAGS_IN_EOF = 0x800,
    BIO_FLAGS_KTLS_TX_CTRL_MSG = 0x1000,
    BIO_CTRL_FLUSH = 11,
    BIO_CTRL_SET_KTLS = 72,
    BIO_C_SET_FD = 104
};

/* The library, loaded for good; NULL with the reason where that fails. Any thread may call. */
const tls_library *cmo_tls_library(void);

#endif
