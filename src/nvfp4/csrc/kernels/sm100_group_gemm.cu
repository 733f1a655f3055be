// C_g = A_g B_g^T for many groups in one launch on Blackwell.
//
//   list form (nvfp4_sm100_group_gemm_list):       A_g [M_g, K_g], B_g [N_g, K_g] -> C_g [M_g, N_g], up to PLAN_CAPACITY groups. Tensor
//       maps, addresses and sizes of all groups are kernel parameters; rows beyond a group are zeros by the bounds of its map. With
//       PLAN_PATCHED maps are made on the device instead, so that there is room for more groups (pipeline/sm100_maps.cuh).
//   stacked form (nvfp4_sm100_group_gemm_stacked): A [T, K], B [G, N, K], offsets int32 [G] in device memory, the end row of each group
//       in A -> C [T, N]. The host does not know the offsets: blocks compute where tiles of groups begin, and share whatever there is.
//       Rows from offsets[G-1] on are not written. A tile reads the rows of the next group, too; they are dropped.
//
// NVFP4 on both sides, K a multiple of 32. Tiles of a group follow one another, those of the same weights at once. X and Y, roles and
// memory: see sm100_gemm.cu.
#include "pipeline/sm100_block.cuh"

constexpr int CAPACITY = PLAN_CAPACITY;  // groups
constexpr bool PATCHED = PLAN_PATCHED;   // list form: loading threads make the tensor maps of a group
constexpr int Y_AT_ONCE = S::MULTICAST ? 2 : 1;
// Rows of A and B of what a cluster computes at once.
constexpr int A_TILE = SWAPPED ? S::TILE_N * Y_AT_ONCE : S::TILE_M;
constexpr int B_TILE = SWAPPED ? S::TILE_M : S::TILE_N * Y_AT_ONCE;

template <class T, int COUNT = CAPACITY>
struct Array {
    T value[COUNT];
};

// Rows of a block within what its cluster computes.
__device__ __forceinline__ int x_offset(u32 rank) { return S::PAIR ? static_cast<int>(rank) * S::X_ROWS : 0; }
__device__ __forceinline__ int y_offset(u32 rank) { return S::MULTICAST ? static_cast<int>(rank) * S::TILE_N : 0; }

__device__ __forceinline__ int tiles(int rows, int unit) { return (rows + unit - 1) / unit; }

// A tile of a group: first rows of A and B.
struct Place {
    int group, a, b;
};

// From sources of A and B to those of X and Y, for this block.
__device__ __forceinline__ Tile<1> arranged(Source a, Source b, int k, u32 rank) {
    Tile<1> tile;
    tile.k = k;
    tile.x = SWAPPED ? b : a;
    tile.y[0] = SWAPPED ? a : b;
    tile.x.row += x_offset(rank);
    tile.y[0].row += y_offset(rank);
    return tile;
}

// Rows [a, a_end) of A and [b, b_end) of B; the map of C ends where A does, or only with the last group (`ends`).
__device__ __forceinline__ Target arranged(u8* out, int a, int a_end, int b, int b_end, int n, float scale_a, float scale_b, u32 rank,
                                           const TensorMap* map, bool ends) {
    if constexpr (SWAPPED) return {out, b + x_offset(rank), b_end, a + y_offset(rank), a_end, n, scale_b, scale_a, map, 0, ends};
    return {out, a + x_offset(rank), a_end, b + y_offset(rank), b_end, n, scale_a, scale_b, map, 0, ends};
}

// Tensor maps of the operands: of all groups, or one of each kind that the loading threads make the others from.
template <class T>
using Maps = Array<T, PATCHED ? 1 : CAPACITY>;

extern "C" __global__ void __launch_bounds__(S::THREADS, 1)
    nvfp4_sm100_group_gemm_list(const __grid_constant__ Maps<TensorMap> a_codes, const __grid_constant__ Maps<TensorMap> b_codes,
                                const __grid_constant__ Maps<TensorMap> a_scale_maps, const __grid_constant__ Maps<TensorMap> b_scale_maps,
                                const __grid_constant__ Array<TensorMap, STAGED ? CAPACITY : 1> out_maps,
                                const __grid_constant__ Array<const u8*, PATCHED ? CAPACITY : 1> a_data,
                                const __grid_constant__ Array<const u8*, PATCHED ? CAPACITY : 1> b_data,
                                const __grid_constant__ Array<const u8*> a_scales, const __grid_constant__ Array<const u8*> b_scales,
                                const __grid_constant__ Array<const float*> a_tensor_scale,
                                const __grid_constant__ Array<const float*> b_tensor_scale,
                                const __grid_constant__ Array<u8*> out, const __grid_constant__ Array<int> m,
                                const __grid_constant__ Array<int> n, const __grid_constant__ Array<int> k, u8* made_maps, int all_tiles) {
    const u32 rank = S::BLOCKS > 1 ? cluster_ctarank() : 0;
    const auto find = [&](int tile) {
        int group = 0, tiles_a = 0;
        for (; group < CAPACITY - 1; ++group) {
            tiles_a = tiles(m.value[group], A_TILE);
            const int count = tiles_a * tiles(n.value[group], B_TILE);
            if (tile < count) break;
            tile -= count;
        }
        tiles_a = tiles(m.value[group], A_TILE);
        return Place{group, tile % tiles_a * A_TILE, tile / tiles_a * B_TILE};
    };
    const auto describe = [&](int tile) {
        const Place at = find(tile);
        const int g = at.group, map = PATCHED ? 0 : g;
        return arranged({&a_codes.value[map], &a_scale_maps.value[map], a_scales.value[g], at.a, m.value[g], 0, 0},
                        {&b_codes.value[map], &b_scale_maps.value[map], b_scales.value[g], at.b, n.value[g], 0, 0}, k.value[g], rank);
    };
    const auto target = [&](int tile) {
        const Place at = find(tile);
        const int g = at.group;
        return arranged(out.value[g], at.a, m.value[g], at.b, n.value[g], n.value[g], tensor_scale(a_tensor_scale.value[g], 0, 0),
                        tensor_scale(b_tensor_scale.value[g], 0, 0), rank, &out_maps.value[STAGED ? g : 0], true);
    };
    const int items = all_tiles * SPLITS;
    const Partials none{nullptr, nullptr};
    if constexpr (PATCHED) {
        const auto group_of = [&](int tile) { return find(tile).group; };
        const auto a_of = [&](int g) { return GroupOperand{a_data.value[g], a_scales.value[g], m.value[g], k.value[g]}; };
        const auto b_of = [&](int g) { return GroupOperand{b_data.value[g], b_scales.value[g], n.value[g], k.value[g]}; };
        const u64 aligned = (reinterpret_cast<u64>(made_maps) + 127) & ~127ull;
        TensorMap* const slots = reinterpret_cast<TensorMap*>(aligned) + blockIdx.x * (PATCHED_SLOTS * PATCHED_MAPS);
        const auto run = [&](const TensorMap* x_codes, const TensorMap* x_scales, const TensorMap* y_codes, const TensorMap* y_scales,
                             auto x_of, auto y_of) {
            run_block(items, none, describe, target, Scaled{},
                      PatchedMaps<S, decltype(group_of), decltype(x_of), decltype(y_of)>{x_codes, x_scales, y_codes, y_scales, slots,
                                                                                         group_of, x_of, y_of});
        };
        if constexpr (SWAPPED) {
            run(b_codes.value, b_scale_maps.value, a_codes.value, a_scale_maps.value, b_of, a_of);
        } else {
            run(a_codes.value, a_scale_maps.value, b_codes.value, b_scale_maps.value, a_of, b_of);
        }
    } else {
        run_block(items, none, describe, target, Scaled{});
    }
}

// Where the groups of the stacked form begin: entry g for group g, and one more.
struct Groups {
    int row[CAPACITY + 1];   // of A
    int tile[CAPACITY + 1];  // along A
};

// By one warp. Offsets are clamped to 0..rows and to the offset before, so that no value of theirs can lead outside of A or C.
__device__ __forceinline__ void find_groups(Groups& groups, const int* offsets, int count, int rows) {
    const int lane = threadIdx.x % 32;
    int row = 0, tile = 0;
    for (int base = 0; base < count; base += 32) {
        int end = base + lane < count ? min(max(offsets[base + lane], 0), rows) : 0;
        for (int step = 1; step < 32; step *= 2) {
            const int other = __shfl_up_sync(0xFFFFFFFFu, end, step);
            end = lane >= step ? max(end, other) : end;
        }
        end = max(end, row);
        const int before = __shfl_up_sync(0xFFFFFFFFu, end, 1);
        const int mine = tiles(end - (lane == 0 ? row : before), A_TILE);
        int sum = mine;
        for (int step = 1; step < 32; step *= 2) {
            const int other = __shfl_up_sync(0xFFFFFFFFu, sum, step);
            sum += lane >= step ? other : 0;
        }
        if (base + lane < count) {
            groups.row[base + lane] = lane == 0 ? row : before;
            groups.tile[base + lane] = tile + sum - mine;
        }
        row = __shfl_sync(0xFFFFFFFFu, end, 31);
        tile += __shfl_sync(0xFFFFFFFFu, sum, 31);
    }
    if (lane == 0) {
        groups.row[count] = row;
        groups.tile[count] = tile;
    }
}

extern "C" __global__ void __launch_bounds__(S::THREADS, 1)
    nvfp4_sm100_group_gemm_stacked(const __grid_constant__ TensorMap a_codes, const __grid_constant__ TensorMap b_codes,
                                   const __grid_constant__ TensorMap b_scale_map, const __grid_constant__ TensorMap out_map,
                                   const u8* a_scales, const u8* b_scales,
                                   const float* a_tensor_scale, const float* b_tensor_scale, int b_tensor_stride, const int* offsets,
                                   u8* out, int count, int rows, int n, int k) {
    __shared__ Groups groups;
    const u32 rank = S::BLOCKS > 1 ? cluster_ctarank() : 0;
    if (threadIdx.x < 32) {
        griddepcontrol_wait();
        find_groups(groups, offsets, count, rows);
    }
    __syncthreads();
    const int tiles_b = tiles(n, B_TILE);
    const auto find = [&](int tile) {
        int low = 0, high = count - 1;  // the last group that begins at or before the tile
        while (low < high) {
            const int middle = (low + high + 1) / 2;
            if (groups.tile[middle] * tiles_b <= tile) {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        const int inside = tile - groups.tile[low] * tiles_b, tiles_a = groups.tile[low + 1] - groups.tile[low];
        return Place{low, groups.row[low] + inside % tiles_a * A_TILE, inside / tiles_a * B_TILE};
    };
    const auto describe = [&](int tile) {
        const Place at = find(tile);
        const u8* scales = scales_of<SWAPPED ? S::X_SCALES : S::Y_SCALES>(b_scales, at.group, n, k / 16);
        return arranged({&a_codes, nullptr, a_scales, at.a, rows, 0, 0},
                        {&b_codes, &b_scale_map, scales, at.b, n, at.group, at.group * ((n + 127) / 128)}, k, rank);
    };
    const auto target = [&](int tile) {
        const Place at = find(tile);
        return arranged(out, at.a, groups.row[at.group + 1], at.b, n, n, tensor_scale(a_tensor_scale, 0, 0),
                        tensor_scale(b_tensor_scale, b_tensor_stride, at.group), rank, &out_map, groups.row[at.group + 1] == rows);
    };
    run_block(groups.tile[count] * tiles_b * SPLITS, Partials{nullptr, nullptr}, describe, target, Scaled{});
}
