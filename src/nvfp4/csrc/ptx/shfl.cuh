// shfl.sync: values of other lanes (PTX ISA 9.7.9.6).
#pragma once

#include "ptx/types.cuh"

__device__ __forceinline__ float shfl_sync_bfly_f32(float value, u32 lane_mask) {
    float result;
    asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=f"(result) : "f"(value), "r"(lane_mask));
    return result;
}
