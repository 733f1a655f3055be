// Packed half-precision arithmetic, subnormals kept (PTX ISA 9.7.4, "Half Precision Floating Point Instructions").
#pragma once

#include "ptx/types.cuh"

__device__ __forceinline__ u32 mul_rn_f16x2(u32 a, u32 b) {
    u32 d;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

__device__ __forceinline__ u32 fma_rn_f16x2(u32 a, u32 b, u32 c) {
    u32 d;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
