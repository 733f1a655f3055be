// Whole tiles in an order that the host has chosen, for tiles that do not all take the same time. Nothing is shared.
#pragma once

#include "pipeline/stream_k.cuh"
#include "ptx/types.cuh"

// Of this block: tiles order[i] for i from starts[block] on, up to starts[block + 1], `chunks` of K each. Used as StreamK; positions are counted in
// chunks of all tiles in this order.
struct ListedTiles {
    const int* order;
    int chunks;
    int position, last;

    // Loaded anew each time: the compiler would keep it in registers that multipliers lack.
    __device__ __forceinline__ ListedTiles(const int* order_of_tiles, const int* starts, int chunks_of_tile)
        : order(order_of_tiles), chunks(chunks_of_tile) {
        u32 block = blockIdx.x;
        asm volatile("" : "+r"(block));
        position = starts[block] * chunks;
        last = starts[block + 1] * chunks;
    }

    __device__ __forceinline__ int along_k(int chunk) const { return chunk; }

    __device__ __forceinline__ bool next(Segment& segment) {
        if (position >= last) return false;
        segment = {order[position / chunks], position % chunks, chunks};
        position += segment.end - segment.begin;
        return true;
    }
};
