// Flags in device memory between blocks (PTX ISA 9.7.9.8, "ld", 9.7.9.11, "st": .release, .acquire at .gpu scope).
#pragma once

#include "ptx/types.cuh"

__device__ __forceinline__ void st_release_gpu_global_b32(u32* address, u32 value) {
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}

__device__ __forceinline__ u32 ld_acquire_gpu_global_b32(const u32* address) {
    u32 value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
    return value;
}
