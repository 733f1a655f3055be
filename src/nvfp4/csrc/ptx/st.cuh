// st.shared, st.global (PTX ISA 9.7.9.11, "st").
#pragma once

#include "ptx/types.cuh"

__device__ __forceinline__ void st_shared_v2_b32(u32 address, u32x2 value) {
    asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(address), "r"(value.x), "r"(value.y) : "memory");
}

__device__ __forceinline__ void st_shared_v4_b32(u32 address, u32x4 value) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(value.x), "r"(value.y), "r"(value.z),
                 "r"(value.w)
                 : "memory");
}

__device__ __forceinline__ void st_shared_b32(u32 address, u32 value) {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}

__device__ __forceinline__ void st_shared_f32(u32 address, float value) {
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}

__device__ __forceinline__ void st_shared_b16(u32 address, u32 value) {
    asm volatile("st.shared.b16 [%0], %1;" ::"r"(address), "h"(static_cast<u16>(value)) : "memory");
}

__device__ __forceinline__ void st_global_v2_f32(void* address, float x, float y) {
    asm volatile("st.global.v2.f32 [%0], {%1, %2};" ::"l"(address), "f"(x), "f"(y) : "memory");
}

__device__ __forceinline__ void st_global_f32(void* address, float value) {
    asm volatile("st.global.f32 [%0], %1;" ::"l"(address), "f"(value) : "memory");
}

__device__ __forceinline__ void st_global_b32(void* address, u32 value) {
    asm volatile("st.global.b32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}

__device__ __forceinline__ void st_global_b16(void* address, u32 value) {
    asm volatile("st.global.b16 [%0], %1;" ::"l"(address), "h"(static_cast<u16>(value)) : "memory");
}

__device__ __forceinline__ void st_global_v4_b32(void* address, u32x4 value) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(address), "r"(value.x), "r"(value.y), "r"(value.z),
                 "r"(value.w)
                 : "memory");
}
