// Tiles of activations, brought by the copy engine as they lie in memory, to the operand in its order of K
// (decode/wgmma_operand.cuh), by warps beside the multipliers: 16-bit values in place, NVFP4 decoded. Nobody waits for another block, and the
// copies run ahead as far as the ring goes.
//
// Two warps take longer to make a wide tile than it takes to multiply; then all blocks make all activations together
// (pipeline/sm90_activations.cuh), and by these ways at most the tiles that each begins with.
#pragma once

#include "decode/wgmma_operand.cuh"
#include "pipeline/sm90_activations.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/ld.cuh"
#include "ptx/st.cuh"

// A tile [TOKENS, 128 bytes] in the 128-byte swizzle. A warp.
//
// A lane takes a piece of 16 bytes, eight elements of a block: its four pairs become a word each of four pieces. Eight lanes have a
// row, so that a warp reads four rows before it writes them. Neither reads nor writes of a warp touch a bank twice.
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

// Scales of a chunk of NVFP4 activations in shared memory: 16 bytes of each row, 4 of each unit.
constexpr u32 CHUNK_SCALES = CHUNK * UNIT / 16;

// Those of rows [row, row + ROWS) of a matrix to `to`, zeros where nothing is. A whole warp, which arrives at `full` when they are there.
template <int ROWS, int LAYOUT>
__device__ __forceinline__ void load_row_scales(u32 to, const Activations& x, int matrix, int row, int chunk, u32 full) {
    const int first = chunk * CHUNK, units = static_cast<int>(x.units) - first;
    const bool whole = LAYOUT == SCALES_LINEAR && x.units % CHUNK == 0 && units > 0;
#pragma unroll
    for (int i = 0; i < ROWS; i += 32) {
        const int inside = i + static_cast<int>(threadIdx.x % 32), of_matrix = row + inside;
        if (inside >= ROWS) continue;
        const bool there = of_matrix < static_cast<int>(x.rows);
        const u8* from = there ? x.template scale<LAYOUT>(matrix, of_matrix, first) : x.scales;
        const u32 place = to + inside * CHUNK_SCALES;
        if (whole) {
            cp_async_cg_shared_global_16(place, from, there ? 16 : 0);
            continue;
        }
#pragma unroll
        for (int unit = 0; unit < CHUNK; ++unit) {
            const bool copied = there && unit < units;
            cp_async_ca_shared_global_4(place + 4 * unit, copied ? from + unit * SCALE_STEP_64<LAYOUT> : x.scales, copied ? 4 : 0);
        }
    }
    cp_async_mbarrier_arrive_noinc_shared_b64(full);
}

// A row of NVFP4 activations for each lane: from codes [rows, 128 bytes] of a chunk to tiles, both in the 128-byte swizzle. Eight rows in a
// row write to different banks.
struct RowDecoder {
    u32 codes, scales;  // of the row, in the first chunk
    u32 swizzle;        // of codes
    u32 pieces[8];      // of the row, in the first tile

    __device__ __forceinline__ RowDecoder(u32 tile, u32 raw, u32 raw_scales, u32 row)
        : codes(raw + row * 128), scales(raw_scales + row * CHUNK_SCALES), swizzle(row % 8 * 16) {
#pragma unroll
        for (u32 i = 0; i < 8; ++i) pieces[i] = tile + row * 128 + (i * 16 ^ swizzle);
    }

    // What a lane has of a unit, as it lies.
    struct Raw {
        u32 scales;
        u32x4 low, high;
    };

    // Of unit `unit` of a chunk; `chunk` and `chunk_scales` are distances from the first one's.
    __device__ __forceinline__ Raw read(u32 chunk, u32 chunk_scales, u32 unit) const {
        return {ld_shared_b32(scales + chunk_scales + 4 * unit), ld_shared_v4_b32(codes + chunk + chunk_offset(unit, 0, swizzle)),
                ld_shared_v4_b32(codes + chunk + chunk_offset(unit, 1, swizzle))};
    }

    // To the tile that is so far from the first one.
    __device__ __forceinline__ void write(const Raw& raw, u32 tile) const {
        const u32x4 &low = raw.low, &high = raw.high;
        const u32 s01 = e4m3x2_to_f16x2(raw.scales), s23 = e4m3x2_to_f16x2(raw.scales >> 16);
        // Not by HMUL2 itself, as elsewhere: it takes half of a register, the compiler copies halves to registers of their own.
        const u32 both[4] = {prmt_b32<0x1010>(s01, s01), prmt_b32<0x3232>(s01, s01), prmt_b32<0x1010>(s23, s23), prmt_b32<0x3232>(s23, s23)};
#pragma unroll
        for (u32 v = 0; v < 2; ++v) {
            const u32 words[4] = {v == 0 ? low.x : low.y, v == 0 ? low.z : low.w, v == 0 ? high.x : high.y, v == 0 ? high.z : high.w};
            st_shared_v4_b32(pieces[4 * v + 0] + tile, decode_piece_scaled<0>(words, both));
            st_shared_v4_b32(pieces[4 * v + 1] + tile, decode_piece_scaled<1>(words, both));
            st_shared_v4_b32(pieces[4 * v + 2] + tile, decode_piece_scaled<2>(words, both));
            st_shared_v4_b32(pieces[4 * v + 3] + tile, decode_piece_scaled<3>(words, both));
        }
    }
};
