/* Small files, such as those in which a Linux system tells of itself. */
#ifndef CMO_FILE_H
#define CMO_FILE_H

#include <fcntl.h>
#include <stddef.h>
#include <unistd.h>

/* The first n - 1 bytes of it, and a 0. How many they are: 0 where it cannot be read. */
static inline size_t cmo_read_file(const char *path, char *out, size_t n)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, out, n - 1);
    if (fd >= 0) close(fd);
    out[got > 0 ? got : 0] = 0;
    return got > 0 ? (size_t)got : 0;
}

#endif
