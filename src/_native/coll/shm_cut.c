#include "coll/shm_cut.h"

static uint64_t whole_lines(uint64_t bytes) { return (bytes + CMO_LINE - 1) / CMO_LINE * CMO_LINE; }

void cmo_shm_begin_cut(const cmo_op *op, cmo_shm *s, size_t itemsize, uint64_t longest)
{
    const cmo_comm *c = op->comm;
    const uint64_t others = (uint64_t)c->size - 1, most = c->all.widest * c->slot_bytes; /* of one part: no overflow */
    cmo_shm_begin(op, s, true, others * whole_lines(longest < most ? longest * itemsize : most));
}

uint64_t cmo_shm_cut_round(cmo_shm_cut *cut, const cmo_op *op, const cmo_shm *s, size_t itemsize, uint64_t longest)
{
    const cmo_comm *c = op->comm;
    const uint64_t size = (uint64_t)c->size, round = cmo_shm_round_bytes(op, s), lines = round / CMO_LINE;
    const bool all = lines >= size - 1;
    cut->together = all ? c->size : (int)lines;
    const uint64_t part = round / (all ? size - 1 : lines) / CMO_LINE * CMO_LINE;
    cut->elements = part / itemsize;
    /* Parts of short blocks stand close together: equal places in parts far apart would share few sets of the cache. */
    cut->stride = longest < cut->elements ? whole_lines(longest * itemsize) : part;
    cut->turns = cmo_shm_rounds(longest, cut->elements);
    return cut->turns * cmo_shm_rounds(size, (uint64_t)cut->together);
}

void cmo_shm_stage_parts(const cmo_op *op, unsigned char *slot, const cmo_shm_cut *cut, cmo_shm_turn turn)
{
    const cmo_call *call = &op->call;
    size_t item = cmo_dtype_size(call->dtype);
    const char *block = (const char *)call->in + cmo_block_start(call->counts, call->count, turn.first) * item;
    for (int j = turn.first; j < turn.last; j++) {
        uint64_t count = cmo_block_count(call->counts, call->count, j);
        uint64_t part = j == op->comm->rank ? 0 : cmo_shm_part_of(cut, count, turn.from);
        if (part)
            cmo_stage(slot + cmo_shm_part_start(cut, turn, op->comm->size, op->comm->rank, j), block + turn.from * item,
                      part * item);
        if (count) block += count * item;
    }
}
