// Where the block scale of (row, block) lies; see nvfp4/layouts.py, which defines the layouts.
#pragma once

#include "ptx/types.cuh"

constexpr int SCALES_LINEAR = 0;  // [rows, blocks]
constexpr int SCALES_TILED = 1;   // 128x4 tiles of 512 bytes [ceil(rows/128), ceil(blocks/4), 32, 4, 4]

// Byte offset of a scale in one matrix of `blocks` = K/16 scales a row.
template <int LAYOUT>
__device__ __forceinline__ i64 scale_offset(int row, int block, int blocks) {
    if constexpr (LAYOUT == SCALES_LINEAR) {
        return static_cast<i64>(row) * blocks + block;
    } else {
        const i64 tile = static_cast<i64>(row / 128) * ((blocks + 3) / 4) + block / 4;
        return tile * 512 + row % 32 * 16 + row % 128 / 32 * 4 + block % 4;
    }
}

// Bytes from a scale to the scale of the same row four blocks (64 elements) further on.
template <int LAYOUT>
constexpr int SCALE_STEP_64 = LAYOUT == SCALES_LINEAR ? 4 : 512;

// Bytes of the scales of one matrix, padding included.
template <int LAYOUT>
__device__ __forceinline__ i64 scale_matrix_bytes(int rows, int blocks) {
    if constexpr (LAYOUT == SCALES_LINEAR) {
        return static_cast<i64>(rows) * blocks;
    } else {
        return static_cast<i64>((rows + 127) / 128) * ((blocks + 3) / 4) * 512;
    }
}

// The tensor scale of matrix `index`: 1 without one; `stride` is 0 for one scale of all matrices, 1 for one each.
__device__ __forceinline__ float tensor_scale(const float* scales, int stride, int index) {
    return scales == nullptr ? 1.0f : scales[static_cast<i64>(index) * stride];
}
