// C = silu(A B1^T) * (A B2^T) on mma.sync, right on sm_80 and later: the first rung of the dual GEMM.
//
//   A [M, K]  NVFP4, fp16 or bf16 (A_KIND)        B1, B2 [N, K]  NVFP4
//   C [M, N]  fp16, bf16 or fp32 (OUT)            K a multiple of 16; M, N any
//
// A block computes a TILE_M x TILE_N tile of both products, so that A is read and decoded once and neither product leaves the
// registers. blockIdx.x counts tiles along M first. SiLU and the product are fp32, after the tensor scales.
//
// Resources: shared memory 2 stages x (TILE_M + 2 TILE_N) x 128 bytes, dynamic; 32 * WARPS_M * WARPS_N threads.
#include "epilogue/silu.cuh"
#include "epilogue/store.cuh"
#include "mma/block.cuh"
#include "ptx/griddepcontrol.cuh"

// Constants, defined by the launch.
constexpr int A_KIND = CONFIG_A_KIND;  // KIND_* of A
constexpr int A_LAYOUT = CONFIG_A_LAYOUT;  // SCALES_*
constexpr int B_LAYOUT = CONFIG_B_LAYOUT;
constexpr int OUT = CONFIG_OUT;  // OUT_*
constexpr int TILE_M = CONFIG_TILE_M;
constexpr int TILE_N = CONFIG_TILE_N;
constexpr int WARPS_M = CONFIG_WARPS_M;
constexpr int WARPS_N = CONFIG_WARPS_N;

using Shape = BlockShape<TILE_M, TILE_N, WARPS_M, WARPS_N, 2>;
static_assert(A_KIND >= KIND_NVFP4 && A_KIND <= KIND_BF16, "A_KIND");
static_assert(OUT >= OUT_FP16 && OUT <= OUT_FP32, "OUT");

extern __shared__ __align__(128) u8 shared_memory[];

extern "C" __global__ void __launch_bounds__(Shape::THREADS)
    nvfp4_sm80_dual_gemm(const u8* a_data, const u8* a_scales, const float* a_tensor_scale, const u8* b1_data,
                         const u8* b1_scales, const float* b1_tensor_scale, const u8* b2_data, const u8* b2_scales,
                         const float* b2_tensor_scale, u8* out, int m, int n, int k) {
    griddepcontrol_wait();  // on sm_90 and later, this starts while the previous kernel still runs
    const int tiles_m = (m + TILE_M - 1) / TILE_M;
    const int row0 = blockIdx.x % tiles_m * TILE_M, column0 = blockIdx.x / tiles_m * TILE_N;
    const Matrix a{a_data, a_scales, m, k};
    const Matrix b[2] = {{b1_data, b1_scales, n, k}, {b2_data, b2_scales, n, k}};

    Accumulator<Shape> sum;
    multiply_block<Shape, A_KIND, A_LAYOUT, B_LAYOUT>(sum, shared_address(shared_memory), a, row0, m, b, column0);

    constexpr bool BF16 = A_KIND == KIND_BF16;
    constexpr float FACTOR = OPERAND_FACTOR<A_KIND, BF16> * OPERAND_FACTOR<KIND_NVFP4, BF16>;
    const float scale_a = tensor_scale(a_tensor_scale, 0, 0);
    const float scale_1 = tensor_scale(b1_tensor_scale, 0, 0), scale_2 = tensor_scale(b2_tensor_scale, 0, 0);
    store_tile<Shape, OUT>(out, row0, m, column0, n, [&](int i, int j, int e) {
        const float gate = sum.value[0][i][j][e] * FACTOR * scale_a * scale_1;
        const float up = sum.value[1][i][j][e] * FACTOR * scale_a * scale_2;
        return silu(gate) * up;
    });
}
