/* What sim.c (links) and sim_schedule.c (time and chance) share and nobody else sees. */
#ifndef CMO_SIM_INTERNAL_H
#define CMO_SIM_INTERNAL_H

#include "transport/sim.h"

enum { PAGE_PEERS = 64 };

typedef struct sim_chunk {
    int64_t at;
    size_t bytes;
} sim_chunk;

typedef struct sim_net sim_net;

typedef struct sim_end {
    cmo_link link; /* first: a cmo_link * is a sim_end * */
    sim_net *owner;     /* NULL: closed */
    int rank;
    unsigned char *ring;
    size_t room, head, held, arrived;
    sim_chunk *chunks; /* [nchunks] under way, from `first`, in order of time */
    size_t first, nchunks, chunk_room;
    int64_t last;      /* when the newest chunk arrives */
    bool scheduled;    /* an event of this end stands in the heap */
    bool opened;       /* its owner has asked for it, or has been told of it */
    bool connected;
    bool closing;      /* the peer writes no more: when all chunks are in, the stream ends */
    bool cut;          /* it broke, and no rank ended it */
    bool ended;        /* nothing will arrive any more, and nothing written goes anywhere */
    struct sim_end *next_knock; /* in sim_rank.knocks */
} sim_end;

typedef struct sim_pair {
    sim_end end[2];
    struct sim_pair *next; /* in the simulation's list of all */
} sim_pair;

typedef struct sim_page {
    sim_end *end[PAGE_PEERS];
} sim_page;

struct sim_net {
    cmo_net net;
    cmo_sim *sim;
    int rank;
};

typedef struct sim_rank {
    sim_net *net;
    sim_page **pages;   /* [npages] its ends by peer; they stay when the net has gone */
    int64_t port;       /* when its port is free again */
    int place;          /* in sim.ready, -1: not there */
    bool dead;
    sim_end *knocks;    /* ends of it that peers have connected and that it has not been told of */
    cmo_sim_traffic traffic;
} sim_rank;

typedef struct sim_event {
    int64_t at;
    uint64_t number; /* equal times: in the order of making */
    sim_end *end;    /* NULL: an alarm of `rank` */
    int rank;
} sim_event;

struct cmo_sim {
    int size, npages;
    cmo_sim_settings settings;
    uint64_t random;
    int64_t now;
    sim_rank *ranks;
    int *ready, nready;
    sim_event *heap;
    size_t nheap, heap_room;
    uint64_t nevents;
    sim_pair *pairs;
    void (*tap)(void *, int, int, const void *, size_t);
    void *tap_ctx;
};

/* ------------------------------------------------------------------ sim_schedule.c */

int64_t cmo_sim_delay(cmo_sim *s);             /* of the wire, this time */
size_t cmo_sim_share(cmo_sim *s, size_t bytes); /* how many of the bytes that could move do */

/* The event's number is given here. Cannot fail right after an event was taken out. */
cmo_err cmo_sim_push(cmo_sim *s, sim_event e);

/* ------------------------------------------------------------------ sim.c */

void cmo_sim_arrive(cmo_sim *s, sim_end *e);   /* the event of this end has come */

#endif
