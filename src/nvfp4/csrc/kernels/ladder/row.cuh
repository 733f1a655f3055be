// What the Hopper rungs share: 64 elements of a row, decoded to fp16.
//
// Hopper has no FP4 matrix units: codes times block scales become fp16, exactly (at most 6 significant bits), times 2^-14. A
// word of eight codes becomes 16 bytes with the codes in the order 0 4 1 5 2 6 3 7, as shifts leave them: the order along K does
// not matter as long as A and B have the same one.
#pragma once

#include "decode/e2m1_select.cuh"
#include "decode/e4m3.cuh"
#include "ptx/cvt.cuh"
#include "ptx/f16x2.cuh"
#include "ptx/prmt.cuh"
#include "ptx/st.cuh"
#include "ptx/types.cuh"

constexpr int CHUNK = 64;          // elements along K of a tile in shared memory
constexpr int LINE = 2 * CHUNK;    // bytes of a row there
constexpr int PIECES = LINE / 16;  // of eight elements
constexpr float UNDO = 268435456.0f;  // 2^28: both factors are decoded times 2^-14

struct Row64 {
    u32x4 codes[2];
    u32 scales;  // four, one for 16 elements
};

__device__ __forceinline__ u32x4 decode_word(u32 codes, u32 scale) {
    const u32x4 x = e2m1x8_to_f16x2_select(codes);
    return {mul_rn_f16x2(x.x, scale), mul_rn_f16x2(x.y, scale), mul_rn_f16x2(x.z, scale), mul_rn_f16x2(x.w, scale)};
}

// Writes the 128 bytes of a row to `line`; piece p goes to piece p ^ swizzle.
__device__ __forceinline__ void decode_row(const Row64& from, u32 line, u32 swizzle) {
    const u32 low = e4m3x2_to_f16x2(from.scales), high = e4m3x2_to_f16x2(from.scales >> 16);
    const u32 words[PIECES] = {from.codes[0].x, from.codes[0].y, from.codes[0].z, from.codes[0].w,
                               from.codes[1].x, from.codes[1].y, from.codes[1].z, from.codes[1].w};
#pragma unroll
    for (int p = 0; p < PIECES; ++p) {
        const u32 pair = p < 4 ? low : high, scale = p % 4 < 2 ? prmt_b32<0x1010>(pair, pair) : prmt_b32<0x3232>(pair, pair);
        st_shared_v4_b32(line + ((p ^ swizzle) * 16), decode_word(words[p], scale));
    }
}

// Two neighbours of a row of C.
__device__ __forceinline__ void store_two(u16* c, i64 index, float first, float second) {
    st_global_b32(c + index, cvt_rn_f16x2_f32(first * UNDO, second * UNDO));
}
