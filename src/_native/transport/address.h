/* Addresses of sockets as text: "127.0.0.1:4000", "[::1]:4001", "[fe80::1%eth0]:4001". Numbers only: nothing here
 * looks up a name, so nothing here waits. */
#ifndef CMO_ADDRESS_H
#define CMO_ADDRESS_H

#include "base/error.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

enum { CMO_ADDRESS_TEXT = 80 }; /* bytes that an address takes as text, its end included */

typedef struct cmo_address {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    };
    socklen_t length;
} cmo_address;

/* Parse `n` bytes. CMO_EINVAL, with the reason, unless they are one numeric address with a port from 1 to 65535. */
cmo_err cmo_address_parse(cmo_address *out, const char *text, size_t n);

void cmo_address_format(char out[CMO_ADDRESS_TEXT], const cmo_address *a);

/* Take the next word off a list that blanks separate; false at its end. The word is borrowed from the list. */
bool cmo_address_next(const char **list, const char **word, size_t *n);

#endif
