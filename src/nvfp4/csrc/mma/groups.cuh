// Which tile of which group a block computes: in the list form, where the host knows all sizes, and in the stacked form, where the
// ends of the groups lie in device memory.
#pragma once

#include "ptx/types.cuh"

// One value for each group of a list launch, as a kernel parameter.
template <class T, int COUNT>
struct Array {
    T value[COUNT];
};

struct ListTile {
    int group;  // -1: there is no such tile
    int row0;
    int column0;
};

// Tile `tile` of the tiles of all groups, counted group by group, along M first. m, n: sizes of each group's result.
template <int TILE_M, int TILE_N, int COUNT>
__device__ __forceinline__ ListTile find_tile(const Array<int, COUNT>& m, const Array<int, COUNT>& n, int tile) {
    for (int group = 0; group < COUNT; ++group) {
        const int tiles_m = (m.value[group] + TILE_M - 1) / TILE_M;
        const int tiles = tiles_m * ((n.value[group] + TILE_N - 1) / TILE_N);
        if (tile < tiles) return {group, tile % tiles_m * TILE_M, tile / tiles_m * TILE_N};
        tile -= tiles;
    }
    return {-1, 0, 0};
}

// The group that holds tile `tile` along M, and its rows.
struct Slice {
    int group;  // -1: there is no such tile
    int row0;   // of the tile
    int row_end;  // of the group
};

// Every warp searches alone: 32 groups at a time, a lane each, with a prefix sum of their tiles. Offsets are clamped to 0..rows
// and to the offset before, so that no value of theirs can lead outside of A or C.
template <int TILE_M>
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
