// gemv_1: a warp for each row, 16 bytes a lane at a time.
//
//   a_codes [M, K/2], a_scales [M, K/16] E4M3        x_codes [K/2], x_scales [K/16]        y [M] fp16
//
// Step over gemv_0: the lanes of a warp read 512 bytes that lie side by side, and 32 times as many threads are at work. The
// arithmetic is the same, so now it is what takes the time: about 20 instructions for each of the elements of A.
#include "decode/e4m3.cuh"
#include "ptx/cvt.cuh"
#include "ptx/ld.cuh"
#include "ptx/shfl.cuh"
#include "ptx/st.cuh"

__device__ __forceinline__ float e2m1_to_f32(u32 code) {
    return __uint_as_float((code & 8) << 28 | (code & 7) << 22) * __uint_as_float((126 + 127) << 23);
}

// A block of 16: two words of codes each.
__device__ __forceinline__ float dot16(u32 a0, u32 a1, u32 x0, u32 x1) {
    float dot = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        dot += e2m1_to_f32(a0 >> 4 * i & 15) * e2m1_to_f32(x0 >> 4 * i & 15);
        dot += e2m1_to_f32(a1 >> 4 * i & 15) * e2m1_to_f32(x1 >> 4 * i & 15);
    }
    return dot;
}

extern "C" __global__ void gemv_1(const u8* a_codes, const u8* a_scales, const u8* x_codes, const u8* x_scales, u16* y, i32 m,
                                  i32 k) {
    const int lane = threadIdx.x % 32, row = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (row >= m) return;
    const u8* codes = a_codes + static_cast<i64>(row) * (k / 2);
    const u8* scales = a_scales + static_cast<i64>(row) * (k / 16);
    float sum = 0.0f;
    for (int element = lane * 32; element < k; element += 1024) {
        const u32x4 a = ld_global_v4_b32(codes + element / 2), x = ld_global_v4_b32(x_codes + element / 2);
        const u32 a_scale = ld_global_b16(scales + element / 16), x_scale = ld_global_b16(x_scales + element / 16);
        sum += dot16(a.x, a.y, x.x, x.y) * e4m3_to_f32(x_scale & 255) * e4m3_to_f32(a_scale & 255);
        sum += dot16(a.z, a.w, x.z, x.w) * e4m3_to_f32(x_scale >> 8) * e4m3_to_f32(a_scale >> 8);
    }
#pragma unroll
    for (int mask = 16; mask >= 1; mask /= 2) sum += shfl_sync_bfly_f32(sum, mask);
    if (lane == 0) st_global_b16(y + row, cvt_rn_f16_f32(sum));
}
