// The cycle counter of the multiprocessor (PTX ISA 10, "%clock").
#pragma once

#include "ptx/types.cuh"

__device__ __forceinline__ u32 clock_u32() {
    u32 cycles;
    asm volatile("mov.u32 %0, %%clock;" : "=r"(cycles));
    return cycles;
}
