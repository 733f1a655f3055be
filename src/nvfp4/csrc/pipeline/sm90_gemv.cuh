// One NVFP4 vector times NVFP4 rows: what sm90_gemv.cu and sm90_gemv_queue.cu compute, and how A and
// x come in; what a lane does with them is in pipeline/sm90_gemv_lanes.cuh.
//
//   a_codes   [L, M, K/2]  u8, two E2M1 codes a byte        a_scales  [L, M, K/16] E4M3, or 128x4 tiles (A_LAYOUT)
//   x_codes   [L, K/2]                                      x_scales  [L, K/16], or tiles (X_LAYOUT)
//   a_tensor, x_tensor   fp32 [] or [L], or null            y         [L, M] in OUT's type
//   bias      [M] in BIAS's type, or null
//
// Every byte of A is used once, so the kernels are a stream of A past a vector that stays put: in registers.
//
//     row m:   | chunk 0: 1024 elements | chunk 1 | ...          lane i of a warp has 32 elements (16 bytes, 2 scales)
//     warp (wk, wr) of WARPS_K x WARPS_R:   chunks wk, wk + WARPS_K, ... (CHUNKS of them) of the rows of its share
//
// A lane decodes its 32 elements of x once, to bytes for dp4a (decode/e2m1_s8.cuh), and then meets only weights. Of
// each 16 products the sum is an exact integer s; the row's fp32 accumulator takes it as  acc + (s * x_scale) * a_scale
// where s * x_scale is exact (12 + 4 bits) and the second product is inside the FMA: one rounding for 16 elements, none
// where the sum is representable. Lanes meet in a butterfly over all rows of a batch at once, warps in shared memory,
// in a fixed order: the result is a pure function of the input.
//
// Launched programmatically a kernel starts before the previous one has finished. With EARLY it loads A at once,
// which the previous kernel must not be writing; x is read and y is written after griddepcontrol.wait.
#pragma once

#include "decode/e4m3.cuh"
#include "decode/scale_layout.cuh"
#include "epilogue/bias.cuh"
#include "ptx/cvt.cuh"
#include "ptx/ld.cuh"
#include "ptx/ld_stream.cuh"
#include "ptx/prefetch.cuh"
#include "ptx/shfl.cuh"
#include "ptx/st.cuh"
#include "ptx/types.cuh"

// From the plan.
constexpr int K = CONFIG_K;
constexpr int WARPS_K = CONFIG_WARPS_K, WARPS_R = CONFIG_WARPS_R, CHUNKS = CONFIG_CHUNKS;
constexpr bool EARLY = CONFIG_EARLY;           // A is loaded before the previous kernel has finished
constexpr int MIN_BLOCKS = CONFIG_MIN_BLOCKS;  // that fit on a multiprocessor together
constexpr int A_LAYOUT = CONFIG_A_LAYOUT, X_LAYOUT = CONFIG_X_LAYOUT;
constexpr int OUT = CONFIG_OUT;    // 0 fp16, 1 bf16, 2 fp32
constexpr int BIAS = CONFIG_BIAS;  // epilogue/bias.cuh

#ifndef CONFIG_X_PITCH
#define CONFIG_X_PITCH (CONFIG_K / 2)
#endif
constexpr i64 X_PITCH = CONFIG_X_PITCH;  // bytes from one matrix's codes of x to the next one's

static_assert(K % 16 == 0, "K counts whole scale blocks");
static_assert(X_PITCH >= K / 2, "codes of x do not overlap");

constexpr int BLOCKS = K / 16;
constexpr int WARPS = WARPS_K * WARPS_R;
constexpr bool WHOLE_VECTORS = K % 32 == 0;  // 16-byte loads of codes and 2-byte loads of scales are aligned

struct Arguments {
    const u8* a_codes;
    const u8* a_scales;
    const u8* x_codes;
    const u8* x_scales;
    const float* a_tensor;
    const float* x_tensor;
    void* y;
    i32 a_tensor_stride, x_tensor_stride;  // 0: one for all matrices, 1: one each
    i32 m;
    const u8* bias;  // [M], or null
};

__device__ __forceinline__ u32x4 load_codes(const u8* address, int element, bool stream) {
    if constexpr (WHOLE_VECTORS) {
        if (element >= K) return {0, 0, 0, 0};
        return stream ? ld_global_L1_no_allocate_L2_128B_v4_b32(address) : ld_global_v4_b32(address);
    } else {
        u32x2 low{0, 0}, high{0, 0};
        if (element < K) low = ld_global_L1_no_allocate_v2_b32(address);
        if (element + 16 < K) high = ld_global_L1_no_allocate_v2_b32(address + 8);
        return {low.x, low.y, high.x, high.y};
    }
}

// Scales of blocks `block` (even, so that both are side by side in either layout) and block + 1; zero beyond K.
__device__ __forceinline__ u32 load_scales(const u8* address, int block) {
    if constexpr (WHOLE_VECTORS) {
        return block < BLOCKS ? ld_global_b16(address) : 0;
    } else {
        u32 scales = 0;
        if (block < BLOCKS) scales = ld_global_u8(address);
        if (block + 1 < BLOCKS) scales |= ld_global_u8(address + 1) << 8;
        return scales;
    }
}

__device__ __forceinline__ void store(void* y, i64 index, float value) {
    if constexpr (OUT == 0) st_global_b16(static_cast<u16*>(y) + index, cvt_rn_f16_f32(value));
    if constexpr (OUT == 1) st_global_b16(static_cast<u16*>(y) + index, cvt_rn_bf16_f32(value));
    if constexpr (OUT == 2) st_global_f32(static_cast<float*>(y) + index, value);
}
