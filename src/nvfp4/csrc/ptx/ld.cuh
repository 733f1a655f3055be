// ld.global.nc: loads of data that nothing writes while the kernel runs (PTX ISA 9.7.9.9, "ld.global.nc").
// ld.shared: loads from shared memory (9.7.9.8, "ld").
#pragma once

#include "ptx/types.cuh"

__device__ __forceinline__ u32x4 ld_global_nc_v4_b32(const void* address) {
    u32x4 value;
    asm volatile("ld.global.nc.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(address));
    return value;
}

// The same, not kept in L1: for data that is read once.
__device__ __forceinline__ u32x4 ld_global_nc_L1_no_allocate_v4_b32(const void* address) {
    u32x4 value;
    asm volatile("ld.global.nc.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(address));
    return value;
}

__device__ __forceinline__ u32x2 ld_global_nc_v2_b32(const void* address) {
    u32x2 value;
    asm volatile("ld.global.nc.v2.b32 {%0, %1}, [%2];" : "=r"(value.x), "=r"(value.y) : "l"(address));
    return value;
}

__device__ __forceinline__ u32 ld_global_nc_b32(const void* address) {
    u32 value;
    asm volatile("ld.global.nc.b32 %0, [%1];" : "=r"(value) : "l"(address));
    return value;
}

__device__ __forceinline__ u32 ld_global_nc_b16(const void* address) {
    u16 value;
    asm volatile("ld.global.nc.b16 %0, [%1];" : "=h"(value) : "l"(address));
    return value;
}

__device__ __forceinline__ u32 ld_global_nc_u8(const void* address) {
    u32 value;
    asm volatile("ld.global.nc.u8 %0, [%1];" : "=r"(value) : "l"(address));
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
