// Tiles of activations, brought by the copy engine as they lie in memory, to the operand in its order of K
// (decode/wgmma_operand.cuh), by warps beside the
// multipliers: 16-bit values in place, NVFP4 decoded. Nobody waits for another block, and the copies run ahead as far as the ring goes.
//
// Two warps take longer to decode a wide tile than it takes to multiply; then all blocks decode all activations together
// (pipeline/sm90_activations.cuh).
#pragma once

#include "decode/wgmma_operand.cuh"
#include "pipeline/sm90_activations.cuh"
#include "ptx/ld.cuh"
#include "ptx/st.cuh"

// A tile [TOKENS, 128 bytes] in the 128-byte swizzle. A warp.
//
// A lane takes a piece of 16 bytes, eight elements of a block: its four pairs become a word each of four pieces. Eight lanes have a
// row, so that a warp
// reads four rows before it writes them. Neither reads nor writes of a warp touch a bank twice.
template <int TOKENS>
__device__ __forceinline__ void arrange_tile(u32 tile) {
    constexpr int FOURS = TOKENS / 4, BATCH = 4;  // of rows; how many a lane has in registers
    const u32 lane = threadIdx.x % 32, row = lane / 8, piece = lane % 8;
    const u32 base = tile + row * 128, from = base + (piece ^ row) * 16;
    u32 to[4];
#pragma unroll
    for (u32 j = 0; j < 4; ++j) to[j] = base + ((piece % 2 * 4 + j) ^ row) * 16 + piece / 2 * 4;
#pragma unroll
    for (int first = 0; first < FOURS; first += BATCH) {
        u32x4 values[BATCH];
        // Rows 4 to 7 of eight: every piece lies 4 further, or before.
#pragma unroll
        for (int i = 0; i < BATCH && first + i < FOURS; ++i) values[i] = ld_shared_v4_b32((from ^ (first + i) % 2 * 64) + (first + i) * 512);
        __syncwarp();
#pragma unroll
        for (int i = 0; i < BATCH && first + i < FOURS; ++i) {
            const u32 odd = (first + i) % 2 * 64, offset = (first + i) * 512;
            st_shared_b32((to[0] ^ odd) + offset, eight_pair<0>(values[i]));
            st_shared_b32((to[1] ^ odd) + offset, eight_pair<1>(values[i]));
            st_shared_b32((to[2] ^ odd) + offset, eight_pair<2>(values[i]));
            st_shared_b32((to[3] ^ odd) + offset, eight_pair<3>(values[i]));
        }
    }
}

// Scales of a unit of a tile of NVFP4, on their way: a lane has every 32nd row.
template <int TOKENS>
struct TileScales {
    static constexpr int ROWS = (TOKENS + 31) / 32;
    u32 of[ROWS];

    // Of unit `unit`, of the rows from `token` on; what is not there becomes zeros.
    template <int LAYOUT>
    __device__ __forceinline__ void load(const Activations& x, int batch, int token, u32 unit) {
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            const u32 inside = i * 32 + threadIdx.x % 32, row = token + inside;
            of[i] = 0;
            if (inside < TOKENS && x.has(row, unit)) of[i] = ld_global_nc_b32(x.template scale<LAYOUT>(batch, row, unit));
        }
    }
};

// Unit `unit` of a chunk of codes [TOKENS, 128 bytes] at `raw`, in the 128-byte swizzle, to a tile. A warp, a row for each lane:
// eight rows in a row write
// to different banks.
template <int TOKENS>
__device__ __forceinline__ void decode_tile(u32 tile, u32 raw, u32 unit, const TileScales<TOKENS>& scales) {
#pragma unroll
    for (int i = 0; i < TileScales<TOKENS>::ROWS; ++i) {
        const u32 row = i * 32 + threadIdx.x % 32, swizzle = row % 8 * 16;
        if (row >= TOKENS) continue;
        const u32x4 low = ld_shared_v4_b32(raw + row * 128 + chunk_offset(unit, 0, swizzle));
        const u32x4 high = ld_shared_v4_b32(raw + row * 128 + chunk_offset(unit, 1, swizzle));
        const u32 to = tile + row * 128 + swizzle;
#pragma unroll
        for (u32 v = 0; v < 2; ++v) {
            const u32 words[4] = {v == 0 ? low.x : low.y, v == 0 ? low.z : low.w, v == 0 ? high.x : high.y, v == 0 ? high.z : high.w};
            st_shared_v4_b32(to ^ (4 * v + 0) * 16, decode_piece<0>(words, scales.of[i]));
            st_shared_v4_b32(to ^ (4 * v + 1) * 16, decode_piece<1>(words, scales.of[i]));
            st_shared_v4_b32(to ^ (4 * v + 2) * 16, decode_piece<2>(words, scales.of[i]));
            st_shared_v4_b32(to ^ (4 * v + 3) * 16, decode_piece<3>(words, scales.of[i]));
        }
    }
}
