// blackwell_2: the copy engine and the 128-byte swizzle.
//
//   a_codes [M, K/2], b_codes [N, K/2], scales in 128x4 tiles        c [M, N] fp16
//   M and N multiples of 128, K of 256
//
// Step over blackwell_1: one thread asks for four boxes, and the copy engine writes them, each row a line of 128 bytes with piece p
// at p ^ (r % 8), as the tensor core reads them without conflicts. No registers, no loop, no fence: the barrier counts the bytes.
#include "kernels/ladder/blackwell.cuh"
#include "ptx/cp_async_bulk_tensor.cuh"

constexpr int TILE = 128, THREADS = 128, COLUMNS = 256;
constexpr int BYTES = 2 * TILE * LINE + 2 * SCALES;

__shared__ __align__(1024) u8 a_tile[TILE * LINE], b_tile[TILE * LINE];
__shared__ __align__(1024) u8 a_scale_tile[SCALES], b_scale_tile[SCALES];
__shared__ u64 full_barrier, read_barrier, done_barrier;  // the tiles have come, been read, all products are done
__shared__ u32 tensor_address;

extern "C" __global__ void __launch_bounds__(THREADS)
    blackwell_2(const __grid_constant__ TensorMap a_codes, const __grid_constant__ TensorMap b_codes,
                const __grid_constant__ TensorMap a_scales, const __grid_constant__ TensorMap b_scales, u16* c, i32 n, i32 k) {
    const int thread = threadIdx.x, row0 = blockIdx.y * TILE, column0 = blockIdx.x * TILE, chunks = k / CHUNK;
    const u32 full = shared_address(&full_barrier), read = shared_address(&read_barrier), done = shared_address(&done_barrier);
    if (thread < 32) {
        tcgen05_alloc<1>(shared_address(&tensor_address), COLUMNS);
        tcgen05_relinquish_alloc_permit<1>();
    }
    if (thread == 0) {
        mbarrier_init_shared_b64(full, 1);
        mbarrier_init_shared_b64(read, 1);
        mbarrier_init_shared_b64(done, 1);
        fence_mbarrier_init_release_cluster();
    }
    tcgen05_fence_before_thread_sync();
    __syncthreads();
    tcgen05_fence_after_thread_sync();
    const u32 d = tensor_address, a_columns = d + TILE, b_columns = a_columns + SCALE_COLUMNS;

    if (thread == 0) {
        for (int chunk = 0; chunk < chunks; ++chunk) {
            mbarrier_arrive_expect_tx_shared_b64(full, BYTES);
            cp_async_bulk_tensor_3d_shared_global_mbarrier(shared_address(a_tile), &a_codes, chunk * LINE, row0, 0, full);
            cp_async_bulk_tensor_3d_shared_global_mbarrier(shared_address(b_tile), &b_codes, chunk * LINE, column0, 0, full);
            cp_async_bulk_tensor_3d_shared_global_mbarrier(shared_address(a_scale_tile), &a_scales, 0, chunk * STEPS, row0 / 128, full);
            cp_async_bulk_tensor_3d_shared_global_mbarrier(shared_address(b_scale_tile), &b_scales, 0, chunk * STEPS, column0 / 128, full);
            wait(full, chunk % 2);
            place_scales<1>(a_columns, shared_address(a_scale_tile));
            place_scales<1>(b_columns, shared_address(b_scale_tile));
            multiply_chunk<1, TILE, TILE>(d, shared_address(a_tile), shared_address(b_tile), a_columns, b_columns, chunk == 0);
            tcgen05_commit<1>(read);
            wait(read, chunk % 2);
        }
        tcgen05_commit<1>(done);
    }
    __syncwarp();
    wait(done, 0);
    tcgen05_fence_after_thread_sync();
    store_lane(c + (row0 + thread) * static_cast<i64>(n) + column0, d);
    tcgen05_fence_before_thread_sync();
    __syncthreads();
    if (thread < 32) tcgen05_dealloc<1>(d, COLUMNS);
}
