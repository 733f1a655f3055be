// y[l] = x[l] A[l]^T on Blackwell: NVFP4 matrix, NVFP4 or 16-bit vectors, read once at the speed of the memory.
//
//   A [L, M, K] NVFP4, scales linear or in 128x4 tiles; x [L, N, K] NVFP4 likewise, fp16 or bf16        y [L, N, M]  fp16, bf16 or fp32
//   K a multiple of 16 and a compile-time constant; M, L any; N 1 to 16
//
// A warp has ROWS rows of A, a lane a unit of UNIT elements of each at a time: 64, or 32 or 16 where K is no multiple of that: 32 bytes of
// codes in one load, four scales in another. The vectors come through L1, where all warps of the multiprocessor find them. PARTS warps
// share their rows along K; what they find is added in a fixed order.
//
// Arithmetic: codes become halves (cvt.rn.f16x2.e2m1x2). NVFP4 x: eight products of a block of 16 are summed in each half of a register,
// exactly: multiples of 1/4 up to 288, and 288 * 4 < 2^11. The two halves and both scales meet in fp32, where
// a block's sum (12 significant bits) times two scales (4 each) is exact, and 448 * 448 no problem. fp16 x: halves are multiplied and added
// in fp32 by one instruction (fma.rn.f32.f16). bf16 x: both become fp32 first. A code times x is exact in both, sums are fp32.
#include "decode/scale_layout.cuh"
#include "epilogue/bias.cuh"
#include "epilogue/out.cuh"
#include "ptx/cvt.cuh"
#include "ptx/cvt_e2m1.cuh"
#include "ptx/f16x2.cuh"
#include "ptx/fma_mixed.cuh"
#include "ptx/griddepcontrol.cuh"
#include "ptx/ld.cuh"
#include "ptx/ld_256.cuh"
#include "ptx/shfl.cuh"

constexpr int X_NVFP4 = 0, X_FP16 = 1, X_BF16 = 2;

// Constants, defined by the launch (nvfp4/backends/sm100/gemv.py).
constexpr int K = PLAN_K, N = PLAN_N, ROWS = PLAN_ROWS, PARTS = PLAN_PARTS, WARPS = PLAN_WARPS, AHEAD = PLAN_AHEAD;
constexpr int A_LAYOUT = PLAN_A_LAYOUT, X_LAYOUT = PLAN_X_LAYOUT, X_KIND = PLAN_X_KIND, OUT = PLAN_OUT;
constexpr int BIAS = PLAN_BIAS;  // of [M], added to every vector's result
constexpr bool EARLY = PLAN_EARLY;  // A is not written by the kernel before in the queue
constexpr int UNIT = K % 64 == 0 ? 64 : (K % 32 == 0 ? 32 : 16);
constexpr int WORDS = UNIT / 8;     // of codes
constexpr int BLOCKS = UNIT / 16;   // scales
constexpr int UNITS = K / UNIT;
constexpr int STEP_UNITS = 32 * PARTS;  // of all lanes that share rows, in a step
constexpr int STEPS = (UNITS + STEP_UNITS - 1) / STEP_UNITS;  // of a lane
constexpr int TEAMS = WARPS / PARTS;  // of a block: warps that share rows
// Bytes of a vector, and of a unit of one.
constexpr int X_BYTES = X_KIND == X_NVFP4 ? K / 2 : 2 * K, X_UNIT = X_KIND == X_NVFP4 ? UNIT / 2 : 2 * UNIT;
#ifndef PLAN_X_PITCH
#define PLAN_X_PITCH (N * X_BYTES)
#endif
constexpr i64 X_PITCH = PLAN_X_PITCH;  // bytes from the vectors of one matrix to the next one's

static_assert(K % 16 == 0 && K > 0, "K");
static_assert(N >= 1 && N <= 16, "N");
static_assert(ROWS == 1 || ROWS == 2 || ROWS == 4, "ROWS");
static_assert(WARPS % PARTS == 0, "WARPS");
static_assert(AHEAD >= 1, "AHEAD");

// What a lane reads of its rows in a step.
struct Piece {
    u32 codes[ROWS][WORDS];
    u32 scales[ROWS];
};

struct Rows {
    const u8* codes;   // of the first row, from this lane's first unit
    const u8* scales;
    int count;         // rows that exist, at most ROWS
    bool wide;         // 32-byte aligned
};

// Rows of a team: neighbours, or, with tiled scales, 32 apart, so that their scales are neighbours.
constexpr int ROW_STEP = A_LAYOUT == SCALES_TILED ? 32 : 1;

__device__ __forceinline__ int first_row(int team) {
    if constexpr (A_LAYOUT == SCALES_LINEAR) return team * ROWS;
    constexpr int TEAMS_OF_TILE = 128 / ROWS;
    const int inside = team % TEAMS_OF_TILE;
    return team / TEAMS_OF_TILE * 128 + inside % 32 + inside / 32 * 32 * ROWS;
}

// 8, 16 or 32 bytes of A: read once.
__device__ __forceinline__ void load_codes(u32 (&words)[WORDS], const u8* from, bool wide) {
    if constexpr (WORDS == 8) {
        if (wide) {
            const u32x8 v = ld_global_L1_no_allocate_L2_evict_first_v8_b32(from);
#pragma unroll
            for (int i = 0; i < 8; ++i) words[i] = v.word[i];
            return;
        }
    }
    if constexpr (WORDS == 2) {
        const u32x2 v = ld_global_v2_b32(from);
        words[0] = v.x, words[1] = v.y;
    } else {
#pragma unroll
        for (int i = 0; i < WORDS; i += 4) {
            const u32x4 v = ld_global_L1_no_allocate_v4_b32(from + 4 * i);
            words[i] = v.x, words[i + 1] = v.y, words[i + 2] = v.z, words[i + 3] = v.w;
        }
    }
}

// The same of x, which every warp reads.
template <int COUNT>
__device__ __forceinline__ void load_shared_words(u32 (&words)[COUNT], const u8* from, bool wide) {
    if constexpr (COUNT == 8) {
        if (wide) {
            const u32x8 v = ld_global_L2_evict_last_v8_b32(from);
#pragma unroll
            for (int i = 0; i < 8; ++i) words[i] = v.word[i];
            return;
        }
    }
    if constexpr (COUNT == 2) {
        const u32x2 v = ld_global_v2_b32(from);
        words[0] = v.x, words[1] = v.y;
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; i += 4) {
            const u32x4 v = ld_global_v4_b32(from + 4 * i);
            words[i] = v.x, words[i + 1] = v.y, words[i + 2] = v.z, words[i + 3] = v.w;
        }
    }
}

// The scales of a unit, the first in the low byte.
__device__ __forceinline__ u32 load_scales(const u8* from) {
    if constexpr (BLOCKS == 4) return ld_global_b32(from);
    if constexpr (BLOCKS == 2) return ld_global_b16(from);
    return ld_global_u8(from);
}

__device__ __forceinline__ void load_piece(Piece& piece, const Rows& rows, int step, int unit) {
    const bool inside = unit < UNITS;
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        const bool there = inside && r < rows.count;
        if (there) {
            load_codes(piece.codes[r], rows.codes + r * ROW_STEP * (K / 2) + step * STEP_UNITS * (UNIT / 2), rows.wide);
        } else {
#pragma unroll
            for (int i = 0; i < WORDS; ++i) piece.codes[r][i] = 0;
        }
        const int offset = A_LAYOUT == SCALES_TILED ? 4 * r : r * (K / 16);
        constexpr int STEP_BYTES = STEP_UNITS * UNIT / 64 * SCALE_STEP_64<A_LAYOUT>;
        piece.scales[r] = there ? load_scales(rows.scales + offset + step * STEP_BYTES) : 0;
    }
}

// Four E4M3 scales to fp32.
__device__ __forceinline__ void scales_to_f32(float (&values)[4], u32 scales) {
    const u32 low = cvt_rn_f16x2_e4m3x2(scales), high = cvt_rn_f16x2_e4m3x2(scales >> 16);
    values[0] = cvt_f32_f16(low), values[1] = cvt_f32_f16(low >> 16);
    values[2] = cvt_f32_f16(high), values[3] = cvt_f32_f16(high >> 16);
}

// The 16 codes of a block, two to a register, in their order.
__device__ __forceinline__ void decode_block(u32 (&halves)[8], const u32 (&codes)[WORDS], int block) {
    u32 four[4];
    cvt_rn_f16x2_e2m1x2(four, codes[2 * block]);
#pragma unroll
    for (int i = 0; i < 4; ++i) halves[i] = four[i];
    cvt_rn_f16x2_e2m1x2(four, codes[2 * block + 1]);
#pragma unroll
    for (int i = 0; i < 4; ++i) halves[4 + i] = four[i];
}

// Eight products of codes in each half, exactly.
__device__ __forceinline__ float dot_codes(const u32 (&a)[8], const u32 (&x)[8]) {
    u32 dot = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) dot = fma_rn_f16x2(a[i], x[i], dot);
    return cvt_f32_f16(dot) + cvt_f32_f16(dot >> 16);
}

// NVFP4 vectors of this batch; `unit` is the lane's.
__device__ __forceinline__ void multiply_codes(float (&sum)[N][ROWS], const Piece& piece, const float (&scale)[ROWS][4], const u8* x,
                                               const u8* x_scales, int unit, bool wide) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
        u32 x_codes[WORDS];
        float x_scale[4];
        load_shared_words<WORDS>(x_codes, x + n * X_BYTES + unit * X_UNIT, wide);
        scales_to_f32(x_scale, load_scales(x_scales + scale_offset<X_LAYOUT>(n, BLOCKS * unit, K / 16)));
#pragma unroll
        for (int block = 0; block < BLOCKS; ++block) {
            u32 values[8];
            decode_block(values, x_codes, block);
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                u32 a[8];
                decode_block(a, piece.codes[r], block);
                sum[n][r] = fmaf(dot_codes(a, values) * x_scale[block], scale[r][block], sum[n][r]);
            }
        }
    }
}

// 16-bit vectors: codes are decoded once for all of them.
__device__ __forceinline__ void multiply_values(float (&sum)[N][ROWS], const Piece& piece, const float (&scale)[ROWS][4], const u8* x,
                                                int unit, bool wide) {
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block) {
        u32 a[ROWS][8];
        float wide_a[ROWS][X_KIND == X_BF16 ? 16 : 1];
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            decode_block(a[r], piece.codes[r], block);
            if constexpr (X_KIND == X_BF16) {
#pragma unroll
                for (int i = 0; i < 16; ++i) wide_a[r][i] = cvt_f32_f16(a[r][i / 2] >> (i % 2 * 16));
            }
        }
#pragma unroll
        for (int n = 0; n < N; ++n) {
            u32 values[8];
            load_shared_words<8>(values, x + n * X_BYTES + unit * X_UNIT + 32 * block, wide);
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                float dot = 0.0f;
#pragma unroll
                for (int i = 0; i < 16; ++i) {
                    const u32 bits = values[i / 2];
                    if constexpr (X_KIND == X_FP16) {
                        dot = fma_rn_f32_f16(a[r][i / 2] >> (i % 2 * 16), bits >> (i % 2 * 16), dot);
                    } else {
                        dot = fmaf(wide_a[r][i], __uint_as_float(i % 2 == 0 ? bits << 16 : bits & 0xFFFF0000u), dot);
                    }
                }
                sum[n][r] = fmaf(dot, scale[r][block], sum[n][r]);
            }
        }
    }
}

__device__ __forceinline__ void multiply_piece(float (&sum)[N][ROWS], const Piece& piece, const u8* x, const u8* x_scales, int unit,
                                               bool wide) {
    if (unit >= UNITS) return;
    float scale[ROWS][4];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) scales_to_f32(scale[r], piece.scales[r]);
    if constexpr (X_KIND == X_NVFP4) {
        multiply_codes(sum, piece, scale, x, x_scales, unit, wide);
    } else {
        multiply_values(sum, piece, scale, x, unit, wide);
    }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
    nvfp4_sm100_gemv(const u8* a_codes, const u8* a_scales, const float* a_tensor_scale, int a_tensor_stride, const u8* x,
                     const u8* x_scales, const float* x_tensor_scale, int x_tensor_stride, u8* out,
                     const u8* bias, int m) {
    __shared__ float shared[PARTS > 1 ? WARPS * N * ROWS : 1];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = warp % PARTS;
    const int l = blockIdx.y;
    const int row = first_row(static_cast<int>(blockIdx.x) * TEAMS + warp / PARTS);
    const int unit = part * 32 + lane;  // the first; then every STEP_UNITS

    a_codes += static_cast<i64>(l) * m * (K / 2);
    a_scales += l * scale_matrix_bytes<A_LAYOUT>(m, K / 16);
    x += l * X_PITCH;
    if (X_KIND == X_NVFP4) x_scales += l * scale_matrix_bytes<X_LAYOUT>(N, K / 16);
    const int rest = (m - row + ROW_STEP - 1) / ROW_STEP;
    const Rows rows{a_codes + static_cast<i64>(row) * (K / 2) + unit * (UNIT / 2), a_scales + scale_offset<A_LAYOUT>(row, BLOCKS * unit, K / 16),
                    row < m ? min(rest, ROWS) : 0, reinterpret_cast<u64>(a_codes) % 32 == 0};
    const bool x_wide = reinterpret_cast<u64>(x) % 32 == 0;

    griddepcontrol_launch_dependents();
    if (!EARLY) griddepcontrol_wait();
    constexpr int DEPTH = AHEAD < STEPS ? AHEAD : STEPS;
    Piece pieces[DEPTH];
#pragma unroll
    for (int i = 0; i < DEPTH; ++i) load_piece(pieces[i], rows, i, unit + i * STEP_UNITS);
    if (EARLY) griddepcontrol_wait();

    float sum[N][ROWS] = {};
    // Several pieces take turns under constant indices.
#pragma unroll(DEPTH > 1 ? STEPS : 1)
    for (int step = 0; step < STEPS; ++step) {
        multiply_piece(sum, pieces[step % DEPTH], x, x_scales, unit + step * STEP_UNITS, x_wide);
        if (step + DEPTH < STEPS) load_piece(pieces[step % DEPTH], rows, step + DEPTH, unit + (step + DEPTH) * STEP_UNITS);
    }
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
#pragma unroll
            for (int distance = 16; distance > 0; distance /= 2) sum[n][r] += shfl_sync_bfly_f32(sum[n][r], distance);
        }
    }

    if constexpr (PARTS > 1) {
        if (lane == 0) {
#pragma unroll
            for (int i = 0; i < N * ROWS; ++i) shared[warp * (N * ROWS) + i] = sum[i / ROWS][i % ROWS];
        }
        __syncthreads();
        if (part != 0) return;
    }
    if (lane != 0) return;
    const float scale_a = tensor_scale(a_tensor_scale, a_tensor_stride, l), scale_x = tensor_scale(x_tensor_scale, x_tensor_stride, l);
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            if (r >= rows.count) continue;
            float value = sum[n][r];
            if constexpr (PARTS > 1) {
                value = 0.0f;
#pragma unroll
                for (int p = 0; p < PARTS; ++p) value += shared[(warp + p) * (N * ROWS) + n * ROWS + r];
            }
            const int at = row + r * ROW_STEP;
            const float result = add_bias<BIAS>(value * scale_a * scale_x, bias, at);
            store_one<OUT>(out, (static_cast<i64>(l) * N + n) * m + at, result);
        }
    }
}
