/* How links over TCP end: closed, reset, dropped, or with a host that has vanished. */
#include "check.h"
#include "tcp_talk.h"

#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

static void test_what_arrived_before_a_reset_is_read(void)
{
    static char bytes[20000], got[20000];
    for (int writes = 0; writes < 2; writes++) { /* whether the reader's own writing meets the reset first */
        world w;
        size_t moved = 0, total = 0;
        CHECK(world_open(&w, 2, AF_INET));
        check_talk(&w, 0, 1);
        cmo_link *a = open_link(&w, 0, 1), *b = open_link(&w, 1, 0);
        memset(bytes, 'r', sizeof bytes);
        CHECK(write_bytes(a, bytes, sizeof bytes) == sizeof bytes);
        for (int i = 0; i < 50; i++) nap(); /* they are in the other's socket */
        world_close_rank(&w, 0);
        for (int i = 0; writes && i < 50; i++) {
            write_bytes(b, "z", 1); /* to a closed socket: answered by a reset */
            nap();
        }
        cmo_err err = CMO_OK;
        const int64_t deadline = cmo_deadline(5);
        while (err == CMO_OK && cmo_now() < deadline) {
            poll_world(&w);
            if (b->readable) err = read_bytes(b, got, 777, &moved);
            total += moved;
        }
        CHECK(err == CMO_EPEERLOST);
        CHECKF(total == sizeof bytes, "%zu", total);
        reason_has(writes ? "was reset" : "it closed its connection");
        world_close(&w);
    }
}

static void test_a_dropped_link_stays_dropped_at_both_ends(void)
{
    for (int dropper = 0; dropper < 2; dropper++) {
        world w;
        CHECK(world_open(&w, 2, AF_INET));
        check_talk(&w, 0, 1);
        cmo_link *a = open_link(&w, dropper, 1 - dropper), *b = open_link(&w, 1 - dropper, dropper);
        a->net->ops->drop(a);
        CHECK(end_of(&w, b) == CMO_EPEERLOST);
        CHECK(open_link(&w, dropper, 1 - dropper) == a && !a->up);
        size_t moved;
        CHECK(read_bytes(a, &moved, 1, &moved) == CMO_EPEERLOST);
        world_close(&w);

        CHECK(world_open(&w, 2, AF_INET)); /* the same before the other has connected */
        a = open_link(&w, dropper, 1 - dropper);
        a->net->ops->drop(a);
        CHECK(end_of(&w, open_link(&w, 1 - dropper, dropper)) == CMO_EPEERLOST);
        reason_has("has given up");
        world_close(&w);
    }
}

typedef enum { SENDING, IDLE, CLOSED_WINDOW, HOW_MANY } vanishing;

/* In a network of its own, loopback is taken away under a connection: nothing is acknowledged any more. */
static int host_vanishes(vanishing how)
{
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    static char bytes[1 << 16];
    world w;
    atomic_store(&check_failed, 0); /* those before the fork are not ours */
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET) && unshare(CLONE_NEWNET)) return 77;
    int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (control < 0 || ioctl(control, SIOCSIFFLAGS, &lo)) return 77;
    CHECK(world_prepare(&w, 2, AF_INET));
    for (int i = 0; i < 2; i++) {
        cmo_tcp_config c = world_config(&w, i);
        c.heartbeat_ms = 400;
        CHECK(cmo_tcp_net(&w.net[i], &c) == CMO_OK);
    }
    check_talk(&w, 0, 1);
    cmo_link *l = open_link(&w, 0, 1);
    if (how == CLOSED_WINDOW) { /* a peer that does not read for long, whose host lives, is not lost */
        for (int quiet = 0; quiet < 100; quiet++)
            if (write_bytes(l, bytes, sizeof bytes)) quiet = 0;
        const int64_t until = cmo_now() + 2 * CMO_SECOND;
        size_t moved;
        while (cmo_now() < until) {
            poll_world(&w);
            CHECKF(read_bytes(l, bytes, 1, &moved) == CMO_OK, "%s", cmo_reason());
            for (int i = 0; i < 20; i++) nap();
        }
    } else {
        lo.ifr_flags = 0;
        CHECK(ioctl(control, SIOCSIFFLAGS, &lo) == 0);
        if (how == SENDING) write_bytes(l, "x", 1);
        const int64_t start = cmo_now();
        CHECK(end_of(&w, l) == CMO_EPEERLOST);
        CHECKF(cmo_now() - start < 3 * CMO_SECOND, "%s", cmo_reason());
        reason_has("the connection to it");
    }
    close(control);
    world_close(&w);
    return check_report();
}

static void test_a_host_that_vanishes_and_one_that_is_slow(void)
{
    for (vanishing how = SENDING; how < HOW_MANY; how++) {
        fflush(NULL);
        pid_t child = fork(); /* the new network is the child's alone */
        if (child == 0) _exit(host_vanishes(how));
        int status = 0;
        CHECK(child > 0 && waitpid(child, &status, 0) == child);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
            fprintf(stderr, "a host that vanishes: no private network here\n");
        else CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
}

#define TEST(f) {test_##f, #f}
int main(int argc, char **argv)
{
    static const tcp_test tests[] = {
        TEST(what_arrived_before_a_reset_is_read),
        TEST(a_dropped_link_stays_dropped_at_both_ends),
        TEST(a_host_that_vanishes_and_one_that_is_slow),
    };
    return run_tests(tests, sizeof tests / sizeof *tests, argc, argv);
}
