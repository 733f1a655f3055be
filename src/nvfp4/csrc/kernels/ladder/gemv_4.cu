// gemv_4: several rows at a time, the next ones on their way.
//
//   a_codes [M, K/2], a_scales [M, K/16] E4M3        x_codes [K/2], x_scales [K/16]        y [M] fp16
//
// Step over gemv_3: a warp loads BATCH rows before it computes any of them, and the next BATCH before it computes these. 4.8
// TB/s times a latency of about a microsecond are 4.8 MB that must be on their way all the time: 36 KB on each
// multiprocessor, of which gemv_3 has a quarter. And rows are summed over the lanes together: each exchange halves the rows
// that a lane is about, so that four rows cost little more than one.
#include "decode/e4m3.cuh"
#include "kernels/ladder/dot.cuh"
#include "ptx/cvt.cuh"
#include "ptx/ld.cuh"
#include "ptx/shfl.cuh"
#include "ptx/st.cuh"

constexpr int K = CONFIG_K;
constexpr int WARPS = CONFIG_WARPS;
constexpr int CHUNKS = K / 1024 / WARPS;
constexpr int BATCH = 4, BATCHES = 7;
constexpr int ROWS = BATCH * BATCHES;  // of a block

static_assert(CHUNKS * WARPS * 1024 == K, "warps divide a row evenly");

struct Piece {
    u32x4 codes;
    u32 scales;
};

// Sums of four rows over the lanes: lane 8 r ends with that of row r.
__device__ __forceinline__ float reduce(float (&sums)[BATCH], int lane) {
    const bool upper = lane & 16, odd = lane & 8;
    const float low = (upper ? sums[2] : sums[0]) + shfl_sync_bfly_f32(upper ? sums[0] : sums[2], 16);
    const float high = (upper ? sums[3] : sums[1]) + shfl_sync_bfly_f32(upper ? sums[1] : sums[3], 16);
    float sum = (odd ? high : low) + shfl_sync_bfly_f32(odd ? low : high, 8);
#pragma unroll
    for (int mask = 4; mask >= 1; mask /= 2) sum += shfl_sync_bfly_f32(sum, mask);
    return sum;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, 2)
    gemv_4(const u8* a_codes, const u8* a_scales, const u8* x_codes, const u8* x_scales, u16* y, i32 m, i32) {
    __shared__ float partial[ROWS][WARPS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = blockIdx.x * ROWS;

    Piece pieces[2][BATCH][CHUNKS];
    const auto load = [&](int batch) {
#pragma unroll
        for (int r = 0; r < BATCH; ++r) {
#pragma unroll
            for (int c = 0; c < CHUNKS; ++c) {
                const i64 row = min(first + batch * BATCH + r, m - 1);  // beyond the end: the last one again, not stored
                const i64 element = row * K + (c * WARPS + warp) * 1024 + lane * 32;
                pieces[batch % 2][r][c] = {ld_global_L1_no_allocate_v4_b32(a_codes + element / 2),
                                           ld_global_b16(a_scales + element / 16)};
            }
        }
    };
    load(0);
    Factors factors[CHUNKS][2];
    float scale[CHUNKS][2];
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
        const int element = (c * WARPS + warp) * 1024 + lane * 32;
        const u32x4 codes = ld_global_v4_b32(x_codes + element / 2);
        const u32 scales = e4m3x2_to_f16x2(ld_global_b16(x_scales + element / 16));
        factors[c][0] = factors_of(codes.x, codes.y);
        factors[c][1] = factors_of(codes.z, codes.w);
        scale[c][0] = cvt_f32_f16(scales), scale[c][1] = cvt_f32_f16(scales >> 16);
    }
#pragma unroll
    for (int batch = 0; batch < BATCHES; ++batch) {
        if (batch + 1 < BATCHES) load(batch + 1);
        float sums[BATCH];
#pragma unroll
        for (int r = 0; r < BATCH; ++r) {
            sums[r] = 0.0f;
#pragma unroll
            for (int c = 0; c < CHUNKS; ++c) {
                const Piece& a = pieces[batch % 2][r][c];
                const u32 a_scale = e4m3x2_to_f16x2(a.scales);
                const float low = dot16(a.codes.x, a.codes.y, factors[c][0]);
                const float high = dot16(a.codes.z, a.codes.w, factors[c][1]);
                sums[r] = fmaf(low * scale[c][0], cvt_f32_f16(a_scale), sums[r]);
                sums[r] = fmaf(high * scale[c][1], cvt_f32_f16(a_scale >> 16), sums[r]);
            }
        }
        const float sum = reduce(sums, lane);
        if (lane % 8 == 0) partial[batch * BATCH + lane / 8][warp] = sum;
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
