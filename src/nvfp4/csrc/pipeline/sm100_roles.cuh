// The loading thread and the multiplying thread of the Blackwell product kernels. Stages and barriers: pipeline/sm100_shape.cuh.
#pragma once

#include "pipeline/sm100_maps.cuh"
#include "pipeline/sm100_work.cuh"
#include "ptx/cp_async_bulk_tensor_policy.cuh"
#include "ptx/griddepcontrol.cuh"

// What the copies of one block do for a stage: a barrier, and the form of the instruction.
template <class S>
struct Copier {
    u32 barrier;  // of the leader, if the copies of a pair count there

    __device__ __forceinline__ void operator()(u32 to, const TensorMap* map, int x, int y, int z, u64 policy) const {
        if constexpr (S::PAIR && S::SCALE_WARPS == 0) {
            cp_async_bulk_tensor_3d_cta_group_2_policy(to, map, x, y, z, barrier, policy);
        } else {
            cp_async_bulk_tensor_3d_policy(to, map, x, y, z, barrier, policy);
        }
    }

    // Half of the steps of TILES tiles of scales, by block `rank` to both; boxes have half of the steps, too.
    template <int TILES>
    __device__ __forceinline__ void half_for_both(u32 to, u32 rank, const TensorMap* map, int chunk, int tile, u64 policy) const {
        constexpr int HALF = STEPS / 2;
        const int first = static_cast<int>(rank) * HALF;
        to += first * TILES * SCALE_TILE_BYTES;
        if constexpr (S::PAIR && S::SCALE_WARPS == 0) {
            cp_async_bulk_tensor_3d_multicast_cta_group_2_policy(to, map, 0, tile, chunk * STEPS + first, barrier, 3, policy);
        } else {
            cp_async_bulk_tensor_3d_multicast_policy(to, map, 0, tile, chunk * STEPS + first, barrier, 3, policy);
        }
    }
};

template <class S, u64 X_POLICY>
__device__ __forceinline__ void load_x(const Storage<S>& memory, const Copier<S>& copy, u32 stage, const Source& x, int chunk) {
    if constexpr (S::MULTICAST) {
        constexpr int HALF = S::X_ROWS / 2;
        const int first = static_cast<int>(memory.rank) * HALF;
        cp_async_bulk_tensor_3d_multicast_policy(memory.x(stage) + first * LINE_BYTES, x.codes, chunk * LINE_BYTES,
                                                 x.row + first, x.batch, copy.barrier, 3, X_POLICY);
    } else {
        copy(memory.x(stage), x.codes, chunk * LINE_BYTES, x.row, x.batch, X_POLICY);
    }
    if constexpr (S::SHARED_X_SCALES) {
        copy.template half_for_both<1>(memory.x_scale(stage), memory.rank, x.scales, chunk, x.scale_tile + x.row / 128, X_POLICY);
    } else if constexpr (S::X_SCALES == SCALES_BY_TENSOR_MAP) {
        copy(memory.x_scale(stage), x.scales, 0, x.scale_tile + x.row / 128, chunk * STEPS, X_POLICY);
    }
}

template <class S, u64 Y_POLICY>
__device__ __forceinline__ void load_y(const Storage<S>& memory, const Copier<S>& copy, u32 stage,
                                       const Source (&y)[S::PRODUCTS], int chunk) {
    const int first = S::PAIR ? static_cast<int>(memory.rank) * S::Y_ROWS : 0;
#pragma unroll
    for (int p = 0; p < S::PRODUCTS; ++p) {
        copy(memory.y(stage, p), y[p].codes, chunk * LINE_BYTES, y[p].row + first, y[p].batch, Y_POLICY);
        if constexpr (S::SHARED_Y_SCALES) {
            copy.template half_for_both<S::Y_TILES>(memory.y_scale(stage, p), memory.rank, y[p].scales, chunk,
                                                    y[p].scale_tile + y[p].row / 128, Y_POLICY);
        } else if constexpr (S::Y_SCALES == SCALES_BY_TENSOR_MAP) {
            copy(memory.y_scale(stage, p), y[p].scales, 0, y[p].scale_tile + y[p].row / 128, chunk * STEPS, Y_POLICY);
        }
    }
}

// Scales of a chunk into L2. They come in the smallest pieces, so that waiting for them costs most. Of those that blocks share, each fetches
// the half that it will copy.
template <class S>
__device__ __forceinline__ void prefetch_scales(const Storage<S>& memory, const Tile<S::PRODUCTS>& tile, int chunk) {
    const int mine = static_cast<int>(memory.rank) * (STEPS / 2);
    if constexpr (S::X_SCALES == SCALES_BY_TENSOR_MAP) {
        cp_async_bulk_prefetch_tensor_3d_L2(tile.x.scales, 0, tile.x.scale_tile + tile.x.row / 128,
                                            chunk * STEPS + (S::SHARED_X_SCALES ? mine : 0));
    }
    if constexpr (S::Y_SCALES == SCALES_BY_TENSOR_MAP) {
#pragma unroll
        for (int p = 0; p < S::PRODUCTS; ++p) {
            cp_async_bulk_prefetch_tensor_3d_L2(tile.y[p].scales, 0, tile.y[p].scale_tile + tile.y[p].row / 128,
                                                chunk * STEPS + (S::SHARED_Y_SCALES ? mine : 0));
        }
    }
}

// `describe(tile)` gives a Tile, `maps` the tensor maps (sm100_maps.cuh). PREFETCH: how many chunks before its copy a chunk's scales are fetched into L2; 0 for never. EARLY: Y is not
// written by the kernel before in the queue; the copies of the first stages' Y are issued before that kernel has ended.
template <class S, int SPLITS, bool EARLY, int PREFETCH, u64 X_POLICY, u64 Y_POLICY, class Schedule, class Describe, class Maps>
__device__ __forceinline__ void load(const Storage<S>& memory, Schedule schedule, Describe describe, Maps maps) {
    // Where the copies of this block are counted: by the leader, unless its own scale warps have to see them first.
    constexpr bool AT_LEADER = S::PAIR && S::SCALE_WARPS == 0;
    const auto expect = [&](u32 stage) {
        if (!AT_LEADER || memory.rank == 0) {
            mbarrier_arrive_expect_tx_shared_b64(memory.full(stage), S::COPIED_BYTES * (AT_LEADER ? 2 : 1));
        }
    };
    const auto copier = [&](u32 stage) {
        return Copier<S>{AT_LEADER ? mapa_shared_cluster_u32(memory.full(stage), 0) : memory.full(stage)};
    };
    Ring<S::STAGES> ring;
    Work work;
    u32 issued = 0;  // chunks
    bool first = true;
    if constexpr (!EARLY) griddepcontrol_wait();
    while (schedule.next(work)) {
        Tile<S::PRODUCTS> tile = describe(work.tile);
        const Chunks<SPLITS> chunks(tile.k, work.split);
        maps.choose(memory, work.tile, tile, ring, issued);
        issued += chunks.end - chunks.begin;
        int chunk = chunks.begin;
        if constexpr (EARLY) {
            if (first) {
                // The stages are empty: nobody has to be waited for.
                const int ahead = min(chunks.end, chunk + S::STAGES);
                for (int c = chunk; c < ahead; ++c) {
                    expect(c - chunk);
                    load_y<S, Y_POLICY>(memory, copier(c - chunk), c - chunk, tile.y, c);
                }
                griddepcontrol_wait();
                for (; chunk < ahead; ++chunk, ring.advance()) {
                    load_x<S, X_POLICY>(memory, copier(ring.index), ring.index, tile.x, chunk);
                }
                first = false;
            }
        }
        for (; chunk < chunks.end; ++chunk, ring.advance()) {
            wait_barrier(memory.empty(ring.index), ring.parity ^ 1);
            expect(ring.index);
            const Copier<S> copy = copier(ring.index);
            load_x<S, X_POLICY>(memory, copy, ring.index, tile.x, chunk);
            load_y<S, Y_POLICY>(memory, copy, ring.index, tile.y, chunk);
            if (PREFETCH > 0 && chunk + PREFETCH < chunks.end) prefetch_scales<S>(memory, tile, chunk + PREFETCH);
        }
    }
    // The last commits of a cluster arrive at barriers of both blocks: they have to be there until then.
    if constexpr (S::BLOCKS > 1) {
        for (int i = 0; i < S::STAGES; ++i, ring.advance()) wait_barrier(memory.empty(ring.index), ring.parity ^ 1);
    }
}

// Copies the scales of one step to tensor memory.
template <class S>
__device__ __forceinline__ void place_scales(const Storage<S>& memory, u32 stage, u32 columns, int step) {
    constexpr u32 EIGHT_ROWS = 8 * 16;
    tcgen05_cp_32x128b_warpx4<S::GROUP>(
        columns + 4 * step, tcgen05_matrix<TCGEN05_SWIZZLE_NONE>(memory.x_scale(stage) + step * SCALE_TILE_BYTES, EIGHT_ROWS));
#pragma unroll
    for (int p = 0; p < S::PRODUCTS; ++p) {
        const u32 to = columns + S::X_SCALE_COLUMNS + p * S::Y_SCALE_COLUMNS + S::Y_STEP_COLUMNS * step;
        const u32 from = memory.y_scale(stage, p) + step * S::Y_TILES * SCALE_TILE_BYTES;
        if constexpr (S::HALVES) {
            tcgen05_cp_64x128b_warpx2_01_23<S::GROUP>(to, tcgen05_matrix<TCGEN05_SWIZZLE_NONE>(from, EIGHT_ROWS));
        } else {
#pragma unroll
            for (int tile = 0; tile < S::Y_TILES; ++tile) {
                tcgen05_cp_32x128b_warpx4<S::GROUP>(
                    to + 4 * tile, tcgen05_matrix<TCGEN05_SWIZZLE_NONE>(from + tile * SCALE_TILE_BYTES, EIGHT_ROWS));
            }
        }
    }
}

template <class S>
__device__ __forceinline__ void commit_to_cluster(u32 barrier) {
    if constexpr (S::BLOCKS > 1) {
        tcgen05_commit_multicast<S::GROUP>(barrier, 3);
    } else {
        tcgen05_commit<S::GROUP>(barrier);
    }
}

// To the blocks whose accumulator it is.
template <class S>
__device__ __forceinline__ void commit_to_owners(u32 barrier) {
    if constexpr (S::PAIR) {
        tcgen05_commit_multicast<S::GROUP>(barrier, 3);
    } else {
        tcgen05_commit<S::GROUP>(barrier);
    }
}

// A barrier at which threads of both blocks of a pair arrive.
template <class S>
__device__ __forceinline__ void wait_barrier_of(u32 barrier, u32 parity) {
    if constexpr (S::PAIR) {
        wait_barrier_cluster(barrier, parity);
    } else {
        wait_barrier(barrier, parity);
    }
}

// The instructions of one tile. COLLECT: the second product of a step takes X from the collector buffer, if it follows the first.
template <class S, bool COLLECT>
struct Steps {
    const Storage<S>& memory;
    u32 d;
    const u32 (&half)[S::PRODUCTS];

    template <int P, bool TOGETHER>
    __device__ __forceinline__ void multiply(u32 stage, u32 columns, int step, u32 accumulate) const {
        constexpr u32 INSTRUCTION = tcgen05_mxf4nvf4_instruction(S::TILE_M, S::TILE_N);
        constexpr u32 EIGHT_ROWS = 8 * LINE_BYTES;
        constexpr bool SHARED = COLLECT && TOGETHER && S::PRODUCTS == 2;
        constexpr int COLLECTOR = !SHARED ? COLLECTOR_DISCARD : (P == 0 ? COLLECTOR_FILL : COLLECTOR_LASTUSE);
        const u64 x = tcgen05_matrix<TCGEN05_SWIZZLE_128>(memory.x(stage) + step * (STEP / 2), EIGHT_ROWS);
        const u64 y = tcgen05_matrix<TCGEN05_SWIZZLE_128>(memory.y(stage, P) + step * (STEP / 2), EIGHT_ROWS);
        const u32 y_scale = columns + S::X_SCALE_COLUMNS + P * S::Y_SCALE_COLUMNS + S::Y_STEP_COLUMNS * step + half[P < S::PRODUCTS ? P : 0];
        tcgen05_mma_mxf4nvf4_block16<S::GROUP, COLLECTOR>(d + P * S::D_COLUMNS, x, y, INSTRUCTION, columns + 4 * step, y_scale, accumulate);
    }
};

// One thread of the leading block. INTERLEAVE: a step's scales are copied just before its product, not all of a chunk's at once. COLLECT:
// see Steps.
//
// A copy of scales is not ordered behind the products that read the columns before (PTX ISA 9.7.16.6.2 lists copy -> product only), so SETS
// of columns take turns, and a set is written again when the products of its chunk are known to be complete. With SETS = 1 the order
// is left to the hardware, which executes both in the order of issue, as CUTLASS and DeepGEMM have it.
//
// FINISH: in the last FINISH chunks of a tile all first products come before all second ones, and `gated` says that they are complete.
template <class S, int SPLITS, bool INTERLEAVE, bool COLLECT, int FINISH, class Schedule, class Describe>
__device__ __forceinline__ void multiply(const Storage<S>& memory, u32 tensor, Schedule schedule, Describe describe) {
    Ring<S::STAGES> ring, released;  // `released` is SETS chunks behind
    Ring<S::BUFFERS> out;
    u32 set = 0, count = 0;
    Work work;
    while (schedule.next(work)) {
        const Tile<S::PRODUCTS> tile = describe(work.tile);
        const Chunks<SPLITS> chunks(tile.k, work.split);
        u32 half[S::PRODUCTS];  // columns to skip
#pragma unroll
        for (int p = 0; p < S::PRODUCTS; ++p) half[p] = S::ODD ? tile.y[p].row / 64 % 2 * 2 : 0;
        const Steps<S, COLLECT> steps{memory, tensor + out.index * S::BUFFER_COLUMNS, half};
        wait_barrier_of<S>(memory.drained(out.index), out.parity ^ 1);
        tcgen05_fence_after_thread_sync();
        const int together = FINISH > 0 ? max(chunks.begin, chunks.end - FINISH) : chunks.end;
        Ring<S::STAGES> late;  // the first stage, and its set of scales, whose second products are still to come
        u32 late_set = 0;
        for (int chunk = chunks.begin; chunk < chunks.end; ++chunk, ring.advance()) {
            if (chunk == together) {
                late = ring;
                late_set = set;
            }
            if (S::SETS > 1 && count >= S::SETS) {
                wait_barrier(memory.empty(released.index), released.parity);
                released.advance();
            }
            if constexpr (S::SCALE_WARPS > 0) {
                wait_barrier_of<S>(memory.ready(ring.index), ring.parity);
            } else {
                wait_barrier(memory.full(ring.index), ring.parity);
            }
            tcgen05_fence_after_thread_sync();
            const u32 columns = tensor + S::SCALE_COLUMNS + set * S::SET_COLUMNS;
            const int number = steps_of(tile.k, chunk);
            if constexpr (!INTERLEAVE) {
                for (int step = 0; step < number; ++step) place_scales(memory, ring.index, columns, step);
            }
            for (int step = 0; step < number; ++step) {
                if constexpr (INTERLEAVE) place_scales(memory, ring.index, columns, step);
                const u32 accumulate = chunk > chunks.begin || step > 0;
                steps.template multiply<0, FINISH == 0>(ring.index, columns, step, accumulate);
                if (S::PRODUCTS == 2 && chunk < together) steps.template multiply<1, FINISH == 0>(ring.index, columns, step, accumulate);
            }
            if (chunk < together) commit_to_cluster<S>(memory.empty(ring.index));
            set = set + 1 == S::SETS ? 0 : set + 1;
            ++count;
        }
        if constexpr (FINISH > 0) {
            commit_to_owners<S>(memory.gated(out.index));
            for (int chunk = together; chunk < chunks.end; ++chunk, late.advance()) {
                const u32 columns = tensor + S::SCALE_COLUMNS + late_set * S::SET_COLUMNS;
                const int number = steps_of(tile.k, chunk);
                for (int step = 0; step < number; ++step) {
                    steps.template multiply<1, false>(late.index, columns, step, chunk > chunks.begin || step > 0);
                }
                commit_to_cluster<S>(memory.empty(late.index));
                late_set = late_set + 1 == S::SETS ? 0 : late_set + 1;
            }
        }
        commit_to_owners<S>(memory.done(out.index));
        out.advance();
    }
}
