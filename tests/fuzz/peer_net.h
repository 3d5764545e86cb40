/* A net whose peers are scripts: what they say is fed by a fuzz target, and what the engine says to them is checked to
 * be frames. One thread, no time, nothing blocks. */
#ifndef CMO_TESTS_PEER_NET_H
#define CMO_TESTS_PEER_NET_H

#include "transport/transport.h"
#include "transport/wire.h"

#include <stdint.h>

enum { PEER_RANKS = 5, PEER_TRANSFERS = 8 };

typedef struct peer_transfer { /* a message that the engine has asked for by CTS */
    uint64_t id, sent;         /* its number there, and the bytes of it that were sent as DATA */
} peer_transfer;

typedef struct peer {
    cmo_link link; /* first: a cmo_link * is a peer * */
    bool announced, ended, dropped;
    uint8_t *in;   /* fed, and not yet read; owned */
    size_t at, have;
    size_t room;   /* bytes that it still takes; SIZE_MAX: all */

    /* What it has been told: the frame that is being written, and what a peer must remember to answer. */
    uint8_t head[CMO_HEADER_BYTES];
    size_t head_have;
    uint64_t skip;           /* bytes of the frame behind its header that are still to come */
    uint64_t announced_id;   /* of the last RTS */
    peer_transfer transfers[PEER_TRANSFERS];
    unsigned ntransfers;
} peer;

typedef struct peer_net {
    cmo_net net; /* first */
    int rank;    /* whose net it is */
    peer peers[PEER_RANKS];
} peer_net;

peer_net *peer_net_create(int rank); /* its close frees it */
void peer_feed(peer_net *n, int peer, const uint8_t *bytes, size_t count);
void peer_end(peer_net *n, int peer); /* it has closed its stream */

#endif
