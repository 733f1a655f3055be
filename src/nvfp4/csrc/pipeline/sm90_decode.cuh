// The roles of the Hopper kernel for 16-bit activations as they lie.
//
//   warpgroups 0, 1   decode weights to the matrix unit's register operand, and multiply: 64 rows each
//   warpgroup 2       a warp brings activations, one codes and scales; two turn scales to 16 bits, each once for the four lanes that need it
//
// Activations are read in the order of K that they have in memory. So nothing is made of them beforehand, no block waits for another at the
// start, and a tile may be as wide as an instruction, 256 tokens: each weight is decoded once for all of them, and decoding, 68 (fp16) or 76
// instructions for 32 weights a lane beside 18 that fetch them, hides under the instructions of the unit before. The other family
// (pipeline/sm90_roles.cuh) has an order of K of its own in which weights cost less, and tiles of half as many tokens.
//
// A cluster has SHARE blocks with the same tokens and K, and rows of weights of their own: each brings its part of a tile of activations
// to all of them. Clusters take whole tiles in turn, or share the work of all tiles evenly (pipeline/stream_k.cuh), or take whole tiles as
// long as there are enough for all and share the rest.
//
// Two rings of shared memory (pipeline/sm90_decode_stages.cuh), with barriers that say full and one that says empty for each place. A unit is
// 64 elements along K, a chunk 4 units; K is padded with zeros to whole chunks by the copy engine.
//   raw     of a chunk: codes and scales, as they come    full: copy engine -> multipliers, wideners      empty: multipliers -> the loader
//           and its scales in 16 bits                     full: wideners -> multipliers
//   tiles   of a unit: [TOKENS, 128 bytes], activations   full: copy engine -> multipliers                empty: multipliers of all SHARE
//                                                                                                                blocks -> the loader
#pragma once

#include "mma/wgmma.cuh"
#include "pipeline/sm90_decode_halves.cuh"
#include "pipeline/sm90_decode_stages.cuh"
#include "pipeline/stream_k_loop.cuh"
#include "ptx/elect.cuh"
#include "ptx/griddepcontrol.cuh"
#include "ptx/setmaxnreg.cuh"

// One multiplier warpgroup's way through the rings. Each warp decodes its own rows of a unit while those of the unit before are multiplied.
template <class S>
struct DecodingMultiplier {
    const DecodeStages<S>& stages;
    u32 codes, swizzle, wide;  // of this lane's first row: in the first chunk
    u32 descriptor;            // of the first tile (wgmma_descriptor_at)
    u32 tile_empty;            // the first of the barriers that this lane arrives at: of neighbour `lane`
    Ring<S::CHUNKS> raw{0, 0};
    Ring<S::TILES> tile{0, 0};
    int chunks = 0;

    static constexpr u32 TURN = 3;  // a barrier; those before are the warpgroups' own

    __device__ __forceinline__ explicit DecodingMultiplier(const DecodeStages<S>& s)
        : stages(s), descriptor(wgmma_descriptor_start(s.tile(0))), tile_empty(s.tile_empty(0)) {
        // Of two matrices a warp has eight rows each, so that both products of an element are in the same thread.
        const u32 row = threadIdx.x / 32 * (16 / S::MATRICES) + threadIdx.x % 32 / 4;
        swizzle = row % 8 * 16;
        codes = s.codes(0) + row * CHUNK_ROW_BYTES;
        wide = s.wide(0) + row * 8;
        if constexpr (S::SHARE > 1) {
            tile_empty = mapa_shared_cluster_u32(tile_empty, min(threadIdx.x % 32, static_cast<u32>(S::SHARE) - 1));
        }
    }

    __device__ __forceinline__ void read(OrderedWeights& unread, u32 unit) const {
        unread.template load<S::APART>(codes + raw.index * WEIGHT_CODES_BYTES, swizzle, wide + raw.index * S::WIDE_BYTES, unit);
    }

    __device__ __forceinline__ void await_chunk() const {
        wait_barrier(stages.raw_full(raw.index), raw.parity);
        wait_barrier(stages.wide_full(raw.index), raw.parity);
    }

    // Tile `place` has been multiplied. A whole warp.
    __device__ __forceinline__ void release(u32 place) const {
        if (threadIdx.x % 32 >= S::SHARE) return;
        if constexpr (S::SHARE == 1) {
            mbarrier_arrive_shared_b64(tile_empty + 8 * place);
        } else {
            mbarrier_arrive_shared_cluster_b64(tile_empty + 8 * place);
        }
    }

    // One warpgroup, the first unless tiles are HALVED, multiplies the last chunk of a segment before the other one does: sums then leave while the matrix
    // unit is busy, and not all at once.
    static __device__ __forceinline__ bool goes_first() {
        return S::HALVED ? leaves_sums<S>(threadIdx.x / 128) : threadIdx.x < 128;
    }

    // Comes before that chunk. The unit before it is waited for, and its tile, `before`, is given back, as the other warpgroup may need the place; the
    // `first` chunk has none before.
    __device__ __forceinline__ void await_turn(bool& first, u32 before) const {
        if (goes_first()) return;
        wgmma_wait_group_sync_aligned<0>();
        if (!first) release(before);
        first = true;
        barrier_sync(TURN, S::MULTIPLIERS);
    }

    // Behind the last instruction. As the ring has no room for two chunks, this warpgroup does not come here again before the other one has
    // been at the barrier.
    __device__ __forceinline__ void leave_turn() const {
        if (goes_first()) barrier_arrive(TURN, S::MULTIPLIERS);
    }

    // How many chunks so far.
    __device__ __forceinline__ int done() const { return chunks; }

    // The sums of a segment.
    template <int N>
    __device__ __forceinline__ void multiply(float (&all)[1][N / 2], const Segment& segment) {
        static_assert(N == S::TOKENS, "a whole tile");
        float(&sums)[N / 2] = all[0];
#pragma unroll
        for (int i = 0; i < N / 2; ++i) sums[i] = 0.0f;
        int left = segment.end - segment.begin;
        if (S::HALVED) __builtin_assume(left > 0);  // else there are sums that no instruction has written, and ptxas waits for each that does
        chunks += left;
        u32 a[2][4][4];
        OrderedWeights unread;  // of the unit after next, until that is decoded
        await_chunk();
        read(unread, 0);
        unread.template decode<S::BF16>(a[0]);
        read(unread, 1);
        wait_barrier(stages.tile_full(tile.index), tile.parity);
        u32 before = 0;  // place of the tile before
        bool first = true;
#pragma unroll 1
        for (; left > 0; --left) {
            const bool more = left > 1;
            if (!more) await_turn(first, before);
#pragma unroll
            for (u32 unit = 0; unit < CHUNK; ++unit) {
                const u32 now = tile.index, tiles = descriptor + now * (S::TILE_BYTES / 16);
                tile.advance();
                wgmma_fence_sync_aligned();
#pragma unroll
                for (u32 i = 0; i < 4; ++i) {
                    wgmma_m64k16<N, S::BF16>(sums, a[unit % 2][i], wgmma_descriptor_at(tiles, 2 * i, wgmma_descriptor_high()));
                }
                wgmma_commit_group_sync_aligned();
                // All waiting is done while these run.
                if (unit + 1 < CHUNK || more) wait_barrier(stages.tile_full(tile.index), tile.parity);
                wgmma_wait_group_sync_aligned<1>();  // the unit before: its registers are free, and its tile
                if (unit > 0 || !first) release(before);
                before = now;
                unread.template decode<S::BF16>(a[(unit + 1) % 2]);
                if (unit + 2 == CHUNK) {
                    // The last codes of the chunk are in registers.
                    __syncwarp();
                    if (elect_sync()) mbarrier_arrive_shared_b64(stages.raw_empty(raw.index));
                    raw.advance();
                    if (more) await_chunk();
                }
                if (unit + 2 < CHUNK || more) read(unread, (unit + 2) % CHUNK);  // else what is decoded next is old, and not used
            }
            first = false;
        }
        leave_turn();
        wgmma_wait_group_sync_aligned<0>();
        wgmma_results(sums);
        release(before);
    }
};

// What follows in a kernel once its barriers are there, and each thread of a cluster has arrived at the cluster's barrier: the roles.
// `work_of_block` and `split` compute a DecodeWork and the same as `multiply_and_store` (pipeline/stream_k_loop.cuh) takes it; `store` is as there, with
// the warpgroup behind, and the one that has multiplied these rows.
template <class S, bool EARLY_WEIGHTS, class Work, class Split, class Describe, class Store>
__device__ __forceinline__ void run_decode(const DecodeStages<S>& stages, Work work_of_block, Split split, const Workspace& workspace,
                                           const DecodeSource<S::MATRICES>& source, const TensorMap* activations, Describe describe,
                                           Store store) {
    const u32 warp = __shfl_sync(0xFFFFFFFFu, threadIdx.x / 32, 0);  // the same for the warp, as the compiler should know
    const bool first_lane = threadIdx.x % 32 == 0;
    const auto await_neighbours = [] {
        if constexpr (S::SHARE > 1) barrier_cluster_wait_acquire();
    };
    if (warp >= S::MULTIPLY_WARPS) {
        setmaxnreg_dec_sync_aligned<S::LOAD_REGISTERS>();
        const u32 role = warp - S::MULTIPLY_WARPS;
        const DecodeWork work = work_of_block();
        if (role == 0) {
            await_neighbours();
            if (EARLY_WEIGHTS) griddepcontrol_wait();
            if (first_lane) {
                load_tiles(stages, work, activations, describe);
                if constexpr (S::HALVED) {
                    if (work.position < work.last) load_other_half(stages, workspace);
                }
            }
        } else {
            if (role == 1 && first_lane) {
                load_more_raw(stages, work, source, describe);
                if constexpr (S::HALVED) {
                    if (work.position < work.last) announce_sums(stages, workspace);
                }
            }
            if (role >= 2) widen_scales(stages, work, role - 2);
            __syncwarp();
            await_neighbours();
        }
    } else {
        setmaxnreg_inc_sync_aligned<S::MULTIPLY_REGISTERS>();
        await_neighbours();
        if (EARLY_WEIGHTS) griddepcontrol_wait();
        griddepcontrol_launch_dependents();
        const u32 group = warp / 4;
        DecodingMultiplier<S> multiplier(stages);
        const auto finish = [&](auto count, int tile, int from, int begin, int end, auto& sums) {
            store(count, tile, from, begin, end, sums[0], group, group);
        };
        if constexpr (S::HALVED) {
#pragma unroll 1
            while (true) {
                Segment segment;
                {
                    auto range = split();
                    range.position += multiplier.done();
                    if (!range.next(segment)) break;
                }
                float sums[1][S::TOKENS / 2];
                multiplier.template multiply<S::TOKENS>(sums, segment);
                if (segment.end - segment.begin == split().chunks) {
                    finish(Count<S::TOKENS>(), segment.tile, 0, 0, S::TOKENS, sums);
                } else {
                    finish_half(stages, workspace, sums[0], group, [&](auto count, int from, int begin, int end, auto& half, u32 rows) {
                        store(count, segment.tile, from, begin, end, half[0], group, rows);
                    });
                }
            }
        } else if constexpr (S::WHOLE) {
            const DecodeWork work = work_of_block();
#pragma unroll 1
            for (int tile = work.tile; tile < work.whole; tile += work.step) {
                float sums[1][S::TOKENS / 2];
                multiplier.template multiply<S::TOKENS>(sums, Segment{tile, 0, work.chunks});
                finish(Count<S::TOKENS>(), tile, 0, 0, S::TOKENS, sums);
            }
        } else {
            multiply_and_store<1, S::TOKENS, 0>(multiplier, split, workspace, static_cast<int>(group), finish);
        }
    }
    // Shared memory that a neighbour reaches for ends with its block: they leave together.
    if constexpr (S::SHARE > 1) {
        __syncwarp();
        barrier_cluster_arrive_relaxed();
        barrier_cluster_wait_acquire();
    }
}
