// C[l] = A[l] B[l]^T on mma.sync, right on sm_80 and later: the first rung of GEMM.
//
//   A [L, M, K]  NVFP4, fp16 or bf16 (A_KIND)        B [L, N, K]  NVFP4
//   C [L, M, N]  fp16, bf16 or fp32 (OUT)            K a multiple of 16; M, N, L any
//
// A block computes a TILE_M x TILE_N tile of one C[l]: blockIdx.x counts tiles along M first (they share B), then N, then L.
// Both operands are decoded to 16 bit in shared memory, where code times block scale is exact; sums are fp32.
//
// Resources: shared memory 2 stages x (TILE_M + TILE_N) x 128 bytes, dynamic; 32 * WARPS_M * WARPS_N threads.
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

using Shape = BlockShape<TILE_M, TILE_N, WARPS_M, WARPS_N, 1>;
static_assert(A_KIND >= KIND_NVFP4 && A_KIND <= KIND_BF16, "A_KIND");
static_assert(OUT >= OUT_FP16 && OUT <= OUT_FP32, "OUT");

extern __shared__ __align__(128) u8 shared_memory[];

extern "C" __global__ void __launch_bounds__(Shape::THREADS)
    nvfp4_sm80_gemm(const u8* a_data, const u8* a_scales, const float* a_tensor_scale, int a_tensor_stride,
                    const u8* b_data, const u8* b_scales, const float* b_tensor_scale, int b_tensor_stride, u8* out,
                    int m, int n, int k) {
    griddepcontrol_wait();  // on sm_90 and later, this starts while the previous kernel still runs
    const int tiles_m = (m + TILE_M - 1) / TILE_M, tiles_n = (n + TILE_N - 1) / TILE_N;
    const int tile_m = blockIdx.x % tiles_m;
    const int tile_n = blockIdx.x / tiles_m % tiles_n;
    const int l = blockIdx.x / tiles_m / tiles_n;

    constexpr int A_BLOCK_BYTES = A_KIND == KIND_NVFP4 ? 8 : 32;
    const int blocks = k / 16;
    const i64 a_offset = static_cast<i64>(l) * m * blocks * A_BLOCK_BYTES;
    const i64 b_offset = static_cast<i64>(l) * n * blocks * 8;
    const Matrix a{a_data + a_offset, a_scales + l * scale_matrix_bytes<A_LAYOUT>(m, blocks), m, k};
    const Matrix b[1] = {{b_data + b_offset, b_scales + l * scale_matrix_bytes<B_LAYOUT>(n, blocks), n, k}};

    Accumulator<Shape> sum;
    multiply_block<Shape, A_KIND, A_LAYOUT, B_LAYOUT>(sum, shared_address(shared_memory), a, tile_m * TILE_M, m, b,
                                                      tile_n * TILE_N);

    constexpr bool BF16 = A_KIND == KIND_BF16;
    constexpr float FACTOR = OPERAND_FACTOR<A_KIND, BF16> * OPERAND_FACTOR<KIND_NVFP4, BF16>;
    const float scale_a = tensor_scale(a_tensor_scale, a_tensor_stride, l);
    const float scale_b = tensor_scale(b_tensor_scale, b_tensor_stride, l);
    store_tile<Shape, OUT>(out + static_cast<i64>(l) * m * n * OUT_BYTES<OUT>, tile_m * TILE_M, m, tile_n * TILE_N, n,
                           [&](int i, int j, int e) { return sum.value[0][i][j][e] * FACTOR * scale_a * scale_b; });
}
