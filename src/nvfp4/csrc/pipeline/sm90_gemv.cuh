// One NVFP4 vector times NVFP4 rows: what the kernels of the Hopper GEMV share, sm90_gemv.cu and sm90_gemv_queue.cu.
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

#include "decode/e2m1_s8.cuh"
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
constexpr int WARPS_K = CONFIG_WARPS_K, WARPS_R = CONFIG_WARPS_R, CHUNKS = CONFIG_CHUNKS, ROWS = CONFIG_ROWS;
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
static_assert(WARPS_K * CHUNKS * 1024 >= K, "the warps cover a row");
static_assert((ROWS & (ROWS - 1)) == 0 && ROWS <= 32, "the butterfly halves the rows");

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

// What a lane keeps of x: CHUNKS times 32 elements.
struct Lane {
    u32 table;  // e2m1_table()
    Factors16 factors[CHUNKS][2];
    float scale[CHUNKS][2];  // x_scale
    float bias[CHUNKS][2];   // -DOT_BIAS * x_scale, exact: takes the bias of dot16 off inside an FMA
};

// The 16 bytes of codes and two scales that a lane needs of one row and chunk.
struct Piece {
    u32x4 codes;
    u32 scales;
};

__device__ __forceinline__ u32x4 load_codes(const u8* address, int element, bool stream) {
    if constexpr (WHOLE_VECTORS) {
        if (element >= K) return {0, 0, 0, 0};
        return stream ? ld_global_nc_L1_no_allocate_L2_256B_v4_b32(address) : ld_global_nc_v4_b32(address);
    } else {
        u32x2 low{0, 0}, high{0, 0};
        if (element < K) low = ld_global_nc_L1_no_allocate_v2_b32(address);
        if (element + 16 < K) high = ld_global_nc_L1_no_allocate_v2_b32(address + 8);
        return {low.x, low.y, high.x, high.y};
    }
}

// Scales of blocks `block` (even, so that both are side by side in either layout) and block + 1; zero beyond K.
__device__ __forceinline__ u32 load_scales(const u8* address, int block) {
    if constexpr (WHOLE_VECTORS) {
        return block < BLOCKS ? ld_global_nc_b16(address) : 0;
    } else {
        u32 scales = 0;
        if (block < BLOCKS) scales = ld_global_nc_u8(address);
        if (block + 1 < BLOCKS) scales |= ld_global_nc_u8(address + 1) << 8;
        return scales;
    }
}

__device__ __forceinline__ int chunk_element(int chunk, int warp_k, int lane) {
    return (chunk * WARPS_K + warp_k) * 1024 + lane * 32;
}

__device__ __forceinline__ void load_x(Lane& x, const Arguments& args, int l, int warp_k, int lane) {
    x.table = e2m1_table();
    const u8* codes = args.x_codes + l * X_PITCH;
    const u8* scales = args.x_scales + l * scale_matrix_bytes<X_LAYOUT>(1, BLOCKS);
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        const int element = chunk_element(chunk, warp_k, lane);
        const u32x4 words = load_codes(codes + element / 2, element, false);
        const u8* scales_at = scales + scale_offset<X_LAYOUT>(0, element / 16, BLOCKS);
        const u32 pair = e4m3x2_to_f16x2(load_scales(scales_at, element / 16));
        x.factors[chunk][0] = e2m1x16_to_factors(words.x, words.y, x.table);
        x.factors[chunk][1] = e2m1x16_to_factors(words.z, words.w, x.table);
        x.scale[chunk][0] = cvt_f32_f16(pair);
        x.scale[chunk][1] = cvt_f32_f16(pair >> 16);
        x.bias[chunk][0] = -DOT_BIAS * x.scale[chunk][0];
        x.bias[chunk][1] = -DOT_BIAS * x.scale[chunk][1];
    }
}

// Brings the lane's part of x into L2 before the wait: a first touch of memory costs a microsecond or more. The
// previous kernel may be writing x now; from L2 it will be read as written all the same.
__device__ __forceinline__ void prefetch_vectors(const Arguments& args, int l, int warp_k, int lane) {
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        const int element = chunk_element(chunk, warp_k, lane);
        if (element < K && lane % 8 == 0) prefetch_global_L2(args.x_codes + l * X_PITCH + element / 2);
        const u8* scales = args.x_scales + l * scale_matrix_bytes<X_LAYOUT>(1, BLOCKS);
        if (element < K && (X_LAYOUT == SCALES_TILED ? lane % 2 == 0 : lane == 0)) {
            prefetch_global_L2(scales + scale_offset<X_LAYOUT>(0, element / 16, BLOCKS));
        }
    }
}

__device__ __forceinline__ float add_piece(float sum, const Piece& a, const Lane& x, int chunk) {
    const u32 pair = e4m3x2_to_f16x2(a.scales);
    const float first = dot16(a.codes.x, a.codes.y, x.factors[chunk][0], x.table);
    const float second = dot16(a.codes.z, a.codes.w, x.factors[chunk][1], x.table);
    sum = fmaf(fmaf(first, x.scale[chunk][0], x.bias[chunk][0]), cvt_f32_f16(pair), sum);
    return fmaf(fmaf(second, x.scale[chunk][1], x.bias[chunk][1]), cvt_f32_f16(pair >> 16), sum);
}

// Adds sums[r] over the lanes for all rows at once. Each step halves the rows that a lane is about, so that ROWS rows
// cost little more than one. The row of a lane is that of its highest bits; the sum ends in the lanes with the other
// bits zero.
__device__ __forceinline__ float reduce_lanes(float (&sums)[ROWS], int lane) {
    int mask = 16;
#pragma unroll
    for (int half = ROWS / 2; half >= 1; half /= 2, mask /= 2) {
        const bool upper = lane & mask;
#pragma unroll
        for (int i = 0; i < half; i++) {
            const float send = upper ? sums[i] : sums[i + half], keep = upper ? sums[i + half] : sums[i];
            sums[i] = keep + shfl_sync_bfly_f32(send, mask);
        }
    }
    float sum = sums[0];
#pragma unroll
    for (; mask >= 1; mask /= 2) sum += shfl_sync_bfly_f32(sum, mask);
    return sum;
}

constexpr int LANES_PER_ROW = 32 / ROWS;

__device__ __forceinline__ void store(void* y, i64 index, float value) {
    if constexpr (OUT == 0) st_global_b16(static_cast<u16*>(y) + index, cvt_rn_f16_f32(value));
    if constexpr (OUT == 1) st_global_b16(static_cast<u16*>(y) + index, cvt_rn_bf16_f32(value));
    if constexpr (OUT == 2) st_global_f32(static_cast<float*>(y) + index, value);
}

// Adds the partial sums of the warps along K, in order, and writes rows [row, row + rows) of matrix l.
template <int THREADS>
__device__ __forceinline__ void finish(const float* partial, int rows, i64 row, int l, const Arguments& args) {
    const float a_tensor = tensor_scale(args.a_tensor, args.a_tensor_stride, l);
    const float x_tensor = tensor_scale(args.x_tensor, args.x_tensor_stride, l);
    for (int i = threadIdx.x; i < rows; i += THREADS) {
        float sum = partial[i * WARPS_K];
#pragma unroll
        for (int warp_k = 1; warp_k < WARPS_K; warp_k++) sum += partial[i * WARPS_K + warp_k];
        const float result = add_bias<BIAS>(sum * DOT_UNIT * a_tensor * x_tensor, args.bias, static_cast<int>(row) + i);
        store(args.y, l * static_cast<i64>(args.m) + row + i, result);
    }
}
