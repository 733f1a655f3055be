// cvt: conversions between floating-point types (PTX ISA 9.7.9.21). A pair packed in 32 bits has its first value in the
// low half.
#pragma once

#include "ptx/types.cuh"

__device__ __forceinline__ float cvt_f32_f16(u32 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(static_cast<u16>(bits)));
    return value;
}

__device__ __forceinline__ u32 cvt_rn_f16_f32(float value) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

__device__ __forceinline__ u32 cvt_rn_bf16_f32(float value) {
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

__device__ __forceinline__ u32 cvt_rn_f16x2_f32(float low, float high) {
    u32 bits;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

__device__ __forceinline__ u32 cvt_rn_bf16x2_f32(float low, float high) {
    u32 bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

#if __CUDA_ARCH__ >= 890
__device__ __forceinline__ u32 cvt_rn_f16x2_e4m3x2(u32 bits) {
    u32 values;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(values) : "h"(static_cast<u16>(bits)));
    return values;
}
#endif
