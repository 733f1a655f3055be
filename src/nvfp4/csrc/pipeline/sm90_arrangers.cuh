// Tiles of 16-bit activations, brought by the copy engine as they lie in memory, into the operand's order of K (decode/wgmma_operand.cuh): in place,
// by warps beside the multipliers. Nobody waits for another block, and the copies run ahead as far as the ring goes.
#pragma once

#include "decode/wgmma_operand.cuh"
#include "ptx/ld.cuh"
#include "ptx/st.cuh"

// A tile [TOKENS, 128 bytes] in the 128-byte swizzle. A warp.
//
// A lane takes a piece of 16 bytes, eight elements of a block: its four pairs become a word each of four pieces. Eight lanes have a row, so that a warp
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
