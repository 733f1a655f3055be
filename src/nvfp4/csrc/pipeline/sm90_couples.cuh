// Couples: the two blocks of a cluster multiply the same tile, each every other chunk of it along K, and hand each other the sums of half of
// its tokens through their shared memory. So two blocks share a tile without a trip through L2, at which both would wait.
//
// Each block finishes TOKENS / 2 tokens, of block `rank` of the cluster those from rank * TOKENS / 2 on. If several couples share a tile, the blocks
// of one rank share these tokens by way of device memory, as blocks do elsewhere (pipeline/stream_k_loop.cuh). A couple's range lies within
// one tile.
//
// What is handed over lies where results are staged later, which is free as soon as the first tiles are made, and, of more than that, where
// tiles of activations were, which is free when all of them are multiplied.
#pragma once

#include "pipeline/sm90_stages.cuh"
#include "pipeline/stream_k_loop.cuh"
#include "ptx/barrier_cluster.cuh"
#include "ptx/elect.cuh"
#include "ptx/mbarrier_cluster.cuh"
#include "ptx/st_async.cuh"

constexpr u32 COUPLE = 2;  // blocks

// Chunks of a couple's tile, of which each block has one: of K, the last one padded with zeros.
template <class S>
__device__ __forceinline__ int chunks_of_block(int k) {
    return S::COUPLED ? (chunks_of(k) + 1) / 2 : chunks_of(k);
}

// Stream-K between couples.
struct CoupledStreamK : DealtStreamK<COUPLE, true> {
    using DealtStreamK::DealtStreamK;

    __device__ __forceinline__ int along_k(int chunk) const { return static_cast<int>(COUPLE) * chunk + static_cast<int>(cluster_ctarank()); }
};

// The other block may hand over the first sums: for one thread, when nothing else will be written where they go, and all barriers are there.
template <class S>
__device__ __forceinline__ void offer_room(const Stages<S>& stages) {
    mbarrier_arrive_shared_cluster_b64(mapa_shared_cluster_u32(stages.sums_room(0), cluster_ctarank() ^ 1));
}

// Hands over the sums of the other block's tokens; `kept` are those of this block's. For warpgroup `group`. Tiles of the last chunk, in both blocks,
// were from `free` on, if others are still in use.
template <class S>
__device__ __forceinline__ void hand_over_sums(const Stages<S>& stages, u32 group, const float (&sums)[S::BLOCKS][S::TOKENS / 2],
                                               float (&kept)[S::BLOCKS][S::TOKENS / 4], u32 free = 0) {
    constexpr int HALF = S::TOKENS / 4;
    const u32 rank = cluster_ctarank(), other = rank ^ 1, thread = threadIdx.x % 128;
    // A thread has no more tiles to read; of the block, when all have arrived.
    if (S::HANDS > 1 && elect_sync()) mbarrier_arrive_shared_cluster_b64(mapa_shared_cluster_u32(stages.sums_room(1), other));
#pragma unroll
    for (int i = 0; i < S::HANDED; ++i) {
        const int hand = i / S::STAGED, block = i % S::BLOCKS, first = i / S::BLOCKS * 4;
        if (i % S::STAGED == 0) wait_barrier_cluster(stages.sums_room(hand), 0);
        float leaves[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const float low = sums[block][first + e], high = sums[block][HALF + first + e];
            leaves[e] = rank == 0 ? high : low;
            kept[block][first + e] = rank == 0 ? low : high;
        }
        st_async_shared_cluster_mbarrier_complete_tx_bytes_v4_f32(mapa_shared_cluster_u32(stages.handed(i, group, thread, free), other), leaves[0], leaves[1],
                                                                  leaves[2], leaves[3],
                                                                  mapa_shared_cluster_u32(stages.sums_full(hand, group), other));
    }
}

// Adds what the other block hands over to `kept`.
template <class S>
__device__ __forceinline__ void add_handed_sums(const Stages<S>& stages, u32 group, float (&kept)[S::BLOCKS][S::TOKENS / 4], u32 free = 0) {
    const u32 thread = threadIdx.x % 128;
#pragma unroll
    for (int i = 0; i < S::HANDED; ++i) {
        const int hand = i / S::STAGED;
        if (i % S::STAGED == 0) wait_barrier_cluster(stages.sums_full(hand, group), 0);
        add_shared_part(kept[i % S::BLOCKS], i / S::BLOCKS, stages.handed(i, group, thread, free));
    }
}

// As `multiply_and_store` (pipeline/stream_k_loop.cuh), for a block of a couple.
template <class S, class Multiplier, class Work, class Store>
__device__ __forceinline__ void multiply_in_couple(Multiplier& multiplier, Work work_of_block, const Workspace& workspace, u32 group, Store store) {
    constexpr int HALF = S::TOKENS / 2, REGISTERS = HALF / 2, GROUPS = HALF / 8;
    Segment segment;
    work_of_block().next(segment);
    float kept[S::BLOCKS][REGISTERS];
    {
        float sums[S::BLOCKS][S::TOKENS / 2];
        multiplier.template multiply<S::TOKENS>(sums, segment);
        hand_over_sums<S>(multiplier.stages, group, sums, kept);
    }
    add_handed_sums<S>(multiplier.stages, group, kept);
    const int rank = static_cast<int>(cluster_ctarank()), from = rank * HALF;
    const auto work = work_of_block();
    const int couples = grid_blocks() / static_cast<int>(COUPLE);
    const Workspace of_rank{workspace.sums + static_cast<i64>(rank) * couples * WORKSPACE_SUMS<S::BLOCKS * REGISTERS>,
                            workspace.counters + rank * couples * WORKSPACE_GROUPS};
    int begin = from, end = from + HALF;
    const bool shared = segment.end - segment.begin < work.chunks;
    Sharers sharers{};
    if (shared) {
        sharers = work.sharers(segment.tile);
        const Share share(sharers, GROUPS);
        leave_sums(kept, of_rank, segment.begin == 0, work.team(), sharers.first, static_cast<int>(group), 1 + group, share);
        await_sums(of_rank, sharers, static_cast<int>(group), 1 + group);
        add_other_parts(kept, of_rank, sharers, static_cast<int>(group), share);
        begin = from + 8 * share.begin;
        end = from + 8 * share.end;
    }
    store(Count<HALF>(), segment.tile, from, begin, end, kept);
    if (shared) depart_from_sums(of_rank, sharers, static_cast<int>(group));
}
