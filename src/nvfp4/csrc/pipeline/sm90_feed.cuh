// The roles of the Hopper kernel that decodes weights into shared memory, and the shared memory between them.
//
//   warpgroups 0, 1   multiply: both factors of every instruction lie in shared memory
//   one to three      feed: decode weights to 16-bit values in shared memory, one group a unit, in turn; a thread of theirs brings
//                     codes and scales
//   a last warp       brings activations; where registers leave no room for it, a thread of the first group does
//
// Activations are read as they lie in memory, in the order of K that they have there. So nothing is made of them beforehand, and a tile
// may be as wide as an instruction, 256 tokens: each weight is decoded once for all of them, which leaves the schedulers and the
// register file to the matrix unit. The other family (pipeline/sm90_roles.cuh) decodes in the warps that multiply, in an order of K of
// its own.
//
// A cluster has SHARE blocks with the same tokens and K, and rows of weights of their own: each brings its part of a tile of activations
// to all of them. Clusters take whole tiles in turn, or share the work of all tiles evenly (pipeline/stream_k.cuh), or take whole tiles as
// long as there are enough for all and share the rest.
//
// Three rings of shared memory, with a barrier that says full and one that says empty for each place. A unit is 64 elements along K, a
// chunk 4 units.
//   raw       of a chunk: codes and scales, as they come      full: copy engine -> feeders       empty: feeders -> the loader
//   weights   of a unit: [128, 128 bytes], decoded            full: feeders -> multipliers       empty: multipliers -> feeders
//   tiles     of a unit: [TOKENS, 128 bytes], activations     full: copy engine -> multipliers   empty: multipliers of all SHARE blocks
//                                                                                                       -> the loader
#pragma once

#include "decode/memory_order.cuh"
#include "epilogue/tile_store.cuh"
#include "mma/wgmma_shared.cuh"
#include "pipeline/sm90_scales.cuh"
#include "pipeline/stream_k_loop.cuh"
#include "ptx/barrier_cluster.cuh"
#include "ptx/cp_async_bulk_tensor_multicast.cuh"
#include "ptx/fence.cuh"
#include "ptx/griddepcontrol.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/mbarrier_cluster.cuh"
#include "ptx/setmaxnreg.cuh"

template <int TOKENS_, int MATRICES_, int SHARE_, bool WHOLE_, int WEIGHTS_, int TILES_, int CHUNKS_, bool BF16_, int WEIGHT_LAYOUT_>
struct FeedShape {
    static constexpr int TOKENS = TOKENS_, MATRICES = MATRICES_, SHARE = SHARE_;
    static constexpr bool WHOLE = WHOLE_;  // tiles, dealt out in turn; else the last of them, or all, are shared evenly
    static constexpr int WEIGHTS = WEIGHTS_, TILES = TILES_, CHUNKS = CHUNKS_;  // of the rings
    static constexpr int WEIGHT_LAYOUT = WEIGHT_LAYOUT_;
    static constexpr bool BF16 = BF16_;
    // The product is the accumulator times FACTOR, a power of two.
    static constexpr float FACTOR = 1u << -(BF16 ? DECODED_EXPONENT_BF16 : DECODED_EXPONENT_F16);

    // Instructions of more columns are compiled only for blocks that start with more registers a thread: of 384 threads.
    static constexpr bool NARROW = TOKENS <= 128;
    static constexpr int MULTIPLIERS = 256, FEED_GROUPS = TOKENS <= 64 ? 3 : NARROW ? 2 : 1, FEEDERS = 128 * FEED_GROUPS;
    static constexpr int LOADER = MULTIPLIERS + FEEDERS, THREADS = LOADER + (NARROW ? 32 : 0);
    static constexpr int MULTIPLY_WARPS = MULTIPLIERS / 32, FEED_WARPS = FEEDERS / 32;
    // Of a thread: 672 threads start with 80 each, 544 with 96, of which the last warp keeps its own; 384 with 168.
    static constexpr int MULTIPLY_REGISTERS = FEED_GROUPS == 3 ? 88 : NARROW ? 120 : 200, FEED_REGISTERS = NARROW ? 72 : 104;
    static constexpr bool EARLY_RELEASE = TOKENS >= 128;  // half a unit keeps the matrix unit busy for long enough

    static constexpr int ROWS = WEIGHT_ROWS / MATRICES;  // of a matrix, in a tile
    static constexpr int SLICE = TOKENS / SHARE;         // tokens of a tile that a block brings
    static constexpr int DECODED_BYTES = WEIGHT_ROWS * 128;
    static constexpr int TILE_BYTES = TOKENS * 128;
    static constexpr int STAGED = NARROW ? STAGING_TOKENS : STAGING_TOKENS / 2;  // tokens on their way out, of a warpgroup
    static constexpr int STAGING_GROUP = STAGED * 128;                           // bytes

    static constexpr int TILE = 0;
    static constexpr int DECODED = TILE + TILES * TILE_BYTES;
    static constexpr int CODES = DECODED + WEIGHTS * DECODED_BYTES;
    static constexpr int SCALES = CODES + CHUNKS * WEIGHT_CODES_BYTES;
    static constexpr int STAGING = SCALES + CHUNKS * WEIGHT_SCALES_BYTES;
    static constexpr int BARRIERS = STAGING + 2 * STAGING_GROUP;
    static constexpr int SHARED_BYTES = BARRIERS + 16 * (CHUNKS + WEIGHTS + TILES);

    static_assert(TOKENS % (8 * SHARE) == 0 && TOKENS >= 8 * SHARE && TOKENS <= 256, "TOKENS");
    static_assert(MATRICES == 1 || (MATRICES == 2 && WEIGHT_LAYOUT == SCALES_LINEAR), "tiles of scales hold 128 rows");
    static_assert(WEIGHTS >= 2 && WEIGHTS % FEED_GROUPS == 0 && TILES >= 2 && CHUNKS >= 2, "rings");
    static_assert(SHARED_BYTES <= 226 * 1024, "shared memory of a block, less the alignment");
};

template <class S>
struct FeedStages {
    u32 base;  // 1024-byte aligned

    __device__ __forceinline__ u32 tile(u32 i) const { return base + S::TILE + i * S::TILE_BYTES; }
    __device__ __forceinline__ u32 decoded(u32 i) const { return base + S::DECODED + i * S::DECODED_BYTES; }
    __device__ __forceinline__ u32 codes(u32 i) const { return base + S::CODES + i * WEIGHT_CODES_BYTES; }
    __device__ __forceinline__ u32 scales(u32 i) const { return base + S::SCALES + i * WEIGHT_SCALES_BYTES; }
    __device__ __forceinline__ u32 staging(u32 group) const { return base + S::STAGING + group * S::STAGING_GROUP; }
    __device__ __forceinline__ u32 raw_full(u32 i) const { return base + S::BARRIERS + 8 * i; }
    __device__ __forceinline__ u32 raw_empty(u32 i) const { return raw_full(S::CHUNKS + i); }
    __device__ __forceinline__ u32 weights_full(u32 i) const { return raw_full(2 * S::CHUNKS + i); }
    __device__ __forceinline__ u32 weights_empty(u32 i) const { return weights_full(S::WEIGHTS + i); }
    __device__ __forceinline__ u32 tile_full(u32 i) const { return weights_full(2 * S::WEIGHTS + i); }
    __device__ __forceinline__ u32 tile_empty(u32 i) const { return tile_full(S::TILES + i); }

    // By one thread, before the roles part.
    __device__ __forceinline__ void init() const {
        for (u32 i = 0; i < S::CHUNKS; ++i) {
            mbarrier_init_shared_b64(raw_full(i), 1);
            mbarrier_init_shared_b64(raw_empty(i), S::FEED_WARPS);
        }
        for (u32 i = 0; i < S::WEIGHTS; ++i) {
            mbarrier_init_shared_b64(weights_full(i), 4);
            mbarrier_init_shared_b64(weights_empty(i), S::MULTIPLY_WARPS);
        }
        for (u32 i = 0; i < S::TILES; ++i) {
            mbarrier_init_shared_b64(tile_full(i), 1);
            mbarrier_init_shared_b64(tile_empty(i), S::MULTIPLY_WARPS * S::SHARE);
        }
        fence_mbarrier_init_release_cluster();
    }
};

// This block's place among its neighbours.
template <class S>
__device__ __forceinline__ u32 place_in_cluster() {
    return S::SHARE == 1 ? 0 : cluster_ctarank();
}

// A place in a ring, and the parity of the phase that its barrier completes next.
template <u32 COUNT>
struct Turn {
    u32 place, parity;

    __device__ __forceinline__ void next() {
        if (++place == COUNT) {
            place = 0;
            parity ^= 1;
        }
    }
};

// What a cluster computes: tiles `tile`, `tile` + `step`, ... below `whole`; then chunks [position, last), counted over all tiles, the first of
// which is of tile `shared`. A tile has `chunks` chunks, `units` units.
struct FeedWork {
    int chunks, units;
    int tile, step, whole;
    int shared, position, last;
};

// A place in that: a unit of a tile. With WHOLE there are no shared tiles.
template <bool WHOLE>
struct FeedPlace {
    const FeedWork& work;
    int tile, unit, until;  // units of this tile

    __device__ __forceinline__ FeedPlace(const FeedWork& w) : work(w), tile(w.tile), unit(0) { enter(true); }

    // A tile; after one of those that are taken in turn, or the first.
    __device__ __forceinline__ void enter(bool in_turn) {
        if constexpr (WHOLE) {
            until = tile < work.whole ? work.units : 0;
        } else if (in_turn && tile < work.whole) {
            until = work.units;
        } else {
            if (in_turn) {
                tile = work.shared;
                unit = (work.position - tile * work.chunks) * CHUNK;
            }
            until = least(work.units, (work.last - tile * work.chunks) * CHUNK);
        }
    }
    __device__ __forceinline__ bool more() const { return unit < until; }

    // Whether that leads to another tile.
    __device__ __forceinline__ bool advance(int units) {
        unit += units;
        if (unit < until) return false;
        unit = 0;
        const bool in_turn = WHOLE || tile < work.whole;
        tile += in_turn ? work.step : 1;
        enter(in_turn);
        return true;
    }
};

// What a tile is made of.
struct FeedItem {
    int row, token, batch;  // the block's first row of weights of each matrix, the first token
};

// A place, and what `describe` says of its tile. That takes divisions, so it is asked once a tile.
template <bool WHOLE, class Describe>
struct FeedCursor : FeedPlace<WHOLE> {
    Describe describe;
    FeedItem item;

    using Place = FeedPlace<WHOLE>;

    __device__ __forceinline__ FeedCursor(const FeedWork& work, Describe d) : Place(work), describe(d), item(d(this->tile)) {}
    __device__ __forceinline__ void advance(int units) {
        if (Place::advance(units) && this->more()) item = describe(this->tile);
    }
};

// The weights, as they lie in device memory.
template <int MATRICES>
struct FeedSource {
    const TensorMap* codes[MATRICES];   // u8 [batch, rows, K/2], boxes of 128 bytes x ROWS
    const TensorMap* scales[MATRICES];  // linear ones: u8 [batch, rows, K/16], boxes of 16 bytes x ROWS
    const u8* tiled[MATRICES];          // tiled ones
    int rows, units;                    // of a matrix; of K
};

// A chunk of codes and scales into the ring. One thread.
template <class S, class Place>
__device__ __forceinline__ void load_raw(const FeedStages<S>& stages, u32 stage, const FeedSource<S::MATRICES>& source, const Place& place) {
    const u32 full = stages.raw_full(stage);
    const FeedItem& item = place.item;
    mbarrier_arrive_expect_tx_shared_b64(full, WEIGHT_CODES_BYTES + WEIGHT_SCALES_BYTES);
#pragma unroll
    for (int i = 0; i < S::MATRICES; ++i) {
        cp_async_bulk_tensor_3d_shared_global_mbarrier(stages.codes(stage) + i * (WEIGHT_CODES_BYTES / S::MATRICES), source.codes[i],
                                                       place.unit * UNIT_BYTES, item.row, item.batch, full);
        const u32 to = stages.scales(stage) + i * (WEIGHT_SCALES_BYTES / S::MATRICES);
        if constexpr (S::WEIGHT_LAYOUT == SCALES_LINEAR) {
            cp_async_bulk_tensor_3d_shared_global_mbarrier(to, source.scales[i], place.unit * 4, item.row, item.batch, full);
        } else {
            load_tiled_scales(to, {source.tiled[i], source.rows, source.units}, item.batch, item.row, place.unit, full);
        }
    }
}

// This block's slice of a unit's activations, to all neighbours, and the expectation of all slices here. One thread.
template <class S, class Place>
__device__ __forceinline__ void load_tile(const FeedStages<S>& stages, u32 stage, const TensorMap* map, const Place& place) {
    const u32 own = place_in_cluster<S>() * S::SLICE;
    const u32 full = stages.tile_full(stage), to = stages.tile(stage) + own * 128;
    const int token = place.item.token + static_cast<int>(own);
    mbarrier_arrive_expect_tx_shared_b64(full, S::TILE_BYTES);
    if constexpr (S::SHARE == 1) {
        cp_async_bulk_tensor_3d_shared_global_mbarrier(to, map, place.unit * UNIT, token, place.item.batch, full);
    } else {
        cp_async_bulk_tensor_3d_multicast(to, map, place.unit * UNIT, token, place.item.batch, full, (1u << S::SHARE) - 1);
    }
}

// The feeders' loop. A thread decodes a row of every unit that is its group's.
template <class S, class Describe>
__device__ __forceinline__ void feed(const FeedStages<S>& stages, const FeedWork& work, const FeedSource<S::MATRICES>& source,
                                     Describe describe) {
    const u32 thread = threadIdx.x - S::MULTIPLIERS, group = thread / 128, row = thread % 128;
    const bool first_lane = thread % 32 == 0;
    // With two matrices, eight rows of each take turns, so that both products of an element are in the same thread of the multipliers.
    const u32 matrix = S::MATRICES == 1 ? 0 : row / 8 % 2;
    const u32 raw_row = S::MATRICES == 1 ? row : matrix * S::ROWS + row / 16 * 8 + row % 8;
    const u32 swizzle = row % 8 * 16;
    const u32 codes = stages.codes(0) + raw_row * CHUNK_ROW_BYTES;
    const u32 scales = stages.scales(0) + chunk_scale_offset<S::WEIGHT_LAYOUT>(raw_row);
    const u32 to = stages.decoded(0) + row * 128;

    FeedCursor<S::WHOLE, Describe> load(work, describe);  // what is loaded next, by the thread that does it
#pragma unroll 1
    for (u32 i = 0; i < S::CHUNKS; ++i) load.advance(CHUNK);
    u32 slot = group, slot_parity = 1;  // of decoded units; the first turn finds all slots free
    Turn<S::CHUNKS> raw{0, 0};
    u32 next = group;                   // units until the group's next one
    bool first_chunk = true;
#pragma unroll 1
    for (FeedPlace<S::WHOLE> place(work); place.more(); place.advance(CHUNK)) {
        if (thread == 32) {
            // The chunk before has been read by all, or nearly.
            if (!first_chunk && load.more()) {
                const u32 before = raw.place == 0 ? S::CHUNKS - 1 : raw.place - 1;
                wait_barrier(stages.raw_empty(before), raw.place == 0 ? raw.parity ^ 1 : raw.parity);
                load_raw(stages, before, source, load);
                load.advance(CHUNK);
            }
            first_chunk = false;
        }
        __syncwarp();
        wait_barrier(stages.raw_full(raw.place), raw.parity);
        const u32 units = min(CHUNK, place.until - place.unit);
#pragma unroll 1
        for (; next < units; next += S::FEED_GROUPS) {
            const u32 from = codes + raw.place * WEIGHT_CODES_BYTES;
            const u32 scale = ld_shared_b32(scales + raw.place * WEIGHT_SCALES_BYTES + next * CHUNK_SCALE_STEP_UNIT<S::WEIGHT_LAYOUT>);
            u32x4 values[2][4];
#pragma unroll
            for (u32 half = 0; half < 2; ++half) {
                const u32x4 raw_codes = ld_shared_v4_b32(from + chunk_offset(next, half, swizzle));
                decode_two_blocks<S::BF16>(values[half], raw_codes, scale >> 16 * half);
            }
            wait_barrier(stages.weights_empty(slot), slot_parity);
            const u32 there = to + slot * S::DECODED_BYTES;
#pragma unroll
            for (u32 i = 0; i < 8; ++i) st_shared_v4_b32(there + (i * 16 ^ swizzle), values[i / 4][i % 4]);
            fence_proxy_async_shared_cta();
            __syncwarp();
            if (first_lane) mbarrier_arrive_shared_b64(stages.weights_full(slot));
            slot += S::FEED_GROUPS;
            if (slot >= S::WEIGHTS) {
                slot -= S::WEIGHTS;
                slot_parity ^= 1;
            }
        }
        next -= units;
        __syncwarp();
        if (first_lane) mbarrier_arrive_shared_b64(stages.raw_empty(raw.place));
        raw.next();
    }
}

// The first chunks, as many as there is room for. One thread.
template <class S, class Describe>
__device__ __forceinline__ void load_first_raw(const FeedStages<S>& stages, const FeedWork& work, const FeedSource<S::MATRICES>& source,
                                               Describe describe) {
    FeedCursor<S::WHOLE, Describe> place(work, describe);
#pragma unroll 1
    for (u32 i = 0; i < S::CHUNKS && place.more(); ++i, place.advance(CHUNK)) load_raw(stages, i, source, place);
}

// Returns when all blocks of the cluster are done with this one's tiles: a block must not leave while a neighbour still arrives at its
// barriers. `tile` is the next that would be loaded, as soon as its barrier has completed that phase. One thread.
template <class S>
__device__ __forceinline__ void await_releases(const FeedStages<S>& stages, Turn<S::TILES> tile) {
    if constexpr (S::SHARE == 1) return;
#pragma unroll 1
    for (u32 i = 0; i < S::TILES; ++i, tile.next()) wait_barrier(stages.tile_empty(tile.place), tile.parity);
}

// One multiplier warpgroup's way through the rings. Of wide tiles thread 0 of the block brings the activations.
template <class S, class Describe>
struct SharedMultiplier {
    const FeedStages<S>& stages;
    const FeedWork& work;
    const TensorMap* activations;
    FeedCursor<S::WHOLE, Describe> next;  // tile to be loaded
    u32 weights, tiles;                   // of the first ones (wgmma_descriptor_at)
    u32 tile_empty;                       // the first of the barriers that this lane arrives at: of neighbour `lane`
    Turn<S::WEIGHTS> slot{0, 0};
    Turn<S::TILES> tile{0, 0};
    int chunks = 0;

    __device__ __forceinline__ SharedMultiplier(const FeedStages<S>& s, const FeedWork& w, const TensorMap* map,
                                                Describe describe, u32 group)
        : stages(s),
          work(w),
          activations(map),
          next(w, describe),
          weights(wgmma_descriptor_start(s.decoded(0) + group * 64 * 128)),
          tiles(wgmma_descriptor_start(s.tile(0))) {
        tile_empty = s.tile_empty(0);
        if constexpr (S::SHARE > 1) {
            tile_empty = mapa_shared_cluster_u32(tile_empty, min(threadIdx.x % 32, static_cast<u32>(S::SHARE) - 1));
        }
        if constexpr (!S::NARROW) {
#pragma unroll 1
            for (u32 i = 0; i < S::TILES && next.more(); ++i, next.advance(1)) {
                if (threadIdx.x == 0) load_tile(stages, i, activations, next);
                __syncwarp();
            }
        }
    }

    // The unit whose weights are in `with` and whose tile is `which` has been multiplied.
    __device__ __forceinline__ void release(u32 with, u32 which) const {
        const u32 lane = threadIdx.x % 32;
        if (lane == 0) mbarrier_arrive_shared_b64(stages.weights_empty(with));
        if (lane >= S::SHARE) return;
        if constexpr (S::SHARE == 1) {
            mbarrier_arrive_shared_b64(tile_empty + 8 * which);
        } else {
            mbarrier_arrive_shared_cluster_b64(tile_empty + 8 * which);
        }
    }

    // A new tile in the place of `which`, as soon as all are done with that. The whole first warp waits for it: a loop of one thread would
    // keep the compiler from knowing that the warp counts places as one, and all of them from uniform registers.
    __device__ __forceinline__ void refill(const Turn<S::TILES>& which) {
        if constexpr (S::NARROW) return;
        if (__any_sync(0xFFFFFFFFu, threadIdx.x == 0)) wait_barrier(stages.tile_empty(which.place), which.parity);
        if (next.more()) {
            if (threadIdx.x == 0) load_tile(stages, which.place, activations, next);
            __syncwarp();
            next.advance(1);
        }
    }

    // Behind all tiles (await_releases).
    __device__ __forceinline__ void finish() const {
        if constexpr (!S::NARROW) {
            if (threadIdx.x == 0) await_releases(stages, {tile.place, tile.parity ^ 1});
            __syncwarp();
        }
    }

    template <u32 FIRST, u32 LAST>
    __device__ __forceinline__ void multiply_steps(float (&sums)[S::TOKENS / 2], u32 a, u32 b) const {
#pragma unroll
        for (u32 step = FIRST; step < LAST; ++step) {
            wgmma_m64k16_shared<S::TOKENS, S::BF16>(sums, wgmma_descriptor_at(a, 2 * step), wgmma_descriptor_at(b, 2 * step));
        }
        wgmma_commit_group_sync_aligned();
    }

    // How many chunks so far.
    __device__ __forceinline__ int done() const { return chunks; }

    // The sums of a segment.
    template <int N>
    __device__ __forceinline__ void multiply(float (&all)[1][N / 2], const Segment& segment) {
        static_assert(N == S::TOKENS, "a whole tile");
        float(&sums)[N / 2] = all[0];
#pragma unroll
        for (int i = 0; i < N / 2; ++i) sums[i] = 0.0f;
        const int count = least(segment.end * CHUNK, work.units) - segment.begin * CHUNK;
        chunks += segment.end - segment.begin;
        u32 slot_before = 0;  // of the unit before
        Turn<S::TILES> tile_before{0, 0};
#pragma unroll 1
        for (int i = 0; i < count; ++i) {
            const u32 a = weights + slot.place * (S::DECODED_BYTES / 16);
            const u32 b = tiles + tile.place * (S::TILE_BYTES / 16);
            wait_barrier(stages.weights_full(slot.place), slot.parity);
            wait_barrier(stages.tile_full(tile.place), tile.parity);
            wgmma_fence_sync_aligned();
            // The unit before is waited for when the matrix unit has something of this one to do.
            multiply_steps<0, S::EARLY_RELEASE ? 2 : 4>(sums, a, b);
            wgmma_wait_group_sync_aligned<1>();
            if (i > 0) release(slot_before, tile_before.place);
            if constexpr (S::EARLY_RELEASE) {
                wgmma_fence_sync_aligned();
                multiply_steps<2, 4>(sums, a, b);
            }
            if (i > 0) refill(tile_before);
            slot_before = slot.place;
            tile_before = tile;
            slot.next();
            tile.next();
        }
        wgmma_wait_group_sync_aligned<0>();
        wgmma_results(sums);
        release(slot_before, tile_before.place);
        refill(tile_before);
    }
};

// The last warp's loop: one thread.
template <class S, class Describe>
__device__ __forceinline__ void load_tiles(const FeedStages<S>& stages, const FeedWork& work, const TensorMap* map, Describe describe) {
    Turn<S::TILES> tile{0, 1};  // the first time all places are free
#pragma unroll 1
    for (FeedCursor<S::WHOLE, Describe> place(work, describe); place.more(); place.advance(1), tile.next()) {
        wait_barrier(stages.tile_empty(tile.place), tile.parity);
        load_tile(stages, tile.place, map, place);
    }
    await_releases(stages, tile);
}

// What follows in a kernel once its barriers are there, and each thread of a cluster has arrived at the cluster's barrier: the roles.
// `store` is as for `multiply_and_store` (pipeline/stream_k_loop.cuh), with the warpgroup behind.
template <class S, bool EARLY_WEIGHTS, class Split, class Describe, class Store>
__device__ __forceinline__ void run_feed(const FeedStages<S>& stages, const FeedWork& work, Split split, const Workspace& workspace,
                                         const FeedSource<S::MATRICES>& source, const TensorMap* activations, Describe describe,
                                         Store store) {
    const u32 group = __shfl_sync(0xFFFFFFFFu, threadIdx.x / 128, 0);  // the same for the warp, as the compiler should know
    const auto await_neighbours = [] {
        if constexpr (S::SHARE > 1) barrier_cluster_wait_acquire();
    };
    if (group == S::LOADER / 128) {
        await_neighbours();
        if (EARLY_WEIGHTS) griddepcontrol_wait();
        if (threadIdx.x == S::LOADER) load_tiles(stages, work, activations, describe);
    } else if (group >= S::MULTIPLIERS / 128) {
        setmaxnreg_dec_sync_aligned<S::FEED_REGISTERS>();
        feed(stages, work, source, describe);
        __syncwarp();
        await_neighbours();
    } else {
        setmaxnreg_inc_sync_aligned<S::MULTIPLY_REGISTERS>();
        await_neighbours();
        if (EARLY_WEIGHTS) griddepcontrol_wait();
        griddepcontrol_launch_dependents();
        SharedMultiplier<S, Describe> multiplier(stages, work, activations, describe, group);
        const auto finish = [&](auto count, int tile, int from, int begin, int end, auto& sums) {
            store(count, tile, from, begin, end, sums[0], group);
        };
        if constexpr (S::WHOLE) {
#pragma unroll 1
            for (int tile = work.tile; tile < work.whole; tile += work.step) {
                float sums[1][S::TOKENS / 2];
                multiplier.template multiply<S::TOKENS>(sums, Segment{tile, 0, work.chunks});
                finish(Count<S::TOKENS>(), tile, 0, 0, S::TOKENS, sums);
            }
        } else {
            multiply_and_store<1, S::TOKENS, 0>(multiplier, split, workspace, static_cast<int>(group), finish);
        }
        multiplier.finish();
    }
    // Shared memory that a neighbour reaches for ends with its block: they leave together.
    if constexpr (S::SHARE > 1) {
        __syncwarp();
        barrier_cluster_arrive_relaxed();
        barrier_cluster_wait_acquire();
    }
}
