// hopper_5: warp specialisation.
//
//   a_codes [M, K/2], a_scales [M, K/16] E4M3        b_codes [N, K/2], b_scales [N, K/16]        c [M, N] fp16
//   M and N multiples of 128, K of 64
//
// Step over hopper_4: two warpgroups decode, two others multiply, and nobody waits at a barrier of the whole block. A ring of
// STAGES pairs of tiles lies between them, with two mbarriers each:
//
//   full[stage]   8 arrivals: the warps that decode     waited for by those who multiply
//   empty[stage]  2 arrivals: the warpgroups that have multiplied     waited for by those who decode
//
// The next product is in the queue of the matrix unit before the one under way has finished.
#include "kernels/ladder/row.cuh"
#include "mma/wgmma_shared.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/fence.cuh"
#include "ptx/ld.cuh"
#include "ptx/mbarrier.cuh"

constexpr int TILE = 128, DECODERS = 256, THREADS = DECODERS + 256, STAGES = 4, AHEAD = 6;
constexpr int PAIR_BYTES = 2 * TILE * LINE, RAW_BYTES = DECODERS * 36;

extern __shared__ __align__(1024) u8 memory[];  // STAGES pairs of tiles, AHEAD x raw, full[STAGES], empty[STAGES]

struct Ring {
    u32 base;
    __device__ __forceinline__ u32 tiles(int stage) const { return base + stage * PAIR_BYTES; }
    __device__ __forceinline__ u32 raw(int slot) const { return base + STAGES * PAIR_BYTES + slot * RAW_BYTES; }
    __device__ __forceinline__ u32 full(int stage) const { return raw(AHEAD) + 8 * stage; }
    __device__ __forceinline__ u32 empty(int stage) const { return full(STAGES + stage); }
};

__device__ __forceinline__ void wait(u32 barrier, u32 parity) {
    while (!mbarrier_try_wait_parity_shared_b64(barrier, parity)) {
    }
}

__device__ __forceinline__ void decode(const Ring& ring, const u8* codes, const u8* scales, int chunks) {
    const int thread = threadIdx.x;
    const auto fetch = [&](int chunk) {
        if (chunk < chunks) {
            const u32 to = ring.raw(chunk % AHEAD);
            const u8* from = codes + chunk * (CHUNK / 2);
            cp_async_cg_shared_global_16(to + thread * 16, from, 16);
            cp_async_cg_shared_global_16(to + (DECODERS + thread) * 16, from + 16, 16);
            cp_async_ca_shared_global_4(to + DECODERS * 32 + thread * 4, scales + chunk * (CHUNK / 16), 4);
        }
        cp_async_commit_group();
    };
    for (int chunk = 0; chunk < AHEAD - 1; ++chunk) fetch(chunk);
    for (int chunk = 0; chunk < chunks; ++chunk) {
        fetch(chunk + AHEAD - 1);
        cp_async_wait_group<AHEAD - 1>();
        const u32 from = ring.raw(chunk % AHEAD);
        const Row64 mine = {{ld_shared_v4_b32(from + thread * 16), ld_shared_v4_b32(from + (DECODERS + thread) * 16)},
                            ld_shared_b32(from + DECODERS * 32 + thread * 4)};
        const int stage = chunk % STAGES;
        wait(ring.empty(stage), chunk / STAGES % 2 ^ 1);
        decode_row(mine, ring.tiles(stage) + thread * LINE, thread % 8);
        fence_proxy_async_shared_cta();
        __syncwarp();
        if (thread % 32 == 0) mbarrier_arrive_shared_b64(ring.full(stage));
    }
}

__device__ __forceinline__ void multiply(const Ring& ring, u16* c, i64 row0, int column0, int n, int chunks) {
    const int thread = threadIdx.x % 128, lane = thread % 32, group = threadIdx.x / 128 - 2;
    float sums[64] = {};
    for (int chunk = 0; chunk < chunks; ++chunk) {
        const int stage = chunk % STAGES;
        wait(ring.full(stage), chunk / STAGES % 2);
        const u64 a = wgmma_matrix_128b(ring.tiles(stage) + group * 64 * LINE);
        const u64 b = wgmma_matrix_128b(ring.tiles(stage) + TILE * LINE);
        wgmma_fence_sync_aligned();
#pragma unroll
        for (int step = 0; step < CHUNK / 16; ++step) {
            wgmma_m64n128k16_f32_f16_shared(sums, a + 2 * step, b + 2 * step);
        }
        wgmma_commit_group_sync_aligned();
        wgmma_wait_group_sync_aligned<1>();  // the product before this one has read its stage
        if (chunk > 0 && thread == 0) mbarrier_arrive_shared_b64(ring.empty((chunk - 1) % STAGES));
    }
    wgmma_wait_group_sync_aligned<0>();
    wgmma_results(sums);
    const i64 r = row0 + group * 64 + thread / 32 * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < 16; ++j) {
        const int at = column0 + 8 * j + lane % 4 * 2;
        store_two(c, r * n + at, sums[4 * j], sums[4 * j + 1]);
        store_two(c, (r + 8) * n + at, sums[4 * j + 2], sums[4 * j + 3]);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    hopper_5(const u8* a_codes, const u8* a_scales, const u8* b_codes, const u8* b_scales, u16* c, i32, i32 n, i32 k) {
    const Ring ring = {shared_address(memory)};
    const int row0 = blockIdx.y * TILE, column0 = blockIdx.x * TILE;
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; ++stage) {
            mbarrier_init_shared_b64(ring.full(stage), DECODERS / 32);
            mbarrier_init_shared_b64(ring.empty(stage), 2);
        }
    }
    __syncthreads();
    if (threadIdx.x < DECODERS) {
        const bool of_a = threadIdx.x < TILE;
        const i64 row = of_a ? row0 + threadIdx.x : column0 + threadIdx.x - TILE;
        decode(ring, (of_a ? a_codes : b_codes) + row * (k / 2), (of_a ? a_scales : b_scales) + row * (k / 16), k / CHUNK);
    } else {
        multiply(ring, c, row0, column0, n, k / CHUNK);
    }
}
