// Couples: the two blocks of a cluster multiply the same tile, each every other chunk of it along K, and hand each other the sums of half of
// its tokens through their shared memory. So two blocks share a tile without a trip through L2, at which both would wait.
//
// Each block finishes TOKENS / 2 tokens, of block `rank` of the cluster those from rank * TOKENS / 2 on. If several couples share a tile, each of their
// blocks finishes a part of these, and what blocks of other couples finish is left for them in device memory (pipeline/arriving_sums.cuh). A couple's
// range lies within one tile.
//
// What is handed over lies where results are staged later, which is free as soon as the first tiles are made, and, of more than that, where
// tiles of activations were, which is free when all of them are multiplied.
#pragma once

#include "mma/wgmma.cuh"
#include "pipeline/arriving_sums.cuh"
#include "pipeline/sm90_stages.cuh"
#include "pipeline/stream_k_loop.cuh"
#include "ptx/barrier_cluster.cuh"
#include "ptx/elect.cuh"
#include "ptx/mbarrier_cluster.cuh"
#include "ptx/st_async.cuh"

constexpr u32 COUPLE = 2;  // blocks

// As the host says of it: every tile has so many couples, which have equally many chunks of it.
struct CouplesDeal {
    int each, couples;
    u32 reciprocal;  // of `couples`: 2^32 / couples, rounded up

    __device__ __forceinline__ int divided(int number) const {
        return couples == 1 ? number : static_cast<int>(__umulhi(static_cast<u32>(number), reciprocal));
    }
};

// The part of a tile that a couple has. Found with hardly an instruction: everything else waits for it.
struct CoupledTiles {
    CouplesDeal deal;
    int tile, index;     // which of its couples this is
    int position, last;  // chunks

    __device__ __forceinline__ explicit CoupledTiles(const CouplesDeal& dealt) : deal(dealt) {
        tile = deal.divided(team());
        index = team() - tile * deal.couples;
        position = index * deal.each;
        last = position + deal.each;
    }

    static __device__ __forceinline__ int team() { return static_cast<int>(blockIdx.x / COUPLE); }
    __device__ __forceinline__ int along_k(int chunk) const { return static_cast<int>(COUPLE) * chunk + static_cast<int>(cluster_ctarank()); }

    __device__ __forceinline__ bool next(Segment& segment) {
        if (position >= last) return false;
        segment = {tile, position, last};
        position = last;
        return true;
    }
};

// Which of its tile's couples a block belongs to, and which tokens of its half it finishes, in groups of eight of GROUPS. In one register, as it is found
// before there is anything to multiply.
template <int GROUPS>
struct CoupleShare {
    u32 packed;

    __device__ __forceinline__ explicit CoupleShare(const CoupledTiles& work) {
        const CouplesDeal& deal = work.deal;
        const int begin = deal.divided(GROUPS * work.index), end = deal.divided(GROUPS * (work.index + 1));
        const bool even = deal.divided(GROUPS) * deal.couples == GROUPS;
        packed = static_cast<u32>(work.index | deal.couples << 8 | begin << 16 | end << 20 | even << 24);
        asm volatile("" : "+r"(packed));
    }

    __device__ __forceinline__ int index() const { return static_cast<int>(packed & 0xFF); }
    __device__ __forceinline__ int couples() const { return static_cast<int>(packed >> 8 & 0xFF); }
    __device__ __forceinline__ int begin() const { return static_cast<int>(packed >> 16 & 0xF); }
    __device__ __forceinline__ int end() const { return static_cast<int>(packed >> 20 & 0xF); }
    __device__ __forceinline__ int count() const { return end() - begin(); }
    __device__ __forceinline__ bool has(int group) const { return group >= begin() && group < end(); }

    // Groups of a half that a block has no room for where it leaves the others: its own, if all have equally many.
    __device__ __forceinline__ int left_out() const { return packed >> 24 ? count() : 0; }

    // Where the block of a rank in a couple of the tile leaves a group of a half of the tokens for another block: a four of each of EACH weight blocks.
    template <int EACH>
    __device__ __forceinline__ u32x4* place(float* sums, int couple, int rank, u32 warpgroup, int half, int group) const {
        const int room = GROUPS - left_out(), block = (CoupledTiles::team() - index() + couple) * static_cast<int>(COUPLE) + rank;
        const int before = ((block * WORKSPACE_GROUPS + static_cast<int>(warpgroup)) * 2 + half) * room + group;
        return reinterpret_cast<u32x4*>(sums) + static_cast<i64>(before) * (EACH * 128) + threadIdx.x % 128;
    }
};

// The same where work is dealt out otherwise.
struct NoShare {};
template <class S, class Work>
__device__ __forceinline__ auto couple_share(const Work& work) {
    if constexpr (S::COUPLED && !S::HELPED) {
        return CoupleShare<S::TOKENS / 16>(work);
    } else {
        return NoShare{};
    }
}

// Groups of four sums of a thread that the other block hands over with the first ones, `count` groups of tokens of each weight block.
template <class S>
__device__ __forceinline__ u32 handed_first(const NoShare&) {
    return min(S::HANDED, S::STAGED);
}
template <class S, int GROUPS>
__device__ __forceinline__ u32 handed_first(const CoupleShare<GROUPS>& share) {
    return share.couples() == 1 ? min(S::HANDED, S::STAGED) : S::BLOCKS * share.count();
}

// The other block may hand over the first sums: for one thread, when nothing else will be written where they go, and all barriers are there.
template <class S, class Share>
__device__ __forceinline__ void offer_room(const Stages<S>& stages, const Share& share) {
    for (u32 group = 0; group < S::MULTIPLIERS; ++group) mbarrier_arrive_expect_tx_shared_b64(stages.sums_full(0, group), handed_first<S>(share) * 128 * 16);
    mbarrier_arrive_shared_cluster_b64(mapa_shared_cluster_u32(stages.sums_room(0), cluster_ctarank() ^ 1));
}

// Of four sums of either half of the tokens, those that leave, and those that the block of this rank keeps.
__device__ __forceinline__ void divide(u32 rank, const float* low, const float* high, float (&leaves)[4], float* kept) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        leaves[e] = rank == 0 ? high[e] : low[e];
        kept[e] = rank == 0 ? low[e] : high[e];
    }
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
        divide(rank, sums[block] + first, sums[block] + HALF + first, leaves, kept[block] + first);
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

// Of a tile that several couples share: hands the other block of this one what it finishes, leaves what other couples' blocks do in device memory, and
// adds up what this block does, `few`: the first groups of its half. All at once, so that one latency is waited for.
template <class S, int MOST>
__device__ __forceinline__ void exchange_in_couples(const Stages<S>& stages, const CoupleShare<S::TOKENS / 16>& share, const Workspace& workspace, u32 group,
                                                    const float (&sums)[S::BLOCKS][S::TOKENS / 2], float (&few)[S::BLOCKS][4 * MOST]) {
    constexpr int GROUPS = S::TOKENS / 16;
    const int rank = static_cast<int>(cluster_ctarank());
    const u32 other = static_cast<u32>(rank) ^ 1, mine = stages.staging(group) + threadIdx.x % 128 * 16;
    const u32 to = mapa_shared_cluster_u32(mine, other), full = mapa_shared_cluster_u32(stages.sums_full(0, group), other);
    u32x4* left[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) left[half] = share.template place<S::BLOCKS>(workspace.sums, share.index(), rank, group, half, 0);
#pragma unroll
    for (int g = 0; g < GROUPS; ++g) {
        if (share.has(g)) continue;
        const int place = g - (g >= share.end() ? share.left_out() : 0);
#pragma unroll
        for (int b = 0; b < S::BLOCKS; ++b) {
#pragma unroll
            for (int half = 0; half < 2; ++half) leave_arriving(left[half] + (place * S::BLOCKS + b) * 128, sums[b] + 4 * (half * GROUPS + g));
        }
    }
    float kept[S::BLOCKS][4 * GROUPS];
    wait_barrier_cluster(stages.sums_room(0), 0);
#pragma unroll
    for (int g = 0; g < GROUPS; ++g) {
#pragma unroll
        for (int b = 0; b < S::BLOCKS; ++b) {
            float leaves[4];
            divide(static_cast<u32>(rank), sums[b] + 4 * g, sums[b] + 4 * (GROUPS + g), leaves, kept[b] + 4 * g);
            if (!share.has(g)) continue;
            st_async_shared_cluster_mbarrier_complete_tx_bytes_v4_f32(to + ((g - share.begin()) * S::BLOCKS + b) * 2048, leaves[0], leaves[1], leaves[2],
                                                                      leaves[3], full);
        }
    }
    move_down<4>(kept, share.begin());
#pragma unroll
    for (int b = 0; b < S::BLOCKS; ++b) {
#pragma unroll
        for (int i = 0; i < 4 * MOST; ++i) few[b][i] = kept[b][i];
    }
    wait_barrier_cluster(stages.sums_full(0, group), 0);
#pragma unroll
    for (int g = 0; g < MOST; ++g) {
        if (g >= share.count()) continue;
#pragma unroll
        for (int b = 0; b < S::BLOCKS; ++b) add_shared_part(few[b], g, mine + (g * S::BLOCKS + b) * 2048);
    }
    // Both blocks of each other couple.
    add_arriving<MOST>(few, share.count(), 2 * (share.couples() - 1), [&](int sender) {
        const int couple = sender / 2 + (sender / 2 >= share.index());
        return share.template place<S::BLOCKS>(workspace.sums, couple, sender % 2, group, rank, share.begin() - (couple < share.index() ? share.left_out() : 0));
    });
}

// As `multiply_and_store` (pipeline/stream_k_loop.cuh), for a block of a couple, which has one segment and a share of its tile.
template <class S, class Multiplier, class Store>
__device__ __forceinline__ void multiply_in_couple(Multiplier& multiplier, const Segment& segment, const CoupleShare<S::TOKENS / 16>& share,
                                                   const Workspace& workspace, u32 group, Store store) {
    constexpr int HALF = S::TOKENS / 2, MOST = (HALF / 8 + 1) / 2;  // groups of a share that is not all of them
    const int rank = static_cast<int>(cluster_ctarank()), from = rank * HALF;
    float sums[S::BLOCKS][S::TOKENS / 2];
    multiplier.template multiply<S::TOKENS>(sums, segment);
#pragma unroll
    for (int b = 0; b < S::BLOCKS; ++b) wgmma_results(sums[b]);
    if (share.couples() == 1) {
        float kept[S::BLOCKS][HALF / 2];
        hand_over_sums<S>(multiplier.stages, group, sums, kept);
        add_handed_sums<S>(multiplier.stages, group, kept);
        store(Count<HALF>(), segment.tile, from, from, from + HALF, kept);
        return;
    }
    float few[S::BLOCKS][4 * MOST];
    exchange_in_couples<S, MOST>(multiplier.stages, share, workspace, group, sums, few);
    const int begin = from + 8 * share.begin();
    store(Count<8 * MOST>(), segment.tile, begin, begin, from + 8 * share.end(), few);
}
