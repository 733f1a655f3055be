// tcgen05.mma on 16-bit operands: D (+)= A B^T, both in shared memory, fp32 sums (PTX ISA 9.7.16.10.9; sm_100a).
#pragma once

#include "ptx/types.cuh"

__device__ __forceinline__ void tcgen05_mma_f16(u32 d, u64 a, u64 b, u32 instruction, u32 accumulate) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.u32 p, %4, 0;\n"
        "tcgen05.mma.cta_group::1.kind::f16 [%0], %1, %2, %3, p;\n"
        "}" ::"r"(d),
        "l"(a), "l"(b), "r"(instruction), "r"(accumulate)
        : "memory");
}

// Instruction descriptor (9.7.16.4.2, table 44): fp32 sums; fp16 operands, or bf16; K-major.
constexpr u32 tcgen05_f16_instruction(bool bf16, u32 m, u32 n) {
    return 1u << 4 | (bf16 ? 1u << 7 | 1u << 10 : 0u) | n / 8 << 17 | m / 16 << 24;
}
