#include "peer_net.h"

#include "fuzz.h"

static cmo_err peer_open(cmo_net *net, int rank, cmo_link **link)
{
    peer *p = &((peer_net *)net)->peers[rank];
    p->announced = true;
    p->link.up = !p->dropped;
    *link = &p->link;
    return CMO_OK;
}

static cmo_err peer_poll(cmo_net *net)
{
    peer_net *n = (peer_net *)net;
    for (int r = 0; r < PEER_RANKS; r++) {
        peer *p = &n->peers[r];
        p->link.readable = p->at < p->have || p->ended;
        if (!p->link.readable || p->announced) continue;
        p->announced = p->link.up = true;
        net->on_link(net->ctx, &p->link);
    }
    return CMO_OK;
}

static cmo_err peer_read(cmo_link *link, const struct iovec *iov, int niov, size_t *moved)
{
    peer *p = (peer *)link;
    *moved = 0;
    FUZZ_CHECK(!p->dropped);
    for (int i = 0; i < niov; i++) {
        const size_t left = p->have - p->at, part = iov[i].iov_len < left ? iov[i].iov_len : left;
        if (part) memcpy(iov[i].iov_base, p->in + p->at, part);
        p->at += part;
        *moved += part;
    }
    if (!*moved && p->ended) return cmo_fail(CMO_EPEERLOST, "the script has ended");
    if (!*moved) link->readable = false;
    return CMO_OK;
}

/* A frame of the engine's has begun. */
static void peer_told(peer *p)
{
    cmo_header h;
    FUZZ_CHECK(cmo_header_parse(&h, p->head) == CMO_OK);
    p->skip = 8 * (uint64_t)h.ndim + (h.kind == CMO_RTS ? 0 : h.length);
    if (h.kind == CMO_RTS) p->announced_id = h.id;
    if (h.kind == CMO_CTS) p->transfers[p->ntransfers++ % PEER_TRANSFERS] = (peer_transfer){.id = h.aux};
    p->head_have = 0;
}

static void peer_hears(peer *p, const uint8_t *bytes, size_t n)
{
    while (n) {
        if (p->skip) {
            const size_t part = p->skip < n ? (size_t)p->skip : n;
            p->skip -= part;
            bytes += part;
            n -= part;
            continue;
        }
        p->head[p->head_have++] = *bytes++;
        n--;
        if (p->head_have == sizeof p->head) peer_told(p);
    }
}

static cmo_err peer_write(cmo_link *link, const struct iovec *iov, int niov, size_t *moved)
{
    peer *p = (peer *)link;
    *moved = 0;
    FUZZ_CHECK(link->up && !p->dropped);
    for (int i = 0; i < niov; i++) {
        const size_t part = iov[i].iov_len < p->room ? iov[i].iov_len : p->room;
        /* A copy of its own, so that AddressSanitizer sees a payload that is no longer there. */
        uint8_t *exact = fuzz_exact(iov[i].iov_base, part);
        peer_hears(p, exact, part);
        free(exact);
        if (p->room != SIZE_MAX) p->room -= part;
        *moved += part;
        if (part < iov[i].iov_len) break;
    }
    return CMO_OK;
}

static void peer_drop(cmo_link *link)
{
    ((peer *)link)->dropped = true;
    link->up = link->readable = false;
}

static void peer_close(cmo_net *net)
{
    peer_net *n = (peer_net *)net;
    for (int r = 0; r < PEER_RANKS; r++) free(n->peers[r].in);
    free(n);
}

static const cmo_net_ops peer_ops = {
    .name = "scripts",
    .open = peer_open,
    .poll = peer_poll,
    .write = peer_write,
    .read = peer_read,
    .want_write = NULL,
    .drop = peer_drop,
    .close = peer_close,
};

peer_net *peer_net_create(int rank)
{
    peer_net *n = calloc(1, sizeof *n);
    FUZZ_CHECK(n != NULL);
    n->net = (cmo_net){.ops = &peer_ops, .fd = -1};
    n->rank = rank;
    for (int r = 0; r < PEER_RANKS; r++) {
        n->peers[r].link = (cmo_link){.net = &n->net, .peer = r};
        n->peers[r].room = SIZE_MAX;
    }
    return n;
}

void peer_feed(peer_net *n, int rank, const uint8_t *bytes, size_t count)
{
    peer *p = &n->peers[rank];
    if (p->ended || !count) return;
    if (p->at) memmove(p->in, p->in + p->at, p->have - p->at);
    p->have -= p->at;
    p->at = 0;
    p->in = realloc(p->in, p->have + count);
    FUZZ_CHECK(p->in != NULL);
    memcpy(p->in + p->have, bytes, count);
    p->have += count;
}

void peer_end(peer_net *n, int rank) { n->peers[rank].ended = true; }
