// y[l] = x[l] A[l]^T on Blackwell: NVFP4 matrix, NVFP4 vectors, read once at the speed of the memory.
//
//   A [L, M, K], x [L, N, K] NVFP4, scales linear or in 128x4 tiles        y [L, N, M]  fp16, bf16 or fp32
//   K a multiple of 64 and a compile-time constant; M, L any; N 1 to 16
//
// A warp has ROWS rows of A, a lane a unit of 64 elements of each at a time: 32 bytes of codes in one load, four scales in another. The
// vectors come through L1, where all warps of the multiprocessor find them. PARTS warps share their rows along K; what they find is
// added in a fixed order.
//
// Arithmetic: codes become halves (cvt.rn.f16x2.e2m1x2). Eight products of a block of 16 are summed in each half of a register, exactly:
// multiples of 1/4 up to 288, and 288 * 4 < 2^11. The two halves and both scales meet in fp32, where
// a block's sum (12 significant bits) times two scales (4 each) is exact, and 448 * 448 no problem.
#include "decode/scale_layout.cuh"
#include "epilogue/out.cuh"
#include "ptx/cvt.cuh"
#include "ptx/cvt_e2m1.cuh"
#include "ptx/f16x2.cuh"
#include "ptx/griddepcontrol.cuh"
#include "ptx/ld.cuh"
#include "ptx/ld_256.cuh"
#include "ptx/shfl.cuh"

// Constants, defined by the launch (nvfp4/backends/sm100/gemv.py).
constexpr int K = PLAN_K, N = PLAN_N, ROWS = PLAN_ROWS, PARTS = PLAN_PARTS, WARPS = PLAN_WARPS, AHEAD = PLAN_AHEAD;
constexpr int A_LAYOUT = PLAN_A_LAYOUT, X_LAYOUT = PLAN_X_LAYOUT, OUT = PLAN_OUT;
constexpr bool EARLY = PLAN_EARLY;    // A is not written by the kernel before in the queue
constexpr int UNITS = K / 64;
constexpr int STEPS = (UNITS + 32 * PARTS - 1) / (32 * PARTS);  // of a lane
constexpr int TEAMS = WARPS / PARTS;  // of a block: warps that share rows
#ifndef PLAN_X_PITCH
#define PLAN_X_PITCH (N * (K / 2))
#endif
constexpr i64 X_PITCH = PLAN_X_PITCH;  // bytes from the codes of one matrix's vectors to the next one's

static_assert(K % 64 == 0 && K > 0, "K");
static_assert(N >= 1 && N <= 16, "N");
static_assert(ROWS == 1 || ROWS == 2 || ROWS == 4, "ROWS");
static_assert(WARPS % PARTS == 0, "WARPS");
static_assert(AHEAD >= 1, "AHEAD");

// What a lane reads of its rows in a step.
struct Piece {
    u32x8 codes[ROWS];
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
constexpr int UNIT_SCALES = SCALE_STEP_64<A_LAYOUT>;

__device__ __forceinline__ int first_row(int team) {
    if constexpr (A_LAYOUT == SCALES_LINEAR) return team * ROWS;
    constexpr int TEAMS_OF_TILE = 128 / ROWS;
    const int inside = team % TEAMS_OF_TILE;
    return team / TEAMS_OF_TILE * 128 + inside % 32 + inside / 32 * 32 * ROWS;
}

__device__ __forceinline__ u32x8 load_codes(const u8* from, bool wide) {
    if (wide) return ld_global_nc_L1_no_allocate_L2_evict_first_v8_b32(from);
    const u32x4 low = ld_global_nc_L1_no_allocate_v4_b32(from), high = ld_global_nc_L1_no_allocate_v4_b32(from + 16);
    return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
}

__device__ __forceinline__ void load_piece(Piece& piece, const Rows& rows, int step, int unit) {
    const bool inside = unit < UNITS;
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        const bool there = inside && r < rows.count;
        piece.codes[r] = there ? load_codes(rows.codes + r * ROW_STEP * (K / 2) + step * (32 * PARTS) * 32, rows.wide) : u32x8{};
        const int offset = A_LAYOUT == SCALES_TILED ? 4 * r : r * (K / 16);
        piece.scales[r] = there ? ld_global_nc_b32(rows.scales + offset + step * (32 * PARTS) * UNIT_SCALES) : 0;
    }
}

// Four E4M3 scales to fp32.
__device__ __forceinline__ void scales_to_f32(float (&values)[4], u32 scales) {
    const u32 low = cvt_rn_f16x2_e4m3x2(scales), high = cvt_rn_f16x2_e4m3x2(scales >> 16);
    values[0] = cvt_f32_f16(low), values[1] = cvt_f32_f16(low >> 16);
    values[2] = cvt_f32_f16(high), values[3] = cvt_f32_f16(high >> 16);
}

__device__ __forceinline__ void multiply_piece(float (&sum)[N][ROWS], const Piece& piece, const u8* x_codes, const u8* x_scales,
                                               int unit, bool wide) {
    if (unit >= UNITS) return;
    float scale[ROWS][4];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) scales_to_f32(scale[r], piece.scales[r]);
#pragma unroll
    for (int n = 0; n < N; ++n) {
        const u8* from = x_codes + n * (K / 2) + unit * 32;
        u32x8 x;
        if (wide) {
            x = ld_global_nc_L2_evict_last_v8_b32(from);
        } else {
            const u32x4 low = ld_global_nc_v4_b32(from), high = ld_global_nc_v4_b32(from + 16);
            x = {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
        }
        float x_scale[4];
        scales_to_f32(x_scale, ld_global_nc_b32(x_scales + scale_offset<X_LAYOUT>(n, 4 * unit, K / 16)));
#pragma unroll
        for (int block = 0; block < 4; ++block) {
            u32 first[4], second[4];
            cvt_rn_f16x2_e2m1x2(first, x.word[2 * block]);
            cvt_rn_f16x2_e2m1x2(second, x.word[2 * block + 1]);
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                u32 a[4], dot = 0;
                cvt_rn_f16x2_e2m1x2(a, piece.codes[r].word[2 * block]);
#pragma unroll
                for (int i = 0; i < 4; ++i) dot = fma_rn_f16x2(a[i], first[i], dot);
                cvt_rn_f16x2_e2m1x2(a, piece.codes[r].word[2 * block + 1]);
#pragma unroll
                for (int i = 0; i < 4; ++i) dot = fma_rn_f16x2(a[i], second[i], dot);
                const float both = cvt_f32_f16(dot) + cvt_f32_f16(dot >> 16);
                sum[n][r] = fmaf(both * x_scale[block], scale[r][block], sum[n][r]);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
    nvfp4_sm100_gemv(const u8* a_codes, const u8* a_scales, const float* a_tensor_scale, int a_tensor_stride, const u8* x_codes,
                     const u8* x_scales, const float* x_tensor_scale, int x_tensor_stride, u8* out, int m) {
    __shared__ float shared[PARTS > 1 ? WARPS * N * ROWS : 1];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = warp % PARTS;
    const int l = blockIdx.y;
    const int row = first_row(static_cast<int>(blockIdx.x) * TEAMS + warp / PARTS);
    const int unit = part * 32 + lane;  // the first; then every 32 * PARTS

    a_codes += static_cast<i64>(l) * m * (K / 2);
    a_scales += l * scale_matrix_bytes<A_LAYOUT>(m, K / 16);
    x_codes += l * X_PITCH;
    x_scales += l * scale_matrix_bytes<X_LAYOUT>(N, K / 16);
    const int rest = (m - row + ROW_STEP - 1) / ROW_STEP;
    const Rows rows{a_codes + static_cast<i64>(row) * (K / 2) + unit * 32, a_scales + scale_offset<A_LAYOUT>(row, 4 * unit, K / 16),
                    row < m ? min(rest, ROWS) : 0, reinterpret_cast<u64>(a_codes) % 32 == 0};
    const bool x_wide = reinterpret_cast<u64>(x_codes) % 32 == 0;

    griddepcontrol_launch_dependents();
    if (!EARLY) griddepcontrol_wait();
    constexpr int DEPTH = AHEAD < STEPS ? AHEAD : STEPS;
    Piece pieces[DEPTH];
#pragma unroll
    for (int i = 0; i < DEPTH; ++i) load_piece(pieces[i], rows, i, unit + i * 32 * PARTS);
    if (EARLY) griddepcontrol_wait();

    float sum[N][ROWS] = {};
    // Several pieces take turns under constant indices.
#pragma unroll(DEPTH > 1 ? STEPS : 1)
    for (int step = 0; step < STEPS; ++step) {
        multiply_piece(sum, pieces[step % DEPTH], x_codes, x_scales, unit + step * 32 * PARTS, x_wide);
        if (step + DEPTH < STEPS) load_piece(pieces[step % DEPTH], rows, step + DEPTH, unit + (step + DEPTH) * 32 * PARTS);
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
            store_one<OUT>(out, (static_cast<i64>(l) * N + n) * m + row + r * ROW_STEP, value * scale_a * scale_x);
        }
    }
}
