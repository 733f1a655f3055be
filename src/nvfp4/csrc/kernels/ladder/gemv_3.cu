// gemv_3: x stays in registers, products by dp4a.
//
//   a_codes [M, K/2], a_scales [M, K/16] E4M3        x_codes [K/2], x_scales [K/16]        y [M] fp16
//
// Step over gemv_2: the warps of a block share a row, so that a lane meets the same elements of x in every row and keeps
// them, as bytes for dp4a. Twice a code is one of eight small integers: prmt looks four of them up at once
// (dot.cuh). 16 products take 26 instructions instead of 35, and nothing is read from shared memory.
#include "decode/e4m3.cuh"
#include "kernels/ladder/dot.cuh"
#include "ptx/cvt.cuh"
#include "ptx/ld.cuh"
#include "ptx/shfl.cuh"
#include "ptx/st.cuh"

constexpr int K = CONFIG_K;
constexpr int WARPS = CONFIG_WARPS;             // share a row, 1024 elements at a time
constexpr int CHUNKS = K / 1024 / WARPS;        // of 1024 elements, for each warp
constexpr int ROWS = 14;                        // of a block, one after another

static_assert(CHUNKS * WARPS * 1024 == K, "warps divide a row evenly");

struct Lane {
    Factors factors[CHUNKS][2];
    float scale[CHUNKS][2];
};

extern "C" __global__ void __launch_bounds__(32 * WARPS)
    gemv_3(const u8* a_codes, const u8* a_scales, const u8* x_codes, const u8* x_scales, u16* y, i32 m, i32) {
    __shared__ float partial[ROWS][WARPS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = blockIdx.x * ROWS;
    Lane x;
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
        const int element = (c * WARPS + warp) * 1024 + lane * 32;
        const u32x4 codes = ld_global_v4_b32(x_codes + element / 2);
        const u32 scales = e4m3x2_to_f16x2(ld_global_b16(x_scales + element / 16));
        x.factors[c][0] = factors_of(codes.x, codes.y);
        x.factors[c][1] = factors_of(codes.z, codes.w);
        x.scale[c][0] = cvt_f32_f16(scales), x.scale[c][1] = cvt_f32_f16(scales >> 16);
    }
    for (int r = 0; r < ROWS && first + r < m; ++r) {
        const i64 row = first + r;
        float sum = 0.0f;
#pragma unroll
        for (int c = 0; c < CHUNKS; ++c) {
            const i64 element = row * K + (c * WARPS + warp) * 1024 + lane * 32;
            const u32x4 a = ld_global_L1_no_allocate_v4_b32(a_codes + element / 2);
            const u32 scale = e4m3x2_to_f16x2(ld_global_b16(a_scales + element / 16));
            const float low = dot16(a.x, a.y, x.factors[c][0]);
            const float high = dot16(a.z, a.w, x.factors[c][1]);
            sum = fmaf(low * x.scale[c][0], cvt_f32_f16(scale), sum);
            sum = fmaf(high * x.scale[c][1], cvt_f32_f16(scale >> 16), sum);
        }
#pragma unroll
        for (int mask = 16; mask >= 1; mask /= 2) sum += shfl_sync_bfly_f32(sum, mask);
        if (lane == 0) partial[r][warp] = sum;
    }
    __syncthreads();
    const int r = threadIdx.x;
    if (r < ROWS && first + r < m) {
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) sum += partial[r][w];
        st_global_b16(y + first + r, cvt_rn_f16_f32(sum * DOT_UNIT));
    }
}
