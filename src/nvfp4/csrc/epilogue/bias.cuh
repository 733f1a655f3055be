// The bias of a GEMV: one value for each row of A, added to the fp32 result before it is rounded.
#pragma once

#include "ptx/cvt.cuh"
#include "ptx/ld.cuh"
#include "ptx/types.cuh"

constexpr int BIAS_NONE = 0, BIAS_FP16 = 1, BIAS_BF16 = 2, BIAS_FP32 = 3;

// `value`, and element `row` of `bias`.
template <int BIAS>
__device__ __forceinline__ float add_bias(float value, const u8* bias, int row) {
    const i64 index = row;
    if constexpr (BIAS == BIAS_FP16) return value + cvt_f32_f16(ld_global_b16(bias + 2 * index));
    if constexpr (BIAS == BIAS_BF16) return value + __uint_as_float(ld_global_b16(bias + 2 * index) << 16);
    if constexpr (BIAS == BIAS_FP32) return value + __uint_as_float(ld_global_b32(bias + 4 * index));
    return value;
}
