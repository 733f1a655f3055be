// C[l] = A[l] B[l]^T on Hopper: warp-specialised, persistent, WGMMA with the NVFP4 weights decoded into its register operand.
//
//   A [L, M, K]  activations: NVFP4, fp16 or bf16        B [L, N, K]  weights: NVFP4
//   C [L, M, N]  fp16, bf16 or fp32                                    K a multiple of 64; M, N, L any
//
// The instruction's M is rows of B, its N tokens (rows of A): the operand that must be decoded is the one that WGMMA takes from
// registers, and few tokens waste nothing. A tile is 128 * BLOCKS weight rows x TOKENS tokens; blocks of the grid share the work
// of all tiles evenly (pipeline/stream_k.cuh), or in couples (pipeline/sm90_couples.cuh). Roles: pipeline/sm90_roles.cuh; stages and
// barriers: pipeline/sm90_stages.cuh.
//
// Order of tiles: bands of BAND tiles of tokens; within a band, the tiles of one block of weights follow one another, so that both
// the weights and the band's activations are found in L2.
//
// Resources: Shape::SHARED_BYTES + 1024 of dynamic shared memory, all registers of an SM: one block an SM.
#include "epilogue/tile_store.cuh"
#include "pipeline/sm90_roles.cuh"
#include "pipeline/tiling.cuh"

// Constants: PLAN_TOKENS, PLAN_BLOCKS, PLAN_CHUNKS, PLAN_TILES, PLAN_ACTIVATIONS (their kind: ACTIVATIONS_*), PLAN_MAKES (each block makes its
// own tiles of them: operand is not used), PLAN_BEGINS (or those that it begins with), PLAN_A_LAYOUT, PLAN_B_LAYOUT, PLAN_OUT,
// PLAN_COUPLED (two blocks of a cluster share a tile), and PLAN_EARLY_WEIGHTS: weights are not written by the kernel before in the queue, and
// may be read before it has ended.
constexpr int TOKENS = PLAN_TOKENS, BLOCKS = PLAN_BLOCKS, ROWS = 128 * BLOCKS, BAND = 16;
constexpr int A_LAYOUT = PLAN_A_LAYOUT, B_LAYOUT = PLAN_B_LAYOUT;
constexpr bool EARLY_WEIGHTS = PLAN_EARLY_WEIGHTS;
using S = Shape<TOKENS, PLAN_BLOCKS, PLAN_CHUNKS, PLAN_TILES, PLAN_ACTIVATIONS, B_LAYOUT, PLAN_MAKES, PLAN_BEGINS, 1, TOKENS, false, PLAN_COUPLED, PLAN_HELPED>;
using Dealt = Dealing<S>;
static_assert(PLAN_OUT >= OUT_FP16 && PLAN_OUT <= OUT_FP32, "output");

extern __shared__ u8 shared_memory[];

extern "C" __global__ void __launch_bounds__(S::THREADS, 1)
    nvfp4_sm90_gemm(const __grid_constant__ ActivationMaps<S> a_maps, const __grid_constant__ TensorMap b_map, const u8* a_data, const u8* a_scales,
                    const u8* b_scales, const float* a_tensor_scale, int a_tensor_stride, const float* b_tensor_scale,
                    int b_tensor_stride, u8* out, u8* operand, float* sums, u32* counters, int m, int n, int k, int l, const Dealt::Deal dealt) {
    const Stages<S> stages{(shared_address(shared_memory) + 1023u) & ~1023u};
    if (threadIdx.x == S::LOADER) {
        a_maps.prefetch();
        prefetch_tensormap(&b_map);
    }
    begin_block(stages);

    const int units = k / UNIT;
    const auto tiling = [&] {
        int rows = n, tokens = m;
        // Computed anew where it is asked for, as there are no registers to keep it in.
        if constexpr (S::HELPED && BLOCKS == 2 && !S::CROWDED) asm volatile("" : "+r"(rows), "+r"(tokens));
        return Tiling<BAND>{(rows + ROWS - 1) / ROWS, (tokens + TOKENS - 1) / TOKENS};
    };
    const Activations all{a_data, a_scales, operand, static_cast<u32>(m), static_cast<u32>(units)};
    const auto operands = [&](int tile) {
        const TileIndex index = tiling().at(tile);
        Operands<BLOCKS> o;
#pragma unroll
        for (int b = 0; b < BLOCKS; ++b) {
            o.weight_codes[b] = &b_map;
            o.weight_scales[b] = b_scales + index.batch * scale_matrix_bytes<B_LAYOUT>(n, k / 16);
            o.weight_row[b] = index.x * ROWS + b * 128;
        }
        o.weight_rows = n;
        o.weight_batch = index.batch;
        o.activations = a_maps.operand();
        o.raw = a_maps.raw();
        o.token = index.y * TOKENS;
        o.activation_batch = index.batch;
        o.source = all;
        o.units = units;
        return o;
    };

    const auto share = activation_share<S::NVFP4, A_LAYOUT>(static_cast<u32>(l * m) * units * HALVES, counters, [&](u32&) { return all; });
    const auto store = [&](auto count, int tile, int from, int begin, int end, auto& sum, int group) {
        const TileIndex index = tiling().at(tile);
        const float scale_a = tensor_scale(a_tensor_scale, a_tensor_stride, index.batch);
        const float scale_b = tensor_scale(b_tensor_scale, b_tensor_stride, index.batch);
        const int token = index.y * TOKENS;
#pragma unroll
        for (int b = 0; b < BLOCKS; ++b) {
            store_tile_transposed<decltype(count)::VALUE, PLAN_OUT>(
                out + static_cast<i64>(index.batch) * m * n * OUT_BYTES<PLAN_OUT>, token + from, token + begin, min(token + end, m),
                index.x * ROWS + b * 128 + group * 64, n, stages.staging(group), 1 + group,
                [&](int i) { return sum[b][i] * S::FACTOR * scale_a * scale_b; });
        }
    };
    // Divided by the host: chunks of a block or couple, how many have one more, and what divides by the chunks of a tile.
    const auto work = [&] { return Dealt::work(dealt, k); };
    run_roles<S, A_LAYOUT, EARLY_WEIGHTS>(stages, work, Workspace{sums, counters}, operands, share, store);
}
