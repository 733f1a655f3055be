// The shared memory of the Hopper kernel for 16-bit activations, and how it is filled (pipeline/sm90_decode.cuh).
#pragma once

#include "decode/memory_order.cuh"
#include "epilogue/tile_store.cuh"
#include "pipeline/ring.cuh"
#include "pipeline/sm90_decode_work.cuh"
#include "pipeline/sm90_scales.cuh"
#include "ptx/barrier_cluster.cuh"
#include "ptx/cp_async_bulk_tensor_multicast.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/mbarrier_cluster.cuh"

template <int TOKENS_, int MATRICES_, int SHARE_, bool WHOLE_, int TILES_, int CHUNKS_, bool BF16_, int WEIGHT_LAYOUT_, bool HALVED_ = false>
struct DecodeShape {
    static constexpr int TOKENS = TOKENS_, MATRICES = MATRICES_, SHARE = SHARE_;
    static constexpr bool WHOLE = WHOLE_;  // tiles, dealt out in turn; else the last of them, or all, are shared evenly
    // Two clusters share each tile, each half of its K, and each finishes the rows of a warpgroup (pipeline/sm90_decode_halves.cuh).
    static constexpr bool HALVED = HALVED_;
    static constexpr int TILES = TILES_, CHUNKS = CHUNKS_;  // of the rings
    static constexpr int WEIGHT_LAYOUT = WEIGHT_LAYOUT_;
    static constexpr bool BF16 = BF16_;
    // The product is the accumulator times FACTOR, a power of two.
    static constexpr float FACTOR = 1u << -(BF16 ? DECODED_EXPONENT_BF16 : DECODED_EXPONENT_F16);

    static constexpr int MULTIPLIERS = 256, THREADS = MULTIPLIERS + 128;
    static constexpr int MULTIPLY_WARPS = MULTIPLIERS / 32, WIDENERS = 2;
    static constexpr int MULTIPLY_REGISTERS = 224, LOAD_REGISTERS = 56;  // of 504 for a thread of each warpgroup

    static constexpr int ROWS = WEIGHT_ROWS / MATRICES;     // of a matrix, in a tile
    static constexpr int APART = MATRICES == 1 ? 8 : ROWS;  // two rows of a thread that multiplies, as they lie
    static constexpr int SLICE = TOKENS / SHARE;            // tokens of a tile that a block brings
    static constexpr int TILE_BYTES = TOKENS * 128;
    static constexpr int UNIT_WIDE_BYTES = WEIGHT_ROWS * 8, WIDE_BYTES = CHUNK * UNIT_WIDE_BYTES;  // scales in 16 bits

    static constexpr int TILE = 0;
    static constexpr int CODES = TILE + TILES * TILE_BYTES;
    static constexpr int SCALES = CODES + CHUNKS * WEIGHT_CODES_BYTES;
    static constexpr int WIDE = SCALES + CHUNKS * WEIGHT_SCALES_BYTES;
    static constexpr int STAGING = WIDE + CHUNKS * WIDE_BYTES;
    static constexpr int BARRIERS = STAGING + 2 * STAGING_GROUP_BYTES;
    static constexpr int LEFT_BARRIERS = BARRIERS + 24 * CHUNKS + 16 * TILES;
    static constexpr int SHARED_BYTES = LEFT_BARRIERS + (HALVED ? 24 : 0);

    static_assert(TOKENS % (8 * SHARE) == 0 && TOKENS >= 8 * SHARE && TOKENS <= 256, "TOKENS");
    static_assert(MATRICES == 1 || (MATRICES == 2 && WEIGHT_LAYOUT == SCALES_LINEAR), "tiles of scales hold 128 rows");
    static_assert(TILES >= CHUNK && TILES < 2 * CHUNK && CHUNKS >= 2, "one warpgroup may be a chunk ahead, not two");
    static_assert(!HALVED || (!WHOLE && TOKENS % 16 == 0), "halves of tokens are whole eights");
    static_assert(SHARED_BYTES <= 226 * 1024, "shared memory of a block, less the alignment");
};

template <class S>
struct DecodeStages {
    u32 base;  // 1024-byte aligned

    __device__ __forceinline__ u32 tile(u32 i) const { return base + S::TILE + i * S::TILE_BYTES; }
    __device__ __forceinline__ u32 codes(u32 i) const { return base + S::CODES + i * WEIGHT_CODES_BYTES; }
    __device__ __forceinline__ u32 scales(u32 i) const { return base + S::SCALES + i * WEIGHT_SCALES_BYTES; }
    __device__ __forceinline__ u32 wide(u32 i) const { return base + S::WIDE + i * S::WIDE_BYTES; }
    __device__ __forceinline__ u32 staging(u32 group) const { return base + S::STAGING + group * STAGING_GROUP_BYTES; }
    __device__ __forceinline__ u32 raw_full(u32 i) const { return base + S::BARRIERS + 8 * i; }
    __device__ __forceinline__ u32 wide_full(u32 i) const { return raw_full(S::CHUNKS + i); }
    __device__ __forceinline__ u32 raw_empty(u32 i) const { return raw_full(2 * S::CHUNKS + i); }
    __device__ __forceinline__ u32 tile_full(u32 i) const { return raw_full(3 * S::CHUNKS + i); }
    __device__ __forceinline__ u32 tile_empty(u32 i) const { return tile_full(S::TILES + i); }
    // HALVED: the sums of one warpgroup have left; those of half of the tokens that another block has left are here.
    __device__ __forceinline__ u32 left() const { return base + S::LEFT_BARRIERS; }
    __device__ __forceinline__ u32 part_full(u32 half) const { return left() + 8 + 8 * half; }

    // By one thread, before the roles part.
    __device__ __forceinline__ void init() const {
        for (u32 i = 0; i < S::CHUNKS; ++i) {
            mbarrier_init_shared_b64(raw_full(i), 1);
            mbarrier_init_shared_b64(wide_full(i), S::WIDENERS);
            mbarrier_init_shared_b64(raw_empty(i), S::MULTIPLY_WARPS);
        }
        for (u32 i = 0; i < S::TILES; ++i) {
            mbarrier_init_shared_b64(tile_full(i), 1);
            mbarrier_init_shared_b64(tile_empty(i), S::MULTIPLY_WARPS * S::SHARE);
        }
        if constexpr (S::HALVED) {
            mbarrier_init_shared_b64(left(), S::MULTIPLY_WARPS / 2);
            for (u32 half = 0; half < 2; ++half) mbarrier_init_shared_b64(part_full(half), 1);
        }
        fence_mbarrier_init_release_cluster();
    }
};

// This block's place among its neighbours.
template <class S>
__device__ __forceinline__ u32 place_in_cluster() {
    return S::SHARE == 1 ? 0 : cluster_ctarank();
}

// The weights, as they lie in device memory.
template <int MATRICES>
struct DecodeSource {
    const TensorMap* codes[MATRICES];   // u8 [batch, rows, K/2], boxes of 128 bytes x ROWS
    const TensorMap* scales[MATRICES];  // linear ones: u8 [batch, rows, K/16], boxes of 16 bytes x ROWS
    const u8* tiled[MATRICES];          // tiled ones
    int rows, units;                    // of a matrix; of K
};

// A chunk of codes and scales into the ring. One thread.
template <class S, class Place>
__device__ __forceinline__ void load_raw(const DecodeStages<S>& stages, u32 stage, const DecodeSource<S::MATRICES>& source,
                                         const Place& place) {
    const u32 full = stages.raw_full(stage);
    const DecodeItem& item = place.item;
    mbarrier_arrive_expect_tx_shared_b64(full, WEIGHT_CODES_BYTES + WEIGHT_SCALES_BYTES);
#pragma unroll
    for (int i = 0; i < S::MATRICES; ++i) {
        cp_async_bulk_tensor_3d_shared_global_mbarrier(stages.codes(stage) + i * (WEIGHT_CODES_BYTES / S::MATRICES), source.codes[i],
                                                       place.chunk * CHUNK_ROW_BYTES, item.row, item.batch, full);
        const u32 to = stages.scales(stage) + i * (WEIGHT_SCALES_BYTES / S::MATRICES);
        if constexpr (S::WEIGHT_LAYOUT == SCALES_LINEAR) {
            cp_async_bulk_tensor_3d_shared_global_mbarrier(to, source.scales[i], place.chunk * CHUNK * 4, item.row, item.batch, full);
        } else {
            load_tiled_scales(to, {source.tiled[i], source.rows, source.units}, item.batch, item.row, place.chunk * CHUNK, full);
        }
    }
}

// The first chunks, as many as there is room for. One thread.
template <class S, class Describe>
__device__ __forceinline__ void load_first_raw(const DecodeStages<S>& stages, const DecodeWork& work,
                                               const DecodeSource<S::MATRICES>& source, Describe describe) {
    DecodeCursor<S::WHOLE, Describe> place(work, describe);
#pragma unroll 1
    for (u32 i = 0; i < S::CHUNKS && place.more(); ++i, place.advance()) load_raw(stages, i, source, place);
}

// All others. One thread.
template <class S, class Describe>
__device__ __forceinline__ void load_more_raw(const DecodeStages<S>& stages, const DecodeWork& work,
                                              const DecodeSource<S::MATRICES>& source, Describe describe) {
    DecodeCursor<S::WHOLE, Describe> place(work, describe);
#pragma unroll 1
    for (u32 i = 0; i < S::CHUNKS && place.more(); ++i) place.advance();
    Ring<S::CHUNKS> raw{0, 0};
#pragma unroll 1
    for (; place.more(); place.advance(), raw.advance()) {
        wait_barrier(stages.raw_empty(raw.index), raw.parity);
        load_raw(stages, raw.index, source, place);
    }
}

// Scales of all chunks to 16 bits, [unit][row][4], by S::WIDENERS warps, number `widener`. Each is needed by the four lanes that multiply parts of
// its row.
template <class S>
__device__ __forceinline__ void widen_scales(const DecodeStages<S>& stages, const DecodeWork& work, u32 widener) {
    const u32 lane = threadIdx.x % 32;
    Ring<S::CHUNKS> raw{0, 0};
#pragma unroll 1
    for (DecodePlace<S::WHOLE> place(work); place.more(); place.advance(), raw.advance()) {
        wait_barrier(stages.raw_full(raw.index), raw.parity);
        const u32 from = stages.scales(raw.index), to = stages.wide(raw.index);
#pragma unroll 1
        for (u32 i = 0; i < WEIGHT_ROWS; i += 32 * S::WIDENERS) {
            const u32 row = i + widener * 32 + lane;
#pragma unroll
            for (u32 unit = 0; unit < CHUNK; ++unit) {
                const u32 four =
                    ld_shared_b32(from + chunk_scale_offset<S::WEIGHT_LAYOUT>(row) + unit * CHUNK_SCALE_STEP_UNIT<S::WEIGHT_LAYOUT>);
                st_shared_v2_b32(to + unit * S::UNIT_WIDE_BYTES + row * 8, widen_four_scales<S::BF16>(four));
            }
        }
        __syncwarp();
        if (lane == 0) mbarrier_arrive_shared_b64(stages.wide_full(raw.index));
    }
}

// Returns when all blocks of the cluster are done with this one's tiles: a block must not leave while a neighbour still arrives at its
// barriers, and HALVED the ring is used once more. `tile` is the next that would be loaded, as soon as its barrier has completed that phase. One thread.
template <class S>
__device__ __forceinline__ void await_releases(const DecodeStages<S>& stages, Ring<S::TILES> tile) {
    if constexpr (S::SHARE == 1 && !S::HALVED) return;
#pragma unroll 1
    for (u32 i = 0; i < S::TILES; ++i, tile.advance()) wait_barrier(stages.tile_empty(tile.index), tile.parity);
}

// All tiles of activations: of each this block's slice, to all neighbours, and the expectation of all slices here. One thread.
template <class S, class Describe>
__device__ __forceinline__ void load_tiles(const DecodeStages<S>& stages, const DecodeWork& work, const TensorMap* map, Describe describe) {
    const u32 own = place_in_cluster<S>() * S::SLICE;
    Ring<S::TILES> tile{0, 1};  // the first time all places are free
#pragma unroll 1
    for (DecodeCursor<S::WHOLE, Describe> place(work, describe); place.more(); place.advance()) {
        const int token = place.item.token + static_cast<int>(own);
#pragma unroll 1
        for (int unit = place.chunk * CHUNK; unit < (place.chunk + 1) * CHUNK; ++unit, tile.advance()) {
            wait_barrier(stages.tile_empty(tile.index), tile.parity);
            const u32 full = stages.tile_full(tile.index), to = stages.tile(tile.index) + own * 128;
            mbarrier_arrive_expect_tx_shared_b64(full, S::TILE_BYTES);
            if constexpr (S::SHARE == 1) {
                cp_async_bulk_tensor_3d_shared_global_mbarrier(to, map, unit * UNIT, token, place.item.batch, full);
            } else {
                cp_async_bulk_tensor_3d_multicast(to, map, unit * UNIT, token, place.item.batch, full, (1u << S::SHARE) - 1);
            }
        }
    }
    await_releases(stages, tile);
}
