// blackwell_4: warp specialisation.
//
//   a_codes [M, K/2], b_codes [N, K/2], scales in 128x4 tiles        c [M, N] fp16
//   M and N multiples of 128, K of 256
//
// Step over blackwell_3: loading and multiplying no longer share a thread, in which each waited for the other's barriers.
//
//   warps 0-3   results                             wait for done
//   warp 4      one thread loads                    waits for empty[stage], its copies complete full[stage]
//   warp 5      one thread multiplies; the warp owns tensor memory        waits for full[stage], commits to empty[stage]
#include "kernels/ladder/blackwell.cuh"
#include "ptx/cp_async_bulk_tensor.cuh"
#include "ptx/elect.cuh"

constexpr int TILE = 128, THREADS = 192, STAGES = 4, COLUMNS = 256;
constexpr int B = TILE * LINE, A_SCALES = 2 * TILE * LINE, B_SCALES = A_SCALES + SCALES, STAGE_BYTES = B_SCALES + SCALES;

extern __shared__ __align__(1024) u8 memory[];  // STAGES x (A | B | scales of A | scales of B)
__shared__ u64 barriers[2 * STAGES + 1];        // full, empty, done
__shared__ u32 tensor_address;

extern "C" __global__ void __launch_bounds__(THREADS)
    blackwell_4(const __grid_constant__ TensorMap a_codes, const __grid_constant__ TensorMap b_codes,
                const __grid_constant__ TensorMap a_scales, const __grid_constant__ TensorMap b_scales, u16* c, i32 n, i32 k) {
    const int warp = threadIdx.x / 32, row0 = blockIdx.y * TILE, column0 = blockIdx.x * TILE, chunks = k / CHUNK;
    const u32 full = shared_address(barriers), empty = full + 8 * STAGES, done = empty + 8 * STAGES;
    if (warp == 5) {
        tcgen05_alloc<1>(shared_address(&tensor_address), COLUMNS);
        tcgen05_relinquish_alloc_permit<1>();
    }
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2 * STAGES + 1; ++i) mbarrier_init_shared_b64(full + 8 * i, 1);
        fence_mbarrier_init_release_cluster();
    }
    tcgen05_fence_before_thread_sync();
    __syncthreads();
    tcgen05_fence_after_thread_sync();
    const u32 d = tensor_address;

    if (warp == 4) {
        if (elect_sync()) {
            for (int chunk = 0; chunk < chunks; ++chunk) {
                const int stage = chunk % STAGES;
                const u32 to = shared_address(memory) + stage * STAGE_BYTES, barrier = full + 8 * stage;
                wait(empty + 8 * stage, chunk / STAGES % 2 ^ 1);
                mbarrier_arrive_expect_tx_shared_b64(barrier, STAGE_BYTES);
                cp_async_bulk_tensor_3d_shared_global_mbarrier(to, &a_codes, chunk * LINE, row0, 0, barrier);
                cp_async_bulk_tensor_3d_shared_global_mbarrier(to + B, &b_codes, chunk * LINE, column0, 0, barrier);
                cp_async_bulk_tensor_3d_shared_global_mbarrier(to + A_SCALES, &a_scales, 0, chunk * STEPS, row0 / 128, barrier);
                cp_async_bulk_tensor_3d_shared_global_mbarrier(to + B_SCALES, &b_scales, 0, chunk * STEPS, column0 / 128, barrier);
            }
        }
    } else if (warp == 5) {
        if (elect_sync()) {
            for (int chunk = 0; chunk < chunks; ++chunk) {
                const int stage = chunk % STAGES;
                const u32 from = shared_address(memory) + stage * STAGE_BYTES, columns = d + TILE + stage * 2 * SCALE_COLUMNS;
                wait(full + 8 * stage, chunk / STAGES % 2);
                place_scales<1>(columns, from + A_SCALES);
                place_scales<1>(columns + SCALE_COLUMNS, from + B_SCALES);
                multiply_chunk<1, TILE, TILE>(d, from, from + B, columns, columns + SCALE_COLUMNS, chunk == 0);
                tcgen05_commit<1>(empty + 8 * stage);
            }
            tcgen05_commit<1>(done);
        }
    } else {
        wait(done, 0);
        tcgen05_fence_after_thread_sync();
        store_lane(c + (row0 + threadIdx.x) * static_cast<i64>(n) + column0, d);
        tcgen05_fence_before_thread_sync();
    }
    __syncthreads();
    if (warp == 5) tcgen05_dealloc<1>(d, COLUMNS);
}
