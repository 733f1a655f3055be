// y[l, m] = sum over k of A[l, m, k] * x[l, k], both NVFP4, for matrices of which a multiprocessor has a few hundred kilobytes
// at most: A goes straight into registers (pipeline/sm90_gemv.cuh: operands, arithmetic).
//
// PRELOAD batches of ROWS rows are under way in registers while another is computed, and nothing is handed from thread to
// thread. Little happens at the start and at the end of such a kernel, which is what counts when it takes less than ten
// microseconds; sm90_gemv_queue.cu streams longer ones faster.
//
// Nothing can be multiplied before the previous kernel has ended and x is read. But codes can be decoded: AHEAD batches
// become bytes in shared memory meanwhile (e2m1x16_to_biased). Their registers take the batches that follow x.
//
// In which order ptxas issues the first loads, and how far it lets them run ahead of the decoding, hangs on what stands around them, and is worth
// up to a tenth of the time. X_FIRST is one way to write the start and the end of a block, and the better one of nearly all shapes.
//
// Registers: 16 a chunk for x, 4 for its scales; 5 a row and chunk for each of PRELOAD batches of A: 128 with 3 batches of 4
// rows and chunks.

#include "pipeline/sm90_gemv_lanes.cuh"
#include "ptx/griddepcontrol.cuh"

constexpr int BATCHES = CONFIG_BATCHES;  // of ROWS rows, for each warp
constexpr int PRELOAD = CONFIG_PRELOAD;  // batches that are under way before the previous kernel has finished
constexpr int AHEAD = CONFIG_AHEAD;      // batches that are decoded before that, into shared memory
constexpr bool X_FIRST = CONFIG_X_FIRST;  // x is brought into L2 before A is asked for, and tensor scales are read before the last barrier

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

// Decoded batches: a lane's 16 bytes for each block of 16 codes, then its scales.
constexpr int PIECES = ROWS * CHUNKS;
constexpr int SCALES_AT = PIECES * 32 * 32, AHEAD_BYTES = SCALES_AT + PIECES * 32 * 2;

// What can be done without x: codes as bytes.
__device__ __forceinline__ void decode_ahead(const Batch& batch, u32 at, const BiasedTables& tables, int lane) {
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
        const Piece& piece = batch.pieces[p / CHUNKS][p % CHUNKS];
        st_shared_v4_b32(at + (2 * p) * 512 + lane * 16, e2m1x16_to_biased(piece.codes.x, piece.codes.y, tables));
        st_shared_v4_b32(at + (2 * p + 1) * 512 + lane * 16, e2m1x16_to_biased(piece.codes.z, piece.codes.w, tables));
        st_shared_b16(at + SCALES_AT + (p * 32 + lane) * 2, piece.scales);
    }
}

__device__ __forceinline__ void compute_decoded(u32 at, const Lane& x, const i32 (&starts)[CHUNKS][2], float* partial, int skip,
                                                int warp_k, int lane) {
    float sums[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        sums[r] = 0.0f;
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            const int p = r * CHUNKS + chunk;
            const u32 pair = e4m3x2_to_f16x2(ld_shared_b16(at + SCALES_AT + (p * 32 + lane) * 2));
            const u32x4 low = ld_shared_v4_b32(at + (2 * p) * 512 + lane * 16);
            const u32x4 high = ld_shared_v4_b32(at + (2 * p + 1) * 512 + lane * 16);
            const float first = dot16_biased(low, x.factors[chunk][0], starts[chunk][0]);
            const float second = dot16_biased(high, x.factors[chunk][1], starts[chunk][1]);
            sums[r] = fmaf(fmaf(first, x.scale[chunk][0], x.bias[chunk][0]), cvt_f32_f16(pair), sums[r]);
            sums[r] = fmaf(fmaf(second, x.scale[chunk][1], x.bias[chunk][1]), cvt_f32_f16(pair >> 16), sums[r]);
        }
    }
    const float sum = reduce_lanes(sums, lane);
    const int row = lane / LANES_PER_ROW;
    if (lane % LANES_PER_ROW == 0 && row >= skip) partial[(row - skip) * WARPS_K + warp_k] = sum;
}

// `skip` rows at the front belong to another batch.
__device__ __forceinline__ void compute_batch(const Batch& batch, const Lane& x, float* partial, int skip, int warp_k,
                                              int lane) {
    float sums[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        sums[r] = 0.0f;
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk++) sums[r] = add_piece<true>(sums[r], batch.pieces[r][chunk], x, chunk);
    }
    const float sum = reduce_lanes(sums, lane);
    const int row = lane / LANES_PER_ROW;
    if (lane % LANES_PER_ROW == 0 && row >= skip) partial[(row - skip) * WARPS_K + warp_k] = sum;
}

// grid (blocks, L): `rows` rows for each block, one more for the first `more`; AHEAD_BYTES for each warp and decoded batch
// of dynamic shared memory
extern "C" __global__ void __launch_bounds__(32 * WARPS, MIN_BLOCKS)
    nvfp4_sm90_gemv(const u8* a_codes, const u8* a_scales, const float* a_tensor, i32 a_stride, const u8* x_codes,
                const u8* x_scales, const float* x_tensor, i32 x_stride, void* y, const u8* bias, i32 m, i32 rows, i32 more) {
    const Arguments args = {a_codes, a_scales, x_codes, x_scales, a_tensor, x_tensor, y, a_stride, x_stride, m, bias};
    __shared__ float partial[BLOCK_ROWS * WARPS_K];
    extern __shared__ __align__(128) u8 memory[];
    griddepcontrol_launch_dependents();
    if (!EARLY) griddepcontrol_wait();
    const int lane = threadIdx.x % 32, warp_k = threadIdx.x / 32 % WARPS_K, warp_r = threadIdx.x / 32 / WARPS_K;
    const int l = blockIdx.y, block = blockIdx.x;
    const int begin = block * rows + (block < more ? block : more), end = begin + rows + (block < more ? 1 : 0);
    const int first = begin + warp_r * ROWS * BATCHES;
    const u8* codes = args.a_codes + static_cast<i64>(l) * args.m * (K / 2);
    const u8* scales = args.a_scales + l * scale_matrix_bytes<A_LAYOUT>(args.m, BLOCKS);
    float* mine = partial + warp_r * ROWS * BATCHES * WARPS_K;

    // A batch that would pass the block's end moves back, and leaves out the rows that it then repeats.
    const int last = end > ROWS ? end - ROWS : 0;
    constexpr int BUFFERS = PRELOAD < 2 ? 2 : PRELOAD;
    Batch batches[BUFFERS];
    auto load = [&](int i) {
        const int row = first + i * ROWS;
        if (i < BATCHES) load_batch(batches[i % BUFFERS], codes, scales, row < last ? row : last, warp_k, lane);
    };
    auto skipped = [&](int i) {
        const int row = first + i * ROWS;
        return row < last ? 0 : row - last;
    };
    // A quarter of the blocks asks for each line of x.
    if (X_FIRST && warp_r == 0 && warp_k % 4 == block % 4) prefetch_vectors(args, l, warp_k, lane);
#pragma unroll
    for (int i = 0; i < PRELOAD; i++) load(i);
    if (!X_FIRST && warp_r == 0 && warp_k % 4 == block % 4) prefetch_vectors(args, l, warp_k, lane);
    const u32 table = e2m1_table(), decoded = shared_address(memory) + threadIdx.x / 32 * (AHEAD * AHEAD_BYTES);
    const BiasedTables tables = biased_tables(table);
#pragma unroll
    for (int i = 0; i < AHEAD; i++) decode_ahead(batches[i % BUFFERS], decoded + i * AHEAD_BYTES, tables, lane);
    if (EARLY) griddepcontrol_wait();
    // x would have to wait for batches that are asked for before it; so those that take the place of decoded ones follow it.
    const RawLane raw_x = load_x(args, l, warp_k, lane);
#pragma unroll
    for (int i = 0; i < AHEAD; i++) load(i + PRELOAD);
    Lane x;
    decode_x(x, raw_x, table);
    if constexpr (AHEAD > 0) {
        i32 starts[CHUNKS][2];
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            starts[chunk][0] = biased_start(x.factors[chunk][0]);
            starts[chunk][1] = biased_start(x.factors[chunk][1]);
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            compute_decoded(decoded + i * AHEAD_BYTES, x, starts, mine + i * ROWS * WARPS_K, skipped(i), warp_k, lane);
        }
    }
#pragma unroll
    for (int i = AHEAD; i < BATCHES; i++) {
        if (PRELOAD == 1) load(i + 1);
        compute_batch(batches[i % BUFFERS], x, mine + i * ROWS * WARPS_K, skipped(i), warp_k, lane);
        if (PRELOAD > 1) load(i + PRELOAD);
    }
    if (!X_FIRST) __syncthreads();
    const float a_scale = tensor_scale(args.a_tensor, args.a_tensor_stride, l);
    const float x_scale = tensor_scale(args.x_tensor, args.x_tensor_stride, l);
    if (X_FIRST) __syncthreads();
    constexpr bool ONCE = X_FIRST && BLOCK_ROWS <= 32 * WARPS;
    for (int i = threadIdx.x; i < end - begin; i += 32 * WARPS) {
        finish_row(partial + i * WARPS_K, static_cast<i64>(begin) + i, l, a_scale, x_scale, args);
        if constexpr (ONCE) break;
    }
}
