// What the Blackwell rungs share: sizes, the instructions of a chunk, and the way of results from tensor memory to C.
//
// The tensor cores take NVFP4 as it is: codes from shared memory, block scales from tensor memory. A chunk is 256 elements along
// K, 128 bytes of codes a row: four instructions of 64. The scales of 128 rows x 64 elements are a tile of 512 bytes
// (nvfp4/layouts.py), which tcgen05.cp spreads over four columns of tensor memory.
#pragma once

#include "ptx/cvt.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/st.cuh"
#include "ptx/tcgen05.cuh"
#include "ptx/types.cuh"

constexpr int CHUNK = 256, STEPS = 4;
constexpr int LINE = 128;              // bytes of codes of a row
constexpr int SCALE_TILE = 512;        // bytes
constexpr int SCALES = STEPS * SCALE_TILE;  // of 128 rows, a chunk
constexpr int SCALE_COLUMNS = 4 * STEPS;    // of tensor memory, likewise

__device__ __forceinline__ void wait(u32 barrier, u32 parity) {
    while (!mbarrier_try_wait_parity_shared_b64(barrier, parity)) {
    }
}

// Scales of a chunk of 128 rows, from shared memory to columns `to` and on.
template <int GROUP>
__device__ __forceinline__ void place_scales(u32 to, u32 from) {
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        tcgen05_cp_32x128b_warpx4<GROUP>(to + 4 * step,
                                         tcgen05_matrix<TCGEN05_SWIZZLE_NONE>(from + step * SCALE_TILE, 128));
    }
}

// The products of a chunk whose rows lie in the 128-byte swizzle: M rows of A, N of B.
template <int GROUP, int M, int N>
__device__ __forceinline__ void multiply_chunk(u32 d, u32 a, u32 b, u32 a_scales, u32 b_scales, bool first) {
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        const u64 left = tcgen05_matrix<TCGEN05_SWIZZLE_128>(a + step * 32, 8 * LINE);
        const u64 right = tcgen05_matrix<TCGEN05_SWIZZLE_128>(b + step * 32, 8 * LINE);
        tcgen05_mma_mxf4nvf4_block16<GROUP, COLLECTOR_DISCARD>(d, left, right, tcgen05_mxf4nvf4_instruction(M, N),
                                                               a_scales + 4 * step, b_scales + 4 * step,
                                                               !first || step > 0);
    }
}

// 128 columns of tensor memory to C: a thread of warps 0-3 has the lane, which is the row, of its number. `c` points at the
// first element of that row.
__device__ __forceinline__ void store_lane(u16* c, u32 d) {
    const u32 lanes = threadIdx.x / 32 * 32 << 16;  // the quarter of tensor memory that this warp may read
#pragma unroll
    for (int column = 0; column < 128; column += 32) {
        u32 r[32];
        tcgen05_ld_32x32b_x32(r, d + lanes + column);
        tcgen05_wait_ld();
#pragma unroll
        for (int i = 0; i < 32; ++i) asm volatile("" : "+r"(r[i])::"memory");  // not used before the wait
#pragma unroll
        for (int i = 0; i < 32; i += 8) {
            const auto pair = [&](int j) {
                return cvt_rn_f16x2_f32(__uint_as_float(r[i + j]), __uint_as_float(r[i + j + 1]));
            };
            st_global_v4_b32(c + column + i, {pair(0), pair(2), pair(4), pair(6)});
        }
    }
}
