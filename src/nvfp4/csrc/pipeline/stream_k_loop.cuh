// A block's share of the tiles: multiply, add up with the blocks that have the rest of a tile, store.
#pragma once

#include "pipeline/stream_k.cuh"

template <int N>
struct Count {
    static constexpr int VALUE = N;
};

// For one of WORKSPACE_GROUPS warpgroups. `multiplier.multiply<N>(sums, segment)` gives the sums of a segment of a tile of BLOCKS weight blocks x N
// tokens, `multiplier.done()` is how many chunks it has multiplied. `store(constant N, tile, from, begin, end, sums)` finishes N tokens, the
// first of which is token `from` of the tile, and stores those of tokens [begin, end). `work_of_block()` computes anew what is to be done: there may be
// no registers to keep it in while the loop runs, and the compiler would. Where a block keeps but a few groups of a shared tile, parts of up to AHEAD
// sharers are on their way at once; 0, if there are no registers for it.
template <int BLOCKS, int N, int AHEAD, class Multiplier, class Work, class Store>
__device__ __forceinline__ void multiply_and_store(Multiplier& multiplier, Work work_of_block, const Workspace& workspace, int group, Store store) {
    constexpr int REGISTERS = N / 2, GROUPS = N / 8, BATCH = GROUPS < 4 ? GROUPS : 4;
    // Nothing can be kept until results are stored.
    constexpr bool FEW_REGISTERS = BLOCKS * N > MANY_SUMS;
    const u32 number = 1 + group;
    while (true) {
        Segment segment;
        {
            auto work = work_of_block();
            work.position += multiplier.done();
            if (!work.next(segment)) break;
        }
        float sums[BLOCKS][REGISTERS];
        multiplier.template multiply<N>(sums, segment);
        int begin = 0, end = N;
        const auto work = work_of_block();
        if (segment.end - segment.begin < work.chunks) {
            const Sharers sharers = work.sharers(segment.tile);
            Share share(sharers, GROUPS);
            const bool last = work.position + multiplier.done() >= work.last;
            if (!last) share.end = share.begin;  // nothing is kept
            leave_sums(sums, workspace, segment.begin == 0, work.team(), sharers.first, group, number, share);
            if (!last) continue;
            await_sums(workspace, sharers, group, number);
            if constexpr (FEW_REGISTERS) depart_from_sums(workspace, sharers, group);
            if constexpr (AHEAD > 0 && BATCH < GROUPS) {
                constexpr int ROOM = GROUPS / BATCH;  // of as many registers as the other groups leave
                if (share.end - share.begin <= BATCH) {
                    move_down<16>(sums, share.begin);
                    float kept[BLOCKS][4 * BATCH];
#pragma unroll
                    for (int b = 0; b < BLOCKS; ++b) {
#pragma unroll
                        for (int i = 0; i < 4 * BATCH; ++i) kept[b][i] = sums[b][i];
                    }
                    add_few_groups<BLOCKS, REGISTERS, BATCH, (ROOM < AHEAD ? ROOM : AHEAD)>(kept, workspace, sharers, group, share.begin, share.end);
                    store(Count<8 * BATCH>(), segment.tile, 8 * share.begin, 8 * share.begin, 8 * share.end, kept);
                    if constexpr (!FEW_REGISTERS) depart_from_sums(workspace, work_of_block().sharers(segment.tile), group);
                    continue;
                }
            }
            add_other_parts(sums, workspace, sharers, group, share);
            begin = 8 * share.begin;
            end = 8 * share.end;
        }
        store(Count<N>(), segment.tile, 0, begin, end, sums);
        if constexpr (FEW_REGISTERS) continue;
        if (segment.end - segment.begin < work_of_block().chunks) depart_from_sums(workspace, work_of_block().sharers(segment.tile), group);
    }
    // The tile that an earlier block began, unless it was the last.
    const auto work = work_of_block();
    const int from = work.shared_from(), waiting = work.tile_of(from);
    if (from == waiting * work.chunks || work.last <= (waiting + 1) * work.chunks) return;
    const Sharers sharers = work.sharers(waiting);
    const Share share(sharers, GROUPS);
    await_sums(workspace, sharers, group, number);
#pragma unroll 1
    for (int first = share.begin; first < share.end; first += BATCH) {
        float sums[BLOCKS][4 * BATCH];
        add_parts<BLOCKS, REGISTERS, BATCH>(sums, workspace, sharers, group, first, share.end);
        store(Count<8 * BATCH>(), waiting, 8 * first, 8 * first, 8 * share.end, sums);
    }
    depart_from_sums(workspace, sharers, group);
}
