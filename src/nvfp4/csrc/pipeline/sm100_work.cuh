// Which tiles a block computes, and what a tile is made of.
#pragma once

#include "pipeline/sm100_shape.cuh"
#include "ptx/cp_async_bulk_tensor.cuh"

// One operand of a tile.
struct Source {
    const TensorMap* codes;   // u8 [batch, rows, K/2], boxes of 128 bytes
    const TensorMap* scales;  // u16 [row tiles, K/64, 256], if they are copied as they are
    const u8* scale_bytes;    // of the matrix, if the scale warps rearrange them
    int row, rows;            // first row of the tile; rows of the matrix
    int batch;
    int scale_tile;           // row tile of the scales that holds the first row of the matrix
};

template <int PRODUCTS>
struct Tile {
    Source x, y[PRODUCTS];
    int k;
};

// A part of K of one tile.
struct Work {
    int tile, split;
};

// Items are dealt out in turn: cluster c takes items c, c + clusters, ... An item is one of SPLITS parts of a tile.
template <int SPLITS>
struct StaticSchedule {
    int item, step, items;

    __device__ __forceinline__ bool next(Work& work) {
        if (item >= items) return false;
        work = {item / SPLITS, item % SPLITS};
        item += step;
        return true;
    }
};

// Chunks [begin, end) of a part of K.
template <int SPLITS>
struct Chunks {
    int begin, end;

    __device__ __forceinline__ Chunks(int k, int split) {
        const int chunks = (k + CHUNK - 1) / CHUNK;
        begin = chunks * split / SPLITS;
        end = chunks * (split + 1) / SPLITS;
    }
};

// Steps of 64 elements in a chunk; the last of K may be a part of one.
__device__ __forceinline__ int steps_of(int k, int chunk) {
    const int steps = (k + STEP - 1) / STEP - chunk * STEPS;
    return steps < STEPS ? steps : STEPS;
}
