#include "calls.h"

#include "fuzz.h"

#include "comm/internal.h"

enum { MOST_BYTES = 1 << 16, FILL = 1 };

/* How many elements a rank has for another in an alltoall; in the other kinds, of whose block (from = 0). Without
 * counts all blocks have `count`. */
static uint64_t block_of(bool unequal, uint64_t count, int from, int to)
{
    return unequal ? (uint64_t)(count + (uint64_t)from + 2 * (uint64_t)to) % 7 : count;
}

static uint64_t all_blocks(bool unequal, uint64_t count)
{
    uint64_t sum = 0;
    for (int r = 0; r < CALLS_RANKS; r++) sum += block_of(unequal, count, 0, r);
    return sum;
}

static uint8_t *array_of(uint64_t elements, cmo_dtype dtype)
{
    const uint64_t bytes = elements * cmo_dtype_size(dtype);
    uint8_t *p = malloc(bytes ? bytes : 1);
    FUZZ_CHECK(p != NULL);
    memset(p, FILL, bytes ? bytes : 1);
    return p;
}

void calls_fill(call_arrays *a, uint64_t bytes)
{
    a->in = array_of(bytes, CMO_U8);
    a->in_bytes = bytes;
}

static cmo_call reduction(call_arrays *a, cmo_call c, int rank, bool unequal)
{
    const bool scatters = c.kind == CMO_REDUCE_SCATTER;
    calls_fill(a, (scatters ? all_blocks(unequal, c.count) : c.count) * cmo_dtype_size(c.dtype));
    if (scatters && unequal) c.counts = a->receives;
    if (c.kind != CMO_REDUCE || rank == c.root)
        a->out = array_of(scatters ? block_of(unequal, c.count, 0, rank) : c.count, c.dtype);
    c.in = a->in;
    c.out = a->out;
    return c;
}

/* Broadcast and scatter: the root knows the array, the others learn it or must know it. */
static cmo_call from_root(call_arrays *a, cmo_call c, int rank, bool unequal, bool learns)
{
    const bool scatters = c.kind == CMO_SCATTER;
    const uint64_t own = scatters ? block_of(unequal, c.count, 0, rank) : c.count;
    a->shape[0] = scatters ? all_blocks(unequal, c.count) : c.count;
    if (rank == c.root) {
        calls_fill(a, a->shape[0] * cmo_dtype_size(c.dtype));
        c.in = a->in;
        c.out = a->out = scatters ? array_of(own, c.dtype) : a->in;
        c.ndim = 1;
        c.shape = a->shape;
        if (scatters && unequal) c.counts = a->receives;
    } else if (learns) {
        c.dtype = CMO_U8;
        c.count = 0;
        c.allocate = calls_allocate;
    } else {
        c.count = own;
        c.out = a->out = array_of(own, c.dtype);
    }
    return c;
}

static cmo_call to_all(call_arrays *a, cmo_call c, int rank, bool unequal, bool learns)
{
    const bool all = c.kind == CMO_ALLTOALL, gets = c.kind != CMO_GATHER || rank == c.root;
    uint64_t sends = 0, gathered = all_blocks(unequal, c.count);
    if (all) gathered = 0;
    for (int r = 0; all && r < CALLS_RANKS; r++) {
        sends += a->sends[r] = block_of(unequal, c.count, rank, r);
        gathered += a->receives[r] = block_of(unequal, c.count, r, rank);
    }
    if (!all) sends = block_of(unequal, c.count, 0, rank);
    calls_fill(a, sends * cmo_dtype_size(c.dtype));
    c.in = a->in;
    if (learns) {
        c.exchange = true;
        c.count = all ? 0 : sends;
        if (all) c.counts = a->sends;
        if (gets) c.allocate = calls_allocate;
        return c;
    }
    if (unequal) c.counts = all ? a->sends : a->receives;
    if (unequal && all) c.recv_counts = a->receives;
    if (unequal) c.count = 0;
    if (gets) c.out = a->out = array_of(gathered, c.dtype);
    return c;
}

/* Of five ranks the one that is fuzzed, 4, has by turns half a tree below it that wraps around, all of it, and none. */
static int root_of(unsigned variant) { return (const int[]){2, 4, 0, 3}[variant & 3]; }

cmo_call calls_make(call_arrays *a, uint8_t name, int rank)
{
    const unsigned variant = name / CMO_NKINDS;
    const bool unequal = variant & 8, learns = variant & 4;
    *a = (call_arrays){0};
    cmo_call c = {.kind = (cmo_kind)(name % CMO_NKINDS), .op = CMO_OP_SUM, .dtype = CMO_U16,
                  .count = variant & 16 ? 40 : 5, .allocate_ctx = a};
    for (int r = 0; r < CALLS_RANKS; r++) a->receives[r] = block_of(unequal, c.count, 0, r);
    switch (c.kind) {
    case CMO_BARRIER: return (cmo_call){.kind = CMO_BARRIER, .dtype = CMO_U8};
    case CMO_BROADCAST:
    case CMO_SCATTER:
        c.op = (cmo_redop)CMO_ARRAYS;
        c.root = root_of(variant);
        return from_root(a, c, rank, unequal, learns);
    case CMO_GATHER:
        c.root = root_of(variant);
        c.op = (cmo_redop)CMO_ARRAYS;
        return to_all(a, c, rank, unequal, learns);
    case CMO_ALLGATHER:
    case CMO_ALLTOALL:
        c.op = (cmo_redop)CMO_ARRAYS;
        return to_all(a, c, rank, unequal, learns);
    default:
        c.dtype = variant & 1 ? CMO_F32 : CMO_I64;
        if (c.kind == CMO_REDUCE) c.root = root_of(variant);
        return reduction(a, c, rank, unequal);
    }
}

void calls_free(call_arrays *a)
{
    for (uint64_t i = 0; i < a->in_bytes; i++) FUZZ_CHECK(a->in[i] == FILL); /* a broadcast's root sends only, too */
    if (a->out != a->in) free(a->out);
    free(a->in);
    *a = (call_arrays){0};
}

cmo_err calls_allocate(void *arrays, const cmo_layout *layout, void **address)
{
    call_arrays *a = arrays;
    FUZZ_CHECK(layout->dtype >= 0 && layout->dtype < CMO_NDTYPES);
    FUZZ_CHECK(layout->ndim >= 0 && layout->ndim <= CMO_MAX_DIMS && (!layout->ndim || layout->shape));
    FUZZ_CHECK(!a->asked++);
    uint64_t bytes = cmo_dtype_size(layout->dtype), counted = 0;
    for (int i = 0; i < layout->ndim; i++)
        if (__builtin_mul_overflow(bytes, layout->shape[i], &bytes)) bytes = UINT64_MAX;
    for (int i = 0; layout->counts && i < layout->ncounts; i++) {
        FUZZ_CHECK(!__builtin_add_overflow(counted, layout->counts[i], &counted));
    }
    FUZZ_CHECK(!layout->counts || (layout->ndim == 1 && counted == layout->shape[0]));
    if (bytes > MOST_BYTES) return cmo_fail(CMO_ENOMEM, "%llu bytes", (unsigned long long)bytes);
    *address = a->out = array_of(bytes, CMO_U8);
    return CMO_OK;
}

cmo_tunables calls_tunables(uint8_t name)
{
    cmo_tunables t = {
#define CALLS_X(field, env, def, least, greatest, doc) .field = def,
        CMO_TUNABLES(CALLS_X)
#undef CALLS_X
    };
    t.slots = 3; /* by default these depend on the machine; none of them is of use to a rank alone on its host */
    t.slot_bytes = 64;
    t.pipe_bytes = 4096;
    t.around_bytes = 1 << 20;
    t.attach_bytes = 0;
    t.eager_bytes = name & 1 ? 32 : 512;
    t.eager_window = name & 1 ? 512 : 2048;
    t.frame_bytes = 64;
    t.segment_bytes = 16;
    t.doubling_bytes = name & 2 ? 0 : 4096;
    return t;
}
