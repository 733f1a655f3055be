// hopper_7: persistence.
//
//   a_codes [M, K/2], a_scales [M, K/16] E4M3        b_codes [N, K/2], b_scales [N, K/16]        c [M, N] fp16
//   M a multiple of 256, N of 128, K of 64
//
// Step over hopper_6: as many blocks as multiprocessors, each with one tile after another. The decoders do not stop between tiles:
// while results are written, the ring fills with the first chunks of the next tile. Tiles go down bands of 8 tiles of rows, so
// that blocks at work together share rows of A and B in L2.
#include "kernels/ladder/row.cuh"
#include "mma/wgmma_shared.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/fence.cuh"
#include "ptx/ld.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/setmaxnreg.cuh"

constexpr int TILE_M = 256, TILE_N = 128, ROWS = TILE_M + TILE_N;  // of a stage, a decoding thread each
constexpr int THREADS = ROWS + 256, STAGES = 3, AHEAD = 5;
constexpr int STAGE_BYTES = ROWS * LINE, RAW_BYTES = ROWS * 36;

extern __shared__ __align__(1024) u8 memory[];  // STAGES pairs of tiles, AHEAD x raw, full[STAGES], empty[STAGES]

struct Ring {
    u32 base;
    __device__ __forceinline__ u32 tiles(int stage) const { return base + stage * STAGE_BYTES; }
    __device__ __forceinline__ u32 raw(int slot) const { return base + STAGES * STAGE_BYTES + slot * RAW_BYTES; }
    __device__ __forceinline__ u32 full(int stage) const { return raw(AHEAD) + 8 * stage; }
    __device__ __forceinline__ u32 empty(int stage) const { return full(STAGES + stage); }
};

__device__ __forceinline__ void wait(u32 barrier, u32 parity) {
    while (!mbarrier_try_wait_parity_shared_b64(barrier, parity)) {
    }
}

constexpr int BAND = 8;  // tiles of rows that are walked down together

struct Tiles {
    int rows, columns;

    __device__ __forceinline__ int count() const { return rows * columns; }

    // Row and column of the first element of tile `index`.
    __device__ __forceinline__ void at(int index, int& row0, int& column0) const {
        const int band = index / (BAND * columns), height = min(BAND, rows - band * BAND), inside = index % (BAND * columns);
        row0 = (band * BAND + inside % height) * TILE_M;
        column0 = inside / height * TILE_N;
    }
};

__device__ __forceinline__ void decode(const Ring& ring, const Tiles& tiles, const u8* a_codes, const u8* a_scales,
                                       const u8* b_codes, const u8* b_scales, int k) {
    const int thread = threadIdx.x, chunks = k / CHUNK;
    const bool of_a = thread < TILE_M;
    const int mine = (tiles.count() - static_cast<int>(blockIdx.x) + static_cast<int>(gridDim.x) - 1) / static_cast<int>(gridDim.x);
    const int all = mine * chunks;
    // Where the next chunk to be fetched lies; tiles follow one another without a gap.
    int tile = blockIdx.x, chunk_of_tile = 0;
    const u8 *codes = nullptr, *scales = nullptr;
    const auto fetch = [&](int chunk) {
        if (chunk < all) {
            if (chunk_of_tile == 0) {
                int row0, column0;
                tiles.at(tile, row0, column0);
                const i64 row = of_a ? row0 + thread : column0 + thread - TILE_M;
                codes = (of_a ? a_codes : b_codes) + row * (k / 2);
                scales = (of_a ? a_scales : b_scales) + row * (k / 16);
            }
            const u32 to = ring.raw(chunk % AHEAD);
            const u8* from = codes + chunk_of_tile * (CHUNK / 2);
            cp_async_cg_shared_global_16(to + thread * 16, from, 16);
            cp_async_cg_shared_global_16(to + (ROWS + thread) * 16, from + 16, 16);
            cp_async_ca_shared_global_4(to + ROWS * 32 + thread * 4, scales + chunk_of_tile * (CHUNK / 16), 4);
            if (++chunk_of_tile == chunks) {
                chunk_of_tile = 0;
                tile += gridDim.x;
            }
        }
        cp_async_commit_group();
    };
    for (int chunk = 0; chunk < AHEAD - 1; ++chunk) fetch(chunk);
    for (int chunk = 0; chunk < all; ++chunk) {
        fetch(chunk + AHEAD - 1);
        cp_async_wait_group<AHEAD - 1>();
        const u32 from = ring.raw(chunk % AHEAD);
        const Row64 raw = {{ld_shared_v4_b32(from + thread * 16), ld_shared_v4_b32(from + (ROWS + thread) * 16)},
                           ld_shared_b32(from + ROWS * 32 + thread * 4)};
        const int stage = chunk % STAGES;
        wait(ring.empty(stage), chunk / STAGES % 2 ^ 1);
        decode_row(raw, ring.tiles(stage) + thread * LINE, thread % 8);
        fence_proxy_async_shared_cta();
        __syncwarp();
        if (thread % 32 == 0) mbarrier_arrive_shared_b64(ring.full(stage));
    }
}

__device__ __forceinline__ void multiply(const Ring& ring, const Tiles& tiles, u16* c, int n, int chunks) {
    const int thread = threadIdx.x % 128, lane = thread % 32, group = (threadIdx.x - ROWS) / 128;
    int number = 0;  // of the chunk, over all tiles
    for (int tile = blockIdx.x; tile < tiles.count(); tile += gridDim.x) {
        float upper[64] = {}, lower[64] = {};
        for (int chunk = 0; chunk < chunks; ++chunk, ++number) {
            const int stage = number % STAGES;
            wait(ring.full(stage), number / STAGES % 2);
            const u64 a = wgmma_matrix_128b(ring.tiles(stage) + group * 128 * LINE);
            const u64 b = wgmma_matrix_128b(ring.tiles(stage) + TILE_M * LINE);
            wgmma_fence_sync_aligned();
#pragma unroll
            for (int step = 0; step < CHUNK / 16; ++step) {
                    wgmma_m64n128k16_f32_f16_shared(upper, a + 2 * step, b + 2 * step);
                wgmma_m64n128k16_f32_f16_shared(lower, a + 64 * LINE / 16 + 2 * step, b + 2 * step);
            }
            wgmma_commit_group_sync_aligned();
            wgmma_wait_group_sync_aligned<1>();
            if (chunk > 0 && thread == 0) mbarrier_arrive_shared_b64(ring.empty((number - 1) % STAGES));
        }
        wgmma_wait_group_sync_aligned<0>();
        wgmma_results(upper), wgmma_results(lower);
        if (thread == 0) mbarrier_arrive_shared_b64(ring.empty((number - 1) % STAGES));
        int row0, column0;
        tiles.at(tile, row0, column0);
        const i64 r = row0 + group * 128 + thread / 32 * 16 + lane / 4;
#pragma unroll
        for (int j = 0; j < 16; ++j) {
            const int at = column0 + 8 * j + lane % 4 * 2;
            store_two(c, r * n + at, upper[4 * j], upper[4 * j + 1]);
            store_two(c, (r + 8) * n + at, upper[4 * j + 2], upper[4 * j + 3]);
            store_two(c, (r + 64) * n + at, lower[4 * j], lower[4 * j + 1]);
            store_two(c, (r + 72) * n + at, lower[4 * j + 2], lower[4 * j + 3]);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    hopper_7(const u8* a_codes, const u8* a_scales, const u8* b_codes, const u8* b_scales, u16* c, i32 m, i32 n, i32 k) {
    const Ring ring = {shared_address(memory)};
    const Tiles tiles = {m / TILE_M, n / TILE_N};
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; ++stage) {
            mbarrier_init_shared_b64(ring.full(stage), ROWS / 32);
            mbarrier_init_shared_b64(ring.empty(stage), 2);
        }
    }
    __syncthreads();
    if (threadIdx.x < ROWS) {
        setmaxnreg_dec_sync_aligned<40>();
        decode(ring, tiles, a_codes, a_scales, b_codes, b_scales, k);
    } else {
        setmaxnreg_inc_sync_aligned<176>();
        multiply(ring, tiles, c, n, k / CHUNK);
    }
}
