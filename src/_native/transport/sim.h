/* The simulated transport: any number of ranks in one process, under a virtual clock and a seeded schedule.
 *
 * Nothing here happens by itself: time stands still until the scheduler moves it (cmo_sim_advance), and the same seed
 * with the same calls gives the same run. Costs follow the usual model: a byte takes `ns_per_byte` at the sender's one
 * port, then the wire takes `latency_ns` and up to `jitter_ns` more, drawn for each write. Bytes of one link stay in
 * order, different links overtake each other.
 *
 * The scheduler's loop: poll the engines of the ranks that cmo_sim_take names; when it names none, advance the clock.
 * One thread at a time; nothing blocks. */
#ifndef CMO_SIM_H
#define CMO_SIM_H

#include "transport/transport.h"

#include <stdint.h>

typedef struct cmo_sim cmo_sim;

typedef struct cmo_sim_settings {
    int64_t latency_ns;
    int64_t jitter_ns;  /* greatest extra delay of a write, of a connection */
    double ns_per_byte;
    size_t capacity;    /* bytes that a stream holds before writes move 0; 0: 64 KiB */
    double short_moves; /* share of the reads and writes that move fewer bytes than they could, in [0, 1] */
} cmo_sim_settings;

typedef struct cmo_sim_traffic { /* of one rank */
    uint64_t sent, received;     /* bytes */
    uint64_t writes;             /* that moved something */
    int64_t last;                /* when it last received something */
} cmo_sim_traffic;

cmo_err cmo_sim_create(cmo_sim **out, int size, uint64_t seed, const cmo_sim_settings *settings);
void cmo_sim_destroy(cmo_sim *sim); /* after the close of every net */

/* The net of a rank; one at a time for each. The caller's, to be closed before the simulation is destroyed. Its links
 * end for good: a pair of ranks whose link has been dropped cannot open another. */
cmo_err cmo_sim_net(cmo_sim *sim, int rank, cmo_net **out);

/* ------------------------------------------------------------------ schedule */

int64_t cmo_sim_now(void *sim);            /* nanoseconds from 0; the signature of cmo_world.now */
int cmo_sim_take(cmo_sim *sim);            /* a rank for which something has happened, drawn at random; -1: none */
void cmo_sim_wake(cmo_sim *sim, int rank); /* let cmo_sim_take name it */
cmo_err cmo_sim_alarm(cmo_sim *sim, int rank, int64_t at); /* wake it at that time */

/* Move the clock to the next event and wake those whom it concerns; false if there is none. */
bool cmo_sim_advance(cmo_sim *sim);
void cmo_sim_sleep(cmo_sim *sim, int64_t until); /* the same with every event up to `until`, which is then the time */

/* Numbers from the simulation's generator, for the scheduler: in [0, bound). */
uint64_t cmo_sim_random(cmo_sim *sim, uint64_t bound);

/* ------------------------------------------------------------------ faults */

/* The rank is no more: what it had written arrives, then its links end. Its own net moves nothing from now on. */
cmo_err cmo_sim_kill(cmo_sim *sim, int rank);

/* The link between two ranks breaks: what has arrived can be read, what is under way is lost. */
cmo_err cmo_sim_cut(cmo_sim *sim, int a, int b);

/* ------------------------------------------------------------------ measurements */

const cmo_sim_traffic *cmo_sim_traffic_of(const cmo_sim *sim, int rank); /* borrowed */

/* Called with the bytes of each write, as far as they were accepted. NULL: nobody. */
void cmo_sim_tap(cmo_sim *sim, void (*tap)(void *ctx, int from, int to, const void *bytes, size_t n), void *ctx);

#endif
