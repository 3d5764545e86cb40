/* How much memory is left, as systems and control groups of both versions say it. */
#include "base/memory.h"

#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static char root[] = "/tmp/commops-memory-XXXXXX";

static void put(const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *at = full + strlen(root) + 1; (at = strchr(at, '/')); at++) {
        *at = 0;
        mkdir(full, 0700);
        *at = '/';
    }
    FILE *file = fopen(full, "w");
    CHECK(file && fputs(text, file) >= 0 && !fclose(file));
}

static void expect(uint64_t bytes, const char *limit)
{
    char said[200];
    const uint64_t left = cmo_memory_left_below(root, said, sizeof said);
    if (left != bytes || strcmp(said, limit)) printf("%llu by \"%s\"\n", (unsigned long long)left, said);
    CHECK(left == bytes && !strcmp(said, limit));
}

int main(void)
{
    CHECK(mkdtemp(root));
    expect(UINT64_MAX, "");
    put("/proc/meminfo", "MemTotal: 100 kB\nMemFree: 5 kB\nMemAvailable:      30 kB\nSwapFree:   2 kB\n");
    expect(32 << 10, "the memory of this system");

    /* Version 2: the tightest of the own group and those above; caches of files would be given back. */
    put("/proc/self/cgroup", "0::/job/rank\n");
    expect(32 << 10, "the memory of this system");
    put("/sys/fs/cgroup/job/rank/memory.max", "max\n");
    put("/sys/fs/cgroup/job/rank/memory.current", "9999\n");
    expect(32 << 10, "the memory of this system");
    put("/sys/fs/cgroup/job/memory.max", "20000\n");
    put("/sys/fs/cgroup/job/memory.current", "15000\n");
    put("/sys/fs/cgroup/job/memory.stat", "anon 1\nfile 7000\ninactive_file 1000\nactive_file 500\nxactive_file 7\n");
    expect(20000 - 15000 + 1500, "the memory limit of control group /job");
    put("/sys/fs/cgroup/job/rank/memory.max", "5000\n"); /* it has taken more */
    expect(0, "the memory limit of control group /job/rank");

    /* Version 1 beside others; in a container, whose tree begins elsewhere than its path says. */
    put("/proc/self/cgroup", "8:cpu:/a\n4:memory:/docker/0123\n0::/elsewhere\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "4096\n");
    put("/sys/fs/cgroup/memory/memory.usage_in_bytes", "1000\n");
    put("/sys/fs/cgroup/memory/memory.stat", "inactive_file 5\ntotal_inactive_file 100\ntotal_active_file 10\n");
    expect(4096 - 1000 + 110, "the memory limit of control group /");

    char limit[200]; /* and of the real one */
    CHECK(cmo_memory_left(limit, sizeof limit) > 0 && limit[0]);
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", root);
    CHECK(!system(command));
    return 0;
}
