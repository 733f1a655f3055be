// C_g = silu(A_g B1_g^T) * (A_g B2_g^T) for many groups in one launch, on mma.sync, right on sm_80 and later: the gate and up projection
// of a mixture of experts.
//
//   list form (nvfp4_sm80_group_dual_gemm_list):       A_g [M_g, K_g], B1_g, B2_g [N_g, K_g] -> C_g [M_g, N_g], up to CAPACITY groups;
//       sizes and addresses are kernel parameters. The grid has a block for each tile of each group.
//   stacked form (nvfp4_sm80_group_dual_gemm_stacked): A [T, K], B1, B2 [G, N, K], offsets int32 [G] in device memory, the end row of
//       each group in A -> C [T, N]. The grid is that of sm80_group_gemm.cu. Rows from offsets[G-1] on are not written.
//
// A NVFP4, fp16 or bf16 (A_KIND); B1, B2 NVFP4; C fp16, bf16 or fp32 (OUT); K a multiple of 16. A block computes one TILE_M x TILE_N
// tile of both products, so that A is read and decoded once and neither product leaves the registers.
//
// Resources: shared memory 2 stages x (TILE_M + 2 TILE_N) x 128 bytes, dynamic; 32 * WARPS_M * WARPS_N threads.
#include "epilogue/silu.cuh"
#include "epilogue/store.cuh"
#include "mma/block.cuh"
#include "mma/groups.cuh"
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
constexpr int CAPACITY = CONFIG_CAPACITY;  // groups of a list launch

using Shape = BlockShape<TILE_M, TILE_N, WARPS_M, WARPS_N, 2>;
static_assert(A_KIND >= KIND_NVFP4 && A_KIND <= KIND_BF16, "A_KIND");
static_assert(OUT >= OUT_FP16 && OUT <= OUT_FP32, "OUT");

extern __shared__ __align__(128) u8 shared_memory[];

// Tensor scales of one group.
struct Factors {
    float a, b1, b2;
};

// Tile (row0, column0) of rows up to row_end of A times both B, to `out` [.., B.rows].
__device__ __forceinline__ void compute_tile(const Matrix& a, int row0, int row_end, const Matrix (&b)[2], int column0,
                                             const Factors& scale, u8* out) {
    constexpr bool BF16 = A_KIND == KIND_BF16;
    constexpr float FACTOR = OPERAND_FACTOR<A_KIND, BF16> * OPERAND_FACTOR<KIND_NVFP4, BF16>;
    Accumulator<Shape> sum;
    multiply_block<Shape, A_KIND, A_LAYOUT, B_LAYOUT>(sum, shared_address(shared_memory), a, row0, row_end, b, column0);
    store_tile<Shape, OUT>(out, row0, row_end, column0, b[0].rows, [&](int i, int j, int e) {
        const float gate = sum.value[0][i][j][e] * FACTOR * scale.a * scale.b1;
        const float up = sum.value[1][i][j][e] * FACTOR * scale.a * scale.b2;
        return silu(gate) * up;
    });
}

// __grid_constant__ lets a group's entry be read by index where the parameters lie, without a copy in local memory.
extern "C" __global__ void __launch_bounds__(Shape::THREADS) nvfp4_sm80_group_dual_gemm_list(
    const __grid_constant__ Array<const u8*, CAPACITY> a_data, const __grid_constant__ Array<const u8*, CAPACITY> a_scales,
    const __grid_constant__ Array<const float*, CAPACITY> a_tensor_scale,
    const __grid_constant__ Array<const u8*, CAPACITY> b1_data, const __grid_constant__ Array<const u8*, CAPACITY> b1_scales,
    const __grid_constant__ Array<const float*, CAPACITY> b1_tensor_scale,
    const __grid_constant__ Array<const u8*, CAPACITY> b2_data, const __grid_constant__ Array<const u8*, CAPACITY> b2_scales,
    const __grid_constant__ Array<const float*, CAPACITY> b2_tensor_scale,
    const __grid_constant__ Array<u8*, CAPACITY> out, const __grid_constant__ Array<int, CAPACITY> m,
    const __grid_constant__ Array<int, CAPACITY> n, const __grid_constant__ Array<int, CAPACITY> k) {
    griddepcontrol_wait();  // on sm_90 and later, this starts while the previous kernel still runs
    const ListTile tile = find_tile<TILE_M, TILE_N>(m, n, blockIdx.x);
    if (tile.group < 0) return;

    const int group = tile.group, rows = m.value[group], columns = n.value[group], depth = k.value[group];
    const Matrix a{a_data.value[group], a_scales.value[group], rows, depth};
    const Matrix b[2] = {{b1_data.value[group], b1_scales.value[group], columns, depth},
                         {b2_data.value[group], b2_scales.value[group], columns, depth}};
    const Factors scale{tensor_scale(a_tensor_scale.value[group], 0, 0), tensor_scale(b1_tensor_scale.value[group], 0, 0),
                        tensor_scale(b2_tensor_scale.value[group], 0, 0)};
    compute_tile(a, tile.row0, rows, b, tile.column0, scale, out.value[group]);
}

extern "C" __global__ void __launch_bounds__(Shape::THREADS)
    nvfp4_sm80_group_dual_gemm_stacked(const u8* a_data, const u8* a_scales, const float* a_tensor_scale,
                                       const u8* b1_data, const u8* b1_scales, const float* b1_tensor_scale,
                                       int b1_tensor_stride, const u8* b2_data, const u8* b2_scales,
                                       const float* b2_tensor_scale, int b2_tensor_stride, const int* offsets, u8* out,
                                       int groups, int rows, int n, int k) {
    griddepcontrol_wait();  // on sm_90 and later, this starts while the previous kernel still runs
    const int tiles_m = rows / TILE_M + groups;
    const Slice slice = find_slice<TILE_M>(offsets, groups, rows, blockIdx.x % tiles_m);
    if (slice.group < 0) return;

    const int blocks = k / 16;
    const i64 data = static_cast<i64>(slice.group) * n * blocks * 8;
    const i64 scales = slice.group * scale_matrix_bytes<B_LAYOUT>(n, blocks);
    const Matrix a{a_data, a_scales, rows, k};
    const Matrix b[2] = {{b1_data + data, b1_scales + scales, n, k}, {b2_data + data, b2_scales + scales, n, k}};
    const Factors scale{tensor_scale(a_tensor_scale, 0, 0), tensor_scale(b1_tensor_scale, b1_tensor_stride, slice.group),
                        tensor_scale(b2_tensor_scale, b2_tensor_stride, slice.group)};
    compute_tile(a, slice.row0, slice.row_end, b, blockIdx.x / tiles_m * TILE_N, scale, out);
}
