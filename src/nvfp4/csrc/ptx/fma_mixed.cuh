// fma.rn.f32.f16, fma.rn.f32.bf16: 16-bit factors, sums in fp32 (PTX ISA 9.7.5.3, "Mixed Precision Floating Point Instructions: fma"; sm_100).
#pragma once

#include "ptx/types.cuh"

// The low halves of a and b, in half precision: a * b + c, rounded once.
__device__ __forceinline__ float fma_rn_f32_f16(u32 a, u32 b, float c) {
    float d;
    asm("fma.rn.f32.f16 %0, %1, %2, %3;" : "=f"(d) : "h"(static_cast<u16>(a)), "h"(static_cast<u16>(b)), "f"(c));
    return d;
}
