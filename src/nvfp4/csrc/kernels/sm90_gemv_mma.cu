// y[l, n, m] = sum over k of A[l, m, k] * x[l, n, k] for 1..16 rows x of fp16, bf16 or NVFP4: a GEMV for a few tokens.
//
//   a_codes  [L, M, K/2]  u8, two E2M1 codes a byte      a_scales  [L, M, K/16] E4M3, or 128x4 tiles (A_LAYOUT)
//   x        [L, X_ROWS, K]    fp16, bf16, or NVFP4 codes     x_scales  [L, X_ROWS, K/16] or tiles (X_LAYOUT), NVFP4 only
//   y        [L, X_ROWS, M]    in OUT's type                  a_tensor, x_tensor   fp32 [] or [L], or null
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
#include "ptx/st.cuh"
#include "ptx/types.cuh"

// From the plan: K, X_ROWS (1..16), WARPS_K, WARPS_R, SPLIT, DEPTH, RUN, MIN_BLOCKS, A_LAYOUT, X_LAYOUT,
// X_KIND (0 fp16, 1 bf16, 2 NVFP4), OUT (0 fp16, 1 bf16, 2 fp32).
static_assert(K % 16 == 0 && X_ROWS >= 1 && X_ROWS <= 16, "whole scale blocks, 1 to 16 rows");

constexpr int BLOCKS = K / 16;
constexpr int WARPS = WARPS_K * WARPS_R;
constexpr int THREADS = 32 * WARPS;
constexpr int COLUMN_TILES = (X_ROWS + 7) / 8;
constexpr int BLOCK_ROWS = 16 * WARPS_R;
constexpr int ALL_STEPS = (K + 127) / 128;
constexpr int RUNS = (ALL_STEPS + SPLIT * WARPS_K * RUN - 1) / (SPLIT * WARPS_K * RUN);  // of RUN steps, for each warp
constexpr int WARP_STEPS = RUNS * RUN;
constexpr int BLOCK_STEPS = WARP_STEPS * WARPS_K;
constexpr int SLOT_BYTES = 2 * 512 + 256;  // codes of rows g and g + 8; 4 scales of each
constexpr int X_BYTES = BLOCK_STEPS * 4 * X_ROWS * 64;
constexpr int QUEUE_BYTES = WARPS * DEPTH * SLOT_BYTES;
constexpr int PARTIAL_FLOATS = BLOCK_ROWS * X_ROWS;  // of one warp along K
// Dynamic shared memory: x, queues; the queues' place then takes WARPS_K * PARTIAL_FLOATS partial sums.
static_assert(WARPS_K * PARTIAL_FLOATS * 4 <= QUEUE_BYTES, "the partial sums fit where the queues were");

constexpr bool COPY_16 = K % 32 == 0;                                  // rows are 16-byte aligned
constexpr bool COPY_SCALES = A_LAYOUT == SCALES_TILED || K % 64 == 0;  // groups of 4 scales are 4-byte aligned
// decoded A is value * 2^-7 (fp16) or 2^-8 (bf16), decoded x value * 2^-7
constexpr float UNIT = X_KIND == 0 ? 128.0f : X_KIND == 1 ? 256.0f : 16384.0f;

struct Arguments {
    const u8* a_codes;
    const u8* a_scales;
    const u8* x;
    const u8* x_scales;
    const float* a_tensor;
    const float* x_tensor;
    void* y;
    i32 a_tensor_stride, x_tensor_stride;  // 0: one for all matrices, 1: one each
    i32 m, l;
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

struct Source {
    const u8* codes[2];   // the lane's bytes of rows g, g + 8 at step 0
    const u8* scales[2];  // the 4 scales that the lane and its neighbour use of those rows at step 0
    bool valid[2];        // whether the row exists
    int element;          // of the lane at step 0
};

constexpr int SCALE_STEP_128 = 2 * SCALE_STEP_64<A_LAYOUT>;

__device__ __forceinline__ Source source(const Arguments& args, int l, int tile, int lane) {
    Source from;
    from.element = lane % 4 * 32;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = tile_row(tile, lane / 4 + 8 * half);
        from.valid[half] = row < args.m;
        const int inside = from.valid[half] ? row : 0;
        from.codes[half] = args.a_codes + (static_cast<i64>(l) * args.m + inside) * (K / 2) + from.element / 2;
        from.scales[half] = args.a_scales + l * scale_matrix_bytes<A_LAYOUT>(args.m, BLOCKS) +
                            scale_offset<A_LAYOUT>(inside, from.element / 64 * 4, BLOCKS);
    }
    return from;
}

// Starts the copies of one step of A into the lane's part of `slot`.
__device__ __forceinline__ void copy_step(u32 slot, const Source& from, int step, int lane) {
    const int element = from.element + step * 128;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const u32 codes_at = slot + half * 512 + lane * 16, scales_at = slot + 1024 + lane * 8 + half * 4;
        const u8* codes = from.codes[half] + step * 64;
        const u8* scales = from.scales[half] + static_cast<i64>(step) * SCALE_STEP_128;
        const bool valid = from.valid[half] && element < K;
        if constexpr (COPY_16) {
            cp_async_cg_shared_global_L2_128B_16(codes_at, codes, valid);
        } else {
            cp_async_ca_shared_global_8(codes_at, codes, valid);
            cp_async_ca_shared_global_8(codes_at + 8, codes + 8, from.valid[half] && element + 16 < K);
        }
        if constexpr (COPY_SCALES) {
            cp_async_ca_shared_global_4(scales_at, scales, valid);
        } else {
            // Scales at any address: four bytes by hand. Only K that is not a multiple of 64 comes here.
            u32 word = 0;
            const int block = element / 64 * 4;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (from.valid[half] && block + i < BLOCKS) word |= ld_global_nc_u8(scales + i) << (8 * i);
            }
            st_shared_b32(scales_at, word);
        }
    }
}

// One lane's part of a row of A at a step: 32 codes and the factors of its two blocks, twice each.
struct Piece {
    u32 codes[4];
    u32 factor[2];
};

__device__ __forceinline__ Piece read_piece(u32 slot, int half, int lane) {
    const u32x4 codes = ld_shared_v4_b32(slot + half * 512 + lane * 16);
    const u32 scales = ld_shared_b16(slot + 1024 + lane * 8 + half * 4 + lane % 2 * 2);
    u32 pair;
    if constexpr (X_KIND == 1) {
        pair = e4m3x2_to_bf16x2_scaled(scales);
    } else {
        pair = mul_rn_f16x2(e4m3x2_to_f16x2(scales), 0x58005800u);  // 2^7
    }
    return {{codes.x, codes.y, codes.z, codes.w}, {prmt_b32<0x1010>(pair, pair), prmt_b32<0x3232>(pair, pair)}};
}

template <int I>
__device__ __forceinline__ u32 operand(const Piece& a, int word) {
    if constexpr (X_KIND == 1) return mul_rn_bf16x2(e2m1_to_bf16x2<I>(a.codes[word]), a.factor[word / 2]);
    return mul_rn_f16x2(e2m1_to_f16x2<I>(a.codes[word]), a.factor[word / 2]);
}

__device__ __forceinline__ void multiply(float (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    if constexpr (X_KIND == 1) {
        mma_sync_aligned_m16n8k16_row_col_f32_bf16_bf16_f32(sums, a, b0, b1);
    } else {
        mma_sync_aligned_m16n8k16_row_col_f32_f16_f16_f32(sums, a, b0, b1);
    }
}

// Puts this block's share of x into shared memory, in the order of the header; zeros beyond K.
__device__ __forceinline__ void stage_x(u32 shared, const Arguments& args, int l, int rank) {
    constexpr int PER_ROW = BLOCK_STEPS * 16;
    const int first = rank * BLOCK_STEPS * 128;
#pragma unroll 4
    for (int i = threadIdx.x; i < X_ROWS * PER_ROW; i += THREADS) {
        const int token = i / PER_ROW, eighth = i % PER_ROW, element = first + eighth * 8;
        const int step = eighth / 16, t = eighth / 4 % 4, word = eighth % 4;
        u32x4 values = {0, 0, 0, 0};
        if (element < K) {
            if constexpr (X_KIND == 2) {
                const u32 codes = ld_global_nc_b32(args.x + ((static_cast<i64>(l) * X_ROWS + token) * K + element) / 2);
                const u8* scales = args.x_scales + l * scale_matrix_bytes<X_LAYOUT>(X_ROWS, BLOCKS);
                const u32 scale = ld_global_nc_u8(scales + scale_offset<X_LAYOUT>(token, element / 16, BLOCKS));
                const u32 factor = e4m3_to_f16x2_scaled(scale);
                const u32x4 decoded = e2m1x8_to_f16x2_strided(codes);
                values = {mul_rn_f16x2(decoded.x, factor), mul_rn_f16x2(decoded.y, factor),
                          mul_rn_f16x2(decoded.z, factor), mul_rn_f16x2(decoded.w, factor)};
            } else {
                const i64 index = (static_cast<i64>(l) * X_ROWS + token) * K + element;
                values = memory_to_strided_order(ld_global_nc_v4_b32(args.x + 2 * index));
            }
        }
        st_shared_v4_b32(shared + (((step * 4 + word) * X_ROWS + token) * 4 + t) * 16, values);
    }
}

__device__ __forceinline__ void store(void* y, i64 index, float value) {
    if constexpr (OUT == 0) st_global_b16(static_cast<u16*>(y) + index, cvt_rn_f16_f32(value));
    if constexpr (OUT == 1) st_global_b16(static_cast<u16*>(y) + index, cvt_rn_bf16_f32(value));
    if constexpr (OUT == 2) st_global_f32(static_cast<float*>(y) + index, value);
}

// grid (ceil(tiles / WARPS_R), L, SPLIT), cluster (1, 1, SPLIT); X_BYTES + QUEUE_BYTES of dynamic shared memory
extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) gemv_mma(const __grid_constant__ Arguments args) {
    extern __shared__ __align__(128) u8 memory[];
    griddepcontrol_launch_dependents();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warp_k = warp % WARPS_K, warp_r = warp / WARPS_K;
    const int l = blockIdx.y, rank = blockIdx.z, tile = blockIdx.x * WARPS_R + warp_r;
    const u32 x_at = shared_address(memory), queue = x_at + X_BYTES + warp * DEPTH * SLOT_BYTES;

    const Source from = source(args, l, tile, lane);
#pragma unroll
    for (int i = 0; i < DEPTH; i++) {
        if (i < WARP_STEPS) copy_step(queue + i * SLOT_BYTES, from, global_step(i, warp_k, rank), lane);
        cp_async_commit_group();
    }
    griddepcontrol_wait();
    stage_x(x_at, args, l, rank);
    __syncthreads();

    float sums[COLUMN_TILES][4] = {};
    // Lanes without a token of their own read that of the last: their columns of the result are not used.
    u32 x_lane[COLUMN_TILES];
#pragma unroll
    for (int c = 0; c < COLUMN_TILES; c++) {
        const int token = lane / 4 + 8 * c;
        x_lane[c] = x_at + ((token < X_ROWS ? token : X_ROWS - 1) * 4 + lane % 4) * 16;
    }
    u32 slot = queue;
    for (int i = 0; i < WARP_STEPS; i++) {
        cp_async_wait_group<DEPTH - 1>();
        const Piece low = read_piece(slot, 0, lane), high = read_piece(slot, 1, lane);
        if (i + DEPTH < WARP_STEPS) copy_step(slot, from, global_step(i + DEPTH, warp_k, rank), lane);
        cp_async_commit_group();
        slot = slot + SLOT_BYTES == queue + DEPTH * SLOT_BYTES ? queue : slot + SLOT_BYTES;
        const u32 x_step = (global_step(i, warp_k, 0)) * (4 * X_ROWS * 64);
#pragma unroll
        for (int word = 0; word < 4; word++) {
            const u32 first[4] = {operand<0>(low, word), operand<0>(high, word), operand<1>(low, word), operand<1>(high, word)};
            const u32 second[4] = {operand<2>(low, word), operand<2>(high, word), operand<3>(low, word), operand<3>(high, word)};
#pragma unroll
            for (int c = 0; c < COLUMN_TILES; c++) {
                const u32x4 b = ld_shared_v4_b32(x_lane[c] + x_step + word * (X_ROWS * 64));
                multiply(sums[c], first, b.x, b.y);
                multiply(sums[c], second, b.z, b.w);
            }
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
            if (token < X_ROWS) partial[(warp_k * X_ROWS + token) * BLOCK_ROWS + row] = sums[c][i];
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
            if (row < args.m) store(args.y, (static_cast<i64>(l) * X_ROWS + token) * args.m + row, sum * scale * x_scale);
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
            if (row < args.m) store(args.y, (static_cast<i64>(l) * X_ROWS + token) * args.m + row, sum * scale * x_scale);
        }
        // No block leaves while another may still read its shared memory.
        barrier_cluster_arrive_release();
        barrier_cluster_wait_acquire();
    }
}
