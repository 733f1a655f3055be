// y[l, n, m] = sum over k of A[l, m, k] * x[l, n, k] for 1..16 rows x of fp16, bf16 or NVFP4: a GEMV for a few tokens.
//
//   a_codes  [L, M, K/2]  u8, two E2M1 codes a byte      a_scales  [L, M, K/16] E4M3, or 128x4 tiles (A_LAYOUT)
//   x        [L, N, K]    fp16, bf16, or NVFP4 codes     x_scales  [L, N, K/16] or tiles (X_LAYOUT), NVFP4 only
//   y        [L, N, M]    in OUT's type                  a_tensor, x_tensor   fp32 [] or [L], or null
//
// A streams through tensor cores as the first operand of mma m16n8k16: 16 rows of A by 8 columns, the tokens. A lane's 16
// bytes of a row (32 elements) become eight operand registers with shifts and masks; which k a lane holds does not matter as
// long as x is arranged the same, so x is put in shared memory in the order in which the lanes want it:
//
//     step = 128 elements of K:   lane (g, t) of a warp has bytes 16t..16t+15 of the step in rows g and g + 8 of A
//     x in shared memory:         [step][word j of 4][token][t] 16 bytes: elements 32t + 8j + {0,4, 1,5, 2,6, 3,7}
//
// Codes are multiplied by their scale in 16 bits, which is exact (6 significant bits); powers of two that keep the
// intermediates in range leave at the end.
//
// A takes no registers on its way: each lane has a queue of DEPTH steps in shared memory that it fills with cp.async and
// that only it reads. No barrier is needed, and DEPTH * 1.1 KB a warp are in flight.
//
//     block: WARPS_R tiles of 16 rows x WARPS_K parts of the block's share of K; cluster of SPLIT blocks along K
//     sum:   over the warps along K in shared memory, then over the blocks of the cluster, each in a fixed order
//
// Launched programmatically it starts on A, which no kernel writes, before the previous kernel has finished; x is read and
// y is written after griddepcontrol.wait.

#include "decode/e2m1.cuh"
#include "decode/e2m1_bf16.cuh"
#include "decode/e2m1_select.cuh"
#include "decode/e4m3.cuh"
#include "decode/scale_layout.cuh"
#include "ptx/barrier_cluster.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/cp_async_small.cuh"
#include "ptx/cvt.cuh"
#include "ptx/f16x2.cuh"
#include "ptx/griddepcontrol.cuh"
#include "ptx/ld.cuh"
#include "ptx/ld_stream.cuh"
#include "ptx/mma.cuh"
#include "ptx/prmt_selector.cuh"
#include "ptx/shfl.cuh"
#include "ptx/st.cuh"
#include "ptx/types.cuh"

// From the plan.
constexpr int K = CONFIG_K, N = CONFIG_N;
constexpr int WARPS_K = CONFIG_WARPS_K, WARPS_R = CONFIG_WARPS_R, SPLIT = CONFIG_SPLIT;
constexpr int DEPTH = CONFIG_DEPTH;            // steps in flight
constexpr int RUN = CONFIG_RUN;                // consecutive steps of a warp: 2 make a whole 128-byte line of A
constexpr int MIN_BLOCKS = CONFIG_MIN_BLOCKS;  // that fit on a multiprocessor together
constexpr int A_LAYOUT = CONFIG_A_LAYOUT, X_LAYOUT = CONFIG_X_LAYOUT;
constexpr int X_KIND = CONFIG_X_KIND;  // 0 fp16, 1 bf16, 2 NVFP4
constexpr int OUT = CONFIG_OUT;        // 0 fp16, 1 bf16, 2 fp32

static_assert(K % 16 == 0 && N >= 1 && N <= 16, "whole scale blocks, 1 to 16 rows");

constexpr int BLOCKS = K / 16;
constexpr int WARPS = WARPS_K * WARPS_R;
constexpr int THREADS = 32 * WARPS;
constexpr int COLUMN_TILES = (N + 7) / 8;
constexpr int BLOCK_ROWS = 16 * WARPS_R;
constexpr int ALL_STEPS = (K + 127) / 128;
constexpr int RUNS = (ALL_STEPS + SPLIT * WARPS_K * RUN - 1) / (SPLIT * WARPS_K * RUN);  // of RUN steps, for each warp
constexpr int WARP_STEPS = RUNS * RUN;
constexpr int BLOCK_STEPS = WARP_STEPS * WARPS_K;
constexpr int SLOT_BYTES = 2 * 512 + 256;  // codes of rows g and g + 8; 4 scales of each
constexpr int X_BYTES = (BLOCK_STEPS + 1) * 4 * N * 64;  // and a step of zeros
constexpr int QUEUE_BYTES = WARPS * DEPTH * SLOT_BYTES;
constexpr int PARTIAL_FLOATS = BLOCK_ROWS * N;  // of one warp along K
// Dynamic shared memory: x, queues; the queues' place then takes WARPS_K * PARTIAL_FLOATS partial sums.
static_assert(WARPS_K * PARTIAL_FLOATS * 4 <= QUEUE_BYTES, "the partial sums fit where the queues were");

constexpr bool COPY_16 = K % 32 == 0;                                  // rows are 16-byte aligned
constexpr bool COPY_SCALES = A_LAYOUT == SCALES_TILED || K % 64 == 0;  // groups of 4 scales are 4-byte aligned

// With one row of fp16 values there are columns to spare. A lane's two blocks of 16 elements are then multiplied into columns
// of their own (the lanes of a quad have different blocks, so B is x where lane g equals t or t + 4, else zero): the 16x8
// accumulators hold 8 block sums of 16 rows, and a scale is applied to a sum instead of to 16 codes. Not with bf16: codes
// without their scale are 2^-126 there, and products would underflow in fp32.
constexpr bool DIAGONAL = N == 1 && X_KIND != 1;

// Decoded A is value * 2^-7 (fp16), 2^-8 (bf16), or the bare code * 2^-14 (diagonal); decoded NVFP4 x is value * 2^-7.
constexpr float UNIT = (DIAGONAL ? 16384.0f : X_KIND == 1 ? 256.0f : 128.0f) * (X_KIND == 2 ? 128.0f : 1.0f);

// Which 4 of the 8 scales of a row and step a lane needs: those of its own blocks 2t, 2t + 1, or those of its columns 2t,
// 2t + 1 of the accumulators, which are blocks 4t, 4t + 2 for t < 2, else 4t - 7, 4t - 5.
__device__ __forceinline__ int scale_group(int lane) { return DIAGONAL ? lane % 2 : lane % 4 / 2; }

struct Arguments {
    const u8* a_codes;
    const u8* a_scales;
    const u8* x;
    const u8* x_scales;
    const float* a_tensor;
    const float* x_tensor;
    void* y;
    i32 a_tensor_stride, x_tensor_stride;  // 0: one for all matrices, 1: one each
    i32 m;
};

// Row `index` (0..15) of tile `tile`. With tiled scales the 16 rows are 4 runs of 4 rows, 32 apart: their scales are
// then one contiguous run of 64 bytes in each 512-byte tile of scales.
__device__ __forceinline__ int tile_row(int tile, int index) {
    if constexpr (A_LAYOUT == SCALES_LINEAR) return tile * 16 + index;
    return tile / 8 * 128 + tile % 8 * 4 + index % 4 + index / 4 * 32;
}

// Step `i` of a warp, counted from the beginning of the row.
__device__ __forceinline__ int global_step(int i, int warp_k, int rank) {
    return rank * BLOCK_STEPS + (i / RUN * WARPS_K + warp_k) * RUN + i % RUN;
}

// Rows g and g + 8 of a tile are this many rows apart in either layout, and their scales this many bytes.
constexpr int HALF_ROWS = A_LAYOUT == SCALES_LINEAR ? 8 : 64;
constexpr int HALF_SCALES = A_LAYOUT == SCALES_LINEAR ? 8 * BLOCKS : 8;
constexpr int SCALE_STEP_128 = 2 * SCALE_STEP_64<A_LAYOUT>;
constexpr bool RAGGED = SPLIT * BLOCK_STEPS * 128 != K;  // some steps lie beyond K

// Where the next step of a lane comes from.
struct Source {
    const u8* codes;   // the lane's bytes of row g
    const u8* scales;  // 4 scales of row g, two of them the lane's
    bool valid[2];     // whether rows g and g + 8 exist
    int element;       // only where some steps lie beyond K
    int left_of_run;   // steps until the warp moves past those of the others
};

__device__ __forceinline__ Source source(const Arguments& args, int l, int tile, int step, int lane) {
    const int row = tile_row(tile, lane / 4), element = step * 128;
    Source from;
    from.valid[0] = row < args.m;
    from.valid[1] = row + HALF_ROWS < args.m;
    from.element = element + lane % 4 * 32;
    from.left_of_run = RUN;
    from.codes = args.a_codes + (static_cast<i64>(l) * args.m + row) * (K / 2) + from.element / 2;
    from.scales = args.a_scales + l * scale_matrix_bytes<A_LAYOUT>(args.m, BLOCKS) +
                  scale_offset<A_LAYOUT>(row, element / 16 + 4 * scale_group(lane), BLOCKS);
    return from;
}

__device__ __forceinline__ void advance(Source& from) {
    int steps = WARPS_K;
    if constexpr (RUN > 1) {
        const bool last = --from.left_of_run == 0;
        steps = last ? 1 + (WARPS_K - 1) * RUN : 1;
        from.left_of_run = last ? RUN : from.left_of_run;
    }
    from.element += steps * 128;
    from.codes += steps * 64;
    from.scales += steps * SCALE_STEP_128;
}

// Starts the copies of one step of A into the lane's part of `slot`, and moves on.
__device__ __forceinline__ void copy_step(u32 slot, Source& from, int lane) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const u32 codes_at = slot + half * 512 + lane * 16, scales_at = slot + 1024 + lane * 8 + half * 4;
        const u8* codes = from.codes + half * (HALF_ROWS * (K / 2));
        const u8* scales = from.scales + half * HALF_SCALES;
        const bool valid = from.valid[half] && (!RAGGED || from.element < K);
        if constexpr (COPY_16) {
            cp_async_cg_shared_global_L2_128B_16(codes_at, codes, valid);
        } else {
            cp_async_ca_shared_global_8(codes_at, codes, valid);
            cp_async_ca_shared_global_8(codes_at + 8, codes + 8, from.valid[half] && from.element + 16 < K);
        }
        // The group of scales may reach beyond K where the lane does not, and the other way round.
        const int block = (from.element - lane % 4 * 32) / 16 + 4 * scale_group(lane);
        if constexpr (COPY_SCALES) {
            cp_async_ca_shared_global_4(scales_at, scales, from.valid[half] && (!RAGGED || block < BLOCKS));
        } else {
            // Scales at any address: four bytes by hand. Only K that is not a multiple of 64 comes here.
            u32 word = 0;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (from.valid[half] && block + i < BLOCKS) word |= ld_global_nc_u8(scales + i) << (8 * i);
            }
            st_shared_b32(scales_at, word);
        }
    }
    advance(from);
}

// One lane's part of a row of A at a step: 32 codes, and the factors of its two blocks, twice each, to multiply them with; or
// two scales as fp16, to multiply the accumulators with.
struct Piece {
    u32 codes[4];
    u32 factor[2];
    u32 scales;
};

__device__ __forceinline__ Piece read_piece(u32 slot, int half, int lane) {
    const u32x4 codes = ld_shared_v4_b32(slot + half * 512 + lane * 16);
    const u32 scales_at = slot + 1024 + lane * 8 + half * 4;
    Piece piece = {{codes.x, codes.y, codes.z, codes.w}, {}, 0};
    if constexpr (DIAGONAL) {
        const u32 word = ld_shared_b32(scales_at);
        piece.scales = e4m3x2_to_f16x2(prmt_b32_selector(word, 0, lane % 4 < 2 ? 0x4420 : 0x4431));
    } else {
        const u32 scales = ld_shared_b16(scales_at + lane % 2 * 2);
        u32 pair;
        if constexpr (X_KIND == 1) {
            pair = e4m3x2_to_bf16x2_scaled(scales);
        } else {
            pair = mul_rn_f16x2(e4m3x2_to_f16x2(scales), 0x58005800u);  // 2^7
        }
        piece.factor[0] = prmt_b32<0x1010>(pair, pair);
        piece.factor[1] = prmt_b32<0x3232>(pair, pair);
    }
    return piece;
}

// Codes I and I + 4 of a word times their scale, for I = 0..3.
__device__ __forceinline__ void decode(u32 (&operands)[4], const Piece& a, int word) {
    const u32 codes = a.codes[word], factor = a.factor[word / 2];
    if constexpr (X_KIND == 1) {
        const u32x4 values = e2m1x8_to_bf16x2_strided(codes);
        operands[0] = mul_rn_bf16x2(values.x, factor);
        operands[1] = mul_rn_bf16x2(values.y, factor);
        operands[2] = mul_rn_bf16x2(values.z, factor);
        operands[3] = mul_rn_bf16x2(values.w, factor);
    } else {
        const u32x4 values = e2m1x8_to_f16x2_select(codes);
        if constexpr (DIAGONAL) {
            operands[0] = values.x, operands[1] = values.y, operands[2] = values.z, operands[3] = values.w;
            return;
        }
        operands[0] = mul_rn_f16x2(values.x, factor);
        operands[1] = mul_rn_f16x2(values.y, factor);
        operands[2] = mul_rn_f16x2(values.z, factor);
        operands[3] = mul_rn_f16x2(values.w, factor);
    }
}

__device__ __forceinline__ void multiply(float (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    if constexpr (X_KIND == 1) {
        mma_sync_aligned_m16n8k16_row_col_f32_bf16_bf16_f32(sums, a, b0, b1);
    } else {
        mma_sync_aligned_m16n8k16_row_col_f32_f16_f16_f32(sums, a, b0, b1);
    }
}

// Elements `element`..`element` + 7 of a row of x, in the order 0,4, 1,5, 2,6, 3,7; NVFP4 decoded to value * 2^-7.
__device__ __forceinline__ u32x4 load_x(const Arguments& args, int l, int token, int element) {
    const i64 index = (static_cast<i64>(l) * N + token) * K + element;
    if constexpr (X_KIND == 2) {
        const u32x4 decoded = e2m1x8_to_f16x2_strided(ld_global_nc_b32(args.x + index / 2));
        const u8* scales = args.x_scales + l * scale_matrix_bytes<X_LAYOUT>(N, BLOCKS);
        const u32 scale = ld_global_nc_u8(scales + scale_offset<X_LAYOUT>(token, element / 16, BLOCKS));
        const u32 factor = e4m3_to_f16x2_scaled(scale);
        return {mul_rn_f16x2(decoded.x, factor), mul_rn_f16x2(decoded.y, factor), mul_rn_f16x2(decoded.z, factor),
                mul_rn_f16x2(decoded.w, factor)};
    } else {
        return memory_to_strided_order(ld_global_nc_v4_b32(args.x + 2 * index));
    }
}

// Puts this block's share of x into shared memory, in the order of the header; zeros beyond K.
__device__ __forceinline__ void stage_x(u32 shared, const Arguments& args, int l, int rank) {
    // A thread takes the 32 elements of one (step, token, t): neighbours write neighbouring 16 bytes.
    constexpr int PIECES = (BLOCK_STEPS + 1) * N * 4;
    const int first = rank * BLOCK_STEPS * 128;
#pragma unroll 2
    for (int i = threadIdx.x; i < PIECES; i += THREADS) {
        const int t = i % 4, token = i / 4 % N, step = i / 4 / N;
        const int element = step == BLOCK_STEPS ? K : first + step * 128 + t * 32;
        const u32 at = shared + ((step * 4 * N + token) * 4 + t) * 16;
        u32x4 values[4];
#pragma unroll
        for (int word = 0; word < 4; word++) {
            values[word] = element + word * 8 < K ? load_x(args, l, token, element + word * 8) : u32x4{0, 0, 0, 0};
        }
#pragma unroll
        for (int word = 0; word < 4; word++) st_shared_v4_b32(at + word * (N * 64), values[word]);
    }
}

__device__ __forceinline__ void store(void* y, i64 index, float value) {
    if constexpr (OUT == 0) st_global_b16(static_cast<u16*>(y) + index, cvt_rn_f16_f32(value));
    if constexpr (OUT == 1) st_global_b16(static_cast<u16*>(y) + index, cvt_rn_bf16_f32(value));
    if constexpr (OUT == 2) st_global_f32(static_cast<float*>(y) + index, value);
}

// grid (ceil(tiles / WARPS_R), L, SPLIT), cluster (1, 1, SPLIT); X_BYTES + QUEUE_BYTES of dynamic shared memory
extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    gemv_mma(const u8* a_codes, const u8* a_scales, const float* a_tensor, i32 a_stride, const u8* x, const u8* x_scales,
             const float* x_tensor, i32 x_stride, void* y, i32 m) {
    const Arguments args = {a_codes, a_scales, x, x_scales, a_tensor, x_tensor, y, a_stride, x_stride, m};
    extern __shared__ __align__(128) u8 memory[];
    griddepcontrol_launch_dependents();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warp_k = warp % WARPS_K, warp_r = warp / WARPS_K;
    const int l = blockIdx.y, rank = blockIdx.z, tile = blockIdx.x * WARPS_R + warp_r;
    const u32 x_at = shared_address(memory), queue = x_at + X_BYTES + warp * DEPTH * SLOT_BYTES;

    Source from = source(args, l, tile, global_step(0, warp_k, rank), lane);
#pragma unroll
    for (int i = 0; i < DEPTH; i++) {
        if (i < WARP_STEPS) copy_step(queue + i * SLOT_BYTES, from, lane);
        cp_async_commit_group();
    }
    griddepcontrol_wait();
    stage_x(x_at, args, l, rank);
    __syncthreads();

    u32 slot = queue;
    const u32 queue_end = queue + DEPTH * SLOT_BYTES;
    // The next step of A, in registers; its place in the queue is filled again.
    auto next_step = [&](int i, Piece& low, Piece& high) {
        cp_async_wait_group<DEPTH - 1>();
        low = read_piece(slot, 0, lane);
        high = read_piece(slot, 1, lane);
        if (i + DEPTH < WARP_STEPS) copy_step(slot, from, lane);
        cp_async_commit_group();
        slot = slot + SLOT_BYTES == queue_end ? queue : slot + SLOT_BYTES;
    };
    float sums[COLUMN_TILES][4] = {};
    if constexpr (DIAGONAL) {
        // Lanes that hold no part of a block's column read the zeros behind x, and stay there.
        const int g = lane / 4, t = lane % 4, step = global_step(0, warp_k, 0);
        u32 x_first = g == t ? x_at + step * 256 + t * 16 : x_at + BLOCK_STEPS * 256;
        u32 x_second = g == t + 4 ? x_at + step * 256 + t * 16 : x_at + BLOCK_STEPS * 256;
        const u32 move_first = g == t ? 256 : 0, move_second = g == t + 4 ? 256 : 0;
#pragma unroll 2
        for (int i = 0; i < WARP_STEPS; i++) {
            Piece low, high;
            next_step(i, low, high);
            float blocks[4] = {};
#pragma unroll
            for (int word = 0; word < 4; word++) {
                u32 r[4], q[4];  // of rows g and g + 8
                decode(r, low, word);
                decode(q, high, word);
                const u32 first[4] = {r[0], q[0], r[1], q[1]}, second[4] = {r[2], q[2], r[3], q[3]};
                const u32x4 b = ld_shared_v4_b32((word < 2 ? x_first : x_second) + word * 64);
                multiply(blocks, first, b.x, b.y);
                multiply(blocks, second, b.z, b.w);
            }
            sums[0][0] = fmaf(blocks[0], cvt_f32_f16(low.scales), sums[0][0]);
            sums[0][1] = fmaf(blocks[1], cvt_f32_f16(low.scales >> 16), sums[0][1]);
            sums[0][2] = fmaf(blocks[2], cvt_f32_f16(high.scales), sums[0][2]);
            sums[0][3] = fmaf(blocks[3], cvt_f32_f16(high.scales >> 16), sums[0][3]);
            const u32 steps = RUN == 1 || i % RUN == RUN - 1 ? 1 + (WARPS_K - 1) * RUN : 1;
            x_first += steps * move_first;
            x_second += steps * move_second;
        }
        // Column 0 gets the sum over the columns, in one order.
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
            float sum = sums[0][i] + sums[0][i + 1];
            sum += shfl_sync_bfly_f32(sum, 1);
            sums[0][i] = sum + shfl_sync_bfly_f32(sum, 2);
        }
    } else {
        // Lanes without a token of their own read that of the last: their columns of the result are not used.
        u32 x_lane[COLUMN_TILES];
#pragma unroll
        for (int c = 0; c < COLUMN_TILES; c++) {
            const int token = lane / 4 + 8 * c;
            x_lane[c] = x_at + ((token < N ? token : N - 1) * 4 + lane % 4) * 16;
        }
        float more[COLUMN_TILES][4] = {};  // a second chain: an mma takes longer than the decoding of its operands
#pragma unroll 2
        for (int i = 0; i < WARP_STEPS; i++) {
            Piece low, high;
            next_step(i, low, high);
            const u32 x_step = global_step(i, warp_k, 0) * (4 * N * 64);
#pragma unroll
            for (int word = 0; word < 4; word++) {
                u32 r[4], q[4];  // of rows g and g + 8
                decode(r, low, word);
                decode(q, high, word);
                const u32 first[4] = {r[0], q[0], r[1], q[1]}, second[4] = {r[2], q[2], r[3], q[3]};
#pragma unroll
                for (int c = 0; c < COLUMN_TILES; c++) {
                    const u32x4 b = ld_shared_v4_b32(x_lane[c] + x_step + word * (N * 64));
                    multiply(sums[c], first, b.x, b.y);
                    multiply(more[c], second, b.z, b.w);
                }
            }
        }
#pragma unroll
        for (int c = 0; c < COLUMN_TILES; c++) {
#pragma unroll
            for (int i = 0; i < 4; i++) sums[c][i] += more[c][i];
        }
    }

    // Partial sums [warp_k][token][row of the block], where the queues were: every queue is empty now.
    __syncthreads();
    float* partial = reinterpret_cast<float*>(memory + X_BYTES);
#pragma unroll
    for (int c = 0; c < COLUMN_TILES; c++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int token = c * 8 + lane % 4 * 2 + i % 2, row = warp_r * 16 + lane / 4 + i / 2 * 8;
            if (token < N) partial[(warp_k * N + token) * BLOCK_ROWS + row] = sums[c][i];
        }
    }
    __syncthreads();
    const float scale = UNIT * tensor_scale(args.a_tensor, args.a_tensor_stride, l);
    const float x_scale = tensor_scale(args.x_tensor, args.x_tensor_stride, l);
    for (int i = threadIdx.x; i < PARTIAL_FLOATS; i += THREADS) {
        float sum = partial[i];
#pragma unroll
        for (int w = 1; w < WARPS_K; w++) sum += partial[w * PARTIAL_FLOATS + i];
        if constexpr (SPLIT == 1) {
            const int row = tile_row(blockIdx.x * WARPS_R + i % BLOCK_ROWS / 16, i % 16), token = i / BLOCK_ROWS;
            if (row < args.m) store(args.y, (static_cast<i64>(l) * N + token) * args.m + row, sum * scale * x_scale);
        } else {
            partial[i] = sum;
        }
    }
    if constexpr (SPLIT > 1) {
        barrier_cluster_arrive_release();
        barrier_cluster_wait_acquire();
        for (int i = rank * THREADS + threadIdx.x; i < PARTIAL_FLOATS; i += SPLIT * THREADS) {
            float sum = 0.0f;
#pragma unroll
            for (int block = 0; block < SPLIT; block++) {
                sum += ld_shared_cluster_f32(mapa_shared_cluster_u32(shared_address(partial + i), block));
            }
            const int row = tile_row(blockIdx.x * WARPS_R + i % BLOCK_ROWS / 16, i % 16), token = i / BLOCK_ROWS;
            if (row < args.m) store(args.y, (static_cast<i64>(l) * N + token) * args.m + row, sum * scale * x_scale);
        }
        // No block leaves while another may still read its shared memory.
        barrier_cluster_arrive_release();
        barrier_cluster_wait_acquire();
    }
}
