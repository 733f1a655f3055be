// E2M1 codes to fp16 and bf16 in 11 instructions for eight, where the plain way (decode/e2m1.cuh) takes 15.
//
// One LOP3 can choose between two words by a constant mask. So signs and magnitudes of four codes are brought together
// at once, in bytes: of the odd codes  (w & 0x80..) | (w >> 3 & 0x7F..)  is  s xxx eem x  in each byte, of the even
// ones the same with w << 4 and w << 1. A mask then leaves two codes in the high bytes of the halves, where fp16 has
// its sign and the low end of its exponent; the other two follow eight bits up.
#pragma once

#include "ptx/types.cuh"

// Bits of `ones` where `mask` is set, else of `zeros` (PTX ISA 9.7.8.6, "lop3"). Written with operators, the compiler
// finds bits of the shifted word that are known to be zero, shrinks the mask by them, and needs two instructions.
__device__ __forceinline__ u32 select_bits(u32 mask, u32 ones, u32 zeros) {
    u32 d;
    asm("lop3.b32 %0, %1, %2, %3, 0xE4;" : "=r"(d) : "r"(ones), "r"(zeros), "r"(mask));
    return d;
}

// Eight codes as f16x2 pairs (0, 4), (1, 5), (2, 6), (3, 7), times 2^-14.
__device__ __forceinline__ u32x4 e2m1x8_to_f16x2_select(u32 codes) {
    const u32 odd = select_bits(0x80808080u, codes, codes >> 3);
    const u32 even = select_bits(0x80808080u, codes << 4, codes << 1);
    return {(even << 8) & 0x8E008E00u, (odd << 8) & 0x8E008E00u, even & 0x8E008E00u, odd & 0x8E008E00u};
}

// The same as bf16x2, times 2^-126: there  s  is at bit 15 and  e e m  at bits 8..6, across two bytes.
__device__ __forceinline__ u32x4 e2m1x8_to_bf16x2_strided(u32 codes) {
    const u32 signs = 0x80008000u, magnitudes = 0x01C001C0u;
    return {(codes << 12 & signs) | (codes << 6 & magnitudes), (codes << 8 & signs) | (codes << 2 & magnitudes),
            (codes << 4 & signs) | (codes >> 2 & magnitudes), (codes & signs) | (codes >> 6 & magnitudes)};
}
