#include "transport/tls_library.h"

#include "transport/tls.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>

static const char library_name[] = "libssl.so.3"; /* brings libcrypto.so.3, in which dlsym looks too */

static tls_library library;
static bool loaded;
static char trouble[CMO_TEXT / 2];

static void library_load(void)
{
    void *handle = dlopen(library_name, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        snprintf(trouble, sizeof trouble, "%s", dlerror());
        return;
    }
    /* A function's address in the place of an object's, which POSIX allows and ISO C does not name. */
#define CMO_X(returns, name, arguments)                                     \
    *(void **)&library.name = dlsym(handle, #name);                         \
    if (!library.name) {                                                    \
        snprintf(trouble, sizeof trouble, "%s has no " #name, library_name); \
        dlclose(handle);                                                    \
        return;                                                             \
    }
    CMO_OPENSSL(CMO_X)
#undef CMO_X
    /* Without what it would do at exit: a thread may still be in it then. */
    loaded = library.OPENSSL_init_ssl(OPENSSL_INIT_NO_ATEXIT, NULL) == 1;
    if (!loaded) snprintf(trouble, sizeof trouble, "%s does not initialise", library_name);
}

const tls_library *cmo_tls_library(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, library_load);
    if (loaded) return &library;
    cmo_fail(CMO_ESYS, "TLS needs OpenSSL 3, and it cannot be loaded (%s): install it (the package is called libssl3, "
             "openssl-libs or openssl), or do without TLS", trouble);
    return NULL;
}

const char *cmo_tls_version(void)
{
    const tls_library *l = cmo_tls_library();
    return l ? l->OpenSSL_version(0) : NULL;
}
