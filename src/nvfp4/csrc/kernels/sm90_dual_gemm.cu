// C = silu(A B1^T) * (A B2^T) on Hopper: both products of a tile at once, their epilogue fused.
//
//   A [M, K]  activations: fp16 or bf16               B1, B2 [N, K]  weights: NVFP4
//   C [M, N]  fp16, bf16 or fp32                      K a multiple of 64; M, N any
//
// NVFP4 activations are decoded to fp16 by sm90_decode.cu, launched before.
//
// As sm90_gemm.cu, with two weight blocks of a tile: 128 rows of B1, and the same rows of B2. A thread ends with the same elements of both
// products in its registers, computes SiLU in fp32, and stores.
//
// Order of tiles: bands of PLAN_BAND tiles of tokens; within a band, the tiles of one block of weights follow one another.
//
// Resources: Shape::SHARED_BYTES + 1024 of dynamic shared memory, all registers of an SM: one block an SM.
#include "epilogue/silu.cuh"
#include "epilogue/tile_store.cuh"
#include "pipeline/sm90_roles.cuh"
#include "ptx/griddepcontrol.cuh"

// Constants: PLAN_TOKENS, PLAN_CHUNKS, PLAN_TILES, PLAN_ORDER and PLAN_BF16 (of the activations), PLAN_B_LAYOUT, PLAN_OUT, PLAN_BAND, and
// PLAN_EARLY_WEIGHTS: weights are not written by the kernel before in the queue, and may be read before it has ended.
constexpr int TOKENS = PLAN_TOKENS, ROWS = 128, BAND = PLAN_BAND;
constexpr int B_LAYOUT = PLAN_B_LAYOUT;
constexpr bool EARLY_WEIGHTS = PLAN_EARLY_WEIGHTS;
using S = Shape<TOKENS, 2, PLAN_CHUNKS, PLAN_TILES, PLAN_ORDER, PLAN_BF16, B_LAYOUT>;
static_assert(PLAN_ORDER == ORDER_MEMORY || !PLAN_BF16, "NVFP4 activations are decoded to fp16");
static_assert(PLAN_OUT >= OUT_FP16 && PLAN_OUT <= OUT_FP32, "output");

struct TileIndex {
    int row, token;  // in tiles
};

struct Tiling {
    int tiles_m, tiles_n;

    __device__ __forceinline__ TileIndex at(int tile) const {
        const int band = tile / (BAND * tiles_n), inside = tile % (BAND * tiles_n);
        const int width = min(BAND, tiles_m - band * BAND);
        return {inside / width, band * BAND + inside % width};
    }
};

extern __shared__ u8 shared_memory[];

extern "C" __global__ void __launch_bounds__(S::THREADS, 1)
    nvfp4_sm90_dual_gemm(const __grid_constant__ TensorMap a_map, const __grid_constant__ TensorMap b1_map,
                         const __grid_constant__ TensorMap b2_map, const u8* b1_scales,
                         const u8* b2_scales, const float* a_tensor_scale, const float* b1_tensor_scale,
                         const float* b2_tensor_scale, u8* out, float* sums, u32* counters, int m, int n, int k) {
    const Stages<S> stages{(shared_address(shared_memory) + 1023u) & ~1023u};
    if (threadIdx.x == 0) stages.init();
    __syncthreads();

    const int units = k / UNIT, chunks = (units + CHUNK - 1) / CHUNK;
    const Tiling tiling{(m + TOKENS - 1) / TOKENS, (n + ROWS - 1) / ROWS};
    const int tiles = tiling.tiles_m * tiling.tiles_n;
    const auto operands = [&](int tile) {
        const TileIndex index = tiling.at(tile);
        Operands<2> o;
        o.weight_codes[0] = &b1_map;
        o.weight_codes[1] = &b2_map;
        o.weight_scales[0] = b1_scales;
        o.weight_scales[1] = b2_scales;
        o.weight_row[0] = o.weight_row[1] = index.row * ROWS;
        o.weight_rows = n;
        o.weight_batch = 0;
        o.activations = &a_map;
        o.token = index.token * TOKENS;
        o.activation_batch = 0;
        o.units = units;
        return o;
    };

    if (threadIdx.x >= S::LOADER) {
        setmaxnreg_dec_sync_aligned<S::LOAD_REGISTERS>();
        if (threadIdx.x < S::LOADER + 32) {
            if (!EARLY_WEIGHTS) griddepcontrol_wait();
            load(stages, StreamK(tiles, chunks), operands, [] { griddepcontrol_wait(); });
        }
    } else {
        setmaxnreg_inc_sync_aligned<S::MULTIPLY_REGISTERS>();
        const int group = __shfl_sync(0xFFFFFFFFu, threadIdx.x / 128, 0);  // the same for the warp, as the compiler should know
        griddepcontrol_wait();
        griddepcontrol_launch_dependents();
        const auto store = [&](auto count, int tile, int from, int begin, int end, auto& sum) {
            constexpr int N = decltype(count)::VALUE;
            const TileIndex index = tiling.at(tile);
            const float scale_a = tensor_scale(a_tensor_scale, 0, 0);
            const float scale_b1 = tensor_scale(b1_tensor_scale, 0, 0), scale_b2 = tensor_scale(b2_tensor_scale, 0, 0);
            const int token = index.token * TOKENS;
            store_tile_transposed<N, PLAN_OUT>(out, token + from, token + begin, min(token + end, m), index.row * ROWS + group * 64, n,
                                               stages.staging(group), 1 + group, [&](int i) {
                                                   const float gate = sum[0][i] * S::FACTOR * scale_a * scale_b1;
                                                   return silu(gate) * (sum[1][i] * S::FACTOR * scale_a * scale_b2);
                                               });
        };
        multiply_and_store(stages, tiles, chunks, Workspace{sums, counters}, group, store);
    }
}
