// ld.global, ld.shared: loads from device and from shared memory (PTX ISA 9.7.9.8, "ld").
//
// Not ld.global.nc, whose data must not change while the kernel runs: a kernel that is launched programmatically runs while the one before
// writes, and ptxas does move such loads in front of griddepcontrol.wait (seen with CUDA 13.0), and others behind it.
#pragma once

#include "ptx/types.cuh"

__device__ __forceinline__ u32x4 ld_global_v4_b32(const void* address) {
    u32x4 value;
    asm volatile("ld.global.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(address));
    return value;
}

// The same, not kept in L1: for data that is read once.
__device__ __forceinline__ u32x4 ld_global_L1_no_allocate_v4_b32(const void* address) {
    u32x4 value;
    asm volatile("ld.global.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(address));
    return value;
}

__device__ __forceinline__ u32x2 ld_global_v2_b32(const void* address) {
    u32x2 value;
    asm volatile("ld.global.v2.b32 {%0, %1}, [%2];" : "=r"(value.x), "=r"(value.y) : "l"(address));
    return value;
}

__device__ __forceinline__ u32 ld_global_b32(const void* address) {
    u32 value;
    asm volatile("ld.global.b32 %0, [%1];" : "=r"(value) : "l"(address));
    return value;
}

__device__ __forceinline__ u32 ld_global_b16(const void* address) {
    u16 value;
    asm volatile("ld.global.b16 %0, [%1];" : "=h"(value) : "l"(address));
    return value;
}

__device__ __forceinline__ u32 ld_global_u8(const void* address) {
    u32 value;
    asm volatile("ld.global.u8 %0, [%1];" : "=r"(value) : "l"(address));
    return value;
}

__device__ __forceinline__ u32x4 ld_shared_v4_b32(u32 address) {
    u32x4 value;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "r"(address)
                 : "memory");
    return value;
}

__device__ __forceinline__ float ld_shared_f32(u32 address) {
    float value;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
    return value;
}

__device__ __forceinline__ u32x2 ld_shared_v2_b32(u32 address) {
    u32x2 value;
    asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(value.x), "=r"(value.y) : "r"(address) : "memory");
    return value;
}

__device__ __forceinline__ u32 ld_shared_b32(u32 address) {
    u32 value;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
    return value;
}

__device__ __forceinline__ u32 ld_shared_u8(u32 address) {
    u32 value;
    asm volatile("ld.shared.u8 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
    return value;
}
