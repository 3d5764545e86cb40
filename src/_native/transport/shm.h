/* The transport between the ranks of one host: pipes in their windows. */
#ifndef CMO_SHM_NET_H
#define CMO_SHM_NET_H

#include "transport/transport.h"
#include "transport/window.h"

/* A rank's net to the ranks of its host, itself included. neighbours, world: [nlocal], borrowed; world[i] is the world
 * rank of neighbour i; `self` is our own place among them. `own`, the window that takes our pipes, is borrowed until
 * the net is closed. */
cmo_err cmo_shm_net(cmo_net **out, cmo_window *own, const cmo_neighbour *neighbours, const int *world, int nlocal,
                    int self, size_t pipe_bytes);

/* Bytes of a pipe where `wanted` are asked for: less where nlocal ranks make many of them. */
size_t cmo_shm_pipe_bytes(int nlocal, size_t wanted);

#endif
