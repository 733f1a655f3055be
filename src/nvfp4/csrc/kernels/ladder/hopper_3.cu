// hopper_3: WGMMA.
//
//   a_codes [M, K/2], a_scales [M, K/16] E4M3        b_codes [N, K/2], b_scales [N, K/16]        c [M, N] fp16
//   M and N multiples of 128, K of 64
//
// Step over hopper_2: the instruction of a whole warpgroup reads both factors from shared memory by itself, 64 x 128 x 16 at a
// time. No ldmatrix, no registers for fragments; and the matrix unit of Hopper reaches its full rate with it only. What
// ordinary stores wrote has to be made visible to it: fence.proxy.async, then the barrier.
#include "kernels/ladder/row.cuh"
#include "mma/wgmma_shared.cuh"
#include "ptx/fence.cuh"
#include "ptx/ld.cuh"

constexpr int TILE = 128, THREADS = 256;

__shared__ __align__(1024) u8 tiles[2 * TILE * LINE];

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    hopper_3(const u8* a_codes, const u8* a_scales, const u8* b_codes, const u8* b_scales, u16* c, i32, i32 n, i32 k) {
    const int thread = threadIdx.x, lane = thread % 32, group = thread / 128;
    const int row0 = blockIdx.y * TILE, column0 = blockIdx.x * TILE;
    const u32 base = shared_address(tiles), b_base = base + TILE * LINE;
    const bool of_a = thread < TILE;
    const i64 row = of_a ? row0 + thread : column0 + thread - TILE;
    const u8* codes = (of_a ? a_codes : b_codes) + row * (k / 2);
    const u8* scales = (of_a ? a_scales : b_scales) + row * (k / 16);

    float sums[64] = {};  // rows 64 group .. 64 group + 63, all 128 columns
    for (int chunk = 0; chunk < k / CHUNK; ++chunk) {
        const u8* from = codes + chunk * (CHUNK / 2);
        const Row64 raw = {{ld_global_v4_b32(from), ld_global_v4_b32(from + 16)},
                           ld_global_b32(scales + chunk * (CHUNK / 16))};
        decode_row(raw, base + thread * LINE, thread % 8);
        fence_proxy_async_shared_cta();
        __syncthreads();
        const u64 a = wgmma_matrix_128b(base + group * 64 * LINE), b = wgmma_matrix_128b(b_base);
        wgmma_fence_sync_aligned();
#pragma unroll
        for (int step = 0; step < CHUNK / 16; ++step) {
            wgmma_m64n128k16_f32_f16_shared(sums, a + 2 * step, b + 2 * step);
        }
        wgmma_commit_group_sync_aligned();
        wgmma_wait_group_sync_aligned<0>();
        wgmma_results(sums);
        __syncthreads();
    }
    const i64 r = row0 + group * 64 + thread % 128 / 32 * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < 16; ++j) {
        const int at = column0 + 8 * j + lane % 4 * 2;
        store_two(c, r * n + at, sums[4 * j], sums[4 * j + 1]);
        store_two(c, (r + 8) * n + at, sums[4 * j + 2], sums[4 * j + 3]);
    }
}
