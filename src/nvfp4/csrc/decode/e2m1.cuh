// E2M1 codes to fp16.
//
// A code is  s e e m.  With s at bit 15 and e e m at bits 11..9, the bits of an fp16 number  s 000ee m00 0000 0000,  it is
// the code's value times 2^-14: both exponents have as many bits below the binary point, and code 1 (0.5, subnormal in
// E2M1) becomes 2^-15, subnormal in fp16 just the same. So a decode is a shift and a mask for each of the two fields.
#pragma once

#include "ptx/prmt.cuh"
#include "ptx/types.cuh"

constexpr int E2M1_F16_EXPONENT = -14;  // decoded = value * 2^E2M1_F16_EXPONENT

// Codes I and I + 4 of the eight in `codes` (code i at bits 4i..4i+3), as f16x2 times 2^-14.
template <int I>
__device__ __forceinline__ u32 e2m1_to_f16x2(u32 codes) {
    static_assert(I >= 0 && I < 4, "codes I and I + 4");
    const u32 sign = I < 3 ? codes << (12 - 4 * I) : codes;
    const u32 magnitude = I < 3 ? codes << (9 - 4 * (I < 3 ? I : 0)) : codes >> 3;
    return (sign & 0x80008000u) | (magnitude & 0x0E000E00u);
}

// The eight codes as f16x2 pairs (0, 4), (1, 5), (2, 6), (3, 7), times 2^-14.
__device__ __forceinline__ u32x4 e2m1x8_to_f16x2_strided(u32 codes) {
    return {e2m1_to_f16x2<0>(codes), e2m1_to_f16x2<1>(codes), e2m1_to_f16x2<2>(codes), e2m1_to_f16x2<3>(codes)};
}

// Pairs of 16-bit values (0, 4), (1, 5), (2, 6), (3, 7) to memory order (0, 1), (2, 3), (4, 5), (6, 7).
__device__ __forceinline__ u32x4 strided_to_memory_order(u32x4 p) {
    return {prmt_b32<0x5410>(p.x, p.y), prmt_b32<0x5410>(p.z, p.w), prmt_b32<0x7632>(p.x, p.y),
            prmt_b32<0x7632>(p.z, p.w)};
}

// And back.
__device__ __forceinline__ u32x4 memory_to_strided_order(u32x4 p) {
    return {prmt_b32<0x5410>(p.x, p.z), prmt_b32<0x7632>(p.x, p.z), prmt_b32<0x5410>(p.y, p.w),
            prmt_b32<0x7632>(p.y, p.w)};
}
