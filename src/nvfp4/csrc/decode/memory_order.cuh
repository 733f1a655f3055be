// NVFP4 to the matrix unit's register operand in the order of memory, exactly: for another factor that comes as it is. Exponents as in
// wgmma_operand.cuh.
#pragma once

#include "decode/wgmma_operand.cuh"
#include "ptx/prmt_selector.cuh"

// Codes 2 I and 2 I + 1 of eight times `scale` (in both halves), the even one in the low half. Of fp16 times 2^-14, of bf16 times 2^-126.
// `even` and `odd` are the codes with even and with odd numbers, a byte each: of fp16 as low_codes and high_codes leave them, of bf16 bare.
template <int I, bool BF16>
__device__ __forceinline__ u32 decode_neighbours(u32 even, u32 odd, u32 scale) {
    if constexpr (BF16) {
        const u32 nibbles = prmt_b32<0xC480 + I * 0x1111>(even, odd);  // byte I of both; the high bytes are their signs, zeros
        return mul_rn_bf16x2(nibbles * ((1u << 12) | (1u << 6)) & 0x81C081C0u, scale);
    } else {
        // Byte I of both into the high byte of a half each; what is in the low bytes is masked out.
        return mul_rn_f16x2(prmt_b32<0x4000 + I * 0x1010>(even, odd) & F16_CODE, scale);
    }
}

// Four scales in 16 bits, as they are multiplied with codes.
template <bool BF16>
__device__ __forceinline__ u32x2 widen_four_scales(u32 scales) {
    const u32 low = e4m3x2_to_f16x2(scales), high = e4m3x2_to_f16x2(scales >> 16);
    return BF16 ? u32x2{scales_bf16(low), scales_bf16(high)} : u32x2{low, high};
}

// What a lane reads of a unit. Of the operand (mma/wgmma.cuh), lane t of four has, of each four bytes of its two rows, byte t.
struct OrderedWeights {
    u32x4 codes[2][2];
    u32x2 scales[2];  // widen_four_scales

    // From the addresses of the first row's codes and scales in the chunk; the other row is APART. Scales are [unit][row][4].
    template <int APART>
    __device__ __forceinline__ void load(u32 codes_of_row, u32 swizzle, u32 scales_of_row, u32 unit) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
#pragma unroll
            for (u32 half = 0; half < 2; ++half) {
                codes[r][half] = ld_shared_v4_b32(codes_of_row + r * APART * CHUNK_ROW_BYTES + chunk_offset(unit, half, swizzle));
            }
            scales[r] = ld_shared_v2_b32(scales_of_row + (unit * WEIGHT_ROWS + r * APART) * 8);
        }
    }

    // Registers of A of the unit's four instructions. Of the words that the lanes share, each takes its bytes, and then has eight codes as
    // if they were neighbours.
    template <bool BF16>
    __device__ __forceinline__ void decode(u32 (&a)[4][4]) const {
        const u32 byte_of_two = threadIdx.x % 4 * 0x11 + 0x40;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const u32x4& words = codes[r][half];
                const u32 own = prmt_b32<0x5410>(prmt_b32_selector(words.x, words.y, byte_of_two), prmt_b32_selector(words.z, words.w, byte_of_two));
                const u32 pair = half == 0 ? scales[r].x : scales[r].y;
                const u32 first = low_half_twice(pair), second = high_half_twice(pair);
                const u32 even = BF16 ? own & 0x0F0F0F0Fu : low_codes(own), odd = BF16 ? own >> 4 & 0x0F0F0F0Fu : high_codes(own);
                a[2 * half][r] = decode_neighbours<0, BF16>(even, odd, first);
                a[2 * half][2 + r] = decode_neighbours<1, BF16>(even, odd, first);
                a[2 * half + 1][r] = decode_neighbours<2, BF16>(even, odd, second);
                a[2 * half + 1][2 + r] = decode_neighbours<3, BF16>(even, odd, second);
            }
        }
    }
};
