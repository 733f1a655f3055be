// hopper_4: pipelining.
//
//   a_codes [M, K/2], a_scales [M, K/16] E4M3        b_codes [N, K/2], b_scales [N, K/16]        c [M, N] fp16
//   M and N multiples of 128, K of 64
//
// Step over hopper_3: three things that came one after another run side by side.
//   memory   cp.async fetches the codes of STAGES - 1 chunks ahead; a thread waits for its own copies only, no barrier
//   decode   into one of two pairs of tiles ...
//   multiply ... while WGMMA reads the other
//
//   chunk      i                  i + 1
//   threads    decode i    | wait i - 1, barrier | decode i + 1 | wait i, barrier | ...
//   WGMMA      product i - 1                     | product i                      | ...
#include "kernels/ladder/row.cuh"
#include "mma/wgmma_shared.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/fence.cuh"
#include "ptx/ld.cuh"

constexpr int TILE = 128, THREADS = 256, STAGES = 4;
constexpr int PAIR_BYTES = 2 * TILE * LINE;  // a tile of A, a tile of B
constexpr int RAW_BYTES = THREADS * 36;      // 32 bytes of codes in two halves, 4 of scales, for each thread

extern __shared__ __align__(1024) u8 memory[];  // two pairs of tiles, STAGES x raw

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    hopper_4(const u8* a_codes, const u8* a_scales, const u8* b_codes, const u8* b_scales, u16* c, i32, i32 n, i32 k) {
    const int thread = threadIdx.x, lane = thread % 32, group = thread / 128;
    const int row0 = blockIdx.y * TILE, column0 = blockIdx.x * TILE, chunks = k / CHUNK;
    const u32 base = shared_address(memory), raw = base + 2 * PAIR_BYTES;
    const bool of_a = thread < TILE;
    const i64 row = of_a ? row0 + thread : column0 + thread - TILE;
    const u8* codes = (of_a ? a_codes : b_codes) + row * (k / 2);
    const u8* scales = (of_a ? a_scales : b_scales) + row * (k / 16);

    const auto fetch = [&](int chunk) {
        if (chunk < chunks) {
            const u32 to = raw + chunk % STAGES * RAW_BYTES;
            const u8* from = codes + chunk * (CHUNK / 2);
            cp_async_cg_shared_global_16(to + thread * 16, from, 16);
            cp_async_cg_shared_global_16(to + (THREADS + thread) * 16, from + 16, 16);
            cp_async_ca_shared_global_4(to + THREADS * 32 + thread * 4, scales + chunk * (CHUNK / 16), 4);
        }
        cp_async_commit_group();  // an empty group keeps the count
    };
    for (int chunk = 0; chunk < STAGES - 1; ++chunk) fetch(chunk);

    float sums[64] = {};
    for (int chunk = 0; chunk < chunks; ++chunk) {
        fetch(chunk + STAGES - 1);
        cp_async_wait_group<STAGES - 1>();
        const u32 from = raw + chunk % STAGES * RAW_BYTES, tiles = base + chunk % 2 * PAIR_BYTES;
        const Row64 mine = {{ld_shared_v4_b32(from + thread * 16), ld_shared_v4_b32(from + (THREADS + thread) * 16)},
                            ld_shared_b32(from + THREADS * 32 + thread * 4)};
        decode_row(mine, tiles + thread * LINE, thread % 8);
        fence_proxy_async_shared_cta();
        // Both warpgroups have finished with the other pair of tiles when they come to the barrier.
        wgmma_wait_group_sync_aligned<0>();
        __syncthreads();
        const u64 a = wgmma_matrix_128b(tiles + group * 64 * LINE), b = wgmma_matrix_128b(tiles + TILE * LINE);
        wgmma_fence_sync_aligned();
#pragma unroll
        for (int step = 0; step < CHUNK / 16; ++step) {
            wgmma_m64n128k16_f32_f16_shared(sums, a + 2 * step, b + 2 * step);
        }
        wgmma_commit_group_sync_aligned();
    }
    wgmma_wait_group_sync_aligned<0>();
    wgmma_results(sums);
    const i64 r = row0 + group * 64 + thread % 128 / 32 * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < 16; ++j) {
        const int at = column0 + 8 * j + lane % 4 * 2;
        store_two(c, r * n + at, sums[4 * j], sums[4 * j + 1]);
        store_two(c, (r + 8) * n + at, sums[4 * j + 2], sums[4 * j + 3]);
    }
}
