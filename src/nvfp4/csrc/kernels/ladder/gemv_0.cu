// gemv_0: y = A x, naive: a thread for each row, byte after byte.
//
//   a_codes [M, K/2], a_scales [M, K/16] E4M3        x_codes [K/2], x_scales [K/16]        y [M] fp16
//
// Neighbouring threads read bytes that are a whole row apart: of the 32 bytes that memory delivers for each, one is used
// now, and the others only if they are still in the cache later. And only M threads are at work.
#include "decode/e4m3.cuh"
#include "ptx/cvt.cuh"
#include "ptx/st.cuh"
#include "ptx/types.cuh"

// s e e m: with e e m at the low end of a float's exponent it is the value times 2^-126, the subnormal one included.
__device__ __forceinline__ float e2m1_to_f32(u32 code) {
    return __uint_as_float((code & 8) << 28 | (code & 7) << 22) * __uint_as_float((126 + 127) << 23);
}

extern "C" __global__ void gemv_0(const u8* a_codes, const u8* a_scales, const u8* x_codes, const u8* x_scales, u16* y, i32 m,
                                  i32 k) {
    const int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= m) return;
    const u8* codes = a_codes + static_cast<i64>(row) * (k / 2);
    const u8* scales = a_scales + static_cast<i64>(row) * (k / 16);
    float sum = 0.0f;
    for (int block = 0; block < k / 16; ++block) {
        float dot = 0.0f;
        for (int i = 0; i < 8; ++i) {
            const u32 a = codes[block * 8 + i], x = x_codes[block * 8 + i];
            dot += e2m1_to_f32(a & 15) * e2m1_to_f32(x & 15) + e2m1_to_f32(a >> 4) * e2m1_to_f32(x >> 4);
        }
        sum += dot * e4m3_to_f32(x_scales[block]) * e4m3_to_f32(scales[block]);
    }
    st_global_b16(y + row, cvt_rn_f16_f32(sum));
}
