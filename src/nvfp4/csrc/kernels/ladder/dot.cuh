// What the upper GEMV rungs share: products of sixteen codes by dp4a.
//
// Twice an E2M1 magnitude is one of 0 1 2 3 4 6 8 12: eight bytes, which is the reach of prmt. A selector has four bits for each
// byte of its result; where the fourth is set prmt gives the sign of the byte instead, which here is zero. So four codes look
// up their values where they are positive, and with their signs flipped where they are negative:
//
//     code * x = positive(code) * x + positive(-code) * -x
//
// dp4a adds four such products, exactly.
#pragma once

#include "ptx/dp4a.cuh"
#include "ptx/prmt_selector.cuh"
#include "ptx/types.cuh"

constexpr u32 SIGNS = 0x88888888u;
constexpr float DOT_UNIT = 0.25f;  // both factors are doubled

// Four codes (the low 16 bits): twice the values of the positive ones.
__device__ __forceinline__ u32 positive(u32 codes) { return prmt_b32_selector(0x03020100u, 0x0C080604u, codes); }

// Negates four bytes of 0..127: no borrow leaves its byte, because 128 - x is at least 1.
__device__ __forceinline__ u32 negated(u32 bytes) { return (0x80808080u - bytes) ^ 0x80808080u; }

// Sixteen factors, doubled, and the same negated; word i holds four of them.
struct Factors {
    u32 plus[4], minus[4];
};

__device__ __forceinline__ Factors factors_of(u32 low, u32 high) {
    Factors x;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const u32 codes = (i < 2 ? low : high) >> 16 * (i % 2);
        const u32 up = positive(codes), down = positive(codes ^ SIGNS);
        x.plus[i] = up | negated(down);
        x.minus[i] = down | negated(up);
    }
    return x;
}

// Four times the sum of sixteen products.
__device__ __forceinline__ float dot16(u32 low, u32 high, const Factors& x) {
    i32 sum = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const u32 codes = (i < 2 ? low : high) >> 16 * (i % 2);
        sum = dp4a_s32_s32(positive(codes), x.plus[i], sum);
        sum = dp4a_s32_s32(positive(codes ^ SIGNS), x.minus[i], sum);
    }
    return static_cast<float>(sum);
}
