// gemv_2: two products an instruction, and x decoded once for a block.
//
//   a_codes [M, K/2], a_scales [M, K/16] E4M3        x_codes [K/2], x_scales [K/16]        y [M] fp16
//
// Step over gemv_1: codes become pairs of fp16 by a shift and a mask, times 2^-14 (decode/e2m1.cuh), and a block of 16 is
// summed by fp16 FMAs, two products each, without rounding: a product of codes is a multiple of 1/4, and eight of them are
// at most 288. With A times 2^-14 and x times 2 the sums are multiples of 2^-15, which fp16 still has. x is decoded by
// the whole block into shared memory, piece by piece: lanes then read 16 bytes side by side, without bank conflicts.
#include "decode/e2m1.cuh"
#include "decode/e4m3.cuh"
#include "ptx/cvt.cuh"
#include "ptx/f16x2.cuh"
#include "ptx/ld.cuh"
#include "ptx/shfl.cuh"
#include "ptx/st.cuh"

constexpr int K = CONFIG_K;
constexpr int WARPS = 8, ROWS = 4;  // rows of a warp, one after another
constexpr int WORDS = K / 8;        // of eight codes
constexpr u32 F16X2_2_POW_15 = 0x78007800u;
constexpr float REST = 8192.0f;  // 2^14 / 2

// Word w of x lies at piece (w % 4) * (WORDS / 4) + w / 4.
__shared__ __align__(16) u32x4 x_shared[WORDS];
__shared__ float x_scale_shared[K / 16];

__device__ __forceinline__ u32 add_word(u32 codes, u32x4 x, u32 sum) {
    const u32x4 a = e2m1x8_to_f16x2_strided(codes);
    return fma_rn_f16x2(a.w, x.w, fma_rn_f16x2(a.z, x.z, fma_rn_f16x2(a.y, x.y, fma_rn_f16x2(a.x, x.x, sum))));
}

__device__ __forceinline__ float halves(u32 pair) { return cvt_f32_f16(pair) + cvt_f32_f16(pair >> 16); }

extern "C" __global__ void __launch_bounds__(32 * WARPS)
    gemv_2(const u8* a_codes, const u8* a_scales, const u8* x_codes, const u8* x_scales, u16* y, i32 m, i32) {
    for (int w = threadIdx.x; w < WORDS; w += 32 * WARPS) {
        const u32x4 x = e2m1x8_to_f16x2_strided(ld_global_b32(x_codes + 4 * w));
        x_shared[w % 4 * (WORDS / 4) + w / 4] = {mul_rn_f16x2(x.x, F16X2_2_POW_15), mul_rn_f16x2(x.y, F16X2_2_POW_15),
                                                 mul_rn_f16x2(x.z, F16X2_2_POW_15), mul_rn_f16x2(x.w, F16X2_2_POW_15)};
    }
    for (int b = threadIdx.x; b < K / 16; b += 32 * WARPS) x_scale_shared[b] = e4m3_to_f32(x_scales[b]) * REST;
    __syncthreads();
    const int lane = threadIdx.x % 32, first = (blockIdx.x * WARPS + threadIdx.x / 32) * ROWS;
    for (int row = first; row < min(first + ROWS, m); ++row) {
        const u8* codes = a_codes + static_cast<i64>(row) * (K / 2);
        const u8* scales = a_scales + static_cast<i64>(row) * (K / 16);
        float sum = 0.0f;
        for (int group = lane; group < K / 32; group += 32) {
            const u32x4 a = ld_global_v4_b32(codes + group * 16);
            const u32 scale = e4m3x2_to_f16x2(ld_global_b16(scales + group * 2));
            const u32x4* x = x_shared + group;
            const float low = halves(add_word(a.y, x[WORDS / 4], add_word(a.x, x[0], 0)));
            const float high = halves(add_word(a.w, x[3 * WORDS / 4], add_word(a.z, x[WORDS / 2], 0)));
            sum += low * x_scale_shared[2 * group] * cvt_f32_f16(scale);
            sum += high * x_scale_shared[2 * group + 1] * cvt_f32_f16(scale >> 16);
        }
#pragma unroll
        for (int mask = 16; mask >= 1; mask /= 2) sum += shfl_sync_bfly_f32(sum, mask);
        if (lane == 0) st_global_b16(y + row, cvt_rn_f16_f32(sum));
    }
}
