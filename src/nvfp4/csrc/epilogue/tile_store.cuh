// Results of one multiplier warpgroup, 64 weight rows (columns of the output) x N tokens (its rows), to device memory.
//
// The fragments hold a row of weights across lanes, the output wants it contiguous: 16-bit results are transposed by stmatrix into
// shared memory, [N, 128 bytes] with 16-byte chunks exchanged by token % 8 so that neither side has bank conflicts, and leave as
// 128 contiguous bytes of each token. fp32 results leave as they are: 8 lanes then write a sector of 32 bytes.
#pragma once

#include "epilogue/out.cuh"
#include "ptx/barrier.cuh"
#include "ptx/ld.cuh"
#include "ptx/st.cuh"
#include "ptx/stmatrix.cuh"
#include "ptx/types.cuh"

// `out` is the matrix [tokens, columns]; the warpgroup's part begins at (token, column) and ends before token_end. `number` is a free
// barrier of the warpgroup, `staging` its N * 128 bytes of shared memory. `value(i)` is accumulator i, finished.
template <int N, int OUT, class Value>
__device__ __forceinline__ void store_tile_transposed(u8* out, int token, int token_end, int column, int columns,
                                                      u32 staging, u32 number, Value value) {
    const u32 thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
    if constexpr (OUT == OUT_FP32) {
        const int c = column + static_cast<int>(warp * 16 + lane / 4);
#pragma unroll
        for (int i = 0; i < N / 2; ++i) {
            const int row = token + i / 4 * 8 + static_cast<int>(lane % 4 * 2) + i % 2, at = c + i % 4 / 2 * 8;
            if (row < token_end && at < columns) store_one<OUT>(out, static_cast<i64>(row) * columns + at, value(i));
        }
    } else {
        const auto pack = [&](int i) {
            return OUT == OUT_FP16 ? cvt_rn_f16x2_f32(value(i), value(i + 1)) : cvt_rn_bf16x2_f32(value(i), value(i + 1));
        };
        barrier_sync(number, 128);  // the tile before has left
        const u32 matrix = lane / 8, r = lane % 8, chunk = warp * 2 + (matrix & 1);
#pragma unroll
        for (int j = 0; j < N / 8; j += 2) {
            const u32 address = staging + (8 * j + matrix / 2 * 8 + r) * 128 + ((chunk ^ r) << 4);
            if (j + 1 < N / 8) {
                stmatrix_sync_aligned_m8n8_x4_trans_shared_b16(address, pack(4 * j), pack(4 * j + 2), pack(4 * j + 4),
                                                               pack(4 * j + 6));
            } else {
                stmatrix_sync_aligned_m8n8_x2_trans_shared_b16(address, pack(4 * j), pack(4 * j + 2));
            }
        }
        barrier_sync(number, 128);
        const bool vectors = columns % 8 == 0 && reinterpret_cast<u64>(out) % 16 == 0;
#pragma unroll
        for (int i = 0; i < (N * 8 + 127) / 128; ++i) {
            const u32 index = i * 128 + thread, n = index / 8, part = index % 8;
            const int row = token + static_cast<int>(n), c = column + static_cast<int>(part * 8);
            if (n >= N || row >= token_end || c >= columns) continue;
            const u32x4 data = ld_shared_v4_b32(staging + n * 128 + ((part ^ (n & 7)) << 4));
            u8* address = out + (static_cast<i64>(row) * columns + c) * 2;
            if (vectors) {
                st_global_v4_b32(address, data);
            } else {
                const u32 words[4] = {data.x, data.y, data.z, data.w};
#pragma unroll
                for (int e = 0; e < 8; ++e) {
                    if (c + e < columns) st_global_b16(address + 2 * e, words[e / 2] >> (16 * (e % 2)) & 0xFFFFu);
                }
            }
        }
    }
}
