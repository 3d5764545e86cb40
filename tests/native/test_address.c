/* Addresses as text: what is one, what is none, and that no bytes do harm. */
#include "check.h"
#include "tcp_world.h"

static const char *const good[] = {
    "127.0.0.1:1", "255.255.255.255:65535", "[::1]:4000", "[2001:db8::ff]:80", "[fe80::1%1]:9",
};
static const char *const bad[] = {
    "", ":", "1.2.3.4", "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:65536", "1.2.3.4:-1", "1.2.3.4: 80", "1.2.3:80",
    "1.2.3.4:80x", "1.2.3.4:99999999999", "host:80", "::1:80", "[::1]80", "[::1:80", "[]:80", "[:80", "[::1]:",
    "[::1%]:80", "[::1%no-such-device]:80", "[1.2.3.4]:80", "[::1]:80:80", "%:1", "[%1]:1",
};

static void test_text_round_trip(void)
{
    cmo_address a;
    char text[CMO_ADDRESS_TEXT];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        CHECKF(cmo_address_parse(&a, good[i], strlen(good[i])) == CMO_OK, "%s", cmo_reason());
        cmo_address_format(text, &a);
        CHECKF(!strcmp(text, good[i]), "%s became %s", good[i], text);
    }
}

static void test_what_is_no_address(void)
{
    cmo_address a;
    char longer[300];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECKF(cmo_address_parse(&a, bad[i], strlen(bad[i])) == CMO_EINVAL, "%s", bad[i]);
    memset(longer, '1', sizeof longer);
    CHECK(cmo_address_parse(&a, longer, sizeof longer) == CMO_EINVAL);
    CHECK(cmo_address_parse(&a, "1.2.3.4\0:80", 11) == CMO_EINVAL);
}

static void test_any_bytes(void)
{
    static const char alphabet[] = "0123456789abf.:[]% ";
    uint64_t state = 11;
    for (int i = 0; i < 100000; i++) {
        cmo_address a;
        const size_t n = dice(&state, 30);
        char *exact = malloc(n + 1); /* so that a read beyond its end is seen */
        for (size_t k = 0; k < n; k++) exact[k] = alphabet[dice(&state, sizeof alphabet - 1)];
        exact[n] = 0;
        const cmo_err err = cmo_address_parse(&a, exact, n);
        CHECK(err == CMO_OK || err == CMO_EINVAL);
        free(exact);
    }
}

static void test_lists(void)
{
    const char *list = "  a:1\tb:2  c:3 ", *word;
    size_t n;
    for (const char *expected = "abc"; *expected; expected++)
        CHECK(cmo_address_next(&list, &word, &n) && n == 3 && *word == *expected);
    CHECK(!cmo_address_next(&list, &word, &n));
    CHECK(!cmo_address_next(&list, &word, &n));
    list = "";
    CHECK(!cmo_address_next(&list, &word, &n));
}

int main(void)
{
    test_text_round_trip();
    test_what_is_no_address();
    test_any_bytes();
    test_lists();
    return check_report();
}
