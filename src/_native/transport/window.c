#include "transport/window.h"

#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint64_t window_magic = UINT64_C(0x31776f646e69776f); /* "owindow1" */

typedef struct window_hole { /* free bytes, in order of offset; kept in private memory, so no peer can corrupt it */
    uint64_t offset, bytes;
    struct window_hole *next;
} window_hole;

struct cmo_window {
    cmo_window_head *base;
    size_t size, used;
    int fd, nlocal;
    size_t unasked; /* reserved since it was last asked what the system has left */
    uint64_t word[2]; /* random; see transport/attach.h */
    window_hole *holes;
    pthread_mutex_t lock;
};

static size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

static size_t head_bytes(int nlocal)
{
    return round_up(sizeof(cmo_window_head) + (size_t)nlocal * sizeof(uint64_t), CMO_PAGE);
}

static size_t default_bytes(int nlocal)
{
    size_t memory = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    /* All windows together stay within a quarter of the address space. */
    size_t share = ((size_t)1 << 45) / (size_t)nlocal;
    return round_up(memory < share ? memory : share, CMO_PAGE);
}

enum {
    LEAST_STEP = 4 << 20, /* that is reserved between looks at what is left, and at most a quarter of it */
    NOT_ASKED = 1 << 20 /* a look costs more than reserving a part of this, which may then be too much */
};

/* How much of so many bytes may be reserved now. A system that has nothing left, or a control group, does not refuse:
 * it kills somebody. So there must be room before it is asked, also for the ranks of this host that reserve at the same
 * time. 0: there is none, and the reason is recorded. */
static size_t window_step(cmo_window *w, size_t bytes)
{
    char limit[200];
    if (w->unasked + bytes < NOT_ASKED) {
        w->unasked += bytes;
        return bytes;
    }
    const uint64_t left = cmo_memory_left(limit, sizeof limit), share = left / (uint64_t)w->nlocal;
    size_t step = share / 4 > LEAST_STEP ? share / 4 / CMO_PAGE * CMO_PAGE : LEAST_STEP;
    if (step > bytes) step = bytes;
    w->unasked = 0;
    if (step <= share && bytes <= left) return step;
    cmo_fail(CMO_ENOMEM, "%s has %zu MiB left for %d ranks", limit, (size_t)(left >> 20), w->nlocal);
    return 0;
}

static void window_return(const cmo_window *w, uint64_t offset, size_t bytes)
{
    if (bytes) fallocate(w->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes);
}

static cmo_err window_reserve(cmo_window *w, uint64_t offset, size_t bytes)
{
    if (w->fd < 0) return CMO_OK;
    for (size_t done = 0, step; done < bytes; done += step) {
        int rc = 0;
        step = window_step(w, bytes - done);
        if (step) do rc = fallocate(w->fd, 0, (off_t)(offset + done), (off_t)step); while (rc && errno == EINTR);
        if (step && !rc) continue;
        char why[CMO_TEXT / 2], after[48] = "";
        snprintf(why, sizeof why, "%.250s", step ? strerror(errno) : cmo_reason());
        if (done) snprintf(after, sizeof after, "after %zu MiB of them ", done >> 20);
        window_return(w, offset, done);
        return cmo_fail(CMO_ENOMEM, "%zu bytes of shared memory cannot be reserved: %s%s", bytes, after, why);
    }
    return CMO_OK;
}

/* What a neighbour that can read it in our own memory may read there. Without randomness nobody may. */
static void window_show_word(cmo_window *w)
{
    if (getrandom(w->word, sizeof w->word, GRND_NONBLOCK) != (ssize_t)sizeof w->word) return;
    memcpy(w->base->word, w->word, sizeof w->word);
    w->base->word_at = (uintptr_t)w->word;
    w->base->pid = getpid();
}

cmo_err cmo_window_create(cmo_window **out, int nlocal, size_t bytes, bool private_memory)
{
    cmo_err err;
    cmo_window *w = calloc(1, sizeof *w);
    window_hole *rest = calloc(1, sizeof *rest);
    if (!w || !rest) {
        free(w);
        free(rest);
        return cmo_fail(CMO_ENOMEM, "a window's bookkeeping");
    }
    w->fd = -1;
    w->nlocal = nlocal;
    w->size = bytes ? round_up(bytes, CMO_PAGE) : default_bytes(nlocal);
    w->base = MAP_FAILED;
    pthread_mutex_init(&w->lock, NULL);
    if (!private_memory) {
        w->fd = memfd_create("commops", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (w->fd < 0) {
            err = cmo_fail(CMO_ESYS, "memfd_create: %s", strerror(errno));
            goto fail;
        }
        /* Sealed, so that no peer can shrink it under our feet. */
        if (ftruncate(w->fd, (off_t)w->size) || fcntl(w->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW)) {
            err = cmo_fail(CMO_ESYS, "a window of %zu bytes: %s%s", w->size, strerror(errno),
                           errno == EFBIG ? " (is `ulimit -f` set?)" : "");
            goto fail;
        }
    }
    err = window_reserve(w, 0, head_bytes(nlocal));
    if (err) goto fail;
    int flags = w->fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    w->base = mmap(NULL, w->size, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, w->fd, 0);
    if (w->base == MAP_FAILED) {
        err = cmo_fail(CMO_ENOMEM, "mapping %zu bytes: %s (is `ulimit -v` set?)", w->size, strerror(errno));
        goto fail;
    }
    w->base->magic = window_magic;
    window_show_word(w);
    rest->offset = head_bytes(nlocal);
    rest->bytes = w->size - rest->offset;
    w->holes = rest;
    *out = w;
    return CMO_OK;
fail:
    if (w->fd >= 0) close(w->fd);
    free(rest);
    free(w);
    return err;
}

void cmo_window_destroy(cmo_window *w)
{
    if (!w) return;
    for (window_hole *h = w->holes, *next; h; h = next) {
        next = h->next;
        free(h);
    }
    munmap(w->base, w->size);
    if (w->fd >= 0) close(w->fd);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

int cmo_window_fd(const cmo_window *w) { return w->fd; }
cmo_window_head *cmo_window_base(const cmo_window *w) { return w->base; }
size_t cmo_window_size(const cmo_window *w) { return w->size; }
size_t cmo_window_used(const cmo_window *w) { return w->used; }

bool cmo_window_attaches(const cmo_window *w)
{
    return atomic_load_explicit(&w->base->attaches, memory_order_relaxed);
}

cmo_err cmo_window_alloc(cmo_window *w, size_t bytes, uint64_t *offset)
{
    bytes = round_up(bytes ? bytes : 1, CMO_PAGE);
    cmo_err err = CMO_ENOMEM;
    pthread_mutex_lock(&w->lock);
    window_hole **at = &w->holes;
    while (*at && (*at)->bytes < bytes) at = &(*at)->next; /* first fit */
    if (!*at) {
        cmo_fail(CMO_ENOMEM, "%zu bytes of shared memory: the window of %zu bytes has no room", bytes, w->size);
    } else if ((err = window_reserve(w, (*at)->offset, bytes)) == CMO_OK) {
        window_hole *h = *at;
        *offset = h->offset;
        h->offset += bytes;
        h->bytes -= bytes;
        w->used += bytes;
        if (!h->bytes) {
            *at = h->next;
            free(h);
        }
    }
    pthread_mutex_unlock(&w->lock);
    return err;
}

void cmo_window_free(cmo_window *w, uint64_t offset, size_t bytes)
{
    bytes = round_up(bytes ? bytes : 1, CMO_PAGE);
    if (w->fd >= 0) window_return(w, offset, bytes);
    else madvise((char *)w->base + offset, bytes, MADV_DONTNEED);
    pthread_mutex_lock(&w->lock);
    w->used -= bytes;
    window_hole **at = &w->holes, *before = NULL;
    while (*at && (*at)->offset < offset) {
        before = *at;
        at = &before->next;
    }
    window_hole *after = *at;
    if (before && before->offset + before->bytes == offset) {
        before->bytes += bytes;
    } else {
        window_hole *h = malloc(sizeof *h);
        if (h) { /* without memory for the note, the addresses are lost but the pages are not */
            *h = (window_hole){.offset = offset, .bytes = bytes, .next = after};
            *at = before = h;
        } else {
            before = NULL;
        }
    }
    if (before && after && before->offset + before->bytes == after->offset) {
        before->bytes += after->bytes;
        before->next = after->next;
        free(after);
    }
    pthread_mutex_unlock(&w->lock);
}

cmo_err cmo_window_map(int fd, int nlocal, cmo_window_head **head, size_t *size)
{
    struct stat st;
    if (fstat(fd, &st)) return cmo_fail(CMO_ESYS, "a peer's window: %s", strerror(errno));
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || st.st_size < (off_t)head_bytes(nlocal))
        return cmo_fail(CMO_EPROTO, "a peer's window is not one: %lld bytes", (long long)st.st_size);
    void *base = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (base == MAP_FAILED)
        return cmo_fail(CMO_ENOMEM, "mapping %lld bytes: %s (is `ulimit -v` set?)", (long long)st.st_size,
                        strerror(errno));
    *head = base;
    *size = (size_t)st.st_size;
    if ((*head)->magic == window_magic) return CMO_OK;
    munmap(base, *size);
    return cmo_fail(CMO_EPROTO, "a peer's window is not one: wrong magic");
}

void cmo_window_unmap(cmo_window_head *head, size_t size) { munmap(head, size); }

void cmo_window_wake(const cmo_neighbour *n)
{
    uint64_t one = 1;
    if (n->doorbell >= 0 && write(n->doorbell, &one, sizeof one) < 0) { /* EAGAIN: it is ringing already */
    }
}
