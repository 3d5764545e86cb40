/* How a process has ended, or whether it stands still. */
#ifndef CMO_PROCESS_H
#define CMO_PROCESS_H

#include <stdbool.h>
#include <stddef.h>

/* Of the process of this pidfd, which has ended: "killed by SIGKILL", "exited with code 3", or "its process has ended"
 * where the system does not say more: it says it while nobody has waited for the process, to its own user, and
 * afterwards from Linux 6.15 on. */
void cmo_process_end(int pidfd, char *out, size_t n);

bool cmo_process_stopped(int pidfd); /* by SIGSTOP, a terminal or a debugger, as far as the system says */

/* Note that a descriptor is this process's alone, as a connection is whose end is to be this process's: a child that it
 * forks closes it at once. Any thread. */
void cmo_process_keeps(int fd, bool keeps);

#endif
