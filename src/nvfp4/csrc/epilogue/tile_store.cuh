// Results of one multiplier warpgroup, 64 weight rows (columns of the output) x N tokens (its rows), to device memory; or 32 columns, where two
// products make one result.
//
// The fragments hold a row of weights across lanes, the output wants it contiguous: 16-bit results are transposed by stmatrix into
// shared memory, [N, 128 or 64 bytes] with 16-byte chunks exchanged so that neither side has bank conflicts, and leave as
// as many contiguous bytes of each token. fp32 results leave as they are: 8 lanes then write a sector of 32 bytes.
#pragma once

#include "epilogue/out.cuh"
#include "ptx/barrier.cuh"
#include "ptx/ld.cuh"
#include "ptx/st.cuh"
#include "ptx/stmatrix.cuh"
#include "ptx/types.cuh"

constexpr int STAGING_TOKENS = 64;  // at a time, where nothing else is said
constexpr int STAGING_GROUP_BYTES = STAGING_TOKENS * 128;

// N tokens of a warpgroup's part through shared memory, by its thread `thread`. `packed(i)`: results i and i + 1, 16 bits each.
template <int N, int COLUMNS, class Packed>
__device__ __forceinline__ void store_staged(u8* out, int token, int token_begin, int token_end, int column, int columns, u32 staging,
                                             u32 number, u32 thread, Packed packed) {
    constexpr int HALVES = COLUMNS / 32;    // of eight columns, of a warp
    constexpr int PARTS = COLUMNS / 8;      // of 16 bytes, of a token
    constexpr int MATRICES = N / 8 * HALVES;  // 8 x 8, of a warp
    const u32 lane = thread % 32;
    const u32 matrix = lane / 8, r = lane % 8, chunk = thread / 32 * HALVES + matrix % HALVES;
    const auto place = [](u32 part, u32 n) { return (part ^ (HALVES == 2 ? n % 8 : n / 2 % 4)) << 4; };
    const u32 to = staging + (matrix / HALVES * 8 + r) * (PARTS * 16) + place(chunk, r);
    barrier_sync(number, 128);  // what was there before has left
#pragma unroll
    for (int f = 0; f < MATRICES; f += 4) {
        const u32 here = to + f / HALVES * 8 * (PARTS * 16);
        if (MATRICES - f >= 4) {
            stmatrix_sync_aligned_m8n8_x4_trans_shared_b16(here, packed(2 * f), packed(2 * f + 2), packed(2 * f + 4), packed(2 * f + 6));
        } else {
            if (MATRICES - f >= 2) stmatrix_sync_aligned_m8n8_x2_trans_shared_b16(here, packed(2 * f), packed(2 * f + 2));
            if (MATRICES - f == 1) stmatrix_sync_aligned_m8n8_x1_trans_shared_b16(here, packed(2 * f));
            if (MATRICES - f == 3) stmatrix_sync_aligned_m8n8_x1_trans_shared_b16(here + 2 * 8 * (PARTS * 16), packed(2 * f + 4));
        }
    }
    barrier_sync(number, 128);
    constexpr int STEP = 128 / PARTS;  // tokens that 128 threads write at once, 16 bytes each
    const u32 n = thread / PARTS, part = thread % PARTS;
    const u32 from = staging + n * (PARTS * 16) + place(part, n);
    const int c = column + static_cast<int>(part * 8);
    if (c >= columns) return;
    u8* row = out + (static_cast<i64>(token + static_cast<int>(n)) * columns + c) * 2;
    const i64 step_bytes = static_cast<i64>(columns) * 2 * STEP;
    // Of this thread's rows 0, STEP, 2 STEP and so on, those that are written.
    const int first = token_begin - token - static_cast<int>(n), end = min(token_end - token, N) - static_cast<int>(n);
    if (columns % 8 == 0 && reinterpret_cast<u64>(out) % 16 == 0) {
        u32x4 data[(N + STEP - 1) / STEP];  // all are read before the first is waited for
#pragma unroll
        for (int i = 0; i < N; i += STEP) {
            if (i + STEP <= N || i < end) data[i / STEP] = ld_shared_v4_b32(from + i * (PARTS * 16));
        }
#pragma unroll
        for (int i = 0; i < N; i += STEP, row += step_bytes) {
            if (i >= first && i < end) st_global_v4_b32(row, data[i / STEP]);
        }
        return;
    }
#pragma unroll 1
    for (int i = 0; i < N; i += STEP, row += step_bytes) {
        if (i < first || i >= end) continue;
        const u32x4 data = ld_shared_v4_b32(from + i * (PARTS * 16));
        const u32 words[4] = {data.x, data.y, data.z, data.w};
#pragma unroll
        for (int e = 0; e < 8; ++e) {
            if (c + e < columns) st_global_b16(row + 2 * e, words[e / 2] >> (16 * (e % 2)) & 0xFFFFu);
        }
    }
}

// The same of tokens FROM to N, at most STAGING at a time.
template <int N, int FROM, int STAGING, int COLUMNS, class Packed>
__device__ __forceinline__ void store_parts(u8* out, int token, int token_begin, int token_end, int column, int columns, u32 staging,
                                            u32 number, u32 thread, Packed packed) {
    constexpr int COUNT = N - FROM < STAGING ? N - FROM : STAGING;
    store_staged<COUNT, COLUMNS>(out, token + FROM, token_begin, token_end, column, columns, staging, number, thread,
                                 [&](int i) { return packed(i + FROM * COLUMNS / 128); });
    if constexpr (FROM + COUNT < N) {
        store_parts<N, FROM + COUNT, STAGING, COLUMNS>(out, token, token_begin, token_end, column, columns, staging, number, thread, packed);
    }
}

// `out` is the matrix [tokens, columns]; the warpgroup's part begins at (token, column), and only rows token_begin to token_end are written.
// `number` is a free barrier of the warpgroup, `staging` its shared memory, 128 bytes for each of STAGING tokens. `value(i)` is accumulator
// i, finished; of 32 columns those of every other eight rows, counted without the others. `thread` is the thread's number in the warpgroup.
template <int N, int OUT, int STAGING = STAGING_TOKENS, int COLUMNS = 64, class Value>
__device__ __forceinline__ void store_tile_transposed(u8* out, int token, int token_begin, int token_end, int column,
                                                      int columns, u32 staging, u32 number, Value value,
                                                      u32 thread = threadIdx.x % 128) {
    static_assert(COLUMNS == 64 || COLUMNS == 32, "columns of a warpgroup");
    if constexpr (OUT == OUT_FP32) {
        constexpr int EACH = COLUMNS / 16;  // results of eight tokens
        // Not computed before the products, which leave no registers to keep it.
        asm volatile("" : "+r"(column), "+r"(columns), "+r"(token));
        const u32 lane = thread % 32;
        const int c = column + static_cast<int>(thread / 32 * (COLUMNS / 4) + lane / 4);
        int row = token + static_cast<int>(lane % 4 * 2);
        const i64 row_bytes = static_cast<i64>(columns) * OUT_BYTES<OUT>;
        u8* address = out + row * row_bytes + c * OUT_BYTES<OUT>;
#pragma unroll
        for (int i = 0; i < N / 8 * EACH; i += EACH, row += 8, address += 8 * row_bytes) {
#pragma unroll
            for (int e = 0; e < EACH; ++e) {  // row + e % 2, column c + 8 * (e / 2)
                const bool inside = row + e % 2 >= token_begin && row + e % 2 < token_end && c + e / 2 * 8 < columns;
                if (inside) st_global_f32(address + e % 2 * row_bytes + e / 2 * 8 * OUT_BYTES<OUT>, value(i + e));
            }
        }
    } else {
        const auto packed = [&](int i) {
            return OUT == OUT_FP16 ? cvt_rn_f16x2_f32(value(i), value(i + 1)) : cvt_rn_bf16x2_f32(value(i), value(i + 1));
        };
        store_parts<N, 0, STAGING, COLUMNS>(out, token, token_begin, token_end, column, columns, staging, number, thread, packed);
    }
}
