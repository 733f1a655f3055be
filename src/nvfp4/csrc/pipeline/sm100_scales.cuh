// The scale warps of the Blackwell product kernels: they bring block scales into the form that the tensor core wants, where copying
// is not enough. They take turns with the chunks, so that several are under
// way at once.
//
// What the tensor core reads is UE4M3: it has no sign. A negative block scale is made positive, and the codes of its block change
// their signs instead, where they lie in shared memory. That is rare, and costs nothing but a look at the scales otherwise.
//
// The last step of K may have less than four scales. Its codes are zeros then (the copies fill with zeros beyond K), but what pads
// the scales may be NaN, so that scales beyond K are made zero here.
//
// Linear scales are rearranged to 128x4 tiles, and so are tiled ones if rows do not begin at a multiple of 64.
#pragma once

#include "pipeline/sm100_work.cuh"
#include "ptx/fence.cuh"
#include "ptx/griddepcontrol.cuh"
#include "ptx/ld.cuh"
#include "ptx/ld_stream.cuh"
#include "ptx/st.cuh"

constexpr u32 SIGN_BITS = 0x80808080u;

// Four scales of row `row` for each step of `chunk`, zeros beyond the matrix. UNIT: bytes that K/16 is a multiple of, and a load has.
template <int UNIT>
__device__ __forceinline__ void load_linear(u32 (&words)[STEPS], const u8* scales, int row, int rows, int blocks, int chunk) {
    const u8* from = scales + static_cast<i64>(row) * blocks + chunk * (CHUNK / 16);
    const int left = row < rows ? blocks - chunk * (CHUNK / 16) : 0;
    if constexpr (UNIT == 16) {
        const u32x4 v = left > 0 ? ld_global_v4_b32(from) : u32x4{0, 0, 0, 0};
        words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
    } else if constexpr (UNIT == 8) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const u32x2 v = left > 8 * i ? ld_global_v2_b32(from + 8 * i) : u32x2{0, 0};
            words[2 * i] = v.x, words[2 * i + 1] = v.y;
        }
    } else if constexpr (UNIT == 4) {
#pragma unroll
        for (int i = 0; i < 4; ++i) words[i] = left > 4 * i ? ld_global_b32(from + 4 * i) : 0;
    } else {
        static_assert(UNIT == 2, "K is a multiple of 32");
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const u32 low = left > 4 * i ? ld_global_b16(from + 4 * i) : 0;
            const u32 high = left > 4 * i + 2 ? ld_global_b16(from + 4 * i + 2) : 0;
            words[i] = low | high << 16;
        }
    }
}

// The same from 128x4 tiles; the padding of the last tile is read, and removed by `mask_of`.
__device__ __forceinline__ void load_tiled(u32 (&words)[STEPS], const u8* scales, int row, int rows, int blocks, int chunk) {
    const int tiles = (blocks + 3) / 4;
    const u8* from = scales + (static_cast<i64>(row / 128) * tiles + chunk * STEPS) * SCALE_TILE_BYTES + row % 32 * 16 + row % 128 / 32 * 4;
#pragma unroll
    for (int i = 0; i < STEPS; ++i) {
        words[i] = row < rows && chunk * STEPS + i < tiles ? ld_global_b32(from + i * SCALE_TILE_BYTES) : 0;
    }
}

// The bytes of the four scales of a step that lie within K.
__device__ __forceinline__ u32 mask_of(int blocks, int chunk, int step) {
    const int left = blocks - (chunk * STEPS + step) * 4;
    return left >= 4 ? 0xFFFFFFFFu : (left <= 0 ? 0u : (1u << 8 * left) - 1);
}

// Changes the signs of the codes whose scales are negative: four scales of one step, of row `row` of the codes at `codes`.
__device__ __forceinline__ void negate_codes(u32 codes, int row, int step, u32 scales) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if (scales >> (8 * i + 7) & 1) {
            const u32 block = 4 * step + i;
            const u32 at = codes + row * LINE_BYTES + ((block / 2 ^ (row & 7)) << 4) + block % 2 * 8;
            st_shared_b32(at, ld_shared_b32(at) ^ 0x88888888u);
            st_shared_b32(at + 4, ld_shared_b32(at + 4) ^ 0x88888888u);
        }
    }
}

// 128 rows of scales of one chunk: lane i has rows i, i + 32, i + 64, i + 96, which are the 16 bytes of line i of each tile.
struct ScaleBlock {
    u32 words[4][STEPS];

    // Rows [first, first + ROWS) of the tile; zeros for the others.
    template <int MODE, int UNIT, int ROWS>
    __device__ __forceinline__ void load(const Source& source, int first, int k, int chunk) {
#pragma unroll
        for (int q = 0; q < 4; ++q) {
            if (32 * q >= ROWS) {
#pragma unroll
                for (int step = 0; step < STEPS; ++step) words[q][step] = 0;
                continue;
            }
            const int row = source.row + first + static_cast<int>(threadIdx.x % 32) + 32 * q;
            if constexpr (MODE == SCALES_FROM_LINEAR) {
                load_linear<UNIT>(words[q], source.scale_bytes, row, source.rows, k / 16, chunk);
            } else {
                load_tiled(words[q], source.scale_bytes, row, source.rows, k / 16, chunk);
            }
        }
    }

    // PITCH: bytes from a step to the next.
    template <int PITCH>
    __device__ __forceinline__ void load_shared(u32 from) {
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            const u32x4 v = ld_shared_v4_b32(from + step * PITCH + threadIdx.x % 32 * 16);
            words[0][step] = v.x, words[1][step] = v.y, words[2][step] = v.z, words[3][step] = v.w;
        }
    }

    // Without what lies beyond K; says whether that, or a sign, made a difference to some lane.
    __device__ __forceinline__ bool clean(int k, int chunk, bool& negative) {
        u32 changed = 0, signs = 0;
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            const u32 mask = mask_of(k / 16, chunk, step);
#pragma unroll
            for (int q = 0; q < 4; ++q) {
                changed |= words[q][step] & ~mask;
                words[q][step] &= mask;
                signs |= words[q][step] & SIGN_BITS;
            }
        }
        negative = __any_sync(0xFFFFFFFFu, signs != 0);
        return negative || __any_sync(0xFFFFFFFFu, changed != 0);
    }

    template <int PITCH>
    __device__ __forceinline__ void store(u32 to) const {
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            st_shared_v4_b32(to + step * PITCH + threadIdx.x % 32 * 16,
                             {words[0][step] & ~SIGN_BITS, words[1][step] & ~SIGN_BITS, words[2][step] & ~SIGN_BITS,
                              words[3][step] & ~SIGN_BITS});
        }
    }

    // The codes of row 0 of this block are row `first` of those at `codes`, which has `rows`.
    __device__ __forceinline__ void negate(u32 codes, int first, int rows) const {
#pragma unroll
        for (int q = 0; q < 4; ++q) {
            const int row = first + static_cast<int>(threadIdx.x % 32) + 32 * q;
            if (row < 0 || row >= rows) continue;
#pragma unroll
            for (int step = 0; step < STEPS; ++step) negate_codes(codes, row, step, words[q][step]);
        }
    }
};

// A number as a type.
template <int M>
struct Mode {
    static constexpr int VALUE = M;
};

// Rows of a tile of scales before the first row of the operand's tile.
template <int MODE>
__device__ __forceinline__ int rows_before(const Source& source) {
    return MODE == SCALES_BY_TENSOR_MAP ? source.row % 128 : 0;
}

// A scale warp; `warp` is its number. `describe(tile)` gives a Tile.
template <class S, int SPLITS, int UNIT, class Schedule, class Describe>
__device__ __forceinline__ void prepare_scales(const Storage<S>& memory, u32 warp, Schedule schedule, Describe describe) {
    constexpr int YS = S::PRODUCTS * S::Y_TILES;
    Ring<S::STAGES> ring;
    u32 turn = 0;
    Work work;
    griddepcontrol_wait();
    while (schedule.next(work)) {
        const Tile<S::PRODUCTS> tile = describe(work.tile);
        const Chunks<SPLITS> chunks(tile.k, work.split);
        for (int chunk = chunks.begin; chunk < chunks.end; ++chunk, ring.advance()) {
            const bool mine = turn == warp;
            turn = turn + 1 == S::SCALE_WARPS ? 0 : turn + 1;
            if (!mine) continue;
            ScaleBlock x, y[YS];
            if constexpr (S::X_SCALES != SCALES_BY_TENSOR_MAP) x.template load<S::X_SCALES, UNIT, S::X_ROWS>(tile.x, 0, tile.k, chunk);
            if constexpr (S::Y_SCALES != SCALES_BY_TENSOR_MAP) {
#pragma unroll
                for (int i = 0; i < YS; ++i) {
                    y[i].template load<S::Y_SCALES, UNIT, 128>(tile.y[i / S::Y_TILES], i % S::Y_TILES * 128, tile.k, chunk);
                }
            }
            wait_barrier(memory.empty(ring.index), ring.parity ^ 1);
            bool waited = false;
            const auto codes_are_there = [&] {
                if (!waited) wait_barrier(memory.full(ring.index), ring.parity);
                waited = true;
            };
            const auto finish = [&](auto mode, auto tiles, ScaleBlock& block, u32 scales, u32 codes, int first, int rows) {
                constexpr bool COPIED = decltype(mode)::VALUE == SCALES_BY_TENSOR_MAP;
                constexpr int PITCH = decltype(tiles)::VALUE * SCALE_TILE_BYTES;
                if constexpr (COPIED) {
                    codes_are_there();
                    block.template load_shared<PITCH>(scales);
                }
                bool negative;
                const bool changed = block.clean(tile.k, chunk, negative);
                if (!COPIED || changed) block.template store<PITCH>(scales);
                if (negative) {
                    codes_are_there();
                    block.negate(codes, first, rows);
                }
            };
            finish(Mode<S::X_SCALES>{}, Mode<1>{}, x, memory.x_scale(ring.index), memory.x(ring.index), 0, S::X_ROWS);
            const int y_first = S::PAIR ? static_cast<int>(memory.rank) * S::Y_ROWS : 0;
#pragma unroll
            for (int i = 0; i < YS; ++i) {
                const int p = i / S::Y_TILES, part = i % S::Y_TILES;
                finish(Mode<S::Y_SCALES>{}, Mode<S::Y_TILES>{}, y[i], memory.y_scale(ring.index, p) + part * SCALE_TILE_BYTES,
                       memory.y(ring.index, p), part * 128 - rows_before<S::Y_SCALES>(tile.y[p]) - y_first, S::Y_ROWS);
            }
            codes_are_there();  // whoever is told that the scales are ready knows it of the codes, too
            fence_proxy_async_shared_cta();
            __syncwarp();
            if (threadIdx.x % 32 == 0) memory.arrive_at_leader(memory.ready(ring.index));
        }
    }
}
