// dp4a: c plus the dot product of four signed bytes with four signed bytes (PTX ISA 9.7.1.23; sm_61). dp2a: of the two halves of a with the
// two lower bytes of b (9.7.1.24).
#pragma once

#include "ptx/types.cuh"

__device__ __forceinline__ i32 dp4a_s32_s32(u32 a, u32 b, i32 c) {
    i32 d;
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

__device__ __forceinline__ u32 dp2a_lo_u32_u32(u32 a, u32 b, u32 c) {
    u32 d;
    asm("dp2a.lo.u32.u32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
