// Results to device memory: fp32 accumulators rounded once, to nearest even, to the type of the output.
#pragma once

#include "epilogue/out.cuh"
#include "mma/block.cuh"
#include "ptx/types.cuh"

// The block's tile at (row0, column0) of `out` [row_end or more, columns]. `result(i, j, e)` gives element e of MMA (i, j)
// of this thread, scaled and finished.
template <class Shape, int OUT, class Result>
__device__ __forceinline__ void store_tile(u8* out, int row0, int row_end, int column0, int columns, Result result) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row = row0 + warp / Shape::WARP_COLUMNS * Shape::WARP_M + lane / 4;
    const int column = column0 + warp % Shape::WARP_COLUMNS * Shape::WARP_N + lane % 4 * 2;
    const bool pairs = columns % 2 == 0 && reinterpret_cast<u64>(out) % (2 * OUT_BYTES<OUT>) == 0;
#pragma unroll
    for (int i = 0; i < Shape::MMA_M; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int r = row + 16 * i + 8 * half;
            if (r >= row_end) continue;
#pragma unroll
            for (int j = 0; j < Shape::MMA_N; ++j) {
                const int c = column + 8 * j;
                const i64 index = static_cast<i64>(r) * columns + c;
                const float first = result(i, j, 2 * half), second = result(i, j, 2 * half + 1);
                if (pairs) {
                    if (c < columns) store_pair<OUT>(out, index, first, second);
                } else {
                    if (c < columns) store_one<OUT>(out, index, first);
                    if (c + 1 < columns) store_one<OUT>(out, index + 1, second);
                }
            }
        }
    }
}
