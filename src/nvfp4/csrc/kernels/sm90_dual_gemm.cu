// C = silu(A B1^T) * (A B2^T) on Hopper: both products of a tile at once, their epilogue fused.
//
//   A [M, K]  activations: NVFP4, fp16 or bf16        B1, B2 [N, K]  weights: NVFP4
//   C [M, N]  fp16, bf16 or fp32                      K a multiple of 64; M, N any
//
// As sm90_gemm.cu, with two weight blocks of a tile: 128 rows of B1, and the same rows of B2; or with one, 64 rows of either, which are in turn
// those of the two that each lane has. A thread ends with the same elements of both products in its registers, computes SiLU in fp32, and stores.
//
// Order of tiles: bands of BAND tiles of tokens; within a band, the tiles of one block of weights follow one another.
//
// Resources: Shape::SHARED_BYTES + 1024 of dynamic shared memory, all registers of an SM: one block an SM.
#include "epilogue/silu.cuh"
#include "epilogue/tile_store.cuh"
#include "pipeline/sm90_roles.cuh"
#include "pipeline/tiling.cuh"

// Constants: those of sm90_gemm.cu, and
// PLAN_EARLY_WEIGHTS: weights are not written by the kernel before in the queue, and may be read before it has ended.
constexpr int TOKENS = PLAN_TOKENS, ROWS = 64 * PLAN_BLOCKS, BAND = 16;
constexpr int A_LAYOUT = PLAN_A_LAYOUT, B_LAYOUT = PLAN_B_LAYOUT;
constexpr bool EARLY_WEIGHTS = PLAN_EARLY_WEIGHTS;
using S = Shape<TOKENS, PLAN_BLOCKS, PLAN_CHUNKS, PLAN_TILES, PLAN_ACTIVATIONS, B_LAYOUT, PLAN_MAKES, PLAN_BEGINS, 1, TOKENS, PLAN_BLOCKS == 1,
                PLAN_COUPLED, PLAN_HELPED>;
using Dealt = Dealing<S>;
static_assert(PLAN_OUT >= OUT_FP16 && PLAN_OUT <= OUT_FP32, "output");

extern __shared__ u8 shared_memory[];

extern "C" __global__ void __launch_bounds__(S::THREADS, 1)
    nvfp4_sm90_dual_gemm(const __grid_constant__ ActivationMaps<S> a_maps, const __grid_constant__ TensorMap b1_map,
                         const __grid_constant__ TensorMap b2_map, const u8* a_data, const u8* a_scales, const u8* b1_scales,
                         const u8* b2_scales, const float* a_tensor_scale, const float* b1_tensor_scale,
                         const float* b2_tensor_scale, u8* out, u8* operand, float* sums, u32* counters, int m, int n, int k, const Dealt::Deal dealt) {
    const Stages<S> stages{(shared_address(shared_memory) + 1023u) & ~1023u};
    if (threadIdx.x == S::LOADER) {
        a_maps.prefetch();
        prefetch_tensormap(&b1_map);
        prefetch_tensormap(&b2_map);
    }
    begin_block(stages);

    const int units = k / UNIT;
    const Tiling<BAND> tiling{(n + ROWS - 1) / ROWS, (m + TOKENS - 1) / TOKENS};
    const Activations all{a_data, a_scales, operand, static_cast<u32>(m), static_cast<u32>(units)};
    const auto operands = [&](int tile) {
        const TileIndex index = tiling.at(tile);
        Operands<2> o;
        o.weight_codes[0] = &b1_map;
        o.weight_codes[1] = &b2_map;
        o.weight_scales[0] = b1_scales;
        o.weight_scales[1] = b2_scales;
        o.weight_row[0] = o.weight_row[1] = index.x * ROWS;
        o.weight_rows = n;
        o.weight_batch = 0;
        o.activations = a_maps.operand();
        o.raw = a_maps.raw();
        o.token = index.y * TOKENS;
        o.activation_batch = 0;
        o.source = all;
        o.units = units;
        return o;
    };

    const auto share = activation_share<S::NVFP4, A_LAYOUT>(static_cast<u32>(m) * units * HALVES, counters, [&](u32&) { return all; });
    const auto store = [&](auto count, int tile, int from, int begin, int end, auto& sum, int group) {
        const TileIndex index = tiling.at(tile);
        const float scale_a = S::FACTOR * tensor_scale(a_tensor_scale, 0, 0);
        const float scale_b1 = tensor_scale(b1_tensor_scale, 0, 0), scale_b2 = tensor_scale(b2_tensor_scale, 0, 0);
        const int token = index.y * TOKENS;
        const auto first = [&](float x) { return x * scale_a * scale_b1; };
        const auto second = [&](float x) { return x * scale_a * scale_b2; };
        constexpr int COLUMNS = ROWS / 2;  // of a warpgroup
        store_tile_transposed<decltype(count)::VALUE, PLAN_OUT, STAGING_TOKENS, COLUMNS>(
            out, token + from, token + begin, min(token + end, m), index.x * ROWS + group * COLUMNS, n, stages.staging(group), 1 + group, [&](int i) {
                if constexpr (S::PAIRED) return silu_of_pair(sum[0], i, first, second);
                else return silu(first(sum[0][i])) * second(sum[S::BLOCKS - 1][i]);
            });
    };
    // As in sm90_gemm.cu.
    const auto work = [&] { return Dealt::work(dealt, k); };
    run_roles<S, A_LAYOUT, EARLY_WEIGHTS>(stages, work, Workspace{sums, counters}, operands, share, store);
}
