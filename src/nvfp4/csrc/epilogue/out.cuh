// One or two results to device memory: fp32 rounded once, to nearest even, to the type of the output.
#pragma once

#include "ptx/cvt.cuh"
#include "ptx/st.cuh"
#include "ptx/types.cuh"

constexpr int OUT_FP16 = 0;
constexpr int OUT_BF16 = 1;
constexpr int OUT_FP32 = 2;

template <int OUT>
constexpr int OUT_BYTES = OUT == OUT_FP32 ? 4 : 2;

template <int OUT>
__device__ __forceinline__ void store_one(u8* out, i64 index, float value) {
    u8* address = out + index * OUT_BYTES<OUT>;
    if constexpr (OUT == OUT_FP32) {
        st_global_f32(address, value);
    } else {
        st_global_b16(address, OUT == OUT_FP16 ? cvt_rn_f16_f32(value) : cvt_rn_bf16_f32(value));
    }
}

// Elements index and index + 1; `out` and `index` must make the pair aligned.
template <int OUT>
__device__ __forceinline__ void store_pair(u8* out, i64 index, float first, float second) {
    u8* address = out + index * OUT_BYTES<OUT>;
    if constexpr (OUT == OUT_FP32) {
        st_global_v2_f32(address, first, second);
    } else {
        st_global_b32(address, OUT == OUT_FP16 ? cvt_rn_f16x2_f32(first, second) : cvt_rn_bf16x2_f32(first, second));
    }
}
