// matmul_0: C = A B^T, naive: a thread for each element of C, byte after byte.
//
//   a_codes [M, K/2], a_scales [M, K/16] E4M3        b_codes [N, K/2], b_scales [N, K/16]        c [M, N] fp16
//
// On both ladders: scales lie in rows for Hopper, in 128x4 tiles for Blackwell (CONFIG_SCALES).
//
// Every thread decodes a row of A and a row of B for one result: each code is decoded M or N times over. The right answer, in
// the fewest lines, to compare everything else with.
#include "decode/e4m3.cuh"
#include "decode/scale_layout.cuh"
#include "ptx/cvt.cuh"
#include "ptx/st.cuh"
#include "ptx/types.cuh"

__device__ __forceinline__ float e2m1_to_f32(u32 code) {
    return __uint_as_float((code & 8) << 28 | (code & 7) << 22) * __uint_as_float((126 + 127) << 23);
}

extern "C" __global__ void matmul_0(const u8* a_codes, const u8* a_scales, const u8* b_codes, const u8* b_scales, u16* c,
                                    i32 m, i32 n, i32 k) {
    const int row = blockIdx.y * blockDim.y + threadIdx.y, column = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= m || column >= n) return;
    const u8* a = a_codes + static_cast<i64>(row) * (k / 2);
    const u8* b = b_codes + static_cast<i64>(column) * (k / 2);
    float sum = 0.0f;
    for (int block = 0; block < k / 16; ++block) {
        float dot = 0.0f;
        for (int i = block * 8; i < block * 8 + 8; ++i) {
            const u32 x = a[i], y = b[i];
            dot += e2m1_to_f32(x & 15) * e2m1_to_f32(y & 15) + e2m1_to_f32(x >> 4) * e2m1_to_f32(y >> 4);
        }
        sum += dot * e4m3_to_f32(a_scales[scale_offset<CONFIG_SCALES>(row, block, k / 16)]) *
               e4m3_to_f32(b_scales[scale_offset<CONFIG_SCALES>(column, block, k / 16)]);
    }
    st_global_b16(c + static_cast<i64>(row) * n + column, cvt_rn_f16_f32(sum));
}
