// y[l, m] = sum over k of A[l, m, k] * x[l, k], both NVFP4, for matrices of which a multiprocessor has a few hundred kilobytes
// at most: A goes straight into registers (pipeline/sm90_gemv.cuh: operands, arithmetic).
//
// A batch of ROWS rows is loaded while the one before is computed: two batches of 16-byte loads for each of some 500
// threads keep enough bytes in flight, and nothing is handed from thread to thread. Little happens at the start and at the
// end of such a kernel, which is what counts when it takes less than ten microseconds; sm90_gemv_queue.cu streams longer
// ones faster.
//
// Registers: 16 a chunk for x, 4 for its scales; 5 a row and chunk for each of two batches of A: 128 with 8 rows and
// chunks.

#include "pipeline/sm90_gemv.cuh"
#include "ptx/griddepcontrol.cuh"

constexpr int BATCHES = CONFIG_BATCHES;  // of ROWS rows, for each warp
constexpr int PRELOAD = CONFIG_PRELOAD;  // 1 or 2 batches are under way before the previous kernel has finished

constexpr int BLOCK_ROWS = ROWS * WARPS_R * BATCHES;

struct Batch {
    Piece pieces[ROWS][CHUNKS];
};

// The lane's bytes of ROWS rows from `row` on.
__device__ __forceinline__ void load_batch(Batch& batch, const u8* codes, const u8* scales, int row, int warp_k,
                                           int lane) {
    const u8* row_codes = codes + static_cast<i64>(row) * (K / 2) + chunk_element(0, warp_k, lane) / 2;
    const u8* row_scales = scales + static_cast<i64>(row) * BLOCKS + chunk_element(0, warp_k, lane) / 16;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            const int element = chunk_element(chunk, warp_k, lane);
            Piece& piece = batch.pieces[r][chunk];
            piece.codes = load_codes(row_codes + r * (K / 2) + chunk * WARPS_K * 512, element, true);
            if constexpr (A_LAYOUT == SCALES_LINEAR) {
                piece.scales = load_scales(row_scales + r * BLOCKS + chunk * WARPS_K * 64, element / 16);
            } else {
                const u8* scales_at = scales + scale_offset<A_LAYOUT>(row + r, element / 16, BLOCKS);
                piece.scales = load_scales(scales_at, element / 16);
            }
        }
    }
}

// `skip` rows at the front belong to another batch.
__device__ __forceinline__ void compute_batch(const Batch& batch, const Lane& x, float* partial, int skip, int warp_k,
                                              int lane) {
    float sums[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        sums[r] = 0.0f;
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk++) sums[r] = add_piece(sums[r], batch.pieces[r][chunk], x, chunk);
    }
    const float sum = reduce_lanes(sums, lane);
    const int row = lane / LANES_PER_ROW;
    if (lane % LANES_PER_ROW == 0 && row >= skip) partial[(row - skip) * WARPS_K + warp_k] = sum;
}

// grid (ceil(M / BLOCK_ROWS), L)
extern "C" __global__ void __launch_bounds__(32 * WARPS, MIN_BLOCKS)
    nvfp4_sm90_gemv(const u8* a_codes, const u8* a_scales, const float* a_tensor, i32 a_stride, const u8* x_codes,
                const u8* x_scales, const float* x_tensor, i32 x_stride, void* y, const u8* bias, i32 m) {
    const Arguments args = {a_codes, a_scales, x_codes, x_scales, a_tensor, x_tensor, y, a_stride, x_stride, m, bias};
    __shared__ float partial[BLOCK_ROWS * WARPS_K];
    griddepcontrol_launch_dependents();
    if (!EARLY) griddepcontrol_wait();
    const int lane = threadIdx.x % 32, warp_k = threadIdx.x / 32 % WARPS_K, warp_r = threadIdx.x / 32 / WARPS_K;
    const int l = blockIdx.y, block_row = blockIdx.x * BLOCK_ROWS, first = block_row + warp_r * ROWS * BATCHES;
    const u8* codes = args.a_codes + static_cast<i64>(l) * args.m * (K / 2);
    const u8* scales = args.a_scales + l * scale_matrix_bytes<A_LAYOUT>(args.m, BLOCKS);
    float* mine = partial + warp_r * ROWS * BATCHES * WARPS_K;

    // A batch that would pass the end of the matrix moves back, and leaves out the rows that it then repeats.
    const int last = args.m - ROWS;
    Batch batches[2];
    auto load = [&](int i) {
        const int row = first + i * ROWS;
        if (i < BATCHES) load_batch(batches[i % 2], codes, scales, row < last ? row : last, warp_k, lane);
    };
    load(0);
    if (PRELOAD == 2) load(1);
    if (warp_r == 0) prefetch_vectors(args, l, warp_k, lane);
    if (EARLY) griddepcontrol_wait();
    Lane x;
    load_x(x, args, l, warp_k, lane);
#pragma unroll
    for (int i = 0; i < BATCHES; i++) {
        const int row = first + i * ROWS;
        if (PRELOAD == 1) load(i + 1);
        compute_batch(batches[i % 2], x, mine + i * ROWS * WARPS_K, row < last ? 0 : row - last, warp_k, lane);
        if (PRELOAD == 2) load(i + 2);
    }
    __syncthreads();
    const int left = args.m - block_row;
    finish<32 * WARPS>(partial, left < BLOCK_ROWS ? left : BLOCK_ROWS, block_row, l, args);
}
