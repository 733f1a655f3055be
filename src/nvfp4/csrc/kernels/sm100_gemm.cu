// C[l] = A[l] B[l]^T on Blackwell: both operands NVFP4 to the tensor core, warp-specialised, persistent.
//
//   A [L, M, K], B [L, N, K]  NVFP4, scales linear or in 128x4 tiles        C [L, M, N]  fp16, bf16 or fp32
//   K a multiple of 32; M, N, L any
//
// The tensor core multiplies X and Y: A and B, or B and A if PLAN_SWAPPED (few rows of A: they are then the instruction's N, and
// nothing is wasted). Tiles are 128 rows of X (or 256, with a pair of blocks) x PLAN_TILE_N rows of Y.
//
//   warps 0-3   epilogue: tensor memory -> registers -> C           (epilogue/sm100_store.cuh)
//   warp 4      one thread loads: tensor maps -> shared memory      (pipeline/sm100_roles.cuh)
//   warp 5      one thread multiplies; the warp owns tensor memory  (pipeline/sm100_roles.cuh)
//   warps 6-9   prepare scales, where copying them is not enough    (pipeline/sm100_scales.cuh)
//
// Stages, tensor memory and barriers are drawn in pipeline/sm100_shape.cuh. Resources: S::SHARED_BYTES + 1024 of dynamic shared memory,
// S::COLUMNS of tensor memory, S::THREADS threads: one block a multiprocessor.
#include "pipeline/sm100_block.cuh"
#include "pipeline/tiling.cuh"

extern "C" __global__ void __launch_bounds__(S::THREADS, 1)
    nvfp4_sm100_gemm(const __grid_constant__ TensorMap x_codes, const __grid_constant__ TensorMap y_codes,
                     const __grid_constant__ TensorMap x_scale_map, const __grid_constant__ TensorMap y_scale_map,
                     const __grid_constant__ TensorMap out_map, const u8* x_scales, const u8* y_scales, const float* x_tensor_scale, int x_tensor_stride, const float* y_tensor_scale,
                     int y_tensor_stride, u8* out, float* sums, u32* counters, int x_rows, int y_rows, int k, int l) {
    const u32 rank = S::BLOCKS > 1 ? cluster_ctarank() : 0;
    // With multicast a cluster has two tiles of Y; the last may lie beyond the matrix.
    constexpr int Y_AT_ONCE = S::MULTICAST ? 2 : 1;
    const Tiling<PLAN_BAND> tiling{(x_rows + S::TILE_M - 1) / S::TILE_M, (y_rows + S::TILE_N * Y_AT_ONCE - 1) / (S::TILE_N * Y_AT_ONCE)};
    const auto x_row = [&](const TileIndex& index) { return index.x * S::TILE_M + (S::PAIR ? static_cast<int>(rank) * S::X_ROWS : 0); };
    const auto y_row = [&](const TileIndex& index) {
        return (index.y * Y_AT_ONCE + (S::MULTICAST ? static_cast<int>(rank) : 0)) * S::TILE_N;
    };
    const auto describe = [&](int tile) {
        const TileIndex index = tiling.at(tile);
        Tile<1> made;
        made.k = k;
        made.x = {&x_codes, &x_scale_map, scales_of<S::X_SCALES>(x_scales, index.batch, x_rows, k / 16),
                  x_row(index), x_rows, index.batch, index.batch * ((x_rows + 127) / 128)};
        made.y[0] = {&y_codes, &y_scale_map, scales_of<S::Y_SCALES>(y_scales, index.batch, y_rows, k / 16),
                     y_row(index), y_rows, index.batch, index.batch * ((y_rows + 127) / 128)};
        return made;
    };
    const int pitch = SWAPPED ? x_rows : y_rows;
    const auto target = [&](int tile) {
        const TileIndex index = tiling.at(tile);
        return Target{out + static_cast<i64>(index.batch) * x_rows * y_rows * OUT_BYTES<PLAN_OUT>,
                      x_row(index), x_rows, y_row(index), y_rows, pitch,
                      tensor_scale(x_tensor_scale, x_tensor_stride, index.batch),
                      tensor_scale(y_tensor_scale, y_tensor_stride, index.batch),
                      &out_map, index.batch, true};
    };
    run_block(tiling.tiles_x * tiling.tiles_y * l * SPLITS, Partials{sums, counters}, describe, target, Scaled{});
}
