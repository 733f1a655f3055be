// NVFP4 rows to WGMMA's operands. A unit is 64 elements along K: four blocks of 16, four instructions.
//
// Decoded values are exact: a code times its block scale has at most 6 significant bits and is a multiple of 2^-10, so that
//   fp16: code * 2^-14 (its bits, see e2m1.cuh) times the scale is a multiple of 2^-24, the spacing of fp16's subnormals;
//   bf16: code * 2^-126 times (scale * 2^118) is within bf16's normal numbers, or zero.
// The powers of two are undone on the fp32 accumulator.
//
// Two orders of K within a unit, the same for A and B of the instruction:
//   ORDER_MEMORY  slot j of instruction i is element 16 i + j: B is the activations as they lie in memory. A lane's elements
//                 are a byte of each of the 8 words of its row.
//   ORDER_LANE    block t belongs to the lanes with lane % 4 == t: slot 2t + e + 8h of instruction i is element
//                 16 t + 8 (i / 2) + 2 (i % 2) + h + 4 e. A lane then reads 8 bytes and one scale of its row, and the values lie as
//                 shifts leave them. B must be written in this order, which costs its decoder nothing.
#pragma once

#include "decode/e4m3.cuh"
#include "decode/scale_layout.cuh"
#include "ptx/bf16x2.cuh"
#include "ptx/f16x2.cuh"
#include "ptx/ld.cuh"
#include "ptx/prmt.cuh"
#include "ptx/st.cuh"
#include "ptx/types.cuh"

constexpr int UNIT = 64;         // elements
constexpr int UNIT_BYTES = 32;   // of codes in a row

constexpr int ORDER_MEMORY = 0;
constexpr int ORDER_LANE = 1;

// decoded = value * 2^exponent
constexpr int DECODED_EXPONENT_F16 = -14;
constexpr int DECODED_EXPONENT_BF16 = -8;

// Per byte: s at bit 7, e e m at bits 3..1, of the high nibbles and of the low nibbles; the other bits are garbage.
__device__ __forceinline__ u32 high_codes(u32 w) { return (w & 0x80808080u) | ((w >> 3) & ~0x80808080u); }
__device__ __forceinline__ u32 low_codes(u32 w) { return ((w << 4) & 0x80808080u) | ((w << 1) & ~0x80808080u); }

constexpr u32 F16_CODE = 0x8E008E00u;  // the bits of a decoded code

// Eight codes as pairs (0, 4), (1, 5), (2, 6), (3, 7), times 2^-14 times `scale` (in both halves).
__device__ __forceinline__ void decode_word_f16(u32 (&d)[4], u32 w, u32 scale) {
    const u32 high = high_codes(w), low = low_codes(w);
    d[0] = mul_rn_f16x2((low << 8) & F16_CODE, scale);
    d[1] = mul_rn_f16x2((high << 8) & F16_CODE, scale);
    d[2] = mul_rn_f16x2(low & F16_CODE, scale);
    d[3] = mul_rn_f16x2(high & F16_CODE, scale);
}

// ORDER_MEMORY, one row: lane t's byte of each of the 8 words, d[2i + h] the pair of instruction i, half h.
__device__ __forceinline__ void decode_bytes_f16(u32 (&d)[8], const u32x4& first, const u32x4& second, u32 scales, u32 t) {
    const u32 pick = t | (t + 4) << 4;
    const u32 s01 = e4m3x2_to_f16x2(scales), s23 = e4m3x2_to_f16x2(scales >> 16);
    const u32 scale[4] = {prmt_b32<0x1010>(s01, s01), prmt_b32<0x3232>(s01, s01), prmt_b32<0x1010>(s23, s23),
                          prmt_b32<0x3232>(s23, s23)};
#pragma unroll
    for (int part = 0; part < 2; ++part) {
        const u32x4& w = part == 0 ? first : second;
        const u32 bytes = prmt_b32<0x5410>(__byte_perm(w.x, w.y, pick), __byte_perm(w.z, w.w, pick));
        const u32 high = high_codes(bytes), low = low_codes(bytes);
        d[4 * part + 0] = mul_rn_f16x2(prmt_b32<0x4000>(low, high) & F16_CODE, scale[2 * part]);
        d[4 * part + 1] = mul_rn_f16x2(prmt_b32<0x5010>(low, high) & F16_CODE, scale[2 * part]);
        d[4 * part + 2] = mul_rn_f16x2(prmt_b32<0x6020>(low, high) & F16_CODE, scale[2 * part + 1]);
        d[4 * part + 3] = mul_rn_f16x2(prmt_b32<0x7030>(low, high) & F16_CODE, scale[2 * part + 1]);
    }
}

// The same in bf16. A byte times 2^6 + 2^18 has the magnitudes of its two codes at bits 8..6 of the halves, the signs at bit 9.
__device__ __forceinline__ void decode_bytes_bf16(u32 (&d)[8], const u32x4& first, const u32x4& second, u32 scales,
                                                  u32 t) {
    u32 scale[4];
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
        // e e e e m m m at bits 10..4 of a bf16 is the scale times 2^-120; 2^118 is beyond one multiplication by 2^127.
        const u32 spread = pair == 0 ? prmt_b32<0x4140>(scales, 0) : prmt_b32<0x4342>(scales, 0);
        const u32 tiny = ((spread << 8) & 0x80008000u) | ((spread << 4) & 0x07F007F0u);
        const u32 both = mul_rn_bf16x2(mul_rn_bf16x2(tiny, 0x7F007F00u), 0x77007700u);  // 2^127 * 2^111
        scale[2 * pair] = prmt_b32<0x1010>(both, both);
        scale[2 * pair + 1] = prmt_b32<0x3232>(both, both);
    }
    const u32 words[8] = {first.x, first.y, first.z, first.w, second.x, second.y, second.z, second.w};
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        const u32 spread = __byte_perm(words[j], 0, 0x4440 | t) * ((1u << 6) | (1u << 18));
        d[j] = mul_rn_bf16x2((spread & 0x01C001C0u) | ((spread << 6) & 0x80008000u), scale[j / 2]);
    }
}

// Bytes in shared memory of a unit of 128 weight rows, and where the scales of a row lie there.
constexpr int WEIGHT_ROWS = 128;
constexpr int WEIGHT_CODES_BYTES = WEIGHT_ROWS * UNIT_BYTES;
constexpr int WEIGHT_SCALES_BYTES = WEIGHT_ROWS * UNIT / 16;

template <int LAYOUT>
__device__ __forceinline__ u32 unit_scale_offset(u32 row) {
    return LAYOUT == SCALES_LINEAR ? row * 4 : row % 32 * 16 + row / 32 * 4;
}
template <int LAYOUT>
constexpr u32 UNIT_SCALE_STEP_8 = LAYOUT == SCALES_LINEAR ? 32 : 128;  // bytes from a row's scales to those of row + 8

// Registers of A of the four instructions of a unit, for this lane's rows `row` and `row + 8`, whose codes and scales lie at the
// addresses given (of row `row`).
template <int ORDER, bool BF16, int LAYOUT>
__device__ __forceinline__ void decode_weights(u32 (&a)[4][4], u32 codes, u32 scales, u32 t) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const u32 row_codes = codes + r * 8 * UNIT_BYTES, row_scales = scales + r * UNIT_SCALE_STEP_8<LAYOUT>;
        if constexpr (ORDER == ORDER_LANE) {
            static_assert(!BF16, "activations that are decoded here are fp16");
            const u32x2 w = ld_shared_v2_b32(row_codes + 8 * t);
            const u32 pair = e4m3x2_to_f16x2(ld_shared_u8(row_scales + t));
            const u32 scale = prmt_b32<0x1010>(pair, pair);
            u32 d[4];
            decode_word_f16(d, w.x, scale);
            a[0][r] = d[0], a[0][2 + r] = d[1], a[1][r] = d[2], a[1][2 + r] = d[3];
            decode_word_f16(d, w.y, scale);
            a[2][r] = d[0], a[2][2 + r] = d[1], a[3][r] = d[2], a[3][2 + r] = d[3];
        } else {
            const u32x4 first = ld_shared_v4_b32(row_codes), second = ld_shared_v4_b32(row_codes + 16);
            const u32 word = ld_shared_b32(row_scales);
            u32 d[8];
            if constexpr (BF16) {
                decode_bytes_bf16(d, first, second, word, t);
            } else {
                decode_bytes_f16(d, first, second, word, t);
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) a[i][r] = d[2 * i], a[i][2 + r] = d[2 * i + 1];
        }
    }
}

// One row of activations of a unit, codes at `codes` in shared memory, its four scales in a word, to row `row` of B's tile (128-byte
// rows, 128-byte swizzle) in ORDER_LANE: 16-byte chunk 4 v + n holds pair n of word v of each block.
__device__ __forceinline__ void decode_activation_row(u32 tile, u32 row, u32 codes, u32 scales) {
    const u32x4 first = ld_shared_v4_b32(codes), second = ld_shared_v4_b32(codes + 16);
    const u32 s01 = e4m3x2_to_f16x2(scales), s23 = e4m3x2_to_f16x2(scales >> 16);
    const u32 scale[4] = {prmt_b32<0x1010>(s01, s01), prmt_b32<0x3232>(s01, s01), prmt_b32<0x1010>(s23, s23),
                          prmt_b32<0x3232>(s23, s23)};
    const u32 words[2][4] = {{first.x, first.z, second.x, second.z}, {first.y, first.w, second.y, second.w}};
    const u32 address = tile + row * 128, swizzle = (row & 7) << 4;
#pragma unroll
    for (int v = 0; v < 2; ++v) {
        u32 d[4][4];  // block, pair
#pragma unroll
        for (int block = 0; block < 4; ++block) decode_word_f16(d[block], words[v][block], scale[block]);
#pragma unroll
        for (int n = 0; n < 4; ++n) {
            st_shared_v4_b32(address + (((4 * v + n) << 4) ^ swizzle), {d[0][n], d[1][n], d[2][n], d[3][n]});
        }
    }
}
