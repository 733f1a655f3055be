// What a cluster of the Hopper kernel for 16-bit activations computes, and a loader's way through it (pipeline/sm90_decode.cuh).
#pragma once

#include "pipeline/stream_k.cuh"
#include "ptx/types.cuh"

// Tiles `tile`, `tile` + `step`, ... below `whole`; then chunks [position, last), counted over all tiles, the first of which is of tile `shared`.
// A tile has `chunks` chunks.
struct DecodeWork {
    int chunks;
    int tile, step, whole;
    int shared, position, last;
};

// A place in that: a chunk of a tile. With WHOLE there are no shared tiles.
template <bool WHOLE>
struct DecodePlace {
    const DecodeWork& work;
    int tile, chunk, until;  // chunks of this tile

    __device__ __forceinline__ DecodePlace(const DecodeWork& w) : work(w), tile(w.tile), chunk(0) { enter(true); }

    // A tile; after one of those that are taken in turn, or the first.
    __device__ __forceinline__ void enter(bool in_turn) {
        if constexpr (WHOLE) {
            until = tile < work.whole ? work.chunks : 0;
        } else if (in_turn && tile < work.whole) {
            until = work.chunks;
        } else {
            if (in_turn) {
                tile = work.shared;
                chunk = work.position - tile * work.chunks;
            }
            until = least(work.chunks, work.last - tile * work.chunks);
        }
    }
    __device__ __forceinline__ bool more() const { return chunk < until; }

    // Whether that leads to another tile.
    __device__ __forceinline__ bool advance() {
        if (++chunk < until) return false;
        chunk = 0;
        const bool in_turn = WHOLE || tile < work.whole;
        tile += in_turn ? work.step : 1;
        enter(in_turn);
        return true;
    }
};

// What a tile is made of.
struct DecodeItem {
    int row, token, batch;  // the block's first row of weights of each matrix, the first token
};

// A place, and what `describe` says of its tile. That takes divisions, so it is asked once a tile.
template <bool WHOLE, class Describe>
struct DecodeCursor : DecodePlace<WHOLE> {
    Describe describe;
    DecodeItem item;

    using Place = DecodePlace<WHOLE>;

    __device__ __forceinline__ DecodeCursor(const DecodeWork& work, Describe d) : Place(work), describe(d), item(d(this->tile)) {}
    __device__ __forceinline__ void advance() {
        if (Place::advance() && this->more()) item = describe(this->tile);
    }
};
