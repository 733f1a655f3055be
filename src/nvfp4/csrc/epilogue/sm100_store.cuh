// The epilogue warps of the Blackwell product kernels: accumulators from tensor memory, finished, to device memory.
//
// Thread i of the four warps has lane i of tensor memory, 32 columns at a time: row i of the tile, with CLUSTER_HALVES row i % 64 and one half
// of the columns. A row of D is a row of C, or, if the operands are swapped, a column of it: then the lanes of a warp write
// neighbours, otherwise a thread writes vectors of 16 bytes, or leaves writing to the copy engine (STAGED).
#pragma once

#include "epilogue/out.cuh"
#include "pipeline/sm100_work.cuh"
#include "ptx/barrier.cuh"
#include "ptx/cp_async_bulk_tensor_store.cuh"
#include "ptx/fence.cuh"
#include "ptx/flag.cuh"
#include "ptx/griddepcontrol.cuh"
#include "ptx/ld.cuh"
#include "ptx/ld_stream.cuh"
#include "ptx/st.cuh"

constexpr int COLUMNS_AT_ONCE = 32;

// Where a tile goes: rows [x, x_end) of X and [y, y_end) of Y of a matrix whose rows are `pitch` elements apart.
struct Target {
    u8* out;
    int x, x_end, y, y_end;
    int pitch;
    float scale_x, scale_y;
    const TensorMap* map;  // of all of C, for copies from shared memory
    int batch;
    bool ends;             // the map has no rows from x_end on
    float scale_z = 1.0f;  // of a second Y
};

// Vector `i` of a row's 32 results: four words.
template <int OUT>
__device__ __forceinline__ u32x4 packed(const float (&value)[COLUMNS_AT_ONCE], int i) {
    constexpr int VECTOR = 16 / OUT_BYTES<OUT>;
    u32 words[4];
#pragma unroll
    for (int w = 0; w < 4; ++w) {
        if constexpr (OUT == OUT_FP32) {
            words[w] = __float_as_uint(value[i * VECTOR + w]);
        } else if constexpr (OUT == OUT_FP16) {
            words[w] = cvt_rn_f16x2_f32(value[i * VECTOR + 2 * w], value[i * VECTOR + 2 * w + 1]);
        } else {
            words[w] = cvt_rn_bf16x2_f32(value[i * VECTOR + 2 * w], value[i * VECTOR + 2 * w + 1]);
        }
    }
    return {words[0], words[1], words[2], words[3]};
}

// Values of row `row` of X and rows y0 .. y0 + 31 of Y, by the thread that has them.
template <int OUT, bool SWAPPED>
__device__ __forceinline__ void store_row(const Target& target, int row, int y0, const float (&value)[COLUMNS_AT_ONCE]) {
    if (row >= target.x_end) return;
    if constexpr (SWAPPED) {
#pragma unroll
        for (int i = 0; i < COLUMNS_AT_ONCE; ++i) {
            if (y0 + i < target.y_end) store_one<OUT>(target.out, static_cast<i64>(y0 + i) * target.pitch + row, value[i]);
        }
    } else {
        constexpr int VECTOR = 16 / OUT_BYTES<OUT>;
        const i64 first = static_cast<i64>(row) * target.pitch + y0;
        const bool vectors = target.pitch % VECTOR == 0 && reinterpret_cast<u64>(target.out) % 16 == 0;
        if (vectors) {
            // Both ends of the row are multiples of a vector.
#pragma unroll
            for (int i = 0; i < COLUMNS_AT_ONCE / VECTOR; ++i) {
                if (y0 + i * VECTOR >= target.y_end) continue;
                st_global_v4_b32(target.out + (first + i * VECTOR) * OUT_BYTES<OUT>, packed<OUT>(value, i));
            }
        } else {
#pragma unroll
            for (int i = 0; i < COLUMNS_AT_ONCE; ++i) {
                if (y0 + i < target.y_end) store_one<OUT>(target.out, first + i, value[i]);
            }
        }
    }
}

// One warp's way to C. STAGED: 32 x 32 results are laid out in shared memory, and the copy engine writes them; two such squares take turns.
// A square's rows are 64 or 128 bytes, swizzled by as much, as its tensor map says: lanes write vectors without bank conflicts.
template <int OUT, bool SWAPPED, bool STAGED>
struct Writer {
    static constexpr int ROW_BYTES = COLUMNS_AT_ONCE * OUT_BYTES<OUT>;
    static constexpr int SQUARE_BYTES = 32 * ROW_BYTES;
    u32 squares;
    u32 turn = 0;

    __device__ __forceinline__ void operator()(const Target& target, int row, int y0, const float (&value)[COLUMNS_AT_ONCE]) {
        if constexpr (STAGED) {
            const int lane = static_cast<int>(threadIdx.x % 32), first = row - lane;
            if (first >= target.x_end) return;
            // Rows behind the end are no part of the matrix, or of another group.
            if (target.ends || first + 32 <= target.x_end) {
                const u32 square = squares + turn * SQUARE_BYTES;
                turn ^= 1;
                if (lane == 0) cp_async_bulk_wait_group_read<1>();  // by the copy before the last one, which was from here
                __syncwarp();
                const int swizzle = ROW_BYTES == 128 ? lane & 7 : lane >> 1 & 3;
#pragma unroll
                for (int i = 0; i < ROW_BYTES / 16; ++i) {
                    st_shared_v4_b32(square + lane * ROW_BYTES + ((i ^ swizzle) << 4), packed<OUT>(value, i));
                }
                fence_proxy_async_shared_cta();
                __syncwarp();
                if (lane == 0) {
                    cp_async_bulk_tensor_3d_global_shared(target.map, y0, first, target.batch, square);
                    cp_async_bulk_commit_group();
                }
                return;
            }
        }
        store_row<OUT, SWAPPED>(target, row, y0, value);
    }

    // Shared memory has to be there until it has been read, and results until the grid has ended.
    __device__ __forceinline__ void finish() const {
        if (STAGED && threadIdx.x % 32 == 0) cp_async_bulk_wait_group<0>();
    }
};

// Partial sums of tiles whose K is shared: float [tile][split][block of the cluster][product][D_COLUMNS][128], and a counter for each tile and
// block, zero before the first launch and again after each.
struct Partials {
    float* sums;
    u32* counters;
};

template <class S, int SPLITS>
__device__ __forceinline__ float* partial(const Partials& partials, int tile, int split, u32 rank, int product, int column) {
    const i64 slot = ((static_cast<i64>(tile) * SPLITS + split) * S::BLOCKS + rank) * S::PRODUCTS + product;
    return partials.sums + (slot * S::D_COLUMNS + column) * LANES;
}

template <bool GATE, class Finish>
__device__ __forceinline__ float finished(const Finish& finish, const Target& target, const float (&sums)[1]) {
    return finish(target, sums[0]);
}

template <bool GATE, class Finish>
__device__ __forceinline__ float finished(const Finish& finish, const Target& target, const float (&sums)[2]) {
    return finish(target, GATE ? finish.gate(target, sums[0]) : sums[0], sums[1]);
}

// What one product needs: its tensor scales.
struct Scaled {
    __device__ __forceinline__ float operator()(const Target& target, float sum) const { return sum * target.scale_x * target.scale_y; }
};

// The four warps. `target(tile)` gives a Target, once the kernel before has ended, which may write tensor scales; `finish` makes one
// value of the sums of the products: of one, `finish(target, sum)`, of two, `finish(target, finish.gate(target, first), second)`.
//
// FINISH: the first sums are complete before the second. They go through the gate, and back to tensor memory, while those are computed.
//
// Shared tiles: every part is written, and whoever is last to finish adds them up in the order of K, so that sums never depend on
// who that is. Nobody waits for another block.
template <class S, int OUT, bool SWAPPED, bool STAGED, int SPLITS, int FINISH, class Schedule, class TargetOf, class Finish>
__device__ __forceinline__ void store_tiles(const Storage<S>& memory, u32 tensor, u32 flag, Schedule schedule, const Partials& partials,
                                            TargetOf target_of, Finish finish) {
    constexpr u32 NUMBER = 1, THREADS = 128;  // a barrier of the epilogue warps
    const u32 thread = threadIdx.x;
    const u32 lanes = thread / 32 * 32 << 16;
    const int x = static_cast<int>(thread) % S::X_ROWS;             // row in the tile
    const int y = static_cast<int>(thread) / S::X_ROWS * S::D_COLUMNS;  // of the first column
    using Write = Writer<OUT, SWAPPED, STAGED>;
    Write write{memory.stages + S::SHARED_BYTES + thread / 32 * (2 * Write::SQUARE_BYTES)};
    Ring<S::BUFFERS> in;
    Work work;
    griddepcontrol_wait();
    while (schedule.next(work)) {
        const Target target = target_of(work.tile);
        const int row = target.x + x;
        const u32 d = tensor + in.index * S::BUFFER_COLUMNS + lanes;
        if constexpr (FINISH > 0) {
            wait_barrier(memory.gated(in.index), in.parity);
            tcgen05_fence_after_thread_sync();
#pragma unroll 1
            for (int column = 0; column < S::D_COLUMNS; column += COLUMNS_AT_ONCE) {
                u32 bits[COLUMNS_AT_ONCE];
                tcgen05_ld_32x32b_x32(bits, d + column);
                tcgen05_wait_ld();
#pragma unroll
                for (int i = 0; i < COLUMNS_AT_ONCE; ++i) bits[i] = __float_as_uint(finish.gate(target, __uint_as_float(bits[i])));
                tcgen05_st_32x32b_x32(d + column, bits);
            }
            tcgen05_wait_st();
        }
        wait_barrier(memory.done(in.index), in.parity);
        tcgen05_fence_after_thread_sync();
#pragma unroll 1
        for (int column = 0; column < S::D_COLUMNS; column += COLUMNS_AT_ONCE) {
            // Columns beyond the matrix are not worth a look.
            if (SPLITS == 1 && target.y + y + column >= target.y_end) break;
            u32 bits[S::PRODUCTS][COLUMNS_AT_ONCE];
#pragma unroll
            for (int p = 0; p < S::PRODUCTS; ++p) tcgen05_ld_32x32b_x32(bits[p], d + p * S::D_COLUMNS + column);
            tcgen05_wait_ld();
            if constexpr (SPLITS == 1) {
                float value[COLUMNS_AT_ONCE];
#pragma unroll
                for (int i = 0; i < COLUMNS_AT_ONCE; ++i) {
                    float sums[S::PRODUCTS];
#pragma unroll
                    for (int p = 0; p < S::PRODUCTS; ++p) sums[p] = __uint_as_float(bits[p][i]);
                    value[i] = finished<FINISH == 0>(finish, target, sums);
                }
                write(target, row, target.y + y + column, value);
            } else {
#pragma unroll
                for (int p = 0; p < S::PRODUCTS; ++p) {
                    float* to = partial<S, SPLITS>(partials, work.tile, work.split, memory.rank, p, column) + thread;
#pragma unroll
                    for (int i = 0; i < COLUMNS_AT_ONCE; ++i) to[i * LANES] = __uint_as_float(bits[p][i]);
                }
            }
        }
        tcgen05_fence_before_thread_sync();
        __syncwarp();
        if (thread % 32 == 0) memory.arrive_at_leader(memory.drained(in.index));
        in.advance();
        if constexpr (SPLITS > 1) {
            u32* counter = partials.counters + work.tile * S::BLOCKS + memory.rank;
            barrier_sync(NUMBER, THREADS);  // all parts of this block are written
            if (thread == 0) {
                const u32 before = atom_acq_rel_gpu_global_add_u32(counter, 1);
                if (before == SPLITS - 1) *counter = 0;
                st_shared_b32(flag, before);
            }
            barrier_sync(NUMBER, THREADS);
            const bool last = ld_shared_b32(flag) == SPLITS - 1;
            barrier_sync(NUMBER, THREADS);  // the flag has been read
            if (!last) continue;
#pragma unroll 1
            for (int column = 0; column < S::D_COLUMNS; column += COLUMNS_AT_ONCE) {
                if (target.y + y + column >= target.y_end) break;
                float value[COLUMNS_AT_ONCE];
#pragma unroll
                for (int i = 0; i < COLUMNS_AT_ONCE; ++i) {
                    float sums[S::PRODUCTS];
#pragma unroll
                    for (int p = 0; p < S::PRODUCTS; ++p) {
                        sums[p] = 0.0f;
#pragma unroll
                        for (int s = 0; s < SPLITS; ++s) {
                            sums[p] += __ldcg(partial<S, SPLITS>(partials, work.tile, s, memory.rank, p, column + i) + thread);
                        }
                    }
                    value[i] = finished<true>(finish, target, sums);
                }
                write(target, row, target.y + y + column, value);
            }
        }
    }
    write.finish();
}
