/* Windows: pieces given out and taken back, memory returned to the system, mapping by descriptor, nothing trusted. */
#include "transport/window.h"

#include "check.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WINDOW_BYTES = 64 * CMO_PAGE, PIECES = 24 };

static bool all_zero(const unsigned char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i]) return false;
    return true;
}

static void test_pieces_are_aligned_zeroed_and_apart(bool private_memory)
{
    cmo_window *w;
    CHECK(cmo_window_create(&w, 4, WINDOW_BYTES, private_memory) == CMO_OK);
    CHECK(cmo_window_size(w) == WINDOW_BYTES && (cmo_window_fd(w) < 0) == private_memory);
    cmo_neighbour own = {.head = cmo_window_base(w), .size = cmo_window_size(w), .doorbell = -1, .pidfd = -1};
    uint64_t offset[PIECES] = {0};
    size_t bytes[PIECES] = {0}, used = 0;
    srand(7);
    for (int n = 0; n < 4000; n++) {
        int i = rand() % PIECES;
        if (bytes[i]) {
            unsigned char *p = cmo_window_at(&own, offset[i], bytes[i]);
            CHECK(p && p[0] == i + 1 && p[bytes[i] - 1] == i + 1); /* nobody else has written here */
            cmo_window_free(w, offset[i], bytes[i]);
            used -= (bytes[i] + CMO_PAGE - 1) / CMO_PAGE * CMO_PAGE;
            bytes[i] = 0;
        } else {
            bytes[i] = 1 + (size_t)rand() % (5 * CMO_PAGE);
            if (cmo_window_alloc(w, bytes[i], &offset[i]) == CMO_OK) {
                unsigned char *p = cmo_window_at(&own, offset[i], bytes[i]);
                CHECK(p && offset[i] % CMO_PAGE == 0 && all_zero(p, bytes[i]));
                memset(p, i + 1, bytes[i]);
                used += (bytes[i] + CMO_PAGE - 1) / CMO_PAGE * CMO_PAGE;
            } else {
                bytes[i] = 0; /* full or in fragments */
            }
        }
        CHECK(cmo_window_used(w) == used);
    }
    for (int i = 0; i < PIECES; i++)
        if (bytes[i]) cmo_window_free(w, offset[i], bytes[i]);
    CHECK(cmo_window_used(w) == 0);
    uint64_t whole; /* what was in fragments is one again */
    CHECK(cmo_window_alloc(w, WINDOW_BYTES - CMO_PAGE, &whole) == CMO_OK);
    CHECK(cmo_window_alloc(w, 1, &whole) == CMO_ENOMEM);
    cmo_window_destroy(w);
}

static void test_freed_memory_goes_back_to_the_system(void)
{
    cmo_window *w;
    struct stat before, full, after;
    uint64_t offset;
    CHECK(cmo_window_create(&w, 2, 0, false) == CMO_OK);
    CHECK(!fstat(cmo_window_fd(w), &before));
    CHECK(cmo_window_alloc(w, 1 << 20, &offset) == CMO_OK);
    CHECK(!fstat(cmo_window_fd(w), &full));
    CHECK(full.st_blocks - before.st_blocks == (1 << 20) / 512); /* reserved, though not touched */
    cmo_window_free(w, offset, 1 << 20);
    CHECK(!fstat(cmo_window_fd(w), &after));
    CHECK(after.st_blocks == before.st_blocks);
    cmo_window_destroy(w);
}

static void test_a_peer_sees_the_same_memory(void)
{
    cmo_window *w;
    cmo_neighbour n = {.doorbell = -1, .pidfd = -1};
    uint64_t offset;
    CHECK(cmo_window_create(&w, 2, WINDOW_BYTES, false) == CMO_OK);
    CHECK(cmo_window_map(cmo_window_fd(w), 2, &n.head, &n.size) == CMO_OK);
    CHECK(n.head != cmo_window_base(w) && n.size == WINDOW_BYTES);
    CHECK(cmo_window_alloc(w, 100, &offset) == CMO_OK);
    strcpy((char *)cmo_window_base(w) + offset, "seen");
    CHECK(!strcmp(cmo_window_at(&n, offset, 100), "seen"));
    CHECK(ftruncate(cmo_window_fd(w), CMO_PAGE) != 0); /* sealed: a peer cannot take it from under us */
    cmo_window_unmap(n.head, n.size);
    cmo_window_destroy(w);
}

static void test_offsets_of_peers_are_checked(void)
{
    cmo_neighbour n = {.head = aligned_alloc(CMO_PAGE, 4 * CMO_PAGE), .size = 4 * CMO_PAGE};
    CHECK(cmo_window_at(&n, CMO_PAGE, 3 * CMO_PAGE) == (char *)n.head + CMO_PAGE);
    CHECK(!cmo_window_at(&n, CMO_PAGE, 3 * CMO_PAGE + 1));
    CHECK(!cmo_window_at(&n, 0, 1)); /* the head is nobody's piece */
    CHECK(!cmo_window_at(&n, CMO_PAGE + 1, 1));
    CHECK(!cmo_window_at(&n, 5 * CMO_PAGE, 0));
    CHECK(!cmo_window_at(&n, UINT64_MAX - 63, 128));
    CHECK(!cmo_window_at(&n, CMO_PAGE, UINT64_MAX));
    free(n.head);
}

static void test_what_is_no_window_is_refused(void)
{
    cmo_window_head *head;
    size_t size;
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(fd >= 0 && !ftruncate(fd, WINDOW_BYTES));
    CHECK(cmo_window_map(fd, 2, &head, &size) == CMO_EPROTO); /* could shrink */
    CHECK(!fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK));
    CHECK(cmo_window_map(fd, 2, &head, &size) == CMO_EPROTO); /* no magic */
    CHECK(cmo_window_map(fd, 1 << 20, &head, &size) == CMO_EPROTO); /* too small for so many ranks */
    close(fd);
    CHECK(cmo_window_map(fd, 2, &head, &size) == CMO_ESYS);
}

static void test_only_a_sleeper_is_rung(void)
{
    cmo_window *w;
    uint64_t rings = 0;
    CHECK(cmo_window_create(&w, 1, WINDOW_BYTES, true) == CMO_OK);
    cmo_neighbour n = {.head = cmo_window_base(w), .size = WINDOW_BYTES,
                       .doorbell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    cmo_ring(&n);
    CHECK(read(n.doorbell, &rings, sizeof rings) < 0);
    atomic_store(&n.head->asleep, 1);
    cmo_ring(&n);
    CHECK(read(n.doorbell, &rings, sizeof rings) == sizeof rings && rings == 1);
    close(n.doorbell);
    cmo_window_destroy(w);
}

static void test_addresses_inside_a_window_are_found(void)
{
    cmo_window *w;
    uint64_t offset;
    CHECK(cmo_window_create(&w, 1, WINDOW_BYTES, true) == CMO_OK);
    cmo_neighbour n = {.head = cmo_window_base(w), .size = WINDOW_BYTES, .doorbell = -1, .pidfd = -1};
    cmo_neighbour none = {.doorbell = -1};
    char *base = (char *)n.head;
    CHECK(cmo_window_offset(&n, base + 5001, 10, &offset) && offset == 5001 &&
          cmo_window_bytes(&n, offset, 10) == base + 5001);
    CHECK(cmo_window_offset(&n, base + CMO_PAGE, WINDOW_BYTES - CMO_PAGE, &offset) && offset == CMO_PAGE);
    CHECK(cmo_window_offset(&n, base + WINDOW_BYTES - 1, 1, &offset) &&
          !cmo_window_offset(&n, base + WINDOW_BYTES - 1, 2, &offset));
    CHECK(!cmo_window_offset(&n, base + CMO_PAGE - 1, 10, &offset)); /* its head is nobody's array */
    CHECK(!cmo_window_offset(&n, (char *)(uintptr_t)((uintptr_t)base - 1), 10, &offset));
    CHECK(!cmo_window_offset(&n, base + 5001, UINT64_MAX, &offset));
    CHECK(!cmo_window_offset(&n, NULL, 10, &offset) && !cmo_window_offset(&n, &offset, 8, &offset));
    CHECK(!cmo_window_offset(&none, &offset, 8, &offset));
    cmo_window_destroy(w);
}

int main(void)
{
    test_addresses_inside_a_window_are_found();
    test_pieces_are_aligned_zeroed_and_apart(false);
    test_pieces_are_aligned_zeroed_and_apart(true);
    test_freed_memory_goes_back_to_the_system();
    test_a_peer_sees_the_same_memory();
    test_offsets_of_peers_are_checked();
    test_what_is_no_window_is_refused();
    test_only_a_sleeper_is_rung();
    return check_report();
}
