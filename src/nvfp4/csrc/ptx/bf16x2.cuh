// Packed bfloat16 arithmetic, subnormals kept (PTX ISA 9.7.4, "Half Precision Floating Point Instructions"; sm_90).
#pragma once

#include "ptx/types.cuh"

__device__ __forceinline__ u32 mul_rn_bf16x2(u32 a, u32 b) {
    u32 d;
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}
