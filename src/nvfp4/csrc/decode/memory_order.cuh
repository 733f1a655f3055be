// NVFP4 to 16-bit values in the order of memory, exactly: what the matrix unit reads when both of its factors lie in shared memory and
// the other one comes as it is. Exponents as in wgmma_operand.cuh.
#pragma once

#include "decode/wgmma_operand.cuh"

// Codes 2 I and 2 I + 1 of eight, times 2^-14 times `scale` (in both halves). `even` and `odd` are low_codes and high_codes of the eight.
template <int I>
__device__ __forceinline__ u32 decode_neighbours_f16(u32 even, u32 odd, u32 scale) {
    // Byte I of both into the high byte of a half each; what is in the low bytes is masked out.
    return mul_rn_f16x2(prmt_b32<0x4000 + I * 0x1010>(even, odd) & F16_CODE, scale);
}

// The same times 2^-126, in bf16. `even` and `odd` are the codes with even and with odd numbers, a byte each.
template <int I>
__device__ __forceinline__ u32 decode_neighbours_bf16(u32 even, u32 odd, u32 scale) {
    const u32 nibbles = prmt_b32<0xC480 + I * 0x1111>(even, odd);  // byte I of both; the high bytes are their signs, zeros
    return mul_rn_bf16x2(nibbles * ((1u << 12) | (1u << 6)) & 0x81C081C0u, scale);
}

// Eight codes times a scale, 16 bytes.
template <bool BF16>
__device__ __forceinline__ u32x4 decode_eight(u32 w, u32 scale) {
    if constexpr (BF16) {
        const u32 even = w & 0x0F0F0F0Fu, odd = w >> 4 & 0x0F0F0F0Fu;
        return {decode_neighbours_bf16<0>(even, odd, scale), decode_neighbours_bf16<1>(even, odd, scale),
                decode_neighbours_bf16<2>(even, odd, scale), decode_neighbours_bf16<3>(even, odd, scale)};
    } else {
        const u32 even = low_codes(w), odd = high_codes(w);
        return {decode_neighbours_f16<0>(even, odd, scale), decode_neighbours_f16<1>(even, odd, scale),
                decode_neighbours_f16<2>(even, odd, scale), decode_neighbours_f16<3>(even, odd, scale)};
    }
}

// 32 codes of two blocks, whose scales are the low bytes of `scales`: 64 bytes.
template <bool BF16>
__device__ __forceinline__ void decode_two_blocks(u32x4 (&values)[4], const u32x4& codes, u32 scales) {
    const u32 pair = e4m3x2_to_f16x2(scales);
    const u32 first = BF16 ? both_bf16(pair) : prmt_b32<0x1010>(pair, pair);
    const u32 second = BF16 ? both_bf16(pair >> 16) : prmt_b32<0x3232>(pair, pair);
    values[0] = decode_eight<BF16>(codes.x, first);
    values[1] = decode_eight<BF16>(codes.y, first);
    values[2] = decode_eight<BF16>(codes.z, second);
    values[3] = decode_eight<BF16>(codes.w, second);
}
