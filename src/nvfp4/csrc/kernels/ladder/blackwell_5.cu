// blackwell_5: two multiprocessors, one instruction.
//
//   a_codes [M, K/2], b_codes [N, K/2], scales in 128x4 tiles        c [M, N] fp16
//   M a multiple of 256, N of 128, K of 256
//
// Step over blackwell_4: a pair of blocks computes 256 x 128 results with .cta_group::2. Each holds 128 rows of A and 64 of the 128
// rows of B, which the tensor cores of both read: half of B's bytes, and room for more stages. The scales of B lie in both. Only the
// first block multiplies: the copies of both count at its full[stage], its commits arrive at empty[stage] and done of both.
#include "kernels/ladder/blackwell.cuh"
#include "ptx/barrier_cluster.cuh"
#include "ptx/cp_async_bulk_tensor_policy.cuh"
#include "ptx/elect.cuh"
#include "ptx/mbarrier_cluster.cuh"

constexpr int ROWS = 128, TILE_N = 128, HALF = TILE_N / 2, THREADS = 192, STAGES = 6, COLUMNS = 512;
constexpr int B = ROWS * LINE, A_SCALES = B + HALF * LINE, B_SCALES = A_SCALES + SCALES, STAGE_BYTES = B_SCALES + SCALES;

extern __shared__ __align__(1024) u8 memory[];  // STAGES x (A | half of B | scales of A | scales of B)
__shared__ u64 barriers[2 * STAGES + 1];        // full, empty, done
__shared__ u32 tensor_address;

__device__ __forceinline__ void synchronise_pair() {
    tcgen05_fence_before_thread_sync();
    barrier_cluster_arrive_release();
    barrier_cluster_wait_acquire();
    tcgen05_fence_after_thread_sync();
}

extern "C" __global__ void __launch_bounds__(THREADS)
    blackwell_5(const __grid_constant__ TensorMap a_codes, const __grid_constant__ TensorMap b_codes,
                const __grid_constant__ TensorMap a_scales, const __grid_constant__ TensorMap b_scales, u16* c, i32 n, i32 k) {
    const int warp = threadIdx.x / 32, rank = cluster_ctarank(), chunks = k / CHUNK;
    const int row0 = blockIdx.x * ROWS, column0 = blockIdx.y * TILE_N;  // the blocks of a pair are neighbours in x
    const u32 full = shared_address(barriers), empty = full + 8 * STAGES, done = empty + 8 * STAGES;
    if (warp == 5) {
        tcgen05_alloc<2>(shared_address(&tensor_address), COLUMNS);
        tcgen05_relinquish_alloc_permit<2>();
    }
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2 * STAGES + 1; ++i) mbarrier_init_shared_b64(full + 8 * i, 1);
        fence_mbarrier_init_release_cluster();
    }
    synchronise_pair();
    const u32 d = tensor_address;

    if (warp == 4) {
        if (elect_sync()) {
            for (int chunk = 0; chunk < chunks; ++chunk) {
                const int stage = chunk % STAGES;
                const u32 to = shared_address(memory) + stage * STAGE_BYTES;
                const u32 barrier = mapa_shared_cluster_u32(full + 8 * stage, 0);
                wait(empty + 8 * stage, chunk / STAGES % 2 ^ 1);
                if (rank == 0) mbarrier_arrive_expect_tx_shared_b64(full + 8 * stage, 2 * STAGE_BYTES);
                const auto copy = [&](u32 offset, const TensorMap* map, int x, int y, int z) {
                    cp_async_bulk_tensor_3d_cta_group_2_policy(to + offset, map, x, y, z, barrier, POLICY_EVICT_NORMAL);
                };
                copy(0, &a_codes, chunk * LINE, row0, 0);
                copy(B, &b_codes, chunk * LINE, column0 + rank * HALF, 0);
                copy(A_SCALES, &a_scales, 0, chunk * STEPS, row0 / 128);
                copy(B_SCALES, &b_scales, 0, chunk * STEPS, column0 / 128);
            }
            // The last commits arrive in both blocks: neither may be gone by then.
            for (int chunk = chunks; chunk < chunks + STAGES; ++chunk) wait(empty + 8 * (chunk % STAGES), chunk / STAGES % 2 ^ 1);
        }
    } else if (warp == 5) {
        if (rank == 0 && elect_sync()) {
            for (int chunk = 0; chunk < chunks; ++chunk) {
                const int stage = chunk % STAGES;
                const u32 from = shared_address(memory) + stage * STAGE_BYTES, columns = d + TILE_N + stage * 2 * SCALE_COLUMNS;
                wait(full + 8 * stage, chunk / STAGES % 2);
                place_scales<2>(columns, from + A_SCALES);
                place_scales<2>(columns + SCALE_COLUMNS, from + B_SCALES);
                multiply_chunk<2, 2 * ROWS, TILE_N>(d, from, from + B, columns, columns + SCALE_COLUMNS, chunk == 0);
                tcgen05_commit_multicast<2>(empty + 8 * stage, 3);
            }
            tcgen05_commit_multicast<2>(done, 3);
        }
    } else {
        wait(done, 0);
        tcgen05_fence_after_thread_sync();
        store_lane(c + (row0 + threadIdx.x) * static_cast<i64>(n) + column0, d);
        tcgen05_fence_before_thread_sync();
    }
    __syncwarp();
    synchronise_pair();
    if (warp == 5) tcgen05_dealloc<2>(d, COLUMNS);
}
