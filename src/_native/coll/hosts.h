/* Collectives of several ranks on each of several hosts, made of collectives inside the hosts (local_comm) and between
 * them (cross_comm: the members with the same place on every host; there is one for each place below least_local). */
#ifndef CMO_HOSTS_H
#define CMO_HOSTS_H

#include "coll/coll.h"

/* Which rank of our cross_comm is on the same host as `rank`. */
static inline int cmo_hosts_cross_rank(const cmo_comm *c, int rank)
{
    const cmo_comm *cross = c->cross_comm;
    int i = 0; /* members of cross_comm are in order of rank */
    for (int r = 0; r < c->size && i < cross->size; r++) {
        if (c->world[r] != cross->world[i]) continue;
        if (c->host[r] == c->host[rank]) return i;
        i++;
    }
    return 0; /* not reached: every host has every place below least_local */
}

/* The place of `rank` among the members of its host. */
static inline int cmo_hosts_place(const cmo_comm *c, int rank)
{
    int place = 0;
    for (int r = 0; r < rank; r++) place += c->host[r] == c->host[rank];
    return place;
}

#endif
