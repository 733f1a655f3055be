// blackwell_1: tcgen05.mma, tiles copied by the threads.
//
//   a_codes [M, K/2], b_codes [N, K/2], scales in 128x4 tiles        c [M, N] fp16
//   M and N multiples of 128, K of 256
//
// Step over matmul_0: nothing is decoded any more. 128 threads bring a chunk of 128 rows of A and of B to shared memory, one of
// them has the tensor core multiply it into tensor memory, and all wait. Without a swizzle the unit wants 8 rows x 16 bytes side
// by side: piece p of row r lies at p * 2048 + r * 16, so that the eight lanes which read a row write to the same banks.
#include "kernels/ladder/blackwell.cuh"
#include "ptx/fence.cuh"
#include "ptx/ld.cuh"

constexpr int TILE = 128, THREADS = 128, COLUMNS = 256;  // of tensor memory, a power of two

__shared__ __align__(1024) u8 a_tile[TILE * LINE], b_tile[TILE * LINE];
__shared__ __align__(1024) u8 a_scale_tile[SCALES], b_scale_tile[SCALES];
__shared__ u64 done_barrier;
__shared__ u32 tensor_address;

// 8 x 16 byte pieces in the order of rows; `along_k` bytes from one to the next along K.
__device__ __forceinline__ u64 pieces(u32 shared) {
    constexpr u64 ALONG_K = 16 * TILE, EIGHT_ROWS = 128;
    return static_cast<u64>((shared & 0x3FFFFu) >> 4) | ALONG_K >> 4 << 16 | EIGHT_ROWS >> 4 << 32 | 1ull << 46;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    blackwell_1(const u8* a_codes, const u8* a_scales, const u8* b_codes, const u8* b_scales, u16* c, i32, i32 n, i32 k) {
    const int thread = threadIdx.x, row0 = blockIdx.y * TILE, column0 = blockIdx.x * TILE;
    const u32 done = shared_address(&done_barrier);
    if (thread < 32) {
        tcgen05_alloc<1>(shared_address(&tensor_address), COLUMNS);
        tcgen05_relinquish_alloc_permit<1>();
    }
    if (thread == 0) mbarrier_init_shared_b64(done, 1);
    tcgen05_fence_before_thread_sync();
    __syncthreads();
    tcgen05_fence_after_thread_sync();
    const u32 d = tensor_address, a_columns = d + TILE, b_columns = a_columns + SCALE_COLUMNS;

    for (int chunk = 0; chunk < k / CHUNK; ++chunk) {
        for (int i = thread; i < TILE * LINE / 16; i += THREADS) {
            const int row = i / 8, piece = i % 8;
            const i64 from = chunk * LINE + piece * 16;
            const u32 to = piece * (16 * TILE) + row * 16;
            st_shared_v4_b32(shared_address(a_tile) + to, ld_global_v4_b32(a_codes + (row0 + row) * static_cast<i64>(k / 2) + from));
            st_shared_v4_b32(shared_address(b_tile) + to, ld_global_v4_b32(b_codes + (column0 + row) * static_cast<i64>(k / 2) + from));
        }
        const i64 scales = chunk * SCALES + thread * 16;
        st_shared_v4_b32(shared_address(a_scale_tile) + thread * 16, ld_global_v4_b32(a_scales + row0 * static_cast<i64>(k / 16) + scales));
        st_shared_v4_b32(shared_address(b_scale_tile) + thread * 16, ld_global_v4_b32(b_scales + column0 * static_cast<i64>(k / 16) + scales));
        fence_proxy_async_shared_cta();
        __syncthreads();
        if (thread == 0) {
            place_scales<1>(a_columns, shared_address(a_scale_tile));
            place_scales<1>(b_columns, shared_address(b_scale_tile));
#pragma unroll
            for (int step = 0; step < STEPS; ++step) {
                const u32 at = step * 2 * 16 * TILE;  // two pieces along K
                tcgen05_mma_mxf4nvf4_block16<1, COLLECTOR_DISCARD>(
                    d, pieces(shared_address(a_tile) + at), pieces(shared_address(b_tile) + at),
                    tcgen05_mxf4nvf4_instruction(TILE, TILE), a_columns + 4 * step, b_columns + 4 * step, chunk > 0 || step > 0);
            }
            tcgen05_commit<1>(done);
        }
        wait(done, chunk % 2);
    }
    tcgen05_fence_after_thread_sync();
    store_lane(c + (row0 + thread) * static_cast<i64>(n) + column0, d);
    tcgen05_fence_before_thread_sync();
    __syncthreads();
    if (thread < 32) tcgen05_dealloc<1>(d, COLUMNS);
}
