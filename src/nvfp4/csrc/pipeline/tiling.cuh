// The order of the tiles of one matrix, and of a batch.
#pragma once

#include "ptx/types.cuh"

// A tile of X times a tile of Y: positions in tiles.
struct TileIndex {
    int batch, x, y;
};

// Bands of BAND tiles of Y: within a band all tiles of Y follow one another for each tile of X, so that both are found in L2.
template <int BAND>
struct Tiling {
    int tiles_x, tiles_y;

    __device__ __forceinline__ int count() const { return tiles_x * tiles_y; }  // of a matrix

    __device__ __forceinline__ TileIndex at(int tile) const {
        // A division takes a tenth of a microsecond, and kernels begin with this: products of one tile of tokens need none.
        if (tiles_y == 1 && tile < tiles_x) return {0, tile, 0};
        const int batch = tile / count(), rest = tile % count();
        const int band = rest / (BAND * tiles_x), inside = rest % (BAND * tiles_x);
        const int width = min(BAND, tiles_y - band * BAND);
        return {batch, inside / width, band * BAND + inside % width};
    }
};
