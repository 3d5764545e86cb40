#include "transport/address.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A decimal number of at most nine digits, or -1. */
static long parse_number(const char *text)
{
    size_t n = strspn(text, "0123456789");
    return n == 0 || n > 9 || text[n] ? -1 : strtol(text, NULL, 10);
}

cmo_err cmo_address_parse(cmo_address *out, const char *text, size_t n)
{
    char copy[CMO_ADDRESS_TEXT];
    const int shown = n < CMO_ADDRESS_TEXT ? (int)n : CMO_ADDRESS_TEXT;
    memset(out, 0, sizeof *out);
    if (n >= sizeof copy || memchr(text, 0, n)) goto wrong;
    memcpy(copy, text, n);
    copy[n] = 0;
    char *colon = strrchr(copy, ':'), *host = copy;
    if (!colon) goto wrong;
    *colon = 0;
    const long port = parse_number(colon + 1);
    if (port < 1 || port > 65535) goto wrong;
    if (*host != '[') {
        out->v4.sin_family = AF_INET;
        out->v4.sin_port = htons((uint16_t)port);
        out->length = sizeof out->v4;
        if (inet_pton(AF_INET, host, &out->v4.sin_addr) != 1) goto wrong;
        return CMO_OK;
    }
    if (colon[-1] != ']') goto wrong;
    colon[-1] = 0;
    host++;
    out->v6.sin6_family = AF_INET6;
    out->v6.sin6_port = htons((uint16_t)port);
    out->length = sizeof out->v6;
    char *scope = strchr(host, '%');
    if (scope) {
        *scope++ = 0;
        const long number = parse_number(scope);
        out->v6.sin6_scope_id = number > 0 ? (uint32_t)number : if_nametoindex(scope);
        if (!out->v6.sin6_scope_id) goto wrong;
    }
    if (inet_pton(AF_INET6, host, &out->v6.sin6_addr) != 1) goto wrong;
    return CMO_OK;
wrong:
    return cmo_fail(CMO_EINVAL, "'%.*s' is no numeric address with a port, such as 127.0.0.1:4000 or [::1]:4000", shown,
                    text);
}

void cmo_address_format(char out[CMO_ADDRESS_TEXT], const cmo_address *a)
{
    char host[INET6_ADDRSTRLEN] = "?";
    if (a->any.sa_family == AF_INET) {
        inet_ntop(AF_INET, &a->v4.sin_addr, host, sizeof host);
        snprintf(out, CMO_ADDRESS_TEXT, "%s:%u", host, ntohs(a->v4.sin_port));
    } else if (a->any.sa_family == AF_INET6) {
        char scope[12] = "";
        inet_ntop(AF_INET6, &a->v6.sin6_addr, host, sizeof host);
        if (a->v6.sin6_scope_id) snprintf(scope, sizeof scope, "%%%u", a->v6.sin6_scope_id);
        snprintf(out, CMO_ADDRESS_TEXT, "[%s%s]:%u", host, scope, ntohs(a->v6.sin6_port));
    } else {
        snprintf(out, CMO_ADDRESS_TEXT, "an unknown address");
    }
}

bool cmo_address_next(const char **list, const char **word, size_t *n)
{
    *word = *list + strspn(*list, " \t\n");
    *n = strcspn(*word, " \t\n");
    *list = *word + *n;
    return *n > 0;
}
