/* What the files of TLS share. For no one else.
 *
 *     tls_library.c    OpenSSL, loaded
 *     tls.c            who this rank is, and whom it trusts
 *     tls_session.c    TLS on one socket
 *     tls_bio.c        how OpenSSL reaches that socket */
#ifndef CMO_TLS_SESSION_H
#define CMO_TLS_SESSION_H

#include "transport/tls.h"
#include "transport/tls_library.h"

enum {
    TLS_RECORD = 16384,         /* most bytes that a record carries */
    TLS_RECORD_EXTRA = 256,     /* most that a record has more on the wire (RFC 8446, 5.2) */
    TLS_BATCH = 8 * TLS_RECORD, /* encrypted before the socket is given it: a system call for each record is dear */
    TLS_OUT = TLS_BATCH + 16 * (TLS_RECORD_EXTRA + 5), /* room for that, and for a message or two of TLS's own */
    TLS_WHY = 200
};

struct cmo_tls {
    const tls_library *ssl;
    tls_context *context;
    tls_bio_kind *bio; /* tls_bio.c */
    tls_bio_write *socket_write; /* of OpenSSL's own for sockets */
    tls_bio_ctrl *socket_ctrl;
    uint64_t records_per_key;
    size_t out_bytes;  /* in `out`: of the session whose call this is, on their way to its socket */
    uint8_t gathered[TLS_RECORD]; /* small pieces, to make one record */
    uint8_t out[TLS_OUT];
};

struct cmo_tls_session {
    cmo_tls *tls;
    tls_ssl *ssl;
    int fd;
    bool met;           /* the peer has been heard behind the handshake of TLS */
    bool starved;       /* the last look at the socket found nothing */
    bool cut;           /* its stream has ended */
    bool farewell;      /* the peer has said that nothing more comes */
    bool offloaded;     /* the kernel encrypts what is written to the socket */
    int receive_errno;  /* why receiving fails from now on; 0: it does not. -1: after a farewell */
    int send_errno;     /* the same for sending */
    char why[TLS_WHY];  /* in words, if they are TLS's; else empty */
    uint8_t *held;      /* bytes for the socket that it had no room for; owned */
    size_t held_at, held_bytes; /* of them: begin here, and how many */
    uint64_t sent;      /* records under one key */
    uint64_t received, messages; /* bytes, and messages of TLS's own */
};

/* Hand over what is in `out`, and before it what is held; hold what the socket does not take. */
void cmo_tls_push(cmo_tls_session *s);

/* Told of every message of TLS's own; `session` is one. */
tls_watcher cmo_tls_watch;

/* Make the kind of BIO of all sessions. False: no memory. */
bool cmo_tls_bio_make(cmo_tls *t);
/* Let a session's OpenSSL reach its socket. False: no memory. */
bool cmo_tls_bio_attach(cmo_tls_session *s);

#endif
