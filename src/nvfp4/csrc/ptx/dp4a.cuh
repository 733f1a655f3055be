// dp4a: c plus the dot product of four signed bytes with four signed bytes (PTX ISA 9.7.1.23; sm_61).
#pragma once

#include "ptx/types.cuh"

__device__ __forceinline__ i32 dp4a_s32_s32(u32 a, u32 b, i32 c) {
    i32 d;
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
