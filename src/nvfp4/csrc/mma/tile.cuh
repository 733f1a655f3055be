// One operand's tile of ROWS x 64 elements: from device memory to 16-bit elements in shared memory.
//
// In shared memory a row is 128 bytes, and its 16-byte chunk c (elements 8c..8c+7) lies at chunk c ^ (row % 8). So the 8 rows
// of an ldmatrix, and the 8 lanes that store together, each touch all 32 banks once.
//
// A unit is one block: 16 elements of a row, that is 8 bytes of codes with one scale, or 32 bytes of activations. Thread t
// owns units t, t + THREADS, ...; unit u is block u % 4 of row u / 4. `load` issues the loads of a tile into
// registers; `store` decodes them into shared memory, after the previous tile has been multiplied.
#pragma once

#include "decode/e2m1.cuh"
#include "decode/e4m3.cuh"
#include "decode/scale_layout.cuh"
#include "ptx/cvt.cuh"
#include "ptx/ld.cuh"
#include "ptx/st.cuh"
#include "ptx/types.cuh"

constexpr int KIND_NVFP4 = 0;  // codes and block scales
constexpr int KIND_FP16 = 1;   // activations
constexpr int KIND_BF16 = 2;   // activations

constexpr int TILE_K = 64;        // elements
constexpr int TILE_ROW_BYTES = 128;

// What the accumulator must be multiplied with for an operand of KIND beside MMAs of bf16 or fp16; see TileLoader::store.
template <int KIND, bool BF16>
constexpr float OPERAND_FACTOR = KIND == KIND_NVFP4 && !BF16 ? 128.0f : 1.0f;

// One matrix of an operand, as a kernel is given it.
struct Matrix {
    const u8* data;    // codes [rows, k/2], or activations [rows, k]
    const u8* scales;  // block scales in the operand's layout; unused for activations
    int rows;
    int k;
};

// Byte offset of 16-byte chunk `chunk` of row `row` in a tile.
__device__ __forceinline__ u32 tile_offset(int row, int chunk) {
    return static_cast<u32>(row * TILE_ROW_BYTES + ((chunk ^ (row & 7)) << 4));
}

// f16x2 times 2^-7, as e2m1 codes times scaled e4m3 are, to bf16x2. Exact: 6 significant bits. The factor is taken out
// here and not left to the accumulator, because activations in bf16 may be as small as 2^-126.
__device__ __forceinline__ u32 scaled_f16x2_to_bf16x2(u32 pair) {
    return cvt_rn_bf16x2_f32(cvt_f32_f16(pair) * 128.0f, cvt_f32_f16(pair >> 16) * 128.0f);
}

template <int KIND, int LAYOUT, int ROWS, int THREADS, bool BF16>
struct TileLoader {
    static constexpr int UNITS = (ROWS * 4 + THREADS - 1) / THREADS;
    static constexpr bool EVERY_THREAD = ROWS * 4 % THREADS == 0;
    static constexpr int WORDS = KIND == KIND_NVFP4 ? 2 : 8;  // registers of a unit
    static constexpr int UNIT_BYTES = 4 * WORDS;

    const u8* data[UNITS];    // this thread's units in the next tile
    const u8* scales[UNITS];
    u32 words[UNITS][WORDS];
    u32 scale[UNITS];
    int blocks_left;  // of a row, from this thread's block of the next tile on; 0 or less for rows outside the matrix
    bool inside[UNITS];

    // Places the tile at rows row0.. of `matrix`, k = 0. Rows from row_end on read as zeros.
    __device__ __forceinline__ void begin(const Matrix& matrix, int row0, int row_end) {
        const int blocks = matrix.k / 16;
        const int block = threadIdx.x % 4;
        blocks_left = blocks - block;
#pragma unroll
        for (int i = 0; i < UNITS; ++i) {
            const int local = (threadIdx.x + i * THREADS) / 4;
            inside[i] = (EVERY_THREAD || local < ROWS) && row0 + local < row_end;
            const int row = inside[i] ? row0 + local : 0;
            data[i] = matrix.data + (static_cast<i64>(row) * blocks + block) * UNIT_BYTES;
            if constexpr (KIND == KIND_NVFP4) {
                scales[i] = matrix.scales + scale_offset<LAYOUT>(row, block, blocks);
            }
        }
    }

    // Loads the next tile into registers and moves on. Units outside the matrix are zeros; nothing is read for them.
    __device__ __forceinline__ void load() {
#pragma unroll
        for (int i = 0; i < UNITS; ++i) {
            const bool valid = inside[i] && blocks_left > 0;
            if constexpr (KIND == KIND_NVFP4) {
                const u32x2 codes = valid ? ld_global_v2_b32(data[i]) : u32x2{0, 0};
                words[i][0] = codes.x;
                words[i][1] = codes.y;
                scale[i] = valid ? ld_global_u8(scales[i]) : 0;
                scales[i] += SCALE_STEP_64<LAYOUT>;
            } else {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const u32x4 values = valid ? ld_global_v4_b32(data[i] + 16 * half) : u32x4{0, 0, 0, 0};
                    words[i][4 * half + 0] = values.x;
                    words[i][4 * half + 1] = values.y;
                    words[i][4 * half + 2] = values.z;
                    words[i][4 * half + 3] = values.w;
                }
            }
            data[i] += 4 * UNIT_BYTES;
        }
        blocks_left -= 4;
    }

    // Writes the loaded tile to shared memory: activations as they are; codes times scales, times 2^-7 as fp16, or
    // unscaled as bf16.
    __device__ __forceinline__ void store(u32 tile) const {
        const int block = threadIdx.x % 4;
#pragma unroll
        for (int i = 0; i < UNITS; ++i) {
            const int row = (threadIdx.x + i * THREADS) / 4;
            if (!EVERY_THREAD && row >= ROWS) continue;
            const u32 factor = KIND == KIND_NVFP4 ? e4m3_to_f16x2_scaled(scale[i]) : 0;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                u32x4 chunk;
                if constexpr (KIND == KIND_NVFP4) {
                    const u32x4 pairs = strided_to_memory_order(e2m1x8_to_f16x2_strided(words[i][half]));
                    chunk = {mul_rn_f16x2(pairs.x, factor), mul_rn_f16x2(pairs.y, factor),
                             mul_rn_f16x2(pairs.z, factor), mul_rn_f16x2(pairs.w, factor)};
                    if constexpr (BF16) {
                        chunk = {scaled_f16x2_to_bf16x2(chunk.x), scaled_f16x2_to_bf16x2(chunk.y),
                                 scaled_f16x2_to_bf16x2(chunk.z), scaled_f16x2_to_bf16x2(chunk.w)};
                    }
                } else {
                    chunk = {words[i][4 * half + 0], words[i][4 * half + 1], words[i][4 * half + 2],
                             words[i][4 * half + 3]};
                }
                st_shared_v4_b32(tile + tile_offset(row, 2 * block + half), chunk);
            }
        }
    }
};
