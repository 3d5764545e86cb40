/* Reading what lies in another process's own memory, in one copy: process_vm_readv ("cross-memory attach").
 *
 * The system allows it between processes of one user that may trace each other; containers and security modules may
 * forbid it, and process numbers may mean something else elsewhere. So each rank shows in its window, before it hands
 * it over, its process number and the address of a random word, and who reads there what is shown may read the rest.
 *
 * Nothing is written but the reader's own memory. An address is its owner's word; one that is wrong is an error. The
 * owner must keep what it shows as it is until its reader is done: the algorithms see to that. */
#ifndef CMO_ATTACH_H
#define CMO_ATTACH_H

#include "transport/window.h"

/* Can this process read that of the neighbour? Sets its `pid` if so. */
void cmo_attach(cmo_neighbour *n);

/* Read. CMO_AGAIN: its process has ended, or is about to. CMO_EPROTO: not all of it is there. CMO_ESYS: it may not be
 * read any more. */
cmo_err cmo_attach_read(const cmo_neighbour *n, uint64_t address, void *to, uint64_t bytes);

/* Had its process not ended a moment ago? Then what was read before that was its memory, and not that of another
 * process with its number. */
bool cmo_attach_lives(const cmo_neighbour *n);

#endif
