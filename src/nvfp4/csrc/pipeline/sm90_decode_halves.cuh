// Two clusters share a tile of the Hopper kernel for 16-bit activations, each half of its K, and each finishes the rows of one warpgroup: the first
// cluster those of the first, the second those of the second. The other warpgroup multiplies the last chunk before that one, so that
// its sums leave while the matrix unit is still busy:
//
//   the one that leaves   | last chunk | sums to device memory |                                     | adds, stores half of the tokens |
//   the one that keeps                 | last chunk | half of its sums to shared memory |            | adds, stores the others         |
//   loaders                                          | say so | other cluster's | to shared memory  |
//
// What the other cluster has left comes by the copy engine to where tiles of activations were, and both warpgroups add and store half of it.
#pragma once

#include "pipeline/sm90_decode_stages.cuh"
#include "pipeline/stream_k_loop.cuh"
#include "ptx/barrier.cuh"
#include "ptx/cp_async_bulk.cuh"
#include "ptx/elect.cuh"
#include "ptx/fence.cuh"

// Which half of K, and whose rows, are this block's; and the block that has the others.
template <class S>
__device__ __forceinline__ u32 half_of_block() {
    return blockIdx.x / S::SHARE % 2;
}
template <class S>
__device__ __forceinline__ int team_of_halves(bool other) {
    return static_cast<int>(blockIdx.x / S::SHARE ^ static_cast<u32>(other));
}

// Whether a warpgroup's sums leave.
template <class S>
__device__ __forceinline__ bool leaves_sums(u32 group) {
    return group != half_of_block<S>();
}

// What a block leaves: TOKENS / 8 fours of each thread of the warpgroup, 128 apart, and a counter that says so to the other.
template <class S>
__device__ __forceinline__ float4* halved_sums(const Workspace& workspace, int team) {
    return reinterpret_cast<float4*>(workspace.sums + static_cast<i64>(team) * WORKSPACE_SUMS<S::TOKENS / 2>);
}
template <class S>
__device__ __forceinline__ u32* halved_counter(const Workspace& workspace, int team) {
    return workspace.counters + WORKSPACE_GROUPS * team;
}

// Says to the other block that sums are there. Another thread than those that left them does, as that takes until they have arrived.
template <class S>
__device__ __forceinline__ void announce_sums(const DecodeStages<S>& stages, const Workspace& workspace) {
    wait_barrier(stages.left(), 0);
    red_release_gpu_global_add_u32(halved_counter<S>(workspace, team_of_halves<S>(true)), 1);
}

// Brings what the other block has left, as soon as it is there, and gives the counter back. One thread, when nobody needs the ring of tiles any more.
template <class S>
__device__ __forceinline__ void load_other_half(const DecodeStages<S>& stages, const Workspace& workspace) {
    u32* counter = halved_counter<S>(workspace, team_of_halves<S>(false));
    while (ld_acquire_gpu_global_b32(counter) == 0) {
    }
    st_relaxed_gpu_global_b32(counter, 0);
    fence_proxy_async_global();
    const float4* sums = halved_sums<S>(workspace, team_of_halves<S>(true));
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
        mbarrier_arrive_expect_tx_shared_b64(stages.part_full(half), S::TILE_BYTES);
        cp_async_bulk_shared_global_mbarrier(stages.tile(half), sums + half * (S::TILE_BYTES / 16), S::TILE_BYTES, stages.part_full(half));
    }
}

// For warpgroup `group`, whose `sums` of half of K these are. `store(constant N, from, begin, end, sums, rows)` stores N tokens from token `from` on of
// the rows of warpgroup `rows`.
template <class S, class Store>
__device__ __forceinline__ void finish_half(const DecodeStages<S>& stages, const Workspace& workspace, const float (&sums)[S::TOKENS / 2], u32 group,
                                            Store store) {
    constexpr int HALF = S::TOKENS / 2, COUNT = HALF / 2;  // tokens, and sums of a thread
    constexpr u32 HANDED = 4, THREADS = S::MULTIPLIERS;    // a barrier; those before have other uses
    const u32 lane = threadIdx.x % 128;
    const u32 handed = stages.tile(2) + lane * 16;
    const bool leaves = leaves_sums<S>(group);
    float half[1][COUNT];
    if (leaves) {
        float4* to = halved_sums<S>(workspace, team_of_halves<S>(false)) + lane;
#pragma unroll
        for (int i = 0; i < 2 * COUNT; i += 4) __stcg(to + i / 4 * 128, make_float4(sums[i], sums[i + 1], sums[i + 2], sums[i + 3]));
        __syncwarp();
        if (elect_sync()) mbarrier_arrive_shared_b64(stages.left());
        barrier_sync(HANDED, THREADS);
#pragma unroll
        for (int i = 0; i < COUNT; i += 4) {
            const u32x4 four = ld_shared_v4_b32(handed + i / 4 * 2048);
            half[0][i] = __uint_as_float(four.x);
            half[0][i + 1] = __uint_as_float(four.y);
            half[0][i + 2] = __uint_as_float(four.z);
            half[0][i + 3] = __uint_as_float(four.w);
        }
    } else {
        wait_barrier(stages.left(), 0);  // nor does the other warpgroup read tiles any more
#pragma unroll
        for (int i = 0; i < COUNT; i += 4) {
            st_shared_v4_b32(handed + i / 4 * 2048, {__float_as_uint(sums[COUNT + i]), __float_as_uint(sums[COUNT + i + 1]),
                                                     __float_as_uint(sums[COUNT + i + 2]), __float_as_uint(sums[COUNT + i + 3])});
        }
        barrier_arrive(HANDED, THREADS);
#pragma unroll
        for (int i = 0; i < COUNT; ++i) half[0][i] = sums[i];
    }
    const u32 number = leaves ? 1 : 0, part = stages.tile(number) + lane * 16;
    wait_barrier(stages.part_full(number), 0);
#pragma unroll
    for (int i = 0; i < COUNT / 4; ++i) add_shared_part(half[0], i, part + i * 2048);
    const int from = static_cast<int>(number) * HALF;
    store(Count<HALF>(), from, from, from + HALF, half, half_of_block<S>());
}
