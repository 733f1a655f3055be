// NVFP4 rows to WGMMA's operands. A unit is 64 elements along K: four blocks of 16, four instructions.
//
// Decoded values are exact: a code times its block scale has at most 6 significant bits and is a multiple of 2^-10, so that
//   fp16: code * 2^-14 (its bits, see e2m1.cuh) times the scale is a multiple of 2^-24, the spacing of fp16's subnormals;
//   bf16: code * 2^-126 times (scale * 2^118) is within bf16's normal numbers, or zero.
// The powers of two are undone on the fp32 accumulator.
//
// The order of K within a unit is the same for A and B of the instruction, and chosen so that weights are cheap to decode: block t belongs
// to the lanes with lane % 4 == t; slot 2t + e + 8h of instruction i is element 16 t + 8 (i / 2) + 2 (i % 2) + h + 4 e. A lane then
// reads 8 bytes and one scale of its row, and the values lie as shifts leave them. B is brought into this order beforehand: NVFP4 activations
// as they are decoded, 16-bit ones as they are copied (pipeline/sm90_activations.cuh, pipeline/sm90_arrangers.cuh).
#pragma once

#include "decode/e2m1_select.cuh"
#include "decode/e4m3.cuh"
#include "decode/scale_layout.cuh"
#include "ptx/bf16x2.cuh"
#include "ptx/cvt.cuh"
#include "ptx/f16x2.cuh"
#include "ptx/halves.cuh"
#include "ptx/ld.cuh"
#include "ptx/prmt.cuh"
#include "ptx/st.cuh"
#include "ptx/types.cuh"

constexpr int UNIT = 64;        // elements
constexpr int UNIT_BYTES = 32;  // of codes in a row

// What comes from memory at a time: 4 units of a row, 128 bytes of codes (copies of narrower boxes are slow), in the 128-byte
// swizzle: 16-byte piece p of row r lies at piece p ^ (r % 8).
constexpr int CHUNK = 4;              // units
constexpr int CHUNK_ROW_BYTES = 128;  // of codes

// Of K, the last one padded with zeros.
__device__ __forceinline__ int chunks_of(int k) { return (k + CHUNK * UNIT - 1) / (CHUNK * UNIT); }

// Byte offset within a row of a chunk of bytes [16 * piece, 16 * piece + 16) of unit `unit`; `swizzle` is (row % 8) * 16.
__device__ __forceinline__ u32 chunk_offset(u32 unit, u32 piece, u32 swizzle) {
    return unit * UNIT_BYTES ^ piece * 16 ^ swizzle;
}

// decoded = value * 2^exponent
constexpr int DECODED_EXPONENT_F16 = -14;
constexpr int DECODED_EXPONENT_BF16 = -8;

// Per byte: s at bit 7, e e m at bits 3..1, of the high nibbles and of the low nibbles; the other bits are garbage.
__device__ __forceinline__ u32 high_codes(u32 w) { return select_bits(0x80808080u, w, w >> 3); }
__device__ __forceinline__ u32 low_codes(u32 w) { return select_bits(0x80808080u, w << 4, w << 1); }

constexpr u32 F16_CODE = 0x8E008E00u;  // the bits of a decoded code

// Codes I and I + 4 of eight, times 2^-14 times `scale` (in both halves).
template <int I>
__device__ __forceinline__ u32 decode_pair_f16(u32 w, u32 scale) {
    const u32 codes = I % 2 == 0 ? low_codes(w) : high_codes(w);
    return mul_rn_f16x2((I < 2 ? codes << 8 : codes) & F16_CODE, scale);
}

// The same of codes times 2^-126, in bf16: s at bit 15, e e m at bits 8..6. A nibble times 2^12 + 2^6 has both there, between others.
template <int I>
__device__ __forceinline__ u32 decode_pair_bf16(u32 w, u32 scale) {
    const u32 bytes = I < 2 ? w : w >> 8;
    const u32 spread = I % 2 == 0 ? (bytes & 0x000F000Fu) * ((1u << 12) | (1u << 6)) : (bytes & 0x00F000F0u) * ((1u << 8) | (1u << 2));
    return mul_rn_bf16x2(spread & 0x81C081C0u, scale);
}

// Two fp16 scales, which have at most four significant bits, times 2^118 in bf16.
__device__ __forceinline__ u32 scales_bf16(u32 scales) {
    constexpr u32 POWER = (127 + 118) << 7;  // 2^118
    return mul_rn_bf16x2(cvt_rn_bf16x2_f32(cvt_f32_f16(scales), cvt_f32_f16(scales >> 16)), POWER << 16 | POWER);
}

// Weights: 128 rows of a chunk, and where their scales lie in shared memory.
constexpr int WEIGHT_ROWS = 128;
constexpr int WEIGHT_CODES_BYTES = WEIGHT_ROWS * CHUNK_ROW_BYTES;
constexpr int WEIGHT_SCALES_BYTES = WEIGHT_ROWS * CHUNK * UNIT / 16;
constexpr int TILE_SCALES_BYTES = 512;  // of 128 rows and a unit

template <int LAYOUT>
__device__ __forceinline__ u32 chunk_scale_offset(u32 row) {
    return LAYOUT == SCALES_LINEAR ? row * 16 : row % 32 * 16 + row / 32 * 4;
}
template <int LAYOUT>
constexpr u32 CHUNK_SCALE_STEP_UNIT = LAYOUT == SCALES_LINEAR ? 4 : TILE_SCALES_BYTES;
constexpr u32 CHUNK_SCALE_STEP_8 = 128;  // bytes from a row's scales to those of row + 8

// What a lane reads of a unit: of its two rows, as it lies in memory.
struct RawWeights {
    u32x2 codes[2];
    u32 scale[2];

    // Where a lane's codes of a unit are, from those of its row on: the exclusive or of what its row and place in it say, and of what the unit says.
    static __device__ __forceinline__ u32 code_swizzle(u32 row, u32 t) { return t % 2 * 8 + chunk_offset(0, t / 2, (row & 7) * 16); }
    static __device__ __forceinline__ u32 scale_shift(u32 t) { return t; }

    // From the addresses of the lane's codes and of its scales of the chunk's first unit. Its rows are APART.
    template <int LAYOUT, int APART>
    __device__ __forceinline__ void load(u32 codes_of_unit, u32 first_scales, u32 unit) {
        const u32 scales = first_scales + unit * CHUNK_SCALE_STEP_UNIT<LAYOUT>;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            codes[r] = ld_shared_v2_b32(codes_of_unit + r * APART * CHUNK_ROW_BYTES);
            scale[r] = ld_shared_u8(scales + r * (APART / 8) * CHUNK_SCALE_STEP_8);
        }
    }

    // Registers of A of instruction I.
    template <int I, bool BF16>
    __device__ __forceinline__ void decode(u32 (&a)[4]) const {
        constexpr int FIRST = I % 2 * 2;
        const u32 narrow = e4m3x2_to_f16x2(scale[0] | scale[1] << 8);  // of both rows at once
        const u32 scales = BF16 ? scales_bf16(narrow) : narrow;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const u32 word = I < 2 ? codes[r].x : codes[r].y;
            const u32 both = r == 0 ? low_half_twice(scales) : high_half_twice(scales);
            if constexpr (BF16) {
                a[r] = decode_pair_bf16<FIRST>(word, both);
                a[2 + r] = decode_pair_bf16<FIRST + 1>(word, both);
            } else {
                a[r] = decode_pair_f16<FIRST>(word, both);
                a[2 + r] = decode_pair_f16<FIRST + 1>(word, both);
            }
        }
    }
};

// 16 bytes of a unit of activations in the operand's order: piece 4 v + n (of 8) holds pair n of the eight elements v (0 or 1) of each of
// the four blocks: elements n and n + 4 of the eight.

// Of NVFP4: `words` are those eight codes of each block, `scales` the blocks' scales, as fp16 in both halves or as they lie in memory.
template <int N>
__device__ __forceinline__ u32x4 decode_piece_scaled(const u32 (&words)[4], const u32 (&scales)[4]) {
    return {decode_pair_f16<N>(words[0], scales[0]), decode_pair_f16<N>(words[1], scales[1]), decode_pair_f16<N>(words[2], scales[2]),
            decode_pair_f16<N>(words[3], scales[3])};
}

template <int N>
__device__ __forceinline__ u32x4 decode_piece(const u32 (&words)[4], u32 scales) {
    const u32 s01 = e4m3x2_to_f16x2(scales), s23 = e4m3x2_to_f16x2(scales >> 16);
    return decode_piece_scaled<N>(words, {low_half_twice(s01), high_half_twice(s01), low_half_twice(s23), high_half_twice(s23)});
}

// Of 16-bit activations: pair N of eight of them, 4 bytes of that piece; and the piece, from the eights of all four blocks.
template <int N>
__device__ __forceinline__ u32 eight_pair(const u32x4& v) {
    return prmt_b32<N % 2 == 0 ? 0x5410 : 0x7632>(N < 2 ? v.x : v.y, N < 2 ? v.z : v.w);
}

template <int N>
__device__ __forceinline__ u32x4 permute_piece(const u32x4 (&values)[4]) {
    return {eight_pair<N>(values[0]), eight_pair<N>(values[1]), eight_pair<N>(values[2]), eight_pair<N>(values[3])};
}
