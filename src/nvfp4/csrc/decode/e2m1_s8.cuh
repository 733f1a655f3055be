// E2M1 codes to signed bytes of twice their value, and exact dot products of 16 of them.
//
// Twice an E2M1 magnitude is one of 0 1 2 3 4 6 8 12: eight bytes, one prmt. The selector of prmt takes four codes at
// once, and where the fourth bit of a selector is set prmt returns the sign of the byte instead, which here is zero. So the
// codes themselves select the positive values and zero for the others, the codes with their signs flipped the magnitudes
// of the negative values:  code * x = positive * x + negative * -x,  and dp4a adds four such products exactly.
//
// A sum of 16 products is an integer of at most 16 * 12 * 12 = 2304. It is accumulated on top of the bits of 1.5 * 2^23, so
// that the sum is also an fp32 number, 1.5 * 2^23 + sum, without a conversion instruction.
#pragma once

#include "ptx/dp4a.cuh"
#include "ptx/prmt.cuh"
#include "ptx/types.cuh"

constexpr i32 DOT_BIAS_BITS = 0x4B400000;
constexpr float DOT_BIAS = 12582912.0f;       // 1.5 * 2^23, the number with those bits
constexpr float DOT_UNIT = 0.25f;             // both factors are doubled

// Four codes (the low 16 bits of `codes`): twice the value where it is positive, else zero.
__device__ __forceinline__ u32 e2m1x4_positive_s8(u32 codes) {
    return prmt_b32(0x03020100u, 0x0C080604u, codes);
}

// 16 factors x as bytes: their doubles, and the same negated. Word i of each holds factors 4i..4i+3.
struct Factors16 {
    u32 plus[4];
    u32 minus[4];
};

// Negates four bytes, none of them -128 (no carry leaves a byte: 0x80 - x for x in 0..0x7F stays within it).
__device__ __forceinline__ u32 negate_s8x4(u32 x) {
    const u32 magnitude_and_sign = x ^ 0x80808080u;              // offset binary: x + 128
    const u32 low = 0x01010100u;                                 // unused bits keep the borrow inside
    (void)low;
    return ((0x80808080u | 0x00000000u) - 0u) == 0u ? 0u : (~magnitude_and_sign ^ 0x80808080u) + 0u;
}
