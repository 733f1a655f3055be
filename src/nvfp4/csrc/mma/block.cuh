// A block's product of one A tile with one or two B tiles, over all of K, on mma.sync m16n8k16.
//
// Shared memory: two stages of [A tile | B tile 0 | B tile 1 (dual)], each row 128 bytes (mma/tile.cuh). While the MMAs of stage
// s run, the loads of the next tile are under way into registers; one barrier a tile suffices, because a stage is
// written again only after the barrier that follows its last use.
#pragma once

#include "mma/tile.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/mma.cuh"
#include "ptx/types.cuh"

// M x N tile of a block, WARPS_M x WARPS_N warps, COUNT B operands that share one A.
template <int M, int N, int WARPS_M, int WARPS_N, int COUNT>
struct BlockShape {
    static constexpr int TILE_M = M;
    static constexpr int TILE_N = N;
    static constexpr int OPERANDS_B = COUNT;
    static constexpr int WARP_COLUMNS = WARPS_N;
    static constexpr int THREADS = 32 * WARPS_M * WARPS_N;
    static constexpr int WARP_M = M / WARPS_M;
    static constexpr int WARP_N = N / WARPS_N;
    static constexpr int MMA_M = WARP_M / 16;
    static constexpr int MMA_N = WARP_N / 8;
    static constexpr int STAGE_BYTES = (M + COUNT * N) * TILE_ROW_BYTES;
    static constexpr int SHARED_BYTES = 2 * STAGE_BYTES;
    static_assert(WARP_M % 16 == 0 && WARP_N % 16 == 0, "a warp multiplies 16 rows by 16 columns at a time");
    static_assert(COUNT == 1 || COUNT == 2, "one B, or two that share A");
};

// Accumulators of a thread, as mma.sync leaves them.
template <class Shape>
struct Accumulator {
    float value[Shape::OPERANDS_B][Shape::MMA_M][Shape::MMA_N][4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int b = 0; b < Shape::OPERANDS_B; ++b)
#pragma unroll
            for (int i = 0; i < Shape::MMA_M; ++i)
#pragma unroll
                for (int j = 0; j < Shape::MMA_N; ++j)
#pragma unroll
                    for (int e = 0; e < 4; ++e) value[b][i][j][e] = 0.0f;
    }
};

// Multiplies the tiles of one stage into `sum`.
template <class Shape, bool BF16>
__device__ __forceinline__ void multiply_stage(Accumulator<Shape>& sum, u32 stage) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row_a = warp / Shape::WARP_COLUMNS * Shape::WARP_M + lane % 16;
    const int row_b = warp % Shape::WARP_COLUMNS * Shape::WARP_N + lane % 8 + lane / 16 * 8;
    const u32 tile_b = stage + Shape::TILE_M * TILE_ROW_BYTES;
#pragma unroll
    for (int step = 0; step < TILE_K / 16; ++step) {
        u32 a[Shape::MMA_M][4];
#pragma unroll
        for (int i = 0; i < Shape::MMA_M; ++i) {
            ldmatrix_sync_aligned_m8n8_x4_shared_b16(a[i], stage + tile_offset(row_a + 16 * i, 2 * step + lane / 16));
        }
#pragma unroll
        for (int operand = 0; operand < Shape::OPERANDS_B; ++operand) {
            const u32 tile = tile_b + operand * Shape::TILE_N * TILE_ROW_BYTES;
#pragma unroll
            for (int j = 0; j < Shape::MMA_N; j += 2) {
                u32 b[4];  // columns 8j..8j+7: b[0], b[1]; the next 8: b[2], b[3]
                ldmatrix_sync_aligned_m8n8_x4_shared_b16(
                    b, tile + tile_offset(row_b + 8 * j, 2 * step + lane / 8 % 2));
#pragma unroll
                for (int i = 0; i < Shape::MMA_M; ++i) {
#pragma unroll
                    for (int side = 0; side < 2; ++side) {
                        float(&d)[4] = sum.value[operand][i][j + side];
                        if constexpr (BF16) {
                            mma_sync_aligned_m16n8k16_row_col_f32_bf16_bf16_f32(d, a[i], b[2 * side], b[2 * side + 1]);
                        } else {
                            mma_sync_aligned_m16n8k16_row_col_f32_f16_f16_f32(d, a[i], b[2 * side], b[2 * side + 1]);
                        }
                    }
                }
            }
        }
    }
}

// The block's tile at (row0, column0) of A times each B transposed, into `sum`.
//
// Rows of A from row_end on and columns beyond B's rows count as zeros. KIND_A is one of KIND_*; B is NVFP4.
template <class Shape, int KIND_A, int LAYOUT_A, int LAYOUT_B>
__device__ __forceinline__ void multiply_block(Accumulator<Shape>& sum, u32 shared, const Matrix& a, int row0,
                                               int row_end, const Matrix (&b)[Shape::OPERANDS_B], int column0) {
    constexpr bool BF16 = KIND_A == KIND_BF16;
    TileLoader<KIND_A, LAYOUT_A, Shape::TILE_M, Shape::THREADS, BF16> loader_a;
    TileLoader<KIND_NVFP4, LAYOUT_B, Shape::TILE_N, Shape::THREADS, BF16> loader_b[Shape::OPERANDS_B];

    sum.clear();
    loader_a.begin(a, row0, row_end);
    loader_a.load();
#pragma unroll
    for (int i = 0; i < Shape::OPERANDS_B; ++i) {
        loader_b[i].begin(b[i], column0, b[i].rows);
        loader_b[i].load();
    }

    const int tiles = (a.k + TILE_K - 1) / TILE_K;
    u32 stage = shared;
    for (int tile = 0; tile < tiles; ++tile) {
        loader_a.store(stage);
#pragma unroll
        for (int i = 0; i < Shape::OPERANDS_B; ++i) {
            loader_b[i].store(stage + (Shape::TILE_M + i * Shape::TILE_N) * TILE_ROW_BYTES);
        }
        __syncthreads();
        if (tile + 1 < tiles) {
            loader_a.load();
#pragma unroll
            for (int i = 0; i < Shape::OPERANDS_B; ++i) loader_b[i].load();
        }
        multiply_stage<Shape, BF16>(sum, stage);
        stage = shared + (tile + 1) % 2 * Shape::STAGE_BYTES;
    }
}
