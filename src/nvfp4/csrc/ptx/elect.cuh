// elect.sync: one lane of a warp (PTX ISA 9.7.13.15; sm_90). The whole warp takes part.
#pragma once

#include "ptx/types.cuh"

__device__ __forceinline__ bool elect_sync() {
    u32 chosen;
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "elect.sync _|p, 0xffffffff;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}"
        : "=r"(chosen));
    return chosen != 0;
}
