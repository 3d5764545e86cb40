/* What the files of this room share and nobody else sees.
 *
 *     engine.c     a rank's engine, and one pass over all that is in progress
 *     drive.c      who makes the passes; calls that are made, handed over, waited for; the fast path
 *     thread.c     the progress thread, and the engine's end
 *     comm.c       communicators: members, hosts, pieces, children, their end
 *     point.c      point-to-point calls
 *     channel.c    frames to and from one peer
 *     match.c      messages meet receives
 *     ask.c        who waits too long asks
 *     failure.c    what happens when something goes wrong between ranks
 *     explain.c    what is said of it
 *     told.c       where a rank stands, as it tells the others then
 *     agree.c      what the ranks that are left agree on: the calls
 *     agreement.c  how they come to it
 *     ballot.c     how they say it
 *     call.c       names of calls
 *     flight.c     a rank's last calls, for others to read
 *     record.c     what the engine writes there
 *     op.c         the first error of a call */
#ifndef CMO_INTERNAL_H
#define CMO_INTERNAL_H

#include "comm/engine.h"
#include "comm/flight.h"

#include "base/clock.h"
#include "base/wait.h"

#include <pthread.h>
#include <unistd.h>

/* ------------------------------------------------------------------ channel.c: frames to and from one peer */

enum {
    CMO_FRAME_HEAD = CMO_HEADER_BYTES + 8 * CMO_MAX_DIMS,
    CMO_EAGER_OVERHEAD = CMO_HEADER_BYTES /* what an eager message counts for beside its bytes */
};

/* A message that came before its receive was posted. */
typedef struct cmo_unexpected {
    cmo_node node;          /* in comm->unexpected or engine->orphans */
    struct cmo_channel *channel;
    cmo_header header;
    uint64_t shape[CMO_MAX_DIMS];
    uint8_t *data;          /* EAGER: [header.length]; owned */
    uint64_t have;          /* bytes of it that are here */
    cmo_xfer *claimed;      /* matched while it was still arriving: copied there when whole */
} cmo_unexpected;

typedef struct cmo_control { /* a frame without a transfer, to be sent */
    cmo_node node;
    size_t bytes;
    uint8_t data[];
} cmo_control;

typedef struct cmo_frame { /* being sent: what is left of its head, then of its payload */
    uint8_t head[CMO_FRAME_HEAD];
    const uint8_t *head_at, *payload;
    size_t head_left;
    uint64_t left, bytes;   /* of the payload: to be sent, and in all */
    cmo_xfer *xfer;         /* whose payload it is; NULL: nobody's */
    cmo_control *control;   /* what the payload points into, if it is one; owned */
    uint8_t *orphan;        /* the same for the rest of a frame whose transfer was canceled; owned */
} cmo_frame;

enum { CMO_FRAMES = 4 }; /* of a channel that are written together */

typedef struct cmo_channel {
    cmo_engine *engine;
    cmo_node node;          /* in engine->channels */
    cmo_link *link;         /* the net's */
    int peer;               /* world rank */
    bool gone;              /* nothing more comes or goes */
    bool parted;            /* it has closed the world communicator: its end is no failure */
    int news;               /* kept of it: FAIL, BYE, ASK and AGREE frames, see cmo_match_keep */
    uint64_t asked;         /* the last round of questions in which it got one; see engine->asks */
    char *doing;            /* [CMO_DOING_BYTES] what it did when it was last asked, in its own words; "": it does not
                               say. NULL: it has not answered; owned */
    int64_t answered;       /* when that came */

    cmo_node control;       /* frames to be sent before any transfer's */
    cmo_node sends;         /* transfers to be announced, in the order in which they were posted */
    cmo_node moving;        /* transfers whose bytes may go, served in turn */
    uint64_t window;        /* bytes of eager messages that the peer has not given back */
    uint64_t taken;         /* bytes of those that the peer has sent and was not given back: its `window`, or less while
                               something is on its way */
    uint64_t owed;          /* of these, what is to be given back */

    cmo_frame frames[CMO_FRAMES]; /* being sent: a ring of nframes from first_frame on */
    unsigned first_frame, nframes;
    bool tx_blocked;

    /* The frame being received. */
    uint8_t *rx_buffer;     /* [rx_capacity] bytes read ahead, NULL until something comes; owned */
    size_t rx_capacity, rx_start, rx_end;
    bool rx_in_payload;
    bool rx_quiet;          /* the last look found nothing */
    cmo_header rx_header;
    uint8_t *rx_payload;    /* where the payload goes; NULL: nowhere */
    uint64_t rx_left;
    cmo_xfer *rx_xfer;
    cmo_unexpected *rx_unexpected;
    uint8_t *rx_news;       /* the payload of a FAIL, AGREE or DOING frame while it comes; owned */
} cmo_channel;

/* The channel to a world rank, its link opened if it was not. NULL with a reason on failure. */
cmo_channel *cmo_channel_to(cmo_engine *e, int peer);
void cmo_channel_adopt(void *engine, cmo_link *link); /* the nets' on_link */
bool cmo_channel_pump(cmo_channel *c);                /* move what can be moved; true if anything was */
cmo_err cmo_channel_send(cmo_channel *c, bool *moved); /* the sending half of it */
/* Send a small message at once, if nothing is before it and there is room at the peer; else CMO_AGAIN. *rest: some of
 * it is still here, in the frame to be sent first. */
cmo_err cmo_channel_send_now(cmo_channel *c, const cmo_header *h, const uint64_t *shape, const void *payload,
                             bool *rest);
cmo_err cmo_channel_broken(cmo_channel *c, cmo_err err); /* the connection is lost, if this is an error; returns it */
void cmo_channel_free(cmo_channel *c);
void cmo_channel_drop_frames(cmo_channel *c);
void cmo_channel_control(cmo_channel *c, const cmo_header *h, const void *payload, size_t bytes);
void cmo_channel_credit(cmo_channel *c, const cmo_header *h); /* an eager message has been taken in */
bool cmo_channel_idle(const cmo_channel *c);          /* nothing waits to be sent */
void cmo_channel_forget(cmo_channel *c, const cmo_xfer *x); /* a transfer that it may be moving is taken back */

/* ------------------------------------------------------------------ match.c: messages meet receives */

/* A header of kind EAGER or RTS has come. Says where an eager payload goes: to a posted transfer, an unexpected
 * message, or nowhere (neither is set). */
void cmo_match_arrived(cmo_channel *c, const cmo_header *h, const uint64_t *shape, cmo_xfer **x,
                       cmo_unexpected **unexpected);
void cmo_match_posted(cmo_comm *comm, cmo_xfer *x); /* a receive has been posted: take an unexpected message, or wait */
void cmo_match_whole(cmo_unexpected *unexpected);             /* all of its bytes are here */
/* A frame without a transfer (FAIL, BYE, AGREE) is for a communicator that does not exist here yet: keep it. False: it
 * does, or no longer. Of one peer the latest are kept: others are of what is long gone, or will never be. */
enum { CMO_MOST_NEWS = 1024 };
bool cmo_match_keep(cmo_channel *c, const cmo_header *h, const void *payload);
void cmo_match_orphans(cmo_engine *e, cmo_comm *comm); /* a communicator has come to be: give it what came for it */
cmo_unexpected *cmo_match_find(cmo_comm *comm, int source, int64_t tag); /* a point-to-point message that is waiting */
void cmo_unexpected_free(cmo_unexpected *m);

void cmo_xfer_send(cmo_xfer *x);                      /* queue it for its peer */
void cmo_xfer_done(cmo_xfer *x);                      /* it has ended well */
void cmo_xfer_fail(cmo_xfer *x, cmo_err err, const char *text);
cmo_xfer *cmo_xfer_by_id(cmo_engine *e, uint64_t id); /* NULL: no such transfer; ids come from peers */
uint64_t cmo_xfer_register(cmo_engine *e, cmo_xfer *x);

/* ------------------------------------------------------------------ ask.c */

enum { CMO_ASK_TAG = -1 }; /* of ASK frames: no receive of a collective has it */

void cmo_ask_look(cmo_comm *comm, int64_t now); /* has its collective been standing still for long? Then ask */
void cmo_ask_last(cmo_comm *comm);                    /* at its end: have others of this host called else? */
void cmo_ask_point(cmo_op *op, int64_t now);          /* has its message, or agreement, been waited for in vain so
                                                         long? Then ask */
/* What a rank does, after it has been asked: as memory shows it, or as it has answered. "": it is not known. */
void cmo_ask_answer(const cmo_op *op, int rank, char *out, size_t n);
/* Has member i of this host, as it says in its piece, called something else as our collective of that number? Then the
 * communicator fails. */
bool cmo_ask_compare(cmo_comm *c, int i);
void cmo_ask_heard(cmo_channel *channel);             /* a question whose answer is what this rank does */

/* ------------------------------------------------------------------ failure.c */

/* When a deadline has passed, the others wait so long for the word of those who have not come; whoever hears of it
 * later is the one for whom they have given up. Who waits, and is awake, hears of it long before. A call that passes
 * its deadline is to end within a second of it. */
#define CMO_LATE (CMO_SECOND * 3 / 4)

void cmo_peer_lost(cmo_engine *e, int world, bool ended, const char *cause); /* ended: so the system says */
void cmo_net_failed(cmo_engine *e, const char *reason); /* no call of this rank to others can be made any more */
/* A FAIL frame tells where its sender stood (comm/told.h), why the communicator failed, and what the sender does: texts
 * that end in it. */
enum { CMO_FAIL_BYTES = CMO_TOLD_BYTES + CMO_TEXT + CMO_DOING_BYTES };
/* What it says of its sender; a pure function. CMO_EPROTO for what no rank sends. */
cmo_err cmo_failure_parse(const cmo_header *h, const uint8_t *payload, cmo_told *told);
void cmo_failure_heard(cmo_channel *c, const cmo_header *h, const uint8_t *payload); /* a FAIL frame has come */
/* Member `rank` says that its call number `seq` has this fingerprint. True if ours has another: then the communicator
 * fails. A call that is still to come here, or long past, is not compared. */
bool cmo_failure_compare(cmo_comm *comm, int rank, uint64_t seq, uint64_t fingerprint);
void cmo_failure_differs(cmo_comm *comm, int rank, uint64_t seq); /* it has made another call: break the communicator */
/* This rank makes a call, NULL: no collective, in a communicator that has failed. */
void cmo_failure_late(cmo_comm *comm, const cmo_call *call);
void cmo_xfer_expect(cmo_xfer *x); /* a transfer has been posted: fail it if its peer has left */
void cmo_bye_heard(cmo_channel *c, const cmo_header *h);
void cmo_failure_look(cmo_comm *comm);                /* abort words, members that have closed */
void cmo_failure_look_left(cmo_comm *comm);           /* members that have closed; also after a failure */

/* ------------------------------------------------------------------ explain.c */

bool cmo_failure_settled(cmo_comm *comm);             /* everybody has said where it stood, or had the time to */
void cmo_failure_text(cmo_comm *comm, char *out, size_t n); /* the explanation for this rank's caller */
/* Is it about a call that this rank has made, and did none of its calls tell? For ranks that made different ones. */
bool cmo_failure_concerns(const cmo_comm *comm);
bool cmo_failure_differed(const cmo_comm *comm); /* is it known where ranks differ, in a call that this one has made? */
void cmo_failure_why(const cmo_comm *comm, char *out, size_t n); /* the same, without who stands where */
/* What a world rank of this host was doing when it ended, as its recorder says: ", in barrier(), number 3, at f.py:9";
 * and what one that is waited for does: "computes since 3.2 s, after …". Empty where that is not known. */
void cmo_describe_lost(const cmo_engine *e, int world, char *out, size_t n);
void cmo_describe_missing(const cmo_engine *e, int world, char *out, size_t n);
void cmo_describe_call(char *out, size_t n, const cmo_recent_call *call); /* a collective, as its caller writes it */
void cmo_describe_own(const cmo_engine *e, char *out, size_t n); /* the same of this rank, for others to say */

/* ------------------------------------------------------------------ engine.c, drive.c, thread.c, point.c */

enum { CMO_CLOSED_IDS = 256, CMO_WORLD_ID = 1 /* of the communicator of all ranks */ };

enum { CMO_LIVES, CMO_LOST, CMO_ENDED };

struct cmo_engine {
    int rank, size;
    uint32_t generation;
    cmo_tunables tunables;
    int64_t (*now)(void *);
    void *now_ctx;
    bool threadless, keeps_mappings;
    int tells_all;               /* among so many ranks each who decides an agreement tells all others */

    cmo_recorder recorder;       /* the driver's */
    cmo_window *window;
    cmo_neighbour *neighbours;   /* [nlocal]; owned */
    int *neighbour_world;        /* [nlocal]; owned */
    int nlocal, self;
    int *neighbour_of;           /* [size] place on this host of a world rank, -1: elsewhere; owned */
    bool share;

    cmo_net *shm, *remote;
    cmo_channel **channel;       /* [size]; owned */
    cmo_node channels;
    uint8_t *dead;               /* [size] CMO_LIVES, as far as is known; CMO_LOST: no way to it; CMO_ENDED; owned */
    char **host_names;           /* [size]; owned; NULL: there are none */
    char **cause;                /* [size] of who is not CMO_LIVES: how it was lost; NULL: that is not known; owned */

    const cmo_collectives *collectives;
    cmo_node comms, busy;
    cmo_comm *world;
    uint64_t closed_ids[CMO_CLOSED_IDS]; /* of communicators closed here lately: what comes for them is dropped */
    unsigned nclosed;
    cmo_node retired;            /* closed communicators whose piece a member may still touch */
    cmo_node orphans;            /* messages for communicators that do not exist here yet */
    cmo_node points;             /* point-to-point calls in progress */

    cmo_xfer **xfers;            /* by the low half of their id; owned */
    uint32_t *xfer_generation;
    uint32_t nxfers, free_xfer_hint;

    /* Who drives. */
    _Atomic uint32_t role;       /* 1: there is a driver */
    _Atomic uint32_t turn;       /* how often the role was taken; its holder's */
    _Atomic uint32_t watching;   /* 1: the progress thread sleeps until the sockets have something */
    _Atomic uint32_t left;       /* CMO_LEFT_… : calls are in progress that nobody drove when this was set */
    _Atomic uint32_t called;     /* 1: a message was handed over to the driver since it last looked */
    _Atomic uint32_t nwaited;    /* ops that are `waited`; written under the lock */
    _Atomic uint32_t nsubmitted;
    _Atomic uint32_t nwanting;   /* threads that wait for `driving` */
    pthread_mutex_t driving;     /* held by the driver, and by who changes something between its passes */
    pthread_mutex_t lock;        /* protects submitted, and `waited` of ops */
    cmo_node submitted;
    unsigned unposted;           /* messages in progress that no pass has posted yet; the driver's */
    int running;                 /* calls in progress; the driver's */
    bool moved;                  /* something has, in this pass */
    uint64_t progress;           /* passes in which something had */
    uint64_t asks;               /* rounds of questions to peers; see ask.c */
    bool has_control;            /* a frame of control has been queued since this was last cleared */
    bool look;                   /* look at deadlines, abort words and deaths in the next pass */
    unsigned passes;
    int64_t looked;              /* when that was done last: what has come since can be no older */
    unsigned fast_calls;         /* calls that could be made on the fast path */
    cmo_waiter waiter, thread_waiter; /* of threads that call, and of the progress thread */
    unsigned core_asked;              /* the neighbour that is next asked on which core it stands; the driver's */
    _Atomic uint32_t *asleep;
    int epoll, thread_bell;
    pthread_t thread;
    bool has_thread;
    _Atomic uint32_t stop;
};

/* A doorbell of this process, an eventfd: -1 in simulation. */
static inline void cmo_bell_ring(int fd)
{
    uint64_t one = 1;
    if (fd >= 0 && write(fd, &one, sizeof one) < 0) { /* EAGAIN: it is ringing already */
    }
}

static inline void cmo_bell_silence(int fd)
{
    uint64_t count;
    if (fd >= 0 && read(fd, &count, sizeof count) < 0) { /* EAGAIN: somebody else did */
    }
}

static inline int64_t cmo_engine_now(cmo_engine *e) { return e->now ? e->now(e->now_ctx) : cmo_now(); }
cmo_comm *cmo_engine_find(cmo_engine *e, uint64_t id);
void cmo_engine_attach(cmo_engine *e, cmo_comm *comm); /* into the list */
cmo_fate cmo_engine_fate(cmo_engine *e, int world);    /* of a rank that is lost; see transport/transport.h */
void cmo_engine_take_ends(cmo_engine *e);              /* hear of ends of processes without a sleep; for the driver */
void cmo_engine_neighbour_ended(cmo_engine *e, int which); /* the process of that neighbour has */
/* For the driver: queue a call, behind all that were handed over before. */
void cmo_engine_submit(cmo_engine *e, cmo_op *op);
void cmo_engine_take_submitted(cmo_engine *e);
/* Has a peer waited last on the core of this thread, where the scheduler may keep two ranks for tens of milliseconds?
 * To spin there is to keep the other from what one waits for. Notes this core for the peers. What one says of itself
 * may be out of date, or nonsense, and costs a needless yield then. */
bool cmo_engine_shares_core(void *engine);
bool cmo_engine_look_due(cmo_engine *e);                /* a call without a pass: is it time for one? */
cmo_xfer *cmo_point_transfer(cmo_op *op);               /* its only one */
void cmo_point_describe(const cmo_op *op, char *out, size_t n); /* what it waited for in vain */
void cmo_point_prepare(cmo_op *op, cmo_comm *comm, double timeout, bool shared);
/* May this call be made? If not, why. `call`: the collective, NULL for a message. May wait for the others' word. */
cmo_err cmo_comm_usable(cmo_op *op, cmo_comm *comm, const cmo_call *call);
cmo_err cmo_op_begin(cmo_op *op, bool light);          /* of a prepared op; see engine.h */
void cmo_point_end(cmo_op *op);                        /* give back what it holds */
/* The fast path; the role is ours, and the op is queued. Brief: for a moment only, and never giving the core away. May
 * be called again for an op that has not ended. */
void cmo_run_fast(cmo_engine *e, cmo_op *op, bool brief);
void cmo_op_launch(cmo_op *op);                        /* start a prepared op, whoever drives */
/* The same; the role is ours, and is left. light: without passes, which the progress thread then makes. */
void cmo_op_launch_driving(cmo_op *op, bool light);
/* CMO_EMISMATCH, with why: ranks have made different calls, which no call of this one has told. For the end. */
cmo_err cmo_comm_unheard(cmo_comm *comm);
/* Neither closed nor broken, as far as is known. The last is a word that is ours until somebody breaks it. */
static inline bool cmo_comm_healthy(cmo_comm *comm)
{
    cmo_comm *p = cmo_comm_with_pieces(comm);
    return !comm->closed && !comm->failed &&
           !(p->piece && atomic_load_explicit(&p->piece[p->local]->abort, memory_order_relaxed));
}
void cmo_point_start(cmo_engine *e, cmo_op *op);       /* let it do what needs nobody else; the role is ours */
void cmo_flush_control(cmo_engine *e);                 /* send answers, and what gives room back */
/* It is over: take it off its queue, give back what it holds, tell whoever waits. text: why, NULL or op->text. */
void cmo_op_end(cmo_engine *e, cmo_op *op, cmo_err err, const char *text);
void cmo_op_abandon(cmo_op *op);                       /* end it: its communicator is being closed */

/* What the progress thread is told. Messages are mostly started one after the other, and then waited for: it leaves
 * them alone until no call has been made for a moment. */
enum { CMO_LEFT_NOTHING, CMO_LEFT_SOON, CMO_LEFT_NOW };

/* Of who drives; see drive.c. */
bool cmo_role_take(cmo_engine *e);                     /* become the driver; false: there is one */
bool cmo_role_try(cmo_engine *e);                      /* the same, where nobody must be waited for */
/* As below, but never waits for another thread, and makes no pass. pass: the progress thread is to make one. */
void cmo_role_drop(cmo_engine *e, bool pass);
void cmo_role_leave(cmo_engine *e);                    /* to whoever sleeps for a call, to the progress thread, or to
                                                          nobody */
void cmo_role_give_way(cmo_engine *e);                 /* between two passes: let in who wants to change something */
void cmo_engine_slept(void *engine, const struct epoll_event *events, int n); /* see base/wait.h */
cmo_err cmo_engine_start_thread(cmo_engine *e);
void cmo_engine_release(cmo_engine *e);                /* free everything */

/* ------------------------------------------------------------------ record.c */

/* Called: the op is on its list. Begun: it was not recorded then, and may have ended since. Started: a collective has
 * its number. Timed: op->called is known only now. */
void cmo_record_called(cmo_engine *e, cmo_op *op);
void cmo_record_begun(cmo_engine *e, cmo_op *op);
void cmo_record_started(cmo_engine *e, const cmo_op *op);
void cmo_record_timed(cmo_engine *e, const cmo_op *op);
void cmo_record_ended(cmo_engine *e, cmo_op *op, cmo_err err);
/* Without an op. start: when, 0: it was not timed. */
void cmo_record_sent(cmo_engine *e, const cmo_comm *comm, const cmo_message *m, int64_t start);

/* ------------------------------------------------------------------ comm.c */

/* world, host: [size], copied. piece_offset: [size] of each member's piece in its own window, 0: none. */
cmo_err cmo_comm_create(cmo_comm **out, cmo_engine *e, uint64_t id, const int *world, const int *host, int size,
                        int rank, const uint64_t *piece_offset, cmo_comm *outer);
void cmo_comm_free(cmo_comm *comm);
int cmo_comm_rank_of(const cmo_comm *comm, int world); /* -1: not a member */
/* The communicator that its user knows, of which it may be a part. */
static inline cmo_comm *cmo_comm_outermost(cmo_comm *comm) { return comm->outer ? comm->outer : comm; }
size_t cmo_comm_piece_bytes(const cmo_engine *e);
/* The child that the members have agreed on in their agreement of this number; otherwise as cmo_comm_build. */
cmo_err cmo_comm_build_agreed(cmo_comm *parent, const cmo_member *members, uint64_t number, cmo_comm **out);

#endif
