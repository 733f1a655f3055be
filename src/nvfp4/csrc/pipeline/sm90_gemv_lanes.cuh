// One NVFP4 vector times NVFP4 rows in dp4a: x in registers, rows pass. For sm90_gemv.cu and sm90_gemv_queue.cu.
#pragma once

#include "decode/e2m1_s8.cuh"
#include "pipeline/sm90_gemv.cuh"

constexpr int ROWS = CONFIG_ROWS;
static_assert(WARPS_K * CHUNKS * 1024 >= K, "the warps cover a row");
static_assert((ROWS & (ROWS - 1)) == 0 && ROWS <= 32, "the butterfly halves the rows");

// What a lane keeps of x: CHUNKS times 32 elements.
struct Lane {
    u32 table;  // e2m1_table()
    Factors16 factors[CHUNKS][2];
    float scale[CHUNKS][2];  // x_scale
    float bias[CHUNKS][2];   // -DOT_BIAS * x_scale, exact: takes the bias of dot16 off inside an FMA
};

// The 16 bytes of codes and two scales that a lane needs of one row and chunk.
struct Piece {
    u32x4 codes;
    u32 scales;
};

__device__ __forceinline__ int chunk_element(int chunk, int warp_k, int lane) {
    return (chunk * WARPS_K + warp_k) * 1024 + lane * 32;
}

// What a lane loads of x.
struct RawLane {
    u32x4 codes[CHUNKS];
    u32 scales[CHUNKS];
};

__device__ __forceinline__ RawLane load_x(const Arguments& args, int l, int warp_k, int lane) {
    const u8* codes = args.x_codes + l * X_PITCH;
    const u8* scales = args.x_scales + l * scale_matrix_bytes<X_LAYOUT>(1, BLOCKS);
    RawLane raw;
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        const int element = chunk_element(chunk, warp_k, lane);
        raw.codes[chunk] = load_codes(codes + element / 2, element, false);
        raw.scales[chunk] = load_scales(scales + scale_offset<X_LAYOUT>(0, element / 16, BLOCKS), element / 16);
    }
    return raw;
}

__device__ __forceinline__ void decode_x(Lane& x, const RawLane& raw, u32 table) {
    x.table = table;
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        const u32x4 words = raw.codes[chunk];
        const u32 pair = e4m3x2_to_f16x2(raw.scales[chunk]);
        x.factors[chunk][0] = e2m1x16_to_factors(words.x, words.y, x.table);
        x.factors[chunk][1] = e2m1x16_to_factors(words.z, words.w, x.table);
        x.scale[chunk][0] = cvt_f32_f16(pair);
        x.scale[chunk][1] = cvt_f32_f16(pair >> 16);
        x.bias[chunk][0] = -DOT_BIAS * x.scale[chunk][0];
        x.bias[chunk][1] = -DOT_BIAS * x.scale[chunk][1];
    }
}

// Tensor scales are read last of all, when nothing is left to do until they are there.
__device__ __forceinline__ void prefetch_tensor_scales(const Arguments& args, int l, int lane) {
    const float* scales = lane == 0 ? args.a_tensor : args.x_tensor;
    const int stride = lane == 0 ? args.a_tensor_stride : args.x_tensor_stride;
    if (lane < 2 && scales != nullptr) prefetch_global_L2(scales + static_cast<i64>(l) * stride);
}

// Brings the lane's part of x into L2 before the wait: a first touch of memory costs a microsecond or more. The
// previous kernel may be writing x now; from L2 it will be read as written all the same.
__device__ __forceinline__ void prefetch_vectors(const Arguments& args, int l, int warp_k, int lane) {
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        const int element = chunk_element(chunk, warp_k, lane);
        if (element < K && lane % 8 == 0) prefetch_global_L2(args.x_codes + l * X_PITCH + element / 2);
        const u8* scales = args.x_scales + l * scale_matrix_bytes<X_LAYOUT>(1, BLOCKS);
        if (element < K && (X_LAYOUT == SCALES_TILED ? lane % 2 == 0 : lane == 0)) {
            prefetch_global_L2(scales + scale_offset<X_LAYOUT>(0, element / 16, BLOCKS));
        }
    }
}

// The same for all of the vector, of which each block brings in a few lines: for kernels in which little else is under way
// so early that every block could ask for every line.
__device__ __forceinline__ void prefetch_share(const Arguments& args, int l, int block, int lane) {
    if (block == 0) prefetch_tensor_scales(args, l, lane);
    constexpr int LINE_SCALES = X_LAYOUT == SCALES_TILED ? 4 : 128;  // of one row in the 128 bytes from one of its scales on
    constexpr int CODE_LINES = (K / 2 + 127) / 128, LINES = CODE_LINES + (BLOCKS + LINE_SCALES - 1) / LINE_SCALES;
    const int all = (LINES + gridDim.x - 1) / gridDim.x, share = all > 4 ? all : 4;
    for (int i = lane; i < share; i += 32) {
        const int line = (block * share + i) % LINES;
        const u8* scales = args.x_scales + l * scale_matrix_bytes<X_LAYOUT>(1, BLOCKS);
        prefetch_global_L2(line < CODE_LINES
                               ? args.x_codes + l * X_PITCH + line * 128
                               : scales + scale_offset<X_LAYOUT>(0, (line - CODE_LINES) * LINE_SCALES, BLOCKS));
    }
}

// SPREAD: as for `dot16`.
template <bool SPREAD>
__device__ __forceinline__ float add_piece(float sum, const Piece& a, const Lane& x, int chunk) {
    const u32 pair = e4m3x2_to_f16x2(a.scales);
    const float first = dot16<SPREAD>(a.codes.x, a.codes.y, x.factors[chunk][0], x.table);
    const float second = dot16<SPREAD>(a.codes.z, a.codes.w, x.factors[chunk][1], x.table);
    sum = fmaf(fmaf(first, x.scale[chunk][0], x.bias[chunk][0]), cvt_f32_f16(pair), sum);
    return fmaf(fmaf(second, x.scale[chunk][1], x.bias[chunk][1]), cvt_f32_f16(pair >> 16), sum);
}

// Adds sums[r] over the lanes for all rows at once. Each step halves the rows that a lane is about, so that ROWS rows
// cost little more than one. The row of a lane is that of its highest bits; the sum ends in the lanes with the other
// bits zero.
__device__ __forceinline__ float reduce_lanes(float (&sums)[ROWS], int lane) {
    int mask = 16;
#pragma unroll
    for (int half = ROWS / 2; half >= 1; half /= 2, mask /= 2) {
        const bool upper = lane & mask;
#pragma unroll
        for (int i = 0; i < half; i++) {
            const float send = upper ? sums[i] : sums[i + half], keep = upper ? sums[i + half] : sums[i];
            sums[i] = keep + shfl_sync_bfly_f32(send, mask);
        }
    }
    float sum = sums[0];
#pragma unroll
    for (; mask >= 1; mask /= 2) sum += shfl_sync_bfly_f32(sum, mask);
    return sum;
}

constexpr int LANES_PER_ROW = 32 / ROWS;

// Adds the partial sums of the warps along K, in order, and writes row `row` of matrix l.
__device__ __forceinline__ void finish_row(const float* partial, i64 row, int l, float a_tensor, float x_tensor, const Arguments& args) {
    float sum = partial[0];
#pragma unroll
    for (int warp_k = 1; warp_k < WARPS_K; warp_k++) sum += partial[warp_k];
    const float result = add_bias<BIAS>(sum * DOT_UNIT * a_tensor * x_tensor, args.bias, static_cast<int>(row));
    store(args.y, l * static_cast<i64>(args.m) + row, result);
}
