// C = silu(A B1^T) * (A B2^T) on Blackwell: both sums in tensor memory side by side, A loaded once.
//
//   A [M, K], B1, B2 [N, K]  NVFP4, scales linear or in 128x4 tiles        C [M, N]  fp16, bf16 or fp32
//   K a multiple of 32; M, N any
//
// X is A, the Ys are B1 and B2. Roles, stages, tensor memory and barriers are those of sm100_gemm.cu, with PLAN_PRODUCTS = 2: a step is
// two instructions with the same X, the second of which takes it from the collector buffer (PLAN_COLLECT). With PLAN_FINISH the sums of B1
// are complete some chunks before those of B2, and SiLU runs beside the last products.
#include "epilogue/silu.cuh"
#include "pipeline/sm100_block.cuh"
#include "pipeline/tiling.cuh"

static_assert(S::PRODUCTS == 2 && !SWAPPED, "a dual GEMM");

struct SwiGlu {
    __device__ __forceinline__ float gate(const Target& t, float sum) const { return silu(sum * t.scale_x * t.scale_y); }
    __device__ __forceinline__ float operator()(const Target& t, float gated, float sum) const {
        return gated * (sum * t.scale_x * t.scale_z);
    }
};

extern "C" __global__ void __launch_bounds__(S::THREADS, 1)
    nvfp4_sm100_dual_gemm(const __grid_constant__ TensorMap x_codes, const __grid_constant__ TensorMap y_codes,
                          const __grid_constant__ TensorMap z_codes, const __grid_constant__ TensorMap x_scale_map,
                          const __grid_constant__ TensorMap y_scale_map, const __grid_constant__ TensorMap z_scale_map, const __grid_constant__ TensorMap out_map,
                          const u8* x_scales, const u8* y_scales, const u8* z_scales, const float* x_tensor_scale,
                          const float* y_tensor_scale, const float* z_tensor_scale, u8* out, float* sums, u32* counters, int x_rows,
                          int y_rows, int k) {
    const u32 rank = S::BLOCKS > 1 ? cluster_ctarank() : 0;
    constexpr int Y_AT_ONCE = S::MULTICAST ? 2 : 1;
    const Tiling<PLAN_BAND> tiling{(x_rows + S::TILE_M - 1) / S::TILE_M, (y_rows + S::TILE_N * Y_AT_ONCE - 1) / (S::TILE_N * Y_AT_ONCE)};
    const auto x_row = [&](const TileIndex& index) { return index.x * S::TILE_M + (S::PAIR ? static_cast<int>(rank) * S::X_ROWS : 0); };
    const auto y_row = [&](const TileIndex& index) {
        return (index.y * Y_AT_ONCE + (S::MULTICAST ? static_cast<int>(rank) : 0)) * S::TILE_N;
    };
    const auto describe = [&](int tile) {
        const TileIndex index = tiling.at(tile);
        Tile<2> made;
        made.k = k;
        made.x = {&x_codes, &x_scale_map, x_scales, x_row(index), x_rows, 0, 0};
        made.y[0] = {&y_codes, &y_scale_map, y_scales, y_row(index), y_rows, 0, 0};
        made.y[1] = {&z_codes, &z_scale_map, z_scales, y_row(index), y_rows, 0, 0};
        return made;
    };
    const auto target = [&](int tile) {
        const TileIndex index = tiling.at(tile);
        return Target{out, x_row(index), x_rows, y_row(index), y_rows, y_rows, tensor_scale(x_tensor_scale, 0, 0),
                      tensor_scale(y_tensor_scale, 0, 0), &out_map, 0, true, tensor_scale(z_tensor_scale, 0, 0)};
    };
    run_block(tiling.tiles_x * tiling.tiles_y * SPLITS, Partials{sums, counters}, describe, target, SwiGlu{});
}
