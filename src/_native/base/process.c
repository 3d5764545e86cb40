#include "base/process.h"

#include "base/file.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* What <linux/pidfd.h> has from Linux 6.15 on; compilers often have older headers. */
typedef struct pidfd_end {
    uint64_t mask, cgroup;
    uint32_t pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
    int32_t exit_code;
} pidfd_end;

enum { ASKS_EXIT = 1 << 3 };
#define GET_END _IOWR(0xFF, 11, pidfd_end)

/* The process id, which is its own as long as nobody has waited for it; 0: somebody has. */
static long pid_of(int pidfd)
{
    char path[48], text[512];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", pidfd);
    if (!cmo_read_file(path, text, sizeof text)) return 0;
    const char *line = strstr(text, "Pid:");
    const long pid = line ? strtol(line + 4, NULL, 10) : 0;
    return pid > 0 ? pid : 0;
}

/* The status that a zombie's parent will find: the last number of its line in /proc. */
static int status_of_zombie(int pidfd, int *status)
{
    char path[32], text[1024];
    const long pid = pid_of(pidfd);
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    if (!pid || !cmo_read_file(path, text, sizeof text)) return 0;
    const char *state = strrchr(text, ')'), *last = strrchr(text, ' ');
    if (!state || (state[2] != 'Z' && state[2] != 'X') || !last || pid_of(pidfd) != pid) return 0;
    *status = (int)strtol(last, NULL, 10);
    return *status != 0; /* 0 is also what it says to who may not know */
}

static int status_of(int pidfd, int *status)
{
    pidfd_end end = {.mask = ASKS_EXIT};
    if (status_of_zombie(pidfd, status)) return 1;
    if (ioctl(pidfd, GET_END, &end) || !(end.mask & ASKS_EXIT)) return 0;
    *status = end.exit_code;
    return 1;
}

static const char *signal_name(int number)
{
    static const struct {
        int number;
        const char *name;
    } names[] = {{SIGKILL, "SIGKILL"}, {SIGSEGV, "SIGSEGV"}, {SIGABRT, "SIGABRT"}, {SIGBUS, "SIGBUS"},
                 {SIGTERM, "SIGTERM"}, {SIGINT, "SIGINT"},   {SIGHUP, "SIGHUP"},   {SIGILL, "SIGILL"},
                 {SIGFPE, "SIGFPE"},   {SIGQUIT, "SIGQUIT"}, {SIGPIPE, "SIGPIPE"}, {SIGALRM, "SIGALRM"},
                 {SIGXCPU, "SIGXCPU"}, {SIGUSR1, "SIGUSR1"}, {SIGUSR2, "SIGUSR2"}, {SIGTRAP, "SIGTRAP"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].number == number) return names[i].name;
    return NULL;
}

void cmo_process_end(int pidfd, char *out, size_t n)
{
    int status = 0;
    if (!status_of(pidfd, &status)) {
        snprintf(out, n, "its process has ended");
    } else if (WIFSIGNALED(status)) {
        const char *name = signal_name(WTERMSIG(status));
        if (name) snprintf(out, n, "killed by %s", name);
        else snprintf(out, n, "killed by signal %d", WTERMSIG(status));
    } else {
        snprintf(out, n, "exited with code %d", WEXITSTATUS(status));
    }
}

bool cmo_process_stopped(int pidfd)
{
    char path[32], text[1024];
    const long pid = pid_of(pidfd);
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    const char *state = pid && cmo_read_file(path, text, sizeof text) ? strrchr(text, ')') : NULL;
    return state && state[1] && (state[2] == 'T' || state[2] == 't') && pid_of(pidfd) == pid;
}

/* ------------------------------------------------------------------ what children do not have */

/* A fork may come in the middle of whatever another thread does, so this is a table that is right at any instant. */
enum { MOST = 1 << 20, BITS = 64 }; /* descriptors above that are rare, and left open */
static _Atomic uint64_t kept[MOST / BITS];
static _Atomic int highest = -1; /* that was ever noted */
static pthread_once_t registered = PTHREAD_ONCE_INIT;

static void close_in_child(void)
{
    const int last = atomic_load_explicit(&highest, memory_order_relaxed);
    for (int i = 0; i <= last / BITS; i++) {
        const uint64_t word = atomic_exchange_explicit(&kept[i], 0, memory_order_relaxed);
        for (int bit = 0; word && bit < BITS; bit++)
            if (word >> bit & 1) close(i * BITS + bit);
    }
}

static void register_once(void) { pthread_atfork(NULL, NULL, close_in_child); }

void cmo_process_keeps(int fd, bool keeps)
{
    if (fd < 0 || fd >= MOST) return;
    pthread_once(&registered, register_once);
    const uint64_t bit = UINT64_C(1) << fd % BITS;
    if (!keeps) {
        atomic_fetch_and_explicit(&kept[fd / BITS], ~bit, memory_order_relaxed);
        return;
    }
    int before = atomic_load_explicit(&highest, memory_order_relaxed);
    while (before < fd &&
           !atomic_compare_exchange_weak_explicit(&highest, &before, fd, memory_order_relaxed, memory_order_relaxed)) {}
    atomic_fetch_or_explicit(&kept[fd / BITS], bit, memory_order_relaxed);
}
