#include "transport/attach.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/uio.h>

static ssize_t attach_read_some(int64_t pid, uint64_t address, void *to, uint64_t bytes)
{
    const struct iovec here = {to, bytes}, there = {(void *)(uintptr_t)address, bytes};
    return process_vm_readv((pid_t)pid, &here, 1, &there, 1, 0);
}

void cmo_attach(cmo_neighbour *n)
{
    const cmo_window_head *head = n->head;
    uint64_t word[2] = {0};
    if (head->pid <= 0) return;
    const ssize_t got = attach_read_some(head->pid, head->word_at, word, sizeof word);
    if (got == (ssize_t)sizeof word && !memcmp(word, head->word, sizeof word)) n->pid = head->pid;
}

bool cmo_attach_lives(const cmo_neighbour *n)
{
    struct pollfd end = {.fd = n->pidfd, .events = POLLIN};
    return n->pidfd < 0 || poll(&end, 1, 0) <= 0;
}

cmo_err cmo_attach_read(const cmo_neighbour *n, uint64_t address, void *to, uint64_t bytes)
{
    while (bytes) {
        const ssize_t got = attach_read_some(n->pid, address, to, bytes);
        if (got <= 0) {
            const int error = errno;
            /* A process that ends loses its memory first. */
            if ((got < 0 && error == ESRCH) || !cmo_attach_lives(n)) return CMO_AGAIN;
            const cmo_err err = got == 0 || error == EFAULT ? CMO_EPROTO : CMO_ESYS;
            return cmo_fail(err, "%llu bytes at %#llx of process %lld cannot be read: %s (COMMOPS_ATTACH_BYTES=0 does"
                                 " without)", (unsigned long long)bytes, (unsigned long long)address,
                            (long long)n->pid, got ? strerror(error) : "nothing is there");
        }
        address += (uint64_t)got;
        to = (char *)to + got;
        bytes -= (uint64_t)got;
    }
    return CMO_OK;
}
