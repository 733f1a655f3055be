// How the tensor-core GEMV (sm90_gemv_mma.cu) brings in x: from device memory into L2 before the wait, and behind it into shared memory, in the
// order in which lanes want it:
//
//     x in shared memory:   [step][token][piece of 16] 16 bytes: piece 4t + j holds elements 32t + 8j + {0,4, 1,5, 2,6, 3,7} of 128
//
// A warp loads a row of pieces, and stores it, as it lies; lanes (g, t) then read piece 4t + j of token g. So that neither meets a bank twice,
// pieces are displaced.
#pragma once

#include "decode/e2m1.cuh"
#include "decode/e4m3.cuh"
#include "decode/scale_layout.cuh"
#include "pipeline/sm90_gemv_segments.cuh"
#include "ptx/f16x2.cuh"
#include "ptx/ld.cuh"
#include "ptx/prefetch.cuh"
#include "ptx/st.cuh"
#include "ptx/types.cuh"

// Brings x into L2 before the wait: a first touch of memory costs a microsecond or more. The previous kernel may be writing x
// now; from L2 it will be read as written all the same. A block asks for some lines of its share only, as all that have the same
// share do.
__device__ __forceinline__ void prefetch_x(const Arguments& args, int l, int rank) {
    constexpr int LINE = X_KIND == 2 ? 256 : 64;  // elements in 128 bytes
    constexpr int LINES = (BLOCK_STEPS * 128 + LINE - 1) / LINE, FEWEST = 4;
    const int equal = (N * LINES + gridDim.x - 1) / gridDim.x, count = equal > FEWEST ? equal : FEWEST;
    for (int j = threadIdx.x; j < count; j += THREADS) {
        const int i = (blockIdx.x * count + j) % (N * LINES);
        const int token = i / LINES, element = rank * BLOCK_STEPS * 128 + i % LINES * LINE;
        const i64 index = (static_cast<i64>(l) * N + token) * K + element;
        if (element < K) prefetch_global_L2(args.x + (X_KIND == 2 ? index / 2 : index * 2));
    }
}

// What a thread brings of x at a time: 16 bytes, so that neighbours read neighbouring bytes. Of 16 bits these are one piece, of NVFP4 the four
// of a t, with two scales.
constexpr int LOADED_PIECES = X_KIND == 2 ? 4 : 1, ROW_LOADS = 16 / LOADED_PIECES;
struct LoadedX {
    u32x4 words;
    u32 scales;

    // Elements `element`.. of a row of x; zeros beyond K.
    __device__ __forceinline__ void load(const Arguments& args, int l, int token, int element) {
        const i64 index = (static_cast<i64>(l) * N + token) * K + element;
        const bool valid = !RAGGED || element < K;
        if constexpr (X_KIND == 2) {
            const u8* codes = args.x + index / 2;
            const u8* row = args.x_scales + l * scale_matrix_bytes<X_LAYOUT>(N, BLOCKS);
            const bool second = valid && (K % 32 == 0 || element + 16 < K);  // block
            scales = valid ? ld_global_u8(row + scale_offset<X_LAYOUT>(token, element / 16, BLOCKS)) : 0;
            scales |= second ? ld_global_u8(row + scale_offset<X_LAYOUT>(token, element / 16 + 1, BLOCKS)) << 8 : 0;
            if constexpr (K % 32 == 0) {
                words = valid ? ld_global_v4_b32(codes) : u32x4{0, 0, 0, 0};
            } else {
                const u32x2 low = valid ? ld_global_v2_b32(codes) : u32x2{0, 0};
                const u32x2 high = second ? ld_global_v2_b32(codes + 8) : u32x2{0, 0};
                words = {low.x, low.y, high.x, high.y};
            }
        } else {
            words = valid ? ld_global_v4_b32(args.x + 2 * index) : u32x4{0, 0, 0, 0};
        }
    }

    // Piece I of them, in the order 0,4, 1,5, 2,6, 3,7; NVFP4 decoded to value * 2^-7.
    template <int I>
    __device__ __forceinline__ u32x4 piece() const {
        if constexpr (X_KIND == 2) {
            const u32x4 decoded = e2m1x8_to_f16x2_strided(I == 0 ? words.x : I == 1 ? words.y : I == 2 ? words.z : words.w);
            const u32 factor = e4m3_to_f16x2_scaled(I < 2 ? scales & 0xFF : scales >> 8);
            return {mul_rn_f16x2(decoded.x, factor), mul_rn_f16x2(decoded.y, factor), mul_rn_f16x2(decoded.z, factor),
                    mul_rn_f16x2(decoded.w, factor)};
        } else {
            return memory_to_strided_order(words);
        }
    }
};

// By how much a piece 4t + j of a token is displaced, in an exclusive or: within the four of a t.
__device__ __forceinline__ u32 displaced(u32 token, u32 t) { return t / 2 ^ token % 2 * 2; }

// Puts this block's share of x into shared memory, in the order of the header; zeros beyond K, and a step of zeros. `then` follows the
// last loads.
template <class Then>
__device__ __forceinline__ void stage_x(u32 shared, const Arguments& args, int l, int rank, const Then& then) {
    // All threads together load rows of the block's share, a step of a token each; so many passes, of which those of a round are under way
    // together: their latency is what staging costs.
    constexpr int ROWS = BLOCK_STEPS * N, PASS_ROWS = THREADS / ROW_LOADS, PASSES = (ROWS + PASS_ROWS - 1) / PASS_ROWS;
    constexpr int ROUNDS = (PASSES + 7) / 8, ROUND = (PASSES + ROUNDS - 1) / ROUNDS;
    const int own_row = threadIdx.x / ROW_LOADS, load = threadIdx.x % ROW_LOADS;
    const int first = rank * BLOCK_STEPS * 128 + load * (8 * LOADED_PIECES);
#pragma unroll
    for (int round = 0; round < ROUNDS; round++) {
        LoadedX values[ROUND];
        int tokens[ROUND];
#pragma unroll
        for (int r = 0; r < ROUND; r++) {
            const int pass = round * ROUND + r, row = own_row + pass * PASS_ROWS;
            int step = row / N;
            tokens[r] = row % N;
            // The same token in all passes, and steps as far apart: as the compiler should know.
            if constexpr (PASS_ROWS % N == 0) tokens[r] = own_row % N, step = own_row / N + pass * (PASS_ROWS / N);
            const bool there = pass < PASSES && (ROWS % PASS_ROWS == 0 || row < ROWS);
            if (there) values[r].load(args, l, tokens[r], first + step * 128);
        }
        if (round == ROUNDS - 1) then();
#pragma unroll
        for (int r = 0; r < ROUND; r++) {
            const int pass = round * ROUND + r, row = own_row + pass * PASS_ROWS;
            if (pass >= PASSES || (ROWS % PASS_ROWS != 0 && row >= ROWS)) continue;
            const u32 piece = load * LOADED_PIECES;
            const u32 to = shared + row * 256 + (piece ^ displaced(tokens[r], piece / 4)) * 16;
            if constexpr (X_KIND == 2) {
                st_shared_v4_b32(to, values[r].template piece<0>());
                st_shared_v4_b32(to ^ 16, values[r].template piece<1>());
                st_shared_v4_b32(to ^ 32, values[r].template piece<2>());
                st_shared_v4_b32(to ^ 48, values[r].template piece<3>());
            } else {
                st_shared_v4_b32(to, values[r].template piece<0>());
            }
        }
    }
    if (DIAGONAL && threadIdx.x < 16) st_shared_v4_b32(shared + BLOCK_STEPS * 256 + threadIdx.x * 16, {0, 0, 0, 0});
}

// Where a lane reads x for column tile `c` in a step at `step_at`; its word `word` there is at `x_word`. Lanes without a token of their own
// read something of the last token's: their columns of the result are not used.
__device__ __forceinline__ u32 x_of_lane(u32 step_at, int c, int lane) {
    const int g = lane / 4, t = lane % 4, token = g + 8 * c < N ? g + 8 * c : N - 1;
    return step_at + token * 256 + t * 64 + displaced(g, t) * 16;
}

// The same of the one token there is, for DIAGONAL.
__device__ __forceinline__ u32 x_of_diagonal(u32 step_at, int t) { return step_at + t * 64 + displaced(0, t) * 16; }
__device__ __forceinline__ u32 x_word(u32 x_lane, int word) { return x_lane ^ word * 16; }
