/* Runs a fuzz target over files, and the files of folders: its corpus as a plain test, for any compiler. */
#include "fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>

static int run_file(const char *path)
{
    uint8_t *data = NULL;
    struct stat s;
    FILE *f = fopen(path, "rb");
    int bad = !f || fstat(fileno(f), &s) || !(data = malloc((size_t)s.st_size + 1)) ||
              fread(data, 1, (size_t)s.st_size, f) != (size_t)s.st_size;
    if (f) fclose(f);
    if (bad) {
        fprintf(stderr, "%s cannot be read\n", path);
    } else {
        uint8_t *exact = fuzz_exact(data, (size_t)s.st_size);
        LLVMFuzzerTestOneInput(exact, (size_t)s.st_size);
        free(exact);
    }
    free(data);
    return bad;
}

static int run(const char *path, int *files)
{
    DIR *d = opendir(path);
    if (!d && errno == ENOENT) return 0; /* a target need not have had regressions */
    if (!d) {
        fprintf(stderr, "%s\n", path); /* the last name before a crash is that of the input */
        ++*files;
        return run_file(path);
    }
    int bad = 0;
    for (struct dirent *e; (e = readdir(d));) {
        char name[4096];
        if (e->d_name[0] == '.') continue;
        snprintf(name, sizeof name, "%s/%s", path, e->d_name);
        bad |= run(name, files);
    }
    closedir(d);
    return bad;
}

int main(int argc, char **argv)
{
    int bad = 0, files = 0;
    for (int i = 1; i < argc; i++) bad |= run(argv[i], &files);
    if (!files) fprintf(stderr, "no input to replay\n");
    return bad || !files;
}
