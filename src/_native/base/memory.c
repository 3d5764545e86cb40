#include "base/memory.h"

#include "base/file.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH = 1024, TEXT = 8192 };

/* The number after `name` at the start of a line; 0: there is none. */
static uint64_t number_in(const char *text, const char *name)
{
    const size_t n = strlen(name);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (!strncmp(line, name, n)) return strtoull(line + n, NULL, 10);
    }
    return 0;
}

static bool read_number(const char *folder, const char *file, uint64_t *out)
{
    char path[PATH + 64], text[64], *end;
    snprintf(path, sizeof path, "%s/%s", folder, file);
    if (!cmo_read_file(path, text, sizeof text)) return false;
    *out = strtoull(text, &end, 10);
    return end != text; /* "max": no limit */
}

/* One control group, of version 2 or 1. False: it sets no limit. */
static bool left_in_group(const char *folder, uint64_t *left)
{
    char path[PATH + 64], text[TEXT];
    uint64_t limit, used;
    const bool two = read_number(folder, "memory.max", &limit);
    if (!two && !read_number(folder, "memory.limit_in_bytes", &limit)) return false;
    if (!read_number(folder, two ? "memory.current" : "memory.usage_in_bytes", &used)) return false;
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    cmo_read_file(path, text, sizeof text);
    const uint64_t cached = number_in(text, two ? "inactive_file " : "total_inactive_file ") +
                            number_in(text, two ? "active_file " : "total_active_file ");
    used = used > cached ? used - cached : 0;
    *left = limit > used ? limit - used : 0;
    return true;
}

/* The group of this path and all above it, as mounted at `mount`. In a container the path may be of another tree; those
 * above it are looked at in any case. */
static void look_at_groups(const char *mount, char *path, uint64_t *least, char *limit, size_t n)
{
    for (;;) {
        char folder[PATH];
        uint64_t left;
        snprintf(folder, sizeof folder, "%.400s%.500s", mount, path);
        if (left_in_group(folder, &left) && left < *least) {
            *least = left;
            snprintf(limit, n, "the memory limit of control group %.150s", path[0] ? path : "/");
        }
        char *up = strrchr(path, '/');
        if (!up) return;
        *up = 0;
    }
}

uint64_t cmo_memory_left_below(const char *root, char *limit, size_t n)
{
    char path[PATH], text[TEXT], mount[PATH];
    uint64_t least = UINT64_MAX;
    limit[0] = 0;
    snprintf(path, sizeof path, "%.500s/proc/meminfo", root);
    if (cmo_read_file(path, text, sizeof text) && strstr(text, "MemAvailable:")) {
        least = 1024 * (number_in(text, "MemAvailable:") + number_in(text, "SwapFree:")); /* kB */
        snprintf(limit, n, "the memory of this system");
    }
    snprintf(path, sizeof path, "%.500s/proc/self/cgroup", root);
    if (!cmo_read_file(path, text, sizeof text)) return least;
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n")) && *line;) { /* number:controllers:path */
        strsep(&line, ":");
        const char *controllers = strsep(&line, ":");
        if (!controllers || !line) continue;
        const bool two = !*controllers;
        if (!two && strcmp(controllers, "memory")) continue;
        snprintf(mount, sizeof mount, "%.300s/sys/fs/cgroup%s", root, two ? "" : "/memory");
        snprintf(path, sizeof path, "%.500s", strcmp(line, "/") ? line : "");
        look_at_groups(mount, path, &least, limit, n);
    }
    return least;
}

uint64_t cmo_memory_left(char *limit, size_t n) { return cmo_memory_left_below("", limit, n); }
