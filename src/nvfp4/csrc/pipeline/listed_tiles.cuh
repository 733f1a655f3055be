// Tiles in an order that the host has chosen, for tiles that do not all take the same time: most of them whole; of some the end of K is another block's.
#pragma once

#include "pipeline/stream_k.cuh"
#include "ptx/types.cuh"

// An entry of the order, in fields from the lowest bit on: the tile, its first chunk and where its chunks end (WHOLE_TILE: with K), and, of one that two
// blocks share, the place for sums of the second one. `TilePart` in backends/sm90/plan.py.
constexpr u32 TILE_BITS = 11, CHUNK_BITS = 6, WHOLE_TILE = (1u << CHUNK_BITS) - 1;

__device__ __forceinline__ Segment segment_of_entry(u32 word, int chunks) {
    const u32 first = word >> TILE_BITS & WHOLE_TILE, last = word >> (TILE_BITS + CHUNK_BITS) & WHOLE_TILE;
    return {static_cast<int>(word & ((1u << TILE_BITS) - 1)), static_cast<int>(first), last == WHOLE_TILE ? chunks : static_cast<int>(last)};
}
__device__ __forceinline__ int place_of_entry(u32 word) { return static_cast<int>(word >> (TILE_BITS + 2 * CHUNK_BITS)); }

// What multipliers need of one of their block's tiles, in shared memory. It is found in constants and tables, one after another, and with divisions: that
// takes half a microsecond between two tiles, so a thread for each tile does it once, before there is anything to multiply.
struct alignas(16) TileNote {
    u32 word;   // the entry; NO_ENTRY behind the last one
    u32 group;  // and, 16 bits further, the rows of A in its tiles
    int row, token, token_end, columns;  // the first weight row, and what is stored
    u8* out;                             // of the group

    __device__ __forceinline__ int width() const { return static_cast<int>(group >> 16); }
};
static_assert(sizeof(TileNote) == 32, "_NOTES_BYTES in backends/sm90/plan.py");
constexpr u32 NO_ENTRY = 0xFFFFFFFFu;
constexpr int NOTED = 48;  // entries of a block, at most (MAX_NOTED there)

// Of this block: entries order[i] for i from starts[block] on, up to starts[block + 1], of tiles of `chunks` along K. First the ends of other blocks'
// tiles, so that their sums are there long before they are asked for.
struct ListedTiles {
    const int* order;
    int chunks;
    int entry, end;
    int position = 0;  // chunks that are passed over

    // Loaded anew each time: the compiler would keep it in registers that multipliers lack.
    __device__ __forceinline__ ListedTiles(const int* order_of_tiles, const int* starts, int chunks_of_tile)
        : order(order_of_tiles), chunks(chunks_of_tile) {
        u32 block = blockIdx.x;
        asm volatile("" : "+r"(block));
        entry = starts[block];
        end = starts[block + 1];
    }

    __device__ __forceinline__ u32 word(int number) const { return static_cast<u32>(order[number]); }
    __device__ __forceinline__ Segment segment(int number) const { return segment_of_entry(word(number), chunks); }

    // Whether this block's entry `turn` is the end of another block's tile, and the place for its sums.
    __device__ __forceinline__ bool help(u32 turn, int& place_of_sums) const {
        const int number = entry + static_cast<int>(turn);
        if (number >= end || segment(number).begin == 0) return false;
        place_of_sums = place_of_entry(word(number));
        return true;
    }

    __device__ __forceinline__ int along_k(int chunk) const { return chunk; }

    __device__ __forceinline__ bool next(Segment& taken) {
        while (true) {
            if (entry >= end) return false;
            taken = segment(entry++);
            const int has = taken.end - taken.begin;
            if (position < has) break;
            position -= has;
        }
        taken.begin += position;
        position = 0;
        return true;
    }
};
