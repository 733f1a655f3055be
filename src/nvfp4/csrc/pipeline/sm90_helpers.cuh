// Owners and helpers: where there are fewer tiles than multiprocessors, those without one multiply the end of K for the others.
//
//   owners    a block for each tile, or a couple (pipeline/sm90_couples.cuh): the first `own` chunks a block
//   helpers   the other blocks: the last `help` chunks of several tiles, one after another, as many tiles apart as there are helpers
//
//   owner     | chunks 0 .. own                                        | sums of the helper are there | adds | stores |
//   helper    | chunks own .. of its first tile | leaves the sums | chunks of its second tile | leaves the sums |
//
// What a helper leaves in device memory the copy engine brings to where an owner's last tiles but four of activations were, while the last four are
// multiplied; of a second block of weights to where these were. So nobody waits but for a helper's last tile, and nobody but helpers leaves sums. All blocks must be resident together.
#pragma once

#include "pipeline/sm90_couples.cuh"
#include "pipeline/sm90_stages.cuh"
#include "pipeline/stream_k.cuh"
#include "ptx/cp_async_bulk.cuh"
#include "ptx/elect.cuh"
#include "ptx/fence.cuh"
#include "ptx/ld.cuh"
#include "ptx/mbarrier.cuh"

// Divided by the host.
struct HelpedDeal {
    u32 owners;                 // blocks, or couples
    u32 own, help;              // chunks
    u32 help_tiles, help_more;  // tiles of a helper, and how many helpers have one more
};

// TEAM blocks own a tile together.
template <int TEAM>
struct HelpedTiles {
    bool helps;
    u32 tiles, first, apart;  // how many, the first, and from one to the next
    u32 each, begin;          // chunks of a tile, and the first of them
    u32 turn = 0;             // tiles so far
    int position = 0, last;   // in chunks of this block's tiles

    __device__ __forceinline__ explicit HelpedTiles(const HelpedDeal& deal) {
        const u32 block = blockIdx.x, owning = deal.owners * TEAM;
        helps = block >= owning;
        first = helps ? block - owning : block / TEAM;
        apart = static_cast<u32>(grid_blocks()) - owning;
        each = helps ? deal.help : deal.own;
        begin = helps ? deal.own * TEAM : 0;
        tiles = helps ? deal.help_tiles + (first < deal.help_more) : 1;
        last = static_cast<int>(tiles * each);
    }

    __device__ __forceinline__ int along_k(int chunk) const {
        return TEAM == 1 || helps ? chunk : TEAM * chunk + static_cast<int>(cluster_ctarank());
    }

    __device__ __forceinline__ Segment segment(u32 number) const {
        return {static_cast<int>(first + number * apart), static_cast<int>(begin), static_cast<int>(begin + each)};
    }

    // Whether this block leaves sums for an owner at its turn `number`, and of which tile.
    __device__ __forceinline__ bool help(u32 number, int& tile) const {
        tile = segment(number).tile;
        return helps && number < tiles;
    }

    // The position may have been set before, to a chunk of the first tile or to its end. (To any chunk would take a loop, for which there are no registers.)
    __device__ __forceinline__ bool next(Segment& taken) {
        if (position >= last) return false;
        turn += position == static_cast<int>((turn + 1) * each);
        taken = segment(turn);
        taken.begin += position - static_cast<int>(turn * each);
        position += taken.end - taken.begin;
        return true;
    }
};

// Whether the two blocks of a couple exchange sums.
template <int TEAM>
__device__ __forceinline__ bool exchanges(const HelpedTiles<TEAM>& work) {
    return !work.helps;
}
__device__ __forceinline__ bool exchanges(const CoupledTiles&) { return true; }

// Of each tile the sums of its helper: of a weight block and a warpgroup TOKENS / 8 fours of each thread, 128 apart; and a counter, which is zero
// before the launch and after it. Counters lie behind that of activations (pipeline/sm90_activations.cuh).
__device__ __forceinline__ Workspace helped_sums(const Workspace& workspace) {
    return {workspace.sums, workspace.counters + WORKSPACE_GROUPS * grid_blocks() + 1};
}
template <class S>
__device__ __forceinline__ float4* sums_of_tile(const Workspace& workspace, int tile) {
    return reinterpret_cast<float4*>(workspace.sums) + static_cast<i64>(tile) * (S::BLOCKS * WORKSPACE_GROUPS * S::TOKENS / 8 * 128);
}

// A thread's number in its warpgroup; not known before it is asked for, where registers are few. (With linear scales it is better kept.)
template <class S>
__device__ __forceinline__ u32 thread_that_adds() {
    return (S::CROWDED && S::WEIGHT_LAYOUT == SCALES_TILED ? thread_of_block() : threadIdx.x) % 128;
}

// Warpgroup `group` of a helper leaves its sums of N tokens for the owner. It has left those of `turn` tiles before.
template <int N, class S>
__device__ __forceinline__ void leave_for_owner(const Stages<S>& stages, const Workspace& workspace, int tile, u32 turn, u32 group,
                                                const float (&sums)[S::BLOCKS][N / 2]) {
    constexpr int FOURS = N / 8;
    wait_barrier(stages.left_before(), turn % 2 ^ 1);
    float4* to = sums_of_tile<S>(workspace, tile) + group * FOURS * 128 + thread_that_adds<S>();
#pragma unroll
    for (int b = 0; b < S::BLOCKS; ++b) {
#pragma unroll
        for (int i = 0; i < FOURS; ++i) {
            const float* four = sums[b] + 4 * i;
            __stcg(to + (b * WORKSPACE_GROUPS * FOURS + i) * 128, make_float4(four[0], four[1], four[2], four[3]));
        }
    }
    __syncwarp();
    if (elect_sync()) mbarrier_arrive_shared_b64(stages.left());
}

// Says of all sums of a helper that they are there. Another thread does, as that takes until they have arrived.
template <class S, class Work>
__device__ __forceinline__ void release_sums(const Stages<S>& stages, Work work, const Workspace& workspace) {
    int tile;
    for (u32 turn = 0; work.help(turn, tile); ++turn) {
        wait_barrier(stages.left(), turn % 2);
        red_release_gpu_global_add_u32(workspace.counters + tile, 1);
        mbarrier_arrive_shared_b64(stages.left_before());
    }
}

// Adds what was left for N tokens, and gives the counter back, without the ring: for warpgroup `group` of a block that has other tiles to load.
template <int N, class S>
__device__ __forceinline__ void fetch_help(const Workspace& workspace, int tile, u32 group, float (&sums)[N / 2]) {
    constexpr int FOURS = N / 8, AHEAD = 8;  // on their way at once
    u32* counter = workspace.counters + tile;
    if (threadIdx.x % 128 == 0) {
        while (ld_acquire_gpu_global_b32(counter) == 0) {
        }
    }
    barrier_sync(1 + group, 128);
    const float4* from = sums_of_tile<S>(workspace, tile) + group * FOURS * 128 + threadIdx.x % 128;
#pragma unroll
    for (int first = 0; first < FOURS; first += AHEAD) {
        float4 parts[AHEAD];
#pragma unroll
        for (int i = first; i < first + AHEAD && i < FOURS; ++i) parts[i - first] = __ldcg(from + i * 128);
#pragma unroll
        for (int i = first; i < first + AHEAD && i < FOURS; ++i) add_part(sums, i, parts[i - first]);
    }
    if (threadIdx.x % 128 == 0) leave_counter(counter, 1, S::MULTIPLIERS);
}

// An owner's part of its helper's sums, as soon as they are there, to the ring, as if they were tiles of further chunks from `place` on, one for each
// weight block: of each warpgroup those of HELP_TILES. Gives the counter back. For the thread that loads tiles.
template <class S>
__device__ __forceinline__ void load_help(const Stages<S>& stages, Position<S> place, const Workspace& workspace, int tile) {
    constexpr u32 FOURS = S::TILE_BYTES / 16;
    u32* counter = workspace.counters + tile;
    while (ld_acquire_gpu_global_b32(counter) == 0) {
    }
    fence_proxy_async_global();
    const float4* sums = sums_of_tile<S>(workspace, tile);
    if (S::COUPLED) sums += cluster_ctarank() * FOURS;
#pragma unroll 1
    for (u32 b = 0; b < S::BLOCKS; ++b, ++place.count) {
#pragma unroll 1
        for (u32 i = 0; i < S::MULTIPLIERS * S::HELP_TILES; ++i, sums += (S::COUPLED ? COUPLE : 1) * FOURS) {
            const u32 to = place.first_tile() + i, full = stages.tile_full(to);
            wait_barrier(stages.tile_empty(to), place.tile_parity() ^ 1);
            mbarrier_arrive_expect_tx_shared_b64(full, S::TILE_BYTES);
            cp_async_bulk_shared_global_mbarrier(stages.tile(to), sums, S::TILE_BYTES, full);
        }
    }
    if constexpr (S::COUPLED) {
        leave_counter(counter, 1, COUPLE);
    } else {
        st_relaxed_gpu_global_b32(counter, 0);
    }
}

// Adds it. For warpgroup `group`.
template <class S, int REGISTERS>
__device__ __forceinline__ void add_help(const Stages<S>& stages, Position<S> place, u32 group, float (&sums)[S::BLOCKS][REGISTERS]) {
#pragma unroll
    for (int b = 0; b < S::BLOCKS; ++b, ++place.count) {
        const u32 first = place.first_tile() + group * S::HELP_TILES, from = stages.tile(first) + thread_that_adds<S>() * 16;
        for (u32 i = 0; i < S::HELP_TILES; ++i) wait_barrier(stages.tile_full(first + i), place.tile_parity());
#pragma unroll
        for (int i = 0; i < REGISTERS / 4; ++i) add_shared_part(sums[b], i, from + i * 128 * 16);
    }
}

// As `multiply_and_store` (pipeline/stream_k_loop.cuh).
template <class S, class Multiplier, class Work, class Store>
__device__ __forceinline__ void multiply_helped(Multiplier& multiplier, Work work_of_block, const Workspace& workspace, u32 group, Store store) {
    constexpr int TOKENS = S::TOKENS, HALF = TOKENS / 2;
    const Stages<S>& stages = multiplier.stages;
    for (u32 turn = 0; turn < work_of_block().tiles; ++turn) {
        const Segment segment = work_of_block().segment(turn);
        const int tile = segment.tile;
        float sums[S::BLOCKS][TOKENS / 2];
        multiplier.template multiply<TOKENS>(sums, segment);
        if (work_of_block().helps) {
            leave_for_owner<TOKENS>(stages, workspace, tile, turn, group, sums);
        } else if constexpr (S::COUPLED) {
            const u32 free = multiplier.place.first_tile() ^ CHUNK;
            const int rank = static_cast<int>(cluster_ctarank());
            float kept[1][HALF / 2];
            hand_over_sums<S>(stages, group, sums, kept, free);
            add_help(stages, multiplier.place, group, kept);
            add_handed_sums<S>(stages, group, kept, free);
            store(Count<HALF>(), tile, rank * HALF, rank * HALF, (rank + 1) * HALF, kept);
        } else {
            add_help(stages, multiplier.place, group, sums);
            store(Count<TOKENS>(), tile, 0, 0, TOKENS, sums);
        }
    }
}

// How work is dealt out: as the host says of it, and what a block makes of that anew each time it asks, as there are no registers to keep it.
struct StreamKDeal {
    int each, extra;  // chunks of a block, and how many have one more
    u32 reciprocal;   // divides by the chunks of a tile
};
template <class S, bool HELPED = S::HELPED, bool COUPLED = S::COUPLED>
struct Dealing {
    using Deal = HelpedDeal;
    using Work = HelpedTiles<COUPLED ? COUPLE : 1>;
    static __device__ __forceinline__ Work work(Deal deal, int) {
        asm volatile("" : "+r"(deal.own), "+r"(deal.help));
        return Work(deal);
    }
};
template <class S>
struct Dealing<S, false, false> {
    using Deal = StreamKDeal;
    using Work = DealtStreamK<1, true>;
    static __device__ __forceinline__ Work work(Deal deal, int k) {
        asm volatile("" : "+r"(deal.each), "+r"(deal.extra), "+r"(k));
        return Work({deal.each, deal.extra}, chunks_of(k), deal.reciprocal);
    }
};
template <class S>
struct Dealing<S, false, true> {
    using Deal = CouplesDeal;
    using Work = CoupledTiles;
    static __device__ __forceinline__ Work work(Deal deal, int) {
        asm volatile("" : "+r"(deal.each), "+r"(deal.couples));
        return Work(deal);
    }
};
