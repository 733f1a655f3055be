// prmt with a selector that is computed (PTX ISA 9.7.9.7): byte i of the result is byte s & 7 of {b, a} for the
// selector's nibble s = (selector >> 4i) & 15; where s & 8 is set, every bit of the result's byte is the sign of that
// byte.
#pragma once

#include "ptx/types.cuh"

__device__ __forceinline__ u32 prmt_b32_selector(u32 a, u32 b, u32 selector) {
    u32 d;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(selector));
    return d;
}
