// prmt: picks four bytes out of eight (PTX ISA 9.7.9.7). Byte i of the result is byte (selector >> 4i) & 7 of {b, a}, or eight times
// that byte's sign where selector >> 4i has bit 3 set.
#pragma once

#include "ptx/types.cuh"

template <u32 SELECTOR>
__device__ __forceinline__ u32 prmt_b32(u32 a, u32 b) {
    u32 d;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "n"(SELECTOR));
    return d;
}
