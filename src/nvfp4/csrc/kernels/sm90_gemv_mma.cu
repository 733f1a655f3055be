// y[l, n, m] = sum over k of A[l, m, k] * x[l, n, k] for 1..16 rows x of fp16, bf16 or NVFP4: a GEMV for a few tokens.
//
//   a_codes  [L, M, K/2]  u8, two E2M1 codes a byte      a_scales  [L, M, K/16] E4M3, or 128x4 tiles (A_LAYOUT)
//   x        [L, N, K]    fp16, bf16, or NVFP4 codes     x_scales  [L, N, K/16] or tiles (X_LAYOUT), NVFP4 only
//   y        [L, N, M]    in OUT's type                  a_tensor, x_tensor   fp32 [] or [L], or null
//   bias     [M] in BIAS's type, or null
//
// A streams through tensor cores as the first operand of mma m16n8k16: 16 rows of A by 8 columns, the tokens. A lane's
// 16 bytes of a row (32 elements) become eight operand registers with shifts and masks; which k a lane holds does not
// matter as long as x is arranged the same, so x is put in shared memory in the order in which the lanes want it:
//
//     step = 128 elements of K:   lane (g, t) of a warp has bytes 16t..16t+15 of the step in rows g and g + 8 of A
//     x in shared memory:         [step][token][piece], see pipeline/sm90_gemv_vectors.cuh
//
// Codes are multiplied by their scale in 16 bits, which is exact (6 significant bits); powers of two that keep the
// intermediates in range leave at the end.
//
// A takes no registers on its way: each warp has a queue of DEPTH segments in shared memory that it fills with cp.async
// and that only it reads. A segment is 16 rows of 2 or 4 steps: the copies run along the rows, 128 or 256 bytes
// each, and the fragments are read across them. No barrier is needed.
//
// A block stages x once and then passes many rows by it, TILES * 16 at most; a cluster of SPLIT blocks shares K, so
// that x fits:
//
//     rows of a cluster:  tile 0 | tile 1 | ...   of 16 rows; group r of WARPS_K warps takes tiles r, r + WARPS_R, ...
//     K of a block:       segments, dealt to the warps of a group in turn
//     sum:                over the warps of a group, then over the blocks of the cluster, each in a fixed order
//
// Launched programmatically the kernel starts before the previous one has finished. With EARLY it loads A at once,
// which the previous kernel must not be writing; x is read and y is written after griddepcontrol.wait.

#include "decode/e2m1_bf16.cuh"
#include "decode/e2m1_select.cuh"
#include "decode/e4m3.cuh"
#include "decode/scale_layout.cuh"
#include "epilogue/bias.cuh"
#include "pipeline/sm90_gemv_segments.cuh"
#include "pipeline/sm90_gemv_vectors.cuh"
#include "ptx/barrier.cuh"
#include "ptx/barrier_cluster.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/cvt.cuh"
#include "ptx/f16x2.cuh"
#include "ptx/griddepcontrol.cuh"
#include "ptx/ld.cuh"
#include "ptx/ld_stream.cuh"
#include "ptx/mma.cuh"
#include "ptx/shfl.cuh"
#include "ptx/st.cuh"
#include "ptx/types.cuh"

// One lane's part of a row of A at a step: 32 codes, and the factors of its two blocks, twice each, to multiply them
// with; or two scales as fp16, to multiply the accumulators with.
struct Piece {
    u32 codes[4];
    u32 factor[2];
    u32 scales;
};

__device__ __forceinline__ Piece read_piece(u32 slot, int step, int half, int lane) {
    const int index = lane / 4 + 8 * half;
    const u32x4 codes = ld_shared_v4_b32(slot + index * PITCH + (step * 64 ^ odd_row_flip(lane / 4)) + lane % 4 * 16);
    const u32 scales = ld_shared_b16(slot + 16 * PITCH + scales_offset(index, step, lane % 4));
    Piece piece = {{codes.x, codes.y, codes.z, codes.w}, {}, 0};
    if constexpr (DIAGONAL) {
        piece.scales = e4m3x2_to_f16x2(scales);
    } else {
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

// A word of rows g and g + 8, decoded, times x: its first four codes are added to `first`, the others to `second`.
__device__ __forceinline__ void multiply_word(float (&first)[4], float (&second)[4], const u32 (&low)[4], const u32 (&high)[4], const u32x4& x) {
    const u32 early[4] = {low[0], high[0], low[1], high[1]}, late[4] = {low[2], high[2], low[3], high[3]};
    multiply(first, early, x.x, x.y);
    multiply(second, late, x.z, x.w);
}

// Sums of bare codes of a lane's blocks, times their scales, to the sums of its rows.
__device__ __forceinline__ void add_blocks(float (&sums)[4], const float (&blocks)[2][4], u32 low_scales, u32 high_scales) {
    sums[0] = fmaf(blocks[0][0], cvt_f32_f16(low_scales), sums[0]);
    sums[1] = fmaf(blocks[1][1], cvt_f32_f16(low_scales >> 16), sums[1]);
    sums[2] = fmaf(blocks[0][2], cvt_f32_f16(high_scales), sums[2]);
    sums[3] = fmaf(blocks[1][3], cvt_f32_f16(high_scales >> 16), sums[3]);
}

__device__ __forceinline__ void store(void* y, i64 index, float value) {
    if constexpr (OUT == 0) st_global_b16(static_cast<u16*>(y) + index, cvt_rn_f16_f32(value));
    if constexpr (OUT == 1) st_global_b16(static_cast<u16*>(y) + index, cvt_rn_bf16_f32(value));
    if constexpr (OUT == 2) st_global_f32(static_cast<float*>(y) + index, value);
}

// What a warp has of a step of all 16 rows, decoded.
struct Decoded {
    u32 low[4][4], high[4][4];  // [word], of rows g and g + 8
    u32 low_scales, high_scales;
};

__device__ __forceinline__ Decoded decode_step(u32 slot, int step, int lane) {
    const Piece low = read_piece(slot, step, 0, lane), high = read_piece(slot, step, 1, lane);
    Decoded decoded;
#pragma unroll
    for (int word = 0; word < 4; word++) {
        decode(decoded.low[word], low, word);
        decode(decoded.high[word], high, word);
    }
    decoded.low_scales = low.scales;
    decoded.high_scales = high.scales;
    return decoded;
}

// Adds step `step` of the warp's first segment to its sums: what add_tile does with the steps that follow.
__device__ __forceinline__ void add_step(float (&sums)[COLUMN_TILES][4], const Decoded& a, u32 x_at, int step, int warp_k,
                                         int lane) {
    if constexpr (DIAGONAL) {
        const int g = lane / 4, t = lane % 4;
        const u32 zeros = x_at + BLOCK_STEPS * 256, mine = x_of_diagonal(x_at + (warp_k * SEGMENT + step) * 256, t);
        const u32 x_first = g == 2 * t ? mine : zeros, x_second = g == 2 * t + 1 ? mine : zeros;
        float blocks[2][4] = {};
#pragma unroll
        for (int word = 0; word < 4; word++) {
            const u32x4 b = ld_shared_v4_b32(x_word(word < 2 ? x_first : x_second, word));
            multiply_word(blocks[word / 2], blocks[word / 2], a.low[word], a.high[word], b);
        }
        add_blocks(sums[0], blocks, a.low_scales, a.high_scales);
    } else {
        const u32 x_step = x_at + (warp_k * SEGMENT + step) * (N * 256);
#pragma unroll
        for (int word = 0; word < 4; word++) {
#pragma unroll
            for (int c = 0; c < COLUMN_TILES; c++) {
                const u32x4 b = ld_shared_v4_b32(x_word(x_of_lane(x_step, c, lane), word));
                multiply_word(sums[c], sums[c], a.low[word], a.high[word], b);
            }
        }
    }
}

// The sums of a warp for one tile over its segments, from segment `begin` on: sums[c][i] of rows g, g, g + 8, g + 8 and tokens 8c + 2t, 8c + 2t
// + 1.
// HALF: rows 8 to 15 of the tile do not exist; their sums may be anything.
template <bool HALF, typename Open, typename Close>
__device__ __forceinline__ void add_tile(float (&sums)[COLUMN_TILES][4], u32 x_at, const u32& slot, int warp_k,
                                         int lane, const Open& open_segment, const Close& close_segment, int begin) {
    if constexpr (DIAGONAL) {
        // Lanes that hold no part of a block's column read the zeros behind x, and stay there.
        const int g = lane / 4, t = lane % 4;
        const u32 zeros = x_at + BLOCK_STEPS * 256, mine = x_of_diagonal(x_at + warp_k * SEGMENT * 256, t);
        u32 x_first = g == 2 * t ? mine : zeros, x_second = g == 2 * t + 1 ? mine : zeros;
        const u32 move_first = g == 2 * t ? 256 : 0, move_second = g == 2 * t + 1 ? 256 : 0;
        x_first += begin * WARPS_K * SEGMENT * move_first;
        x_second += begin * WARPS_K * SEGMENT * move_second;
#pragma unroll 1
        for (int i = begin; i < WARP_SEGMENTS; i++) {
            open_segment();
#pragma unroll
            for (int step = 0; step < SEGMENT; step++) {
                const Piece low = read_piece(slot, step, 0, lane);
                const Piece high = HALF ? low : read_piece(slot, step, 1, lane);
                if (step == SEGMENT - 1) close_segment();
                // The lanes' first blocks add to even columns only, the second ones to odd columns: two chains for nothing.
                float blocks[2][4] = {};
#pragma unroll
                for (int word = 0; word < 4; word++) {
                    u32 r[4], q[4];  // of rows g and g + 8
                    decode(r, low, word);
                    if constexpr (HALF) {
                        q[0] = r[0], q[1] = r[1], q[2] = r[2], q[3] = r[3];
                    } else {
                        decode(q, high, word);
                    }
                    const u32x4 b = ld_shared_v4_b32(x_word(word < 2 ? x_first : x_second, word));
                    multiply_word(blocks[word / 2], blocks[word / 2], r, q, b);
                }
                add_blocks(sums[0], blocks, low.scales, high.scales);
                x_first += move_first;
                x_second += move_second;
            }
            x_first += (WARPS_K - 1) * SEGMENT * move_first;
            x_second += (WARPS_K - 1) * SEGMENT * move_second;
        }
        // Column 0 gets the sum over the columns, in one order.
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
            float sum = sums[0][i] + sums[0][i + 1];
            sum += shfl_sync_bfly_f32(sum, 1);
            sums[0][i] = sum + shfl_sync_bfly_f32(sum, 2);
        }
    } else {
        u32 x_lane[COLUMN_TILES];
#pragma unroll
        for (int c = 0; c < COLUMN_TILES; c++) {
            x_lane[c] = x_of_lane(x_at + (warp_k + begin * WARPS_K) * SEGMENT * (N * 256), c, lane);
        }
        // A second chain: an mma takes longer than the decoding of its operands.
        float more[COLUMN_TILES][4] = {};
#pragma unroll 1
        for (int i = begin; i < WARP_SEGMENTS; i++) {
            open_segment();
#pragma unroll
            for (int step = 0; step < SEGMENT; step++) {
                const Piece low = read_piece(slot, step, 0, lane);
                const Piece high = HALF ? low : read_piece(slot, step, 1, lane);
                if (step == SEGMENT - 1) close_segment();
#pragma unroll
                for (int word = 0; word < 4; word++) {
                    u32 r[4], q[4];  // of rows g and g + 8
                    decode(r, low, word);
                    if constexpr (HALF) {
                        q[0] = r[0], q[1] = r[1], q[2] = r[2], q[3] = r[3];
                    } else {
                        decode(q, high, word);
                    }
#pragma unroll
                    for (int c = 0; c < COLUMN_TILES; c++) {
                        const u32x4 b = ld_shared_v4_b32(x_word(x_lane[c], word) + step * (N * 256));
                        multiply_word(sums[c], more[c], r, q, b);
                    }
                }
            }
#pragma unroll
            for (int c = 0; c < COLUMN_TILES; c++) x_lane[c] += WARPS_K * SEGMENT * (N * 256);
        }
#pragma unroll
        for (int c = 0; c < COLUMN_TILES; c++) {
#pragma unroll
            for (int i = 0; i < 4; i++) sums[c][i] += more[c][i];
        }
    }
}

// Sums of neighbouring rows that a lane adds over the warps: four where they stay in shared memory. Where a result follows,
// a lane for each gets it out soonest.
constexpr int WIDTH = SPLIT > 1 ? 4 : 1;
struct alignas(4 * WIDTH) Sums {
    float values[WIDTH];
};

// grid (clusters of rows, L, SPLIT), cluster (1, 1, SPLIT)
extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    nvfp4_sm90_gemv_mma(const u8* a_codes, const u8* a_scales, const float* a_tensor, i32 a_stride, const u8* x,
                        const u8* x_scales, const float* x_tensor, i32 x_stride, void* y, const u8* bias, i32 m,
                        i32 rows) {
    const Arguments args = {a_codes, a_scales, x, x_scales, a_tensor, x_tensor, y, a_stride, x_stride, m, rows, bias};
    extern __shared__ __align__(128) u8 memory[];
    griddepcontrol_launch_dependents();
    if (!EARLY) griddepcontrol_wait();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int warp_k = warp % WARPS_K, warp_r = warp / WARPS_K;
    const int l = blockIdx.y, rank = blockIdx.z;
    const u32 x_at = shared_address(memory), queue = x_at + X_BYTES + warp * DEPTH * SLOT_BYTES;
    float* const partial = reinterpret_cast<float*>(memory + X_BYTES + QUEUE_BYTES);
    float* const block_sums = partial + PARTIAL_BYTES / 4;

    Source from;
    from.codes = args.a_codes + static_cast<i64>(l) * args.m * (K / 2);
    from.scales = args.a_scales + l * scale_matrix_bytes<A_LAYOUT>(args.m, BLOCKS);
    if constexpr (A_LAYOUT == SCALES_LINEAR) {
        from.first = blockIdx.x * args.rows;
        from.end = from.first + args.rows < args.m ? from.first + args.rows : args.m;
        from.tiles = (from.end - from.first + 15) / 16;
    } else {
        const int all = (args.m + 127) / 128 * 8;
        from.first = blockIdx.x * (args.rows / 16);
        from.end = args.m;
        from.tiles = all - from.first < args.rows / 16 ? all - from.first : args.rows / 16;
    }
    from.tile = warp_r;
    from.segment = 0;
    from.element = (rank * BLOCK_STEPS + warp_k * SEGMENT) * 128;
    const int first = from.first, end = from.end, tiles = from.tiles;
    from.locate(lane);
#pragma unroll 1
    for (int i = 0; i < PRELOAD; i++) from.copy_next(queue + i * SLOT_BYTES, lane);
    prefetch_x(args, l, rank);
    const auto fill_queue = [&] {
#pragma unroll 1
        for (int i = PRELOAD; i < DEPTH; i++) from.copy_next(queue + i * SLOT_BYTES, lane);
    };
    u32 slot = queue;
    // Lets the warp read the segment in `slot`; and fills the slot again when all lanes have.
    auto open_segment = [&] {
        cp_async_wait_group<DEPTH - 1>();
        __syncwarp();
    };
    auto close_segment = [&] {
        __syncwarp();
        from.copy_next(slot, lane);
        if (DEPTH > 1) slot = slot + SLOT_BYTES == queue + DEPTH * SLOT_BYTES ? queue : slot + SLOT_BYTES;
    };
    // Decoding does not need x: the first step of a warp's first tile is decoded while the previous kernel runs.
    const bool ahead = warp_r < tiles && tile_row(first, warp_r) + row_in_tile(8) < end;
    Decoded decoded;
    if (ahead) {
        cp_async_wait_group<PRELOAD - 1>();
        __syncwarp();
        decoded = decode_step(slot, 0, lane);
    }
    if (EARLY) griddepcontrol_wait();
    stage_x(x_at, args, l, rank, fill_queue);
    __syncthreads();
    float early_sums[COLUMN_TILES][4] = {};
    int begun = 0;  // segments of the next tile that are in these sums
    if (ahead) {
        add_step(early_sums, decoded, x_at, 0, warp_k, lane);
#pragma unroll
        for (int step = 1; step < SEGMENT; step++) {
            const Decoded next = decode_step(slot, step, lane);
            if (step == SEGMENT - 1) close_segment();
            add_step(early_sums, next, x_at, step, warp_k, lane);
        }
        begun = 1;
    }

    const float scale = UNIT * tensor_scale(args.a_tensor, args.a_tensor_stride, l);
    const float x_scale = tensor_scale(args.x_tensor, args.x_tensor_stride, l);
    // Writes the sum of row `index` of tile `tile` for `token`.
    auto finish = [&](int tile, int index, int token, float sum) {
        const int row = tile_row(first, tile) + row_in_tile(index);
        if (row >= end) return;
        const float result = add_bias<BIAS>(sum * scale * x_scale, args.bias, row);
        store(args.y, (static_cast<i64>(l) * N + token) * args.m + row, result);
    };
    // The warps of a group, at a barrier of their own: barriers 1..15.
    static_assert(WARPS_K == 1 || WARPS_R <= 15, "a barrier for each group");
    auto meet = [&] {
        if constexpr (WARPS_K == 1) {
            __syncwarp();
        } else {
            barrier_sync(1 + warp_r, 32 * WARPS_K);
        }
    };
    int turn = 0;
#pragma unroll 1
    for (int begin = warp_r; begin < tiles; begin += FLUSH * WARPS_R, turn = TURNS - 1 - turn) {
        float* const group = partial + (turn * WARPS_R + warp_r) * (FLUSH * WARPS_K * TILE_FLOATS);
        int flush = 0;
#pragma unroll 1
        for (int tile = begin; flush < FLUSH && tile < tiles; tile += WARPS_R, flush++) {
            float sums[COLUMN_TILES][4];
#pragma unroll
            for (int c = 0; c < COLUMN_TILES; c++) {
#pragma unroll
                for (int i = 0; i < 4; i++) sums[c][i] = early_sums[c][i], early_sums[c][i] = 0.0f;
            }
            if (tile_row(first, tile) + row_in_tile(8) < end) {
                add_tile<false>(sums, x_at, slot, warp_k, lane, open_segment, close_segment, begun);
            } else {
                add_tile<true>(sums, x_at, slot, warp_k, lane, open_segment, close_segment, begun);
            }
            begun = 0;
            // A warp that shares its tile with no other leaves the sums where the cluster wants them.
            float* const mine = DIRECT ? block_sums + tile * TILE_FLOATS : group + (flush * WARPS_K + warp_k) * TILE_FLOATS;
#pragma unroll
            for (int c = 0; c < COLUMN_TILES; c++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int token = c * 8 + lane % 4 * 2 + i % 2, index = lane / 4 + i / 2 * 8;
                    if (token < N) mine[token * 16 + index] = sums[c][i];
                }
            }
        }
        if (DIRECT) continue;
        // The warps of a group meet once for FLUSH tiles: the partial sums of two such runs have places of their own.
        meet();
        for (int i = (warp_k * 32 + lane) * WIDTH; i < flush * TILE_FLOATS; i += 32 * WIDTH * WARPS_K) {
            const int tile = begin + i / TILE_FLOATS * WARPS_R, of_tile = i % TILE_FLOATS;
            const float* const from_warps = group + i / TILE_FLOATS * (WARPS_K * TILE_FLOATS) + of_tile;
            Sums sums = *reinterpret_cast<const Sums*>(from_warps);
#pragma unroll
            for (int w = 1; w < WARPS_K; w++) {
                const Sums others = *reinterpret_cast<const Sums*>(from_warps + w * TILE_FLOATS);
#pragma unroll
                for (int j = 0; j < WIDTH; j++) sums.values[j] += others.values[j];
            }
            if constexpr (SPLIT == 1) {
#pragma unroll
                for (int j = 0; j < WIDTH; j++) finish(tile, of_tile % 16 + j, of_tile / 16, sums.values[j]);
            } else {
                *reinterpret_cast<Sums*>(block_sums + tile * TILE_FLOATS + of_tile) = sums;
            }
        }
        if (TURNS == 1) meet();
    }
    if constexpr (SPLIT > 1) {
        barrier_cluster_arrive_release();
        barrier_cluster_wait_acquire();
        for (int i = rank * THREADS + threadIdx.x; i < tiles * TILE_FLOATS; i += SPLIT * THREADS) {
            const int tile = i / TILE_FLOATS, index = i % 16;
            // What is read is used before this thread arrives at the last barrier.
            if (tile_row(first, tile) + row_in_tile(index) >= end) continue;
            float sum = 0.0f;
#pragma unroll
            for (int block = 0; block < SPLIT; block++) {
                sum += ld_shared_cluster_f32(mapa_shared_cluster_u32(shared_address(block_sums + i), block));
            }
            finish(tile, index, i / 16 % N, sum);
        }
        // No block leaves while another may still read its shared memory.
        barrier_cluster_arrive_relaxed();
        barrier_cluster_wait_acquire();
    }
}
