// C_g = A_g B_g^T for many groups in one launch, on mma.sync, right on sm_80 and later: the first rung of grouped GEMM.
//
//   list form (nvfp4_sm80_group_gemm_list):       A_g [M_g, K_g], B_g [N_g, K_g] -> C_g [M_g, N_g], up to CAPACITY groups; sizes
//       and addresses are kernel parameters. The grid has a block for each tile of each group.
//   stacked form (nvfp4_sm80_group_gemm_stacked): A [T, K], B [G, N, K], offsets int32 [G] in device memory, the end row of
//       each group in A -> C [T, N]. The host does not know the offsets: the grid has T / TILE_M + G tiles along M, at
//       least as many as any offsets can need, and blocks that find no tile leave. Rows from offsets[G-1] on are not written.
//
// A NVFP4, fp16 or bf16 (A_KIND); B NVFP4; C fp16, bf16 or fp32 (OUT); K a multiple of 16. A block computes one TILE_M x TILE_N tile.
//
// Resources: shared memory 2 stages x (TILE_M + TILE_N) x 128 bytes, dynamic; 32 * WARPS_M * WARPS_N threads.
#include "epilogue/store.cuh"
#include "mma/block.cuh"

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

using Shape = BlockShape<TILE_M, TILE_N, WARPS_M, WARPS_N, 1>;
static_assert(A_KIND >= KIND_NVFP4 && A_KIND <= KIND_BF16, "A_KIND");
static_assert(OUT >= OUT_FP16 && OUT <= OUT_FP32, "OUT");

extern __shared__ __align__(128) u8 shared_memory[];

template <class T>
struct Array {
    T value[CAPACITY];
};

// Tile (row0, column0) of rows up to row_end of A times B, to `out` [.., B.rows].
__device__ __forceinline__ void compute_tile(const Matrix& a, int row0, int row_end, const Matrix& b, int column0,
                                             float scale_a, float scale_b, u8* out) {
    constexpr bool BF16 = A_KIND == KIND_BF16;
    constexpr float FACTOR = OPERAND_FACTOR<A_KIND, BF16> * OPERAND_FACTOR<KIND_NVFP4, BF16>;
    const Matrix bs[1] = {b};
    Accumulator<Shape> sum;
    multiply_block<Shape, A_KIND, A_LAYOUT, B_LAYOUT>(sum, shared_address(shared_memory), a, row0, row_end, bs, column0);
    store_tile<Shape, OUT>(out, row0, row_end, column0, b.rows,
                           [&](int i, int j, int e) { return sum.value[0][i][j][e] * FACTOR * scale_a * scale_b; });
}

// __grid_constant__ lets a group's entry be read by index where the parameters lie, without a copy in local memory.
extern "C" __global__ void __launch_bounds__(Shape::THREADS)
    nvfp4_sm80_group_gemm_list(const __grid_constant__ Array<const u8*> a_data,
                               const __grid_constant__ Array<const u8*> a_scales,
                               const __grid_constant__ Array<const float*> a_tensor_scale,
                               const __grid_constant__ Array<const u8*> b_data,
                               const __grid_constant__ Array<const u8*> b_scales,
                               const __grid_constant__ Array<const float*> b_tensor_scale,
                               const __grid_constant__ Array<u8*> out, const __grid_constant__ Array<int> m,
                               const __grid_constant__ Array<int> n, const __grid_constant__ Array<int> k) {
    int tile = blockIdx.x;
    int group = 0, tiles_m = 0;
    for (; group < CAPACITY; ++group) {
        tiles_m = (m.value[group] + TILE_M - 1) / TILE_M;
        const int tiles = tiles_m * ((n.value[group] + TILE_N - 1) / TILE_N);
        if (tile < tiles) break;
        tile -= tiles;
    }
    if (group == CAPACITY) return;

    const int rows = m.value[group];
    const Matrix a{a_data.value[group], a_scales.value[group], rows, k.value[group]};
    const Matrix b{b_data.value[group], b_scales.value[group], n.value[group], k.value[group]};
    compute_tile(a, tile % tiles_m * TILE_M, rows, b, tile / tiles_m * TILE_N,
                 tensor_scale(a_tensor_scale.value[group], 0, 0), tensor_scale(b_tensor_scale.value[group], 0, 0),
                 out.value[group]);
}

// The group that holds tile `tile` along M, and its rows.
struct Slice {
    int group;  // -1: there is no such tile
    int row0;   // of the tile
    int row_end;  // of the group
};

// Every warp searches alone: 32 groups at a time, a lane each, with a prefix sum of their tiles. Offsets are clamped to 0..rows
// and to the offset before, so that no value of theirs can lead outside of A or C.
__device__ __forceinline__ Slice find_slice(const int* offsets, int groups, int rows, int tile) {
    const int lane = threadIdx.x % 32;
    int tiles_before = 0, last_end = 0;
    for (int base = 0; base < groups; base += 32) {
        int end = base + lane < groups ? min(max(offsets[base + lane], 0), rows) : 0;
        for (int step = 1; step < 32; step *= 2) {  // running maximum: no group ends before it starts
            const int other = __shfl_up_sync(0xFFFFFFFFu, end, step);
            end = lane >= step ? max(end, other) : end;
        }
        end = max(end, last_end);
        const int previous = __shfl_up_sync(0xFFFFFFFFu, end, 1);
        const int start = lane == 0 ? last_end : previous;
        const int tiles = (end - start + TILE_M - 1) / TILE_M;
        int total = tiles;
        for (int step = 1; step < 32; step *= 2) {
            const int other = __shfl_up_sync(0xFFFFFFFFu, total, step);
            total += lane >= step ? other : 0;
        }
        const u32 beyond = __ballot_sync(0xFFFFFFFFu, tiles_before + total > tile);
        if (beyond != 0) {
            const int found = __ffs(beyond) - 1;
            const int first_tile = tiles_before + __shfl_sync(0xFFFFFFFFu, total - tiles, found);
            const int first_row = __shfl_sync(0xFFFFFFFFu, start, found);
            return {base + found, first_row + (tile - first_tile) * TILE_M, __shfl_sync(0xFFFFFFFFu, end, found)};
        }
        tiles_before += __shfl_sync(0xFFFFFFFFu, total, 31);
        last_end = __shfl_sync(0xFFFFFFFFu, end, 31);
    }
    return {-1, 0, 0};
}

extern "C" __global__ void __launch_bounds__(Shape::THREADS)
    nvfp4_sm80_group_gemm_stacked(const u8* a_data, const u8* a_scales, const float* a_tensor_scale, const u8* b_data,
                                  const u8* b_scales, const float* b_tensor_scale, int b_tensor_stride,
                                  const int* offsets, u8* out, int groups, int rows, int n, int k) {
    const int tiles_m = rows / TILE_M + groups;
    const Slice slice = find_slice(offsets, groups, rows, blockIdx.x % tiles_m);
    if (slice.group < 0) return;

    const int blocks = k / 16;
    const i64 b_offset = static_cast<i64>(slice.group) * n * blocks * 8;
    const Matrix a{a_data, a_scales, rows, k};
    const Matrix b{b_data + b_offset, b_scales + slice.group * scale_matrix_bytes<B_LAYOUT>(n, blocks), n, k};
    compute_tile(a, slice.row0, slice.row_end, b, blockIdx.x / tiles_m * TILE_N, tensor_scale(a_tensor_scale, 0, 0),
                 tensor_scale(b_tensor_scale, b_tensor_stride, slice.group), out);
}
