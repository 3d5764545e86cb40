/* Another process's memory: read if its owner shows that it may be, and never taken for what it is not. */
#include "transport/attach.h"

#include "check.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BYTES = 3 << 20 };

/* What the owner tells its reader, in shared memory of the test's own. */
typedef struct told {
    uint64_t good, gone;
} told;

/* The owner: shows a window and two arrays, of which it gives one back to the system. */
static void own(told *t, int ready)
{
    unsigned char *good = malloc(BYTES);
    void *gone = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!good || gone == MAP_FAILED) _exit(1);
    for (int i = 0; i < BYTES; i++) good[i] = (unsigned char)(i * 7 + i / 4096);
    munmap((char *)gone + BYTES / 2, BYTES / 2);
    t->good = (uintptr_t)good;
    t->gone = (uintptr_t)gone;
    if (write(ready, "x", 1) != 1) _exit(1);
    for (;;) pause();
}

static bool may_attach(void)
{
    cmo_window *w;
    CHECK(cmo_window_create(&w, 2, 1 << 16, false) == CMO_OK);
    cmo_neighbour self = {.head = cmo_window_base(w), .size = cmo_window_size(w), .doorbell = -1, .pidfd = -1};
    cmo_attach(&self);
    cmo_window_destroy(w);
    return self.pid == getpid();
}

static void test_a_neighbour_is_read(void)
{
    told *t = mmap(NULL, sizeof *t, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int ready[2];
    CHECK(t != MAP_FAILED && !pipe(ready));
    /* A copy of what the owner's window shows, which it makes itself. */
    cmo_window_head *head =
        mmap(NULL, sizeof *head, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(head != MAP_FAILED);
    const pid_t child = fork();
    if (!child) {
        cmo_window *w;
        if (cmo_window_create(&w, 2, 1 << 16, false)) _exit(1);
        memcpy(head, cmo_window_base(w), sizeof *head);
        own(t, ready[1]);
    }
    char x;
    CHECK(read(ready[0], &x, 1) == 1);
    cmo_neighbour n = {.head = head, .doorbell = -1, .pidfd = (int)syscall(SYS_pidfd_open, child, 0)};
    CHECK(n.pidfd >= 0);

    head->word[0] ^= 1; /* what stands there is not what is shown: another process, perhaps */
    cmo_attach(&n);
    CHECK(!n.pid);
    head->word[0] ^= 1;
    const int64_t pid = head->pid;
    head->pid = getpid(); /* nor does the same address hold it in another process */
    cmo_attach(&n);
    CHECK(!n.pid);
    head->pid = pid;
    cmo_attach(&n);
    CHECK(n.pid == child && cmo_attach_lives(&n));

    unsigned char *to = malloc(BYTES);
    CHECK(to && cmo_attach_read(&n, t->good, to, BYTES) == CMO_OK);
    bool same = true;
    for (int i = 0; to && i < BYTES; i++) same = same && to[i] == (unsigned char)(i * 7 + i / 4096);
    CHECK(same);
    CHECK(cmo_attach_read(&n, t->good, to, 0) == CMO_OK);
    CHECK(cmo_attach_read(&n, t->gone, to, BYTES) == CMO_EPROTO); /* half of it is there */
    CHECK(strstr(cmo_reason(), "cannot be read") != NULL);

    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    CHECK(!cmo_attach_lives(&n));
    CHECK(cmo_attach_read(&n, t->good, to, BYTES) == CMO_AGAIN);
    free(to);
    close(n.pidfd);
    close(ready[0]);
    close(ready[1]);
    munmap(t, sizeof *t);
}

int main(void)
{
    if (!may_attach()) {
        fprintf(stderr, "skipped: the system does not let one process read another's memory\n");
        return 77;
    }
    test_a_neighbour_is_read();
    return check_report();
}
