// E4M3 (fn) block scales to fp16 and fp32, exactly; subnormals included. NaN is refused when a tensor is built.
#pragma once

#include "ptx/cvt.cuh"
#include "ptx/f16x2.cuh"
#include "ptx/prmt.cuh"
#include "ptx/types.cuh"

// Two scales (the low byte first) to f16x2.
//
// Before sm_89:  s eeee mmm  with s at bit 15 and eeee mmm at bits 13..7 is, read as fp16, the value times 2^-8 (the biases
// are 7 and 15; subnormals as well), and 2^8 is a multiplication that cannot round.
__device__ __forceinline__ u32 e4m3x2_to_f16x2(u32 scales) {
#if __CUDA_ARCH__ >= 890
    return cvt_rn_f16x2_e4m3x2(scales);
#else
    const u32 spread = (scales & 0x00FFu) << 8 | (scales & 0xFF00u) << 16;
    const u32 bits = (spread & 0x80008000u) | (spread & 0x7F007F00u) >> 1;
    return mul_rn_f16x2(bits, 0x5C005C00u);  // 2^8, twice
#endif
}

// One scale to fp32: the same with biases 7 and 127, hence 2^120.
__device__ __forceinline__ float e4m3_to_f32(u32 scale) {
    const u32 bits = (scale & 0x80u) << 24 | (scale & 0x7Fu) << 20;
    return __uint_as_float(bits) * __uint_as_float((127u + 120u) << 23);
}

constexpr int E4M3_F16_EXPONENT = 7;  // of e4m3_to_f16x2_scaled

// One scale times 2^7, in both halves. The largest, 448 * 2^7 = 57344, is the reason for 7 and not more.
//
// Times a code decoded by e2m1_to_f16x2 (times 2^-14) this gives code * scale * 2^-7, which fp16 holds exactly: at most 6
// significant bits, multiples of 2^-17, at most 21.
__device__ __forceinline__ u32 e4m3_to_f16x2_scaled(u32 scale) {
    const u32 bits = (scale & 0x80u) << 8 | (scale & 0x7Fu) << 7;  // value * 2^-8
    return mul_rn_f16x2(prmt_b32<0x1010>(bits, bits), 0x78007800u);  // 2^15, twice
}
