// What the tensor-core GEMV (sm90_gemv_mma.cu) is made for, and how its warps bring in A: queues of segments in shared memory.
#pragma once

#include "decode/scale_layout.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/cp_async_small.cuh"
#include "ptx/ld.cuh"
#include "ptx/ld_stream.cuh"
#include "ptx/st.cuh"
#include "ptx/types.cuh"

// From the plan.
constexpr int K = CONFIG_K, N = CONFIG_N;
constexpr int WARPS_K = CONFIG_WARPS_K, WARPS_R = CONFIG_WARPS_R, SPLIT = CONFIG_SPLIT;
constexpr int FLUSH = CONFIG_FLUSH;            // tiles of a group of warps whose sums are added together
constexpr int DEPTH = CONFIG_DEPTH;            // segments in flight
// Of them, those that are under way before x is asked for. The last one follows x, which would have to wait for it.
constexpr int PRELOAD = DEPTH > 1 ? DEPTH - 1 : 1;
constexpr bool EARLY = CONFIG_EARLY;            // A is loaded before the previous kernel has finished
constexpr int MIN_BLOCKS = CONFIG_MIN_BLOCKS;  // that fit on a multiprocessor together
constexpr int A_LAYOUT = CONFIG_A_LAYOUT, X_LAYOUT = CONFIG_X_LAYOUT;
constexpr int X_KIND = CONFIG_X_KIND;  // 0 fp16, 1 bf16, 2 NVFP4
constexpr int OUT = CONFIG_OUT;        // 0 fp16, 1 bf16, 2 fp32
constexpr int BIAS = CONFIG_BIAS;      // epilogue/bias.cuh

static_assert(K % 16 == 0 && N >= 1 && N <= 16, "whole scale blocks, 1 to 16 rows");

constexpr int BLOCKS = K / 16;
constexpr int WARPS = WARPS_K * WARPS_R;
constexpr int THREADS = 32 * WARPS;
constexpr int COLUMN_TILES = (N + 7) / 8;
constexpr int SEGMENT = CONFIG_SEGMENT;  // steps: 2 or 4
constexpr int ALL_SEGMENTS = (K + SEGMENT * 128 - 1) / (SEGMENT * 128);
constexpr int WARP_SEGMENTS = (ALL_SEGMENTS + SPLIT * WARPS_K - 1) / (SPLIT * WARPS_K);
constexpr int BLOCK_STEPS = WARP_SEGMENTS * WARPS_K * SEGMENT;
// Codes of a row in a segment lie together. Fragments are read across rows, of two rows at a time by lanes whose banks should differ: in
// odd rows the steps of a pair have changed places.
constexpr int PITCH = SEGMENT * 64;
__device__ __forceinline__ constexpr int odd_row_flip(int row) { return row % 2 * 64; }
// Codes; scales as [row][block], or [tile of 4 blocks][row % 4][row / 4][4].
constexpr int SLOT_BYTES = 16 * PITCH + 16 * SEGMENT * 8;
// With one row of fp16 values there are columns to spare. A lane's two blocks of 16 elements are then multiplied into
// columns of their own (the lanes of a quad have different blocks, so B is x where lane g is 2t or 2t + 1, else
// zero): the 16x8 accumulators hold 8 block sums of 16 rows, and a scale is applied to a sum instead of to 16 codes.
// Not with bf16: codes without their scale are 2^-126 there, and products would underflow in fp32.
constexpr bool DIAGONAL = N == 1 && X_KIND != 1;

constexpr int TILES = CONFIG_TILES;                        // of a cluster, at most
constexpr int TILE_FLOATS = 16 * N;                        // sums of a tile: [token][row]
constexpr int QUEUE_BYTES = WARPS * DEPTH * SLOT_BYTES;
constexpr int TURNS = CONFIG_TURNS;
constexpr bool DIRECT = SPLIT > 1 && WARPS_K == 1;  // a warp has all of the block's sums of a tile
// Of each warp, for FLUSH tiles, two in turn.
constexpr int PARTIAL_BYTES = DIRECT ? 0 : TURNS * FLUSH * WARPS * TILE_FLOATS * 4;
constexpr int SUM_BYTES = SPLIT > 1 ? TILES * TILE_FLOATS * 4 : 0;
constexpr int X_BYTES = (BLOCK_STEPS * N + (DIAGONAL ? 1 : 0)) * 256;  // and a step of zeros, for DIAGONAL
// Dynamic shared memory: x, queues, partial sums, sums of the block.

constexpr bool COPY_16 = K % 32 == 0;                                  // rows are 16-byte aligned
// Groups of 16 scales are 16-byte aligned, and none reaches beyond K.
constexpr bool COPY_SCALES = A_LAYOUT == SCALES_TILED ? K % 64 == 0 : K % 256 == 0;

// Decoded A is value * 2^-7 (fp16), 2^-8 (bf16), or the bare code * 2^-14 (diagonal); decoded NVFP4 x is value * 2^-7.
constexpr float UNIT = (DIAGONAL ? 16384.0f : X_KIND == 1 ? 256.0f : 128.0f) * (X_KIND == 2 ? 128.0f : 1.0f);

struct Arguments {
    const u8* a_codes;
    const u8* a_scales;
    const u8* x;
    const u8* x_scales;
    const float* a_tensor;
    const float* x_tensor;
    void* y;
    i32 a_tensor_stride, x_tensor_stride;  // 0: one for all matrices, 1: one each
    i32 m, rows;  // rows of a matrix; of a cluster
    const u8* bias;
};

// Row `index` (0..15) of a tile, counted from the tile's first. With tiled scales the 16 rows are 4 runs of 4 rows, 32
// apart: their scales are then one contiguous run of 64 bytes in each 512-byte tile of scales.
__device__ __forceinline__ constexpr int row_in_tile(int index) {
    return A_LAYOUT == SCALES_LINEAR ? index : index % 4 + index / 4 * 32;
}

// First row of a cluster's tile. Linear: a cluster begins at row `first`, any row, so that all clusters have the same
// number to within a tile. Tiled: it begins at tile `first`, of 8 in every 128 rows.
__device__ __forceinline__ int tile_row(int first, int tile) {
    return A_LAYOUT == SCALES_LINEAR ? first + tile * 16 : (first + tile) / 8 * 128 + (first + tile) % 8 * 4;
}

constexpr bool RAGGED = SPLIT * BLOCK_STEPS * 128 != K;  // some segments lie beyond K, or reach beyond it

// The rows of a cluster, and where the next segment of a warp comes from.
struct Source {
    const u8* codes;   // of the matrix
    const u8* scales;
    int first, end;    // first row or tile of the cluster, end of its rows
    int tile, segment, tiles;
    int element;       // of the block's and warp's first segment
    // Of the lane, in the next segment: first row of the tile, first byte to copy of codes and of scales.
    int base;
    const u8* code_at;
    const u8* scale_at;
    bool whole;  // all of the tile exists

    // 8 or 16 lanes take a row's 128 or 256 bytes of codes, so that an instruction copies 4 or 2 rows.
    static constexpr int ROW_LANES = SEGMENT * 4, COPY_ROWS = 32 / ROW_LANES;
    static constexpr int STRIDE = WARPS_K * SEGMENT;  // steps from a segment of the warp to its next

    // Scales. Tiled: a lane copies those of 4 blocks in 4 rows that are 32 apart, 16 bytes of a 512-byte tile.
    // Linear: those of 16 blocks of a row.
    static constexpr bool TILED = A_LAYOUT == SCALES_TILED;
    static __device__ __forceinline__ int scale_block(int lane) {
        return TILED ? lane / 4 * 4 : lane % (SEGMENT / 2) * 16;
    }
    static __device__ __forceinline__ int scale_row(int lane) { return TILED ? lane % 4 : lane / (SEGMENT / 2); }

    // Finds the tile's first segment.
    __device__ __forceinline__ void locate(int lane) {
        base = tile_row(first, tile);
        whole = !RAGGED && base + row_in_tile(15) < end;
        code_at = codes + static_cast<i64>(base + lane / ROW_LANES) * (K / 2) + (element / 2 + lane % ROW_LANES * 16);
        scale_at = scales + scale_offset<A_LAYOUT>(base + scale_row(lane), element / 16 + scale_block(lane), BLOCKS);
    }

    // WHOLE: all of it exists; else zeros take the place of rows beyond the end and of elements beyond K.
    template <bool WHOLE>
    __device__ __forceinline__ void copy(u32 slot, int lane) const {
        const int begin = element + segment * (STRIDE * 128), at = begin + lane % ROW_LANES * 32;
        // Rows of a lane are all odd or all even.
        const u32 to = slot + lane / ROW_LANES * PITCH + (lane % ROW_LANES * 16 ^ odd_row_flip(lane / ROW_LANES));
#pragma unroll
        for (int i = 0; i < 16; i += COPY_ROWS) {
            const bool valid = WHOLE || (base + lane / ROW_LANES + row_in_tile(i) < end && at < K);
            const u8* row = code_at + row_in_tile(i) * (K / 2);
            if constexpr (COPY_16) {
                cp_async_cg_shared_global_L2_128B_16(to + i * PITCH, row, valid);
            } else {
                cp_async_ca_shared_global_8(to + i * PITCH, row, valid);
                cp_async_ca_shared_global_8(to + i * PITCH + 8, row + 8, valid && (WHOLE || at + 16 < K));
            }
        }
        if (lane >= 8 * SEGMENT) return;
        const int block = begin / 16 + scale_block(lane), row = base + scale_row(lane);
        const u32 scales_to = slot + 16 * PITCH + lane * 16;
        if constexpr (COPY_SCALES) {
            cp_async_cg_shared_global_L2_128B_16(scales_to, scale_at, WHOLE || (row < end && block < BLOCKS));
        } else {
            // At any address, by hand; and what lies beyond K in a tile may be anything, NaN too.
#pragma unroll
            for (int i = 0; i < 16; i += 4) {
                u32 word = 0;
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const bool valid = TILED ? row + i / 4 * 32 < end && block + j < BLOCKS
                                             : row < end && block + i + j < BLOCKS;
                    if (valid) word |= ld_global_u8(scale_at + i + j) << (8 * j);
                }
                st_shared_b32(scales_to + i, word);
            }
        }
    }

    // Starts the copies of the next segment into `slot`, if there is one, and moves on.
    __device__ __forceinline__ void copy_next(u32 slot, int lane) {
        if (tile < tiles) {
            if (whole) {
                copy<true>(slot, lane);
            } else {
                copy<false>(slot, lane);
            }
            if (++segment == WARP_SEGMENTS) {
                segment = 0;
                tile += WARPS_R;
                locate(lane);
            } else {
                code_at += STRIDE * 64;
                scale_at += TILED ? STRIDE * 1024 : STRIDE * 8;
            }
        }
        cp_async_commit_group();
    }
};

// Where the scales of the blocks 2t and 2t + 1 of row `index` at step `step` of a segment lie among its scales.
__device__ __forceinline__ int scales_offset(int index, int step, int t) {
    if constexpr (A_LAYOUT == SCALES_LINEAR) return index * (SEGMENT * 8) + step * 8 + t * 2;
    return (step * 2 + t / 2) * 64 + index % 4 * 16 + index / 4 * 4 + t % 2 * 2;
}
