// blackwell_6: persistence, with two accumulators.
//
//   a_codes [M, K/2], b_codes [N, K/2], scales in 128x4 tiles        c [M, N] fp16
//   M a multiple of 256, N of 128, K of 256
//
// Step over blackwell_5: as many pairs as fit, each with one tile after another. While the results of a tile leave tensor memory, the
// next one is multiplied into the other accumulator, and its chunks are on their way before that. One more barrier for each
// accumulator:
//
//   drained[buffer]   8 arrivals at the first block: the warps that store, of both
//
// Tiles go down bands of 4 pairs of rows, so that pairs at work together share rows of A and B in L2.
#include "kernels/ladder/blackwell.cuh"
#include "ptx/barrier_cluster.cuh"
#include "ptx/cp_async_bulk_tensor_policy.cuh"
#include "ptx/elect.cuh"
#include "ptx/mbarrier_cluster.cuh"

constexpr int ROWS = 128, TILE_N = 128, HALF = TILE_N / 2, THREADS = 192, STAGES = 6, BUFFERS = 2, COLUMNS = 512, BAND = 4;
constexpr int B = ROWS * LINE, A_SCALES = B + HALF * LINE, B_SCALES = A_SCALES + SCALES, STAGE_BYTES = B_SCALES + SCALES;

extern __shared__ __align__(1024) u8 memory[];               // STAGES x (A | half of B | scales of A | scales of B)
__shared__ u64 barriers[2 * STAGES + 2 * BUFFERS];  // full, empty, done, drained
__shared__ u32 tensor_address;

__device__ __forceinline__ void synchronise_pair() {
    tcgen05_fence_before_thread_sync();
    barrier_cluster_arrive_release();
    barrier_cluster_wait_acquire();
    tcgen05_fence_after_thread_sync();
}

struct Tiles {
    int rows, columns;  // pairs of 128 rows, tiles of 128 columns

    __device__ __forceinline__ int count() const { return rows * columns; }

    __device__ __forceinline__ void at(int index, int rank, int& row0, int& column0) const {
        const int band = index / (BAND * columns), height = min(BAND, rows - band * BAND), inside = index % (BAND * columns);
        row0 = ((band * BAND + inside % height) * 2 + rank) * ROWS;
        column0 = inside / height * TILE_N;
    }
};

extern "C" __global__ void __launch_bounds__(THREADS)
    blackwell_6(const __grid_constant__ TensorMap a_codes, const __grid_constant__ TensorMap b_codes,
                const __grid_constant__ TensorMap a_scales, const __grid_constant__ TensorMap b_scales, u16* c, i32 n, i32 k, i32 m) {
    const int warp = threadIdx.x / 32, rank = cluster_ctarank(), chunks = k / CHUNK;
    const int pair = blockIdx.x / 2, pairs = gridDim.x / 2;
    const Tiles tiles = {m / (2 * ROWS), n / TILE_N};
    const u32 full = shared_address(barriers), empty = full + 8 * STAGES, done = empty + 8 * STAGES, drained = done + 8 * BUFFERS;
    if (warp == 5) {
        tcgen05_alloc<2>(shared_address(&tensor_address), COLUMNS);
        tcgen05_relinquish_alloc_permit<2>();
    }
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2 * STAGES + BUFFERS; ++i) mbarrier_init_shared_b64(full + 8 * i, 1);
        for (int i = 0; i < BUFFERS; ++i) mbarrier_init_shared_b64(drained + 8 * i, 8);
        fence_mbarrier_init_release_cluster();
    }
    synchronise_pair();
    const u32 d = tensor_address;

    if (warp == 4) {
        if (elect_sync()) {
            int number = 0;  // of the chunk, over all tiles
            for (int tile = pair; tile < tiles.count(); tile += pairs) {
                int row0, column0;
                tiles.at(tile, rank, row0, column0);
                for (int chunk = 0; chunk < chunks; ++chunk, ++number) {
                    const int stage = number % STAGES;
                    const u32 to = shared_address(memory) + stage * STAGE_BYTES;
                    const u32 barrier = mapa_shared_cluster_u32(full + 8 * stage, 0);
                    wait(empty + 8 * stage, number / STAGES % 2 ^ 1);
                    if (rank == 0) mbarrier_arrive_expect_tx_shared_b64(full + 8 * stage, 2 * STAGE_BYTES);
                    const auto copy = [&](u32 offset, const TensorMap* map, int x, int y, int z) {
                        cp_async_bulk_tensor_3d_cta_group_2_policy(to + offset, map, x, y, z, barrier, POLICY_EVICT_NORMAL);
                    };
                    copy(0, &a_codes, chunk * LINE, row0, 0);
                    copy(B, &b_codes, chunk * LINE, column0 + rank * HALF, 0);
                    copy(A_SCALES, &a_scales, 0, chunk * STEPS, row0 / 128);
                    copy(B_SCALES, &b_scales, 0, chunk * STEPS, column0 / 128);
                }
            }
            for (int i = 0; i < STAGES; ++i, ++number) wait(empty + 8 * (number % STAGES), number / STAGES % 2 ^ 1);
        }
    } else if (warp == 5) {
        if (rank == 0 && elect_sync()) {
            int number = 0, turn = 0;
            for (int tile = pair; tile < tiles.count(); tile += pairs, ++turn) {
                const int buffer = turn % BUFFERS;
                wait_barrier_cluster(drained + 8 * buffer, turn / BUFFERS % 2 ^ 1);
                tcgen05_fence_after_thread_sync();
                for (int chunk = 0; chunk < chunks; ++chunk, ++number) {
                    const int stage = number % STAGES;
                    const u32 from = shared_address(memory) + stage * STAGE_BYTES;
                    const u32 columns = d + BUFFERS * TILE_N + stage * 2 * SCALE_COLUMNS;
                    wait(full + 8 * stage, number / STAGES % 2);
                    place_scales<2>(columns, from + A_SCALES);
                    place_scales<2>(columns + SCALE_COLUMNS, from + B_SCALES);
                    multiply_chunk<2, 2 * ROWS, TILE_N>(d + buffer * TILE_N, from, from + B, columns, columns + SCALE_COLUMNS,
                                                        chunk == 0);
                    tcgen05_commit_multicast<2>(empty + 8 * stage, 3);
                }
                tcgen05_commit_multicast<2>(done + 8 * buffer, 3);
            }
        }
    } else {
        int turn = 0;
        for (int tile = pair; tile < tiles.count(); tile += pairs, ++turn) {
            const int buffer = turn % BUFFERS;
            int row0, column0;
            tiles.at(tile, rank, row0, column0);
            wait(done + 8 * buffer, turn / BUFFERS % 2);
            tcgen05_fence_after_thread_sync();
            store_lane(c + (row0 + threadIdx.x) * static_cast<i64>(n) + column0, d + buffer * TILE_N);
            tcgen05_fence_before_thread_sync();
            __syncwarp();
            if (threadIdx.x % 32 == 0) {
                mbarrier_arrive_release_cluster_shared_cluster_b64(mapa_shared_cluster_u32(drained + 8 * buffer, 0));
            }
        }
    }
    __syncwarp();
    synchronise_pair();
    if (warp == 5) tcgen05_dealloc<2>(d, COLUMNS);
}
