#include "coll/shm_cut.h"

#include <string.h>

uint64_t cmo_shm_cut_slots(cmo_shm_cut *cut, const cmo_comm *c, size_t itemsize, uint64_t longest)
{
    uint64_t slot = cmo_shm_round_bytes(c), lines = slot / CMO_LINE;
    cut->together = lines < (uint64_t)c->size ? (int)lines : c->size;
    uint64_t part = slot / (uint64_t)cut->together / CMO_LINE * CMO_LINE;
    cut->elements = part / itemsize;
    /* Parts of short blocks stand close together: equal places in parts far apart would share few sets of the cache. */
    uint64_t needed = longest < cut->elements ? (longest * itemsize + CMO_LINE - 1) / CMO_LINE * CMO_LINE : part;
    cut->stride = needed;
    cut->turns = cmo_shm_rounds(longest, cut->elements);
    return cut->turns * cmo_shm_rounds((uint64_t)c->size, (uint64_t)cut->together);
}

void cmo_shm_stage_parts(const cmo_op *op, unsigned char *slot, const cmo_shm_cut *cut, cmo_shm_turn turn)
{
    const cmo_call *call = &op->call;
    size_t item = cmo_dtype_size(call->dtype);
    const char *block = (const char *)call->in + cmo_block_start(call->counts, call->count, turn.first) * item;
    for (int j = turn.first; j < turn.last; j++) {
        uint64_t count = cmo_block_count(call->counts, call->count, j);
        uint64_t part = j == op->comm->rank ? 0 : cmo_shm_part_of(cut, count, turn.from);
        if (part) memcpy(slot + (uint64_t)(j - turn.first) * cut->stride, block + turn.from * item, part * item);
        if (count) block += count * item;
    }
}
