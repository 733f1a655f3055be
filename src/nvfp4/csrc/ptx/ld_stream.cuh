// Loads for data that is read once from end to end (PTX ISA 9.7.9.8, "ld"): not kept in L1, and L2 fetches the 128 bytes
// around each, which the same instruction of other lanes wants.
#pragma once

#include "ptx/types.cuh"

__device__ __forceinline__ u32x4 ld_global_L1_no_allocate_L2_128B_v4_b32(const void* address) {
    u32x4 value;
    asm volatile("ld.global.L1::no_allocate.L2::128B.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(address));
    return value;
}

__device__ __forceinline__ u32x2 ld_global_L1_no_allocate_v2_b32(const void* address) {
    u32x2 value;
    asm volatile("ld.global.L1::no_allocate.v2.b32 {%0, %1}, [%2];" : "=r"(value.x), "=r"(value.y) : "l"(address));
    return value;
}

__device__ __forceinline__ u32 ld_shared_b16(u32 address) {
    u16 value;
    asm volatile("ld.shared.b16 %0, [%1];" : "=h"(value) : "r"(address) : "memory");
    return value;
}
