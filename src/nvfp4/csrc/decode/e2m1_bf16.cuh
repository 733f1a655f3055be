// E2M1 codes to bf16.
//
// As for fp16 (decode/e2m1.cuh), with the fields where bf16 has them: s at bit 15 and e e m at bits 8..6 is the code's
// value times 2^-126; code 1 (0.5) becomes the subnormal 2^-127. A multiplication by scale * 2^118 follows, which
// brings the product to code * scale * 2^-8: at most 6 significant bits, a normal number, exact.
#pragma once

#include "decode/e4m3.cuh"
#include "ptx/bf16x2.cuh"
#include "ptx/cvt.cuh"
#include "ptx/types.cuh"

// Two E4M3 scales (the low byte first) as bf16x2 times 2^118, exactly.
__device__ __forceinline__ u32 e4m3x2_to_bf16x2_scaled(u32 scales) {
    const u32 pair = e4m3x2_to_f16x2(scales);
    return mul_rn_bf16x2(cvt_rn_bf16x2_f32(cvt_f32_f16(pair), cvt_f32_f16(pair >> 16)), 0x7A807A80u);
}
