// E2M1 codes as signed bytes of twice their value, and exact dot products of 16 of them.
//
// Twice an E2M1 magnitude is one of 0 1 2 3 4 6 8 12: eight bytes, the reach of one prmt. Its selector takes four codes
// at once, and where the fourth bit of a selector is set prmt returns the sign of the byte instead, which here is zero.
// So the codes themselves select the positive values and zero for the others, and the codes with their signs flipped
// select the magnitudes of the negative ones:
//
//     code * x = positive(code) * x + positive(-code) * -x
//
// dp4a adds four such products exactly. A sum of 16 products is an integer of at most 16 * 12 * 12 = 2304. It is
// accumulated on top of the bits of 1.5 * 2^23, so that the result is also the fp32 number 1.5 * 2^23 + sum: no
// conversion.
#pragma once

#include "ptx/dp4a.cuh"
#include "ptx/prmt_selector.cuh"
#include "ptx/types.cuh"

constexpr i32 DOT_BIAS_BITS = 0x4B400000;
constexpr float DOT_BIAS = 12582912.0f;  // 1.5 * 2^23, the number with those bits
constexpr float DOT_UNIT = 0.25f;        // both factors are doubled

constexpr u32 E2M1_SIGNS = 0x88888888u;

// The first half of the look-up table in a register. As a constant the compiler would copy it into a register again for
// nearly every prmt, which has room for one immediate only (measured in SASS: 11 copies for 16 look-ups); so it must
// not know the value. Each lane is one bit of lanemask_eq (10.16, "%lanemask_eq").
__device__ __forceinline__ u32 e2m1_table() {
    u32 mask, one;
    asm volatile("mov.u32 %0, %%lanemask_eq;" : "=r"(mask));
    asm volatile("popc.b32 %0, %1;" : "=r"(one) : "r"(mask));
    return 0x030200FFu + one  /* 0x03020100 */;
}

// Four codes (the low 16 bits of `codes`): twice the value where it is positive, else zero.
__device__ __forceinline__ u32 e2m1x4_positive_s8(u32 codes, u32 table) {
    return prmt_b32_selector(table, 0x0C080604u, codes);
}

// Negates four bytes of 0..127. The borrow stays inside each byte, because 128 - x is at least 1.
__device__ __forceinline__ u32 negate_s8x4(u32 bytes) { return (0x80808080u - bytes) ^ 0x80808080u; }

// 16 factors: their doubles as signed bytes, and the same negated. Word i of each holds factors 4i..4i+3.
struct Factors16 {
    u32 plus[4];
    u32 minus[4];
};

// From the two words that hold the 16 codes.
__device__ __forceinline__ Factors16 e2m1x16_to_factors(u32 low, u32 high, u32 table) {
    Factors16 factors;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const u32 codes = (i < 2 ? low : high) >> (16 * (i % 2));
        const u32 positive = e2m1x4_positive_s8(codes, table);
        const u32 negative = e2m1x4_positive_s8(codes ^ E2M1_SIGNS, table);
        factors.plus[i] = positive | negate_s8x4(negative);
        factors.minus[i] = negative | negate_s8x4(positive);
    }
    return factors;
}

// codes >> 16, as 0 times the lower half and once the upper one: look-ups and shifts share the pipe that is busiest, dp2a has another. The
// factor, 0x0100, is derived from e2m1_table(), for the compiler would shift if it knew it.
__device__ __forceinline__ u32 upper_half(u32 codes, u32 table) { return dp2a_lo_u32_u32(codes, table - 0x03020100u + 0x0100u, 0); }

// Four times the sum of 16 products of codes and factors, plus DOT_BIAS: exact. SPREAD: some shifts go to another pipe.
template <bool SPREAD>
__device__ __forceinline__ float dot16(u32 low, u32 high, const Factors16& x, u32 table) {
    i32 sum = DOT_BIAS_BITS;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const u32 codes = i == 0 ? low : high, flipped = codes ^ E2M1_SIGNS;
        const u32 upper = SPREAD ? upper_half(codes, table) : codes >> 16;
        sum = dp4a_s32_s32(e2m1x4_positive_s8(codes, table), x.plus[2 * i], sum);
        sum = dp4a_s32_s32(e2m1x4_positive_s8(flipped, table), x.minus[2 * i], sum);
        sum = dp4a_s32_s32(e2m1x4_positive_s8(upper, table), x.plus[2 * i + 1], sum);
        sum = dp4a_s32_s32(e2m1x4_positive_s8(flipped >> 16, table), x.minus[2 * i + 1], sum);
    }
    return __int_as_float(sum);
}

// The same in two parts, of which the first does without the factors: codes become bytes of 12 + twice their value, 0..24.
struct BiasedTables {
    u32 positive, negative;  // the first halves; not known to the compiler, as e2m1_table()
};

__device__ __forceinline__ BiasedTables biased_tables(u32 table) { return {0x0C0C0C0Cu + table, 0x0C0C0C0Cu - table}; }

// From the two words that hold the 16 codes. Either look-up gives zero where the other one has the byte.
__device__ __forceinline__ u32x4 e2m1x16_to_biased(u32 low, u32 high, const BiasedTables& tables) {
    u32 bytes[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const u32 codes = i < 2 ? low : high, flipped = codes ^ E2M1_SIGNS;
        bytes[i] = prmt_b32_selector(tables.positive, 0x18141210u, i % 2 ? codes >> 16 : codes) |
                   prmt_b32_selector(tables.negative, 0x00040608u, i % 2 ? flipped >> 16 : flipped);
    }
    return {bytes[0], bytes[1], bytes[2], bytes[3]};
}

// Where a sum starts for it to end at DOT_BIAS plus four times that of the products.
__device__ __forceinline__ i32 biased_start(const Factors16& x) {
    i32 twelve = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) twelve = dp4a_s32_s32(x.plus[i], 0x0C0C0C0Cu, twelve);
    return DOT_BIAS_BITS - twelve;
}

__device__ __forceinline__ float dot16_biased(u32x4 bytes, const Factors16& x, i32 start) {
    i32 sum = dp4a_s32_s32(bytes.x, x.plus[0], start);
    sum = dp4a_s32_s32(bytes.y, x.plus[1], sum);
    sum = dp4a_s32_s32(bytes.z, x.plus[2], sum);
    return __int_as_float(dp4a_s32_s32(bytes.w, x.plus[3], sum));
}
