/* What the members of a communicator that share a host share: a piece of each one's window.
 *
 * Every word has one writer, the owner of the piece, except `abort`. A member tells the others three things:
 *
 * - Announcements: announcement[seq % CMO_ANNOUNCEMENTS] carries the fingerprint of collective `seq`, and up to 48
 *   bytes of payload. `seq` is stored last (release), so whoever sees it (acquire) sees the rest. A slot may be used
 *   again when every member has finished the collective that it announced: all `finished` ≥ seq - CMO_ANNOUNCEMENTS.
 *   An announcement also says that the owner's part of the collective's first round, if it has one, is in its slot.
 * - Staging: payload too large for an announcement goes through staging slots, in rounds of as many slots as the
 *   collective takes at a time. Uses of slots are numbered through the life of the communicator, alike on every member;
 *   use k is of slot k % n, where n is all slots or, for some collectives, fewer. `staged` and `reduced` count the uses
 *   up to the end of the last round that the owner has copied in and, where an algorithm has that second phase,
 *   reduced; `consumed` those of which it will read no more. A slot may be written in use k when every member has
 *   consumed > k - n uses, and all that were made with another n. Every member raises all three past every round of
 *   every collective, whether or not it had a part in it, and `consumed` as soon as it knows that it will read no more:
 *   a writer waits for nothing else. There are many small slots, of which a small collective takes one: when that comes
 *   round again, it has left its readers' caches, and is cheap to write (base/copy.c).
 * - Arrays read in place: a member whose array lies in its window may, instead of copying it through slots, announce
 *   where (in the payload, as the algorithms agree). Then all of it counts as staged, and the others read it there; the
 *   rounds are counted as if it were not so. They read the part of round k before they raise `consumed` past k, and the
 *   owner changes nothing that they may read, and does not return, before `consumed` of all its readers is past the
 *   collective's last round. An owner that gives up returns earlier, and first says so in `quit`. A reader looks there
 *   after its last read, so what is read later is never taken for the array. Nobody writes in another's array. An array
 *   that is only copied may also lie in its owner's own memory (transport/attach.h). There the reader must see too that
 *   the owner's process still lives.
 * - `finished`: the last collective in which the owner reads nothing more of the others' announcements.
 *
 * Who finds that the communicator is broken writes its `verdict`, then its world rank into every other member's `abort`
 * word (compare and swap: the first one counts), where that member looks now and then while it waits. */
#ifndef CMO_PIECE_H
#define CMO_PIECE_H

#include "transport/window.h"

enum { CMO_ANNOUNCEMENTS = 8, CMO_ANNOUNCEMENT_BYTES = 48, CMO_RECORD_DIMS = 64 };

typedef struct cmo_announcement {
    _Alignas(CMO_LINE) _Atomic uint64_t seq;
    uint64_t fingerprint;
    unsigned char payload[CMO_ANNOUNCEMENT_BYTES];
} cmo_announcement;

/* What the owner called, for those who must learn it (broadcast, scatter) and for error messages. Valid as
 * announcement[] is; the first cache line is enough for arrays of up to 3 dimensions. */
typedef struct cmo_record {
    _Alignas(CMO_LINE) uint64_t seq;
    uint64_t count;  /* as in the call: elements of the array, or of one block; with CMO_RECORD_COUNTS, of all blocks
                        together */
    int32_t root;
    uint8_t kind, op, dtype, ndim;
    uint32_t flags;  /* CMO_RECORD_… */
    uint32_t unused;
    uint64_t shape[CMO_RECORD_DIMS];
} cmo_record;

enum {
    CMO_RECORD_COUNTS = 1, /* the blocks differ; in a scatter, their counts stand in front of the data */
    CMO_RECORD_SHAPE = 2   /* ndim is known; of shape[], all at the root of a broadcast or scatter, elsewhere as much as
                              error messages tell */
};

/* Why the owner found the communicator broken. Written once, before any `abort` word that points here. */
typedef struct cmo_verdict {
    _Atomic uint32_t err;
    int32_t lost; /* rank that is gone, -1: none */
    int32_t author;      /* whose word it is; see comm.h */
    uint32_t first_hand;
    int64_t at;          /* when */
    char text[CMO_TEXT];
} cmo_verdict;

typedef struct cmo_piece {
    cmo_announcement announcement[CMO_ANNOUNCEMENTS];
    _Alignas(CMO_LINE) _Atomic uint64_t staged;
    _Alignas(CMO_LINE) _Atomic uint64_t reduced;
    _Alignas(CMO_LINE) _Atomic uint64_t consumed;
    _Alignas(CMO_LINE) _Atomic uint64_t finished;
    _Atomic uint64_t closed;                      /* 1: the owner will call nothing more */
    _Atomic uint64_t quit;                        /* the owner's first collective that ended with an error; 0: none */
    _Alignas(CMO_LINE) _Atomic uint32_t nleft;    /* members that have left; they count it, after setting `closed` */
    /* Written by anyone: 0, or 1 + the member (place on this host) that broke it */
    _Alignas(CMO_LINE) _Atomic uint64_t abort;
    _Alignas(CMO_LINE) _Atomic uint64_t waits_seq; /* the collective that the owner was in when it last waited long … */
    _Atomic uint64_t waits_fingerprint;           /* … in the communicator of all hosts; see comm/ask.c */
    _Alignas(CMO_LINE) cmo_verdict verdict;
    cmo_record record[CMO_ANNOUNCEMENTS];
    _Alignas(CMO_LINE) _Atomic uint32_t left[];   /* [members] 1: that member will never touch this piece again */
} cmo_piece;

/* Has the owner given up collective `seq`? Relaxed: the caller has a fence. */
static inline bool cmo_piece_quit(const cmo_piece *piece, uint64_t seq)
{
    const uint64_t first = atomic_load_explicit(&piece->quit, memory_order_relaxed);
    return first && first <= seq;
}

/* Bytes of a piece in front of its staging slots. These start in the middle of a page: large arrays start a few bytes
 * behind the beginning of one, and a copy to a place that is a little further in its page than the source is in its
 * own takes twice as long, or more (each load must wait for stores that seem to be to the same address). */
static inline size_t cmo_piece_head_bytes(int members)
{
    size_t bytes = sizeof(cmo_piece) + (size_t)members * sizeof(uint32_t) + CMO_PAGE / 2;
    return (bytes + CMO_PAGE - 1) / CMO_PAGE * CMO_PAGE + CMO_PAGE / 2;
}

#endif
