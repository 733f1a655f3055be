// The roles of the Hopper GEMM kernels. What lies between them in shared memory: pipeline/sm90_stages.cuh.
//
//   warpgroups 0, 1   decode weights to registers, multiply, finish: the multipliers
//   warpgroup 2       loads: a thread of its first warp tiles of activations (of NVFP4 that is decoded here the whole warp, with their
//                     scales), one of its second codes; its third warp linear scales.
//                     One warp would be slower than the multipliers, as each wait and each copy takes it a latency
//
// Activations are made to the operand by all blocks together before the roles part (pipeline/sm90_activations.cuh); where blocks have little
// to do, the multipliers of each make the tiles that it begins with once more, so that nobody waits for the others (BEGINS). Or by each
// block for itself, tile by tile (MAKES): they are loaded as they lie, and the third and fourth warp bring 16-bit values into order in place,
// or decode NVFP4, of which there is a ring of its own (pipeline/sm90_arrangers.cuh); the second warp loads linear scales, too.
//
// Segments are whole chunks, so that all positions within a chunk are constants; K is padded with zeros to its multiple.
//
// Each multiplier warpgroup owns 64 of the 128 rows of every weight block. A step is 64 rows x one unit, four instructions. While they
// run, the operand of the next step is decoded (two sets of registers take turns). A unit (of two blocks, N tokens) takes about
// 4.5 N + 1.32 I cycles, where I is what a scheduler's warps issue for it, or 8 N, whichever is more (measured): the matrix unit
// takes half of what the register file can deliver. So every instruction in this loop counts.
#pragma once

#include "decode/wgmma_operand.cuh"
#include "epilogue/tile_store.cuh"
#include "mma/wgmma.cuh"
#include "pipeline/listed_tiles.cuh"
#include "pipeline/sm90_activations.cuh"
#include "pipeline/sm90_arrangers.cuh"
#include "pipeline/sm90_couples.cuh"
#include "pipeline/sm90_helpers.cuh"
#include "pipeline/sm90_scales.cuh"
#include "pipeline/sm90_stages.cuh"
#include "pipeline/stream_k_loop.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/cp_async_bulk.cuh"
#include "ptx/cp_async_bulk_tensor.cuh"
#include "ptx/elect.cuh"
#include "ptx/fence.cuh"
#include "ptx/griddepcontrol.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/setmaxnreg.cuh"

// What a tile is made of.
template <int PARTS>
struct Operands {
    const TensorMap* weight_codes[PARTS];  // u8 [batch, rows, K/2], boxes of 128 x the rows of a part
    const u8* weight_scales[PARTS];        // of the matrix
    int weight_row[PARTS];                 // a multiple of these rows
    int weight_rows;                        // of the matrix
    int weight_batch;
    // To be loaded: 16-bit [batch, tokens, K], boxes of UNIT x TOKENS; and what a block decodes or begins with itself: the same, or u8
    // [batch, tokens, K/2], boxes of 128 x TOKENS.
    const TensorMap* activations;
    const TensorMap* raw;
    int token, activation_batch;  // first token of the tile
    int width;                    // its rows of activations, if not all tiles have the same
    Activations source;
    int units;  // K / 64
};

// The loops of every role: `operands(tile)` describes a tile; `work` deals out segments.

// What the copy engine brings of a chunk of weights: codes, and tiled scales. One thread.
template <class S>
__device__ __forceinline__ void load_weight_codes(const Stages<S>& stages, u32 stage, const Operands<S::PARTS>& o, int chunk) {
    const u32 full = stages.chunk_full(stage);
    constexpr bool TILED = S::WEIGHT_LAYOUT == SCALES_TILED;
    mbarrier_arrive_expect_tx_shared_b64(full, S::CODES_BYTES + (TILED ? S::SCALES_BYTES : 0));
#pragma unroll
    for (int b = 0; b < S::PARTS; ++b) {
        cp_async_bulk_tensor_3d_shared_global_mbarrier(stages.codes(stage) + b * S::PART_ROWS * CHUNK_ROW_BYTES, o.weight_codes[b],
                                                       chunk * CHUNK_ROW_BYTES, o.weight_row[b], o.weight_batch, full);
        if constexpr (TILED) {
            load_tiled_scales(stages.scales(stage) + b * WEIGHT_SCALES_BYTES, {o.weight_scales[b], o.weight_rows, o.units}, 0, o.weight_row[b],
                              chunk * CHUNK, full);
        }
    }
}

// Linear scales of a chunk of weights. A whole warp.
template <class S>
__device__ __forceinline__ void load_linear_scales(const Stages<S>& stages, u32 stage, const Operands<S::PARTS>& o, int chunk) {
    const u32 full = stages.chunk_full(stage), lane = threadIdx.x % 32;
    // 16 bytes of each row; or four times 4 where rows are not 16-byte aligned, or rows or units are not there.
    const i64 pitch = 4 * o.units;
    const bool whole = o.units % CHUNK == 0 && chunk * CHUNK < o.units;
#pragma unroll
    for (int b = 0; b < S::PARTS; ++b) {
        const int row = o.weight_row[b] + static_cast<int>(lane);
        const u8* from = o.weight_scales[b] + row * pitch + 16 * chunk;
        const u32 to = stages.scales(stage) + b * S::PART_ROWS * 16 + lane * 16;
        if (whole && o.weight_row[b] + S::PART_ROWS <= o.weight_rows) {
#pragma unroll
            for (int i = 0; i < S::PART_ROWS / 32; ++i) cp_async_cg_shared_global_16(to + i * 512, from + i * 32 * pitch, 16);
            continue;
        }
#pragma unroll 1
        for (int i = 0; i < S::PART_ROWS / 32; ++i) {
#pragma unroll 1
            for (int unit = 0; unit < CHUNK; ++unit) {
                const bool there = row + i * 32 < o.weight_rows && chunk * CHUNK + unit < o.units;
                const u8* piece = there ? from + i * 32 * pitch + 4 * unit : o.weight_scales[b];
                cp_async_ca_shared_global_4(to + i * 512 + 4 * unit, piece, there ? 4 : 0);
            }
        }
    }
    cp_async_mbarrier_arrive_noinc_shared_b64(full);
}

// Parts of weights, each of which a warp of its own may load: what the copy engine brings (`load_weight_codes`), and linear scales.
constexpr int PART_CODES = 1, PART_SCALES = 2, PART_ALL = PART_CODES | PART_SCALES;
constexpr u32 ALL_CHUNKS = 0xFFFFFFFFu;

// The block's chunks of weights from `first` to `end`, in turn, as there is room. A whole warp. `operands(tile)` describes a tile.
template <class S, int PARTS, class Work, class Describe>
__device__ __forceinline__ void load_weights(const Stages<S>& stages, Work work, Describe operands, u32 first, u32 end) {
    Position<S> place{first};
    work.position += static_cast<int>(first);
    Segment segment;
    while (work.next(segment)) {
        Operands<S::PARTS> o = operands(segment.tile);
        for (int chunk = segment.begin; chunk < segment.end; ++chunk, ++place.count) {
            if (place.count == end) return;
            // What follows from it is computed anew for each chunk, where registers are few.
            if constexpr (S::RESIDENT == 2) asm volatile("" : "+r"(o.units));
            const u32 stage = place.stage();
            // Of the last one codes of activations have to be read first.
            const bool waits = S::CODES_WAIT && stage == S::CHUNKS - 1;
            wait_barrier(stages.chunk_empty(stage), waits ? place.parity() : place.parity() ^ 1);
            const int along = work.along_k(chunk);
            if ((PARTS & PART_CODES) && threadIdx.x % 32 == 0) load_weight_codes(stages, stage, o, along);
            if ((PARTS & PART_SCALES) && S::WEIGHT_LAYOUT == SCALES_LINEAR) load_linear_scales(stages, stage, o, along);
        }
    }
}

// What the copy engine brings of `map` for a tile, of activations or of codes of a chunk of them: [TOKENS, 128 bytes] from column `first` on. Arrives
// at `full` for `bytes` of this and what follows, if any. One thread.
template <int PARTS>
__device__ __forceinline__ void load_rows(u32 to, u32 full, u32 bytes, const TensorMap* map, const Operands<PARTS>& o, int first) {
    if (bytes != 0) mbarrier_arrive_expect_tx_shared_b64(full, bytes);
    cp_async_bulk_tensor_3d_shared_global_mbarrier(to, map, first, o.token, o.activation_batch, full);
}

// Bytes of a tile of activations, and of its codes of a chunk.
template <class S>
__device__ __forceinline__ u32 tile_bytes(const Operands<S::PARTS>& o) {
    return S::VARIABLE ? static_cast<u32>(o.width) * 128 : S::TILE_BYTES;
}

// All tiles of activations but the `first` chunks' of the first segment, by one thread.
template <class S, class Work, class Describe>
__device__ __forceinline__ void load_tiles(const Stages<S>& stages, Work work, const Workspace& workspace, Describe operands, u32 first) {
    Position<S> place{first};
    Segment segment;
    while (work.next(segment)) {
        const Operands<S::PARTS> o = operands(segment.tile);
        for (int chunk = segment.begin + static_cast<int>(first); chunk < segment.end; ++chunk, ++place.count) {
#pragma unroll 1
            for (u32 u = 0; u < CHUNK; ++u) {
                const u32 tile = place.first_tile() + u;
                wait_barrier(stages.tile_empty(tile), place.tile_parity() ^ 1);
                load_rows(stages.tile(tile), stages.tile_here(tile), tile_bytes<S>(o), o.activations, o,
                          (work.along_k(chunk) * CHUNK + static_cast<int>(u)) * UNIT);
            }
        }
        first = 0;
        if constexpr (S::HELPED) {
            if (work.helps) continue;
            load_help(stages, place, helped_sums(workspace), segment.tile);
        }
    }
}

// A chunk of activations that are decoded here: codes, and scales; of 16-bit ones its tiles, as they lie, to where they are arranged, which is
// the first half of the ring or the second. A whole warp.
template <class S, int A_LAYOUT>
__device__ __forceinline__ void load_raw_chunk(const Stages<S>& stages, u32 stage, const Operands<S::PARTS>& o, int chunk) {
    const u32 full = stages.raw_full(stage);
    const bool one = threadIdx.x % 32 == 0;
    if constexpr (S::NVFP4) {
        if (one) load_rows(stages.raw_tile(stage), full, tile_bytes<S>(o), o.raw, o, chunk * CHUNK_ROW_BYTES);
        load_row_scales<S::TOKENS, A_LAYOUT>(stages.raw_scales(stage), o.source, o.activation_batch, o.token, chunk, full);
    } else if (one) {
        for (u32 u = 0; u < CHUNK; ++u) {
            load_rows(stages.tile(stage * CHUNK + u), full, u == 0 ? CHUNK * tile_bytes<S>(o) : 0, o.raw, o, (chunk * CHUNK + static_cast<int>(u)) * UNIT);
        }
    }
}

// All of them. A whole warp.
template <class S, int A_LAYOUT, class Work, class Describe>
__device__ __forceinline__ void load_raw(const Stages<S>& stages, Work work, Describe operands) {
    Position<S> place;
    Segment segment;
    while (work.next(segment)) {
        const Operands<S::PARTS> o = operands(segment.tile);
        for (int chunk = segment.begin; chunk < segment.end; ++chunk, ++place.count) {
            wait_barrier(stages.raw_empty(place.raw_stage()), place.raw_parity() ^ 1);
            load_raw_chunk<S, A_LAYOUT>(stages, place.raw_stage(), o, work.along_k(chunk));
        }
    }
}

// What an arranger has written is for the matrix unit. A whole warp.
__device__ __forceinline__ void publish_tile(u32 full) {
    fence_proxy_async_shared_cta();
    __syncwarp();
    if (threadIdx.x % 32 == 0) mbarrier_arrive_shared_b64(full);
}

// An arranger, number `arranger` of them: a whole warp.
template <class S, class Work>
__device__ __forceinline__ void arrange_tiles(const Stages<S>& stages, const Work& work, u32 arranger) {
    Position<S> place;
    for (const u32 chunks = work.last - work.position; place.count < chunks; ++place.count) {
#pragma unroll 1
        for (u32 u = arranger; u < CHUNK; u += S::ARRANGERS) {
            const u32 tile = place.first_tile() + u;
            wait_barrier(stages.tile_here(tile), place.tile_parity());
            arrange_tile<S::TOKENS>(stages.tile(tile));
            publish_tile(stages.tile_full(tile));
        }
    }
}

// The same of NVFP4: decodes its 32 rows of every tile, or of every TURNS-th.
template <class S, class Work>
__device__ __forceinline__ void decode_tiles(const Stages<S>& stages, const Work& work, u32 arranger) {
    const u32 row = arranger % S::DECODERS * 32 + threadIdx.x % 32, turn = arranger / S::DECODERS;
    const RowDecoder decoder(stages.tile(turn), stages.raw_tile(0), stages.raw_scales(0), row);
    Position<S> place;
#pragma unroll 1
    for (const u32 chunks = work.last - work.position; place.count < chunks; ++place.count) {
        const u32 stage = place.raw_stage();
        wait_barrier(stages.raw_full(stage), place.raw_parity());
#pragma unroll
        for (u32 i = 0; i < CHUNK; i += S::TURNS) {
            const u32 tile = place.first_tile() + i + turn;
            wait_barrier(stages.tile_empty(tile), place.tile_parity() ^ 1);
            if (S::TOKENS % 32 == 0 || row < S::TOKENS) {
                decoder.write(decoder.read(stage * S::TILE_BYTES, stage * S::RAW_SCALES_BYTES, i + turn), (place.first_tile() + i) * S::TILE_BYTES);
            }
            publish_tile(stages.tile_full(tile));
        }
        if (threadIdx.x % 32 == 0) mbarrier_arrive_shared_b64(stages.raw_empty(stage));
    }
}

// The tiles of the `begun` chunks that the block begins with, by the multipliers, before they have anything to multiply. Warp `warp` of them;
// `width` is that of the tiles.
template <class S>
__device__ __forceinline__ void begin_tiles(const Stages<S>& stages_of_block, u32 begun, u32 warp, u32 width) {
    // In parts: of 32 rows, one for each lane; or halves of tiles, which must be whole eights of rows, or steps of widths.
    constexpr u32 EACH = S::NVFP4 ? S::DECODERS : S::VARIABLE ? S::TOKENS / WIDTH_STEP : S::TOKENS % 16 == 0 ? 2 : 1;
    constexpr u32 PARTS = CHUNK * EACH, WARPS = 4 * S::MULTIPLIERS;
    // Kept in a register, which there are enough of yet: the compiler would find it anew for every part.
    Stages<S> stages = stages_of_block;
    asm volatile("" : "+r"(stages.base));
    const u32 always = warp % EACH;  // the part of its tile, if all parts of a warp are the same
    // Not unrolled: code that runs for the first time in a launch takes two to three cycles an instruction, as it has to be fetched.
#pragma unroll 1
    for (u32 part = warp; part < begun * PARTS; part += WARPS) {
        const u32 stage = part / PARTS, unit = part % PARTS / EACH, inside = WARPS % EACH == 0 ? always : part % EACH;
        wait_barrier(stages.raw_full(stage), 0);
        if constexpr (S::NVFP4) {
            const u32 row = inside * 32 + threadIdx.x % 32;
            if ((S::VARIABLE || S::TOKENS % 32 != 0) && row >= width) continue;
            const RowDecoder decoder(stages.tile(0), stages.raw_tile(0), stages.raw_scales(0), row);
            decoder.write(decoder.read(stages.raw_tile(stage) - stages.raw_tile(0), stage * S::RAW_SCALES_BYTES, unit), (stage * CHUNK + unit) * S::TILE_BYTES);
        } else {
            if (S::VARIABLE && inside * WIDTH_STEP >= width) continue;
            arrange_tile<S::TOKENS / EACH>(stages.tile(stage * CHUNK + unit) + inside * (S::TILE_BYTES / EACH));
        }
    }
    if constexpr (S::CODES_WAIT) {
        __syncwarp();
        if (elect_sync()) mbarrier_arrive_shared_b64(stages.chunk_empty(S::CHUNKS - 1));
    }
    fence_proxy_async_shared_cta();
    barrier_sync(1 + S::MULTIPLIERS, 128 * S::MULTIPLIERS);
    if (threadIdx.x < begun * CHUNK) mbarrier_arrive_shared_b64(stages.tile_full(threadIdx.x));
}

// One multiplier warpgroup's way through the rings.
template <class S>
struct Multiplier {
    static constexpr int STEPS = CHUNK * S::BLOCKS;  // of a chunk; even, so that the sets of registers are the same in every chunk
    // Descriptors are moved from tile to tile, four instructions a step, where there are registers for it. Else ptxas needs as many for their lower
    // halves, and now and then as many again for the upper ones.
    static constexpr bool MOVES = S::BLOCKS == 1;

    Stages<S> stages;
    Position<S> place;
    u32 codes, swizzle, scales;  // of this lane's row: addresses in the first chunk
    u32 descriptor;              // of the first tile (wgmma_descriptor_at)

    __device__ __forceinline__ explicit Multiplier(const Stages<S>& s) : stages(s) { aim(threadIdx.x); }

    // `thread` is the thread's number in the block. Warps follow one another, 16 rows each, or 8 of either half.
    __device__ __forceinline__ void aim(u32 thread) {
        const u32 lane = thread % 32, t = lane % 4, row = thread / 32 * (S::PAIRED ? 8 : 16) + lane / 4;
        codes = stages.codes(0) + row * CHUNK_ROW_BYTES;
        swizzle = RawWeights::code_swizzle(row, t);
        scales = stages.scales(0) + chunk_scale_offset<S::WEIGHT_LAYOUT>(row) + RawWeights::scale_shift(t);
        descriptor = wgmma_descriptor_start(stages.tile(0));
    }

    // What follows from the place in the rings, carried from chunk to chunk: the compiler would compute it anew for each step. That is better only
    // for addresses where registers are few.
    struct Cursor {
        u32 codes, scales;  // this lane's in the chunk
        u32 parity;         // of its tiles
        u64 tile[4];        // if it MOVES, the descriptors of the tile that is multiplied next
    };

    // To the chunk at `place`.
    __device__ __forceinline__ void next_chunk(Cursor& cursor) const {
        const bool wraps = place.stage() == 0;
        cursor.codes += wraps ? -(S::CHUNKS - 1) * S::CODES_BYTES : S::CODES_BYTES;
        cursor.scales += wraps ? -(S::CHUNKS - 1) * S::SCALES_BYTES : S::SCALES_BYTES;
    }

    __device__ __forceinline__ void read(RawWeights& raw, const Cursor& cursor, u32 stage, u32 step) const {
        const u32 unit = step / S::BLOCKS, block = step % S::BLOCKS;
        const u32 of_block = block * WEIGHT_CODES_BYTES, scales_of_block = block * WEIGHT_SCALES_BYTES;
        if constexpr (S::CROWDED) {
            raw.template load<S::WEIGHT_LAYOUT, S::APART>(codes + stage * S::CODES_BYTES + of_block + chunk_offset(unit, 0, swizzle),
                                                scales + stage * S::SCALES_BYTES + scales_of_block, unit);
        } else {  // rows of codes are aligned
            raw.template load<S::WEIGHT_LAYOUT, S::APART>((cursor.codes ^ chunk_offset(unit, 0, 0)) + of_block, cursor.scales + scales_of_block, unit);
        }
    }

    // The steps of a chunk, the `first` of a segment or not; its first tile is `first_tile`. If there are `more`, the first codes of the next
    // are read ahead.
    template <int N>
    __device__ __forceinline__ void multiply_chunk(float (&sums)[S::BLOCKS][N / 2], u32 (&a)[2][4][4], RawWeights& raw, Cursor& cursor,
                                                   u32 first_tile, bool first, bool more) {
        const u32 stage = place.stage();
        const u32 before = (first_tile + S::TILES - 1) % S::TILES, after = (first_tile + CHUNK) % S::TILES;
        const u32 tiles = descriptor + first_tile * (S::TILE_BYTES / 16);
        ++place.count;
#pragma unroll
        for (u32 step = 0; step < STEPS; ++step) {
            const u32 unit = step / S::BLOCKS, block = step % S::BLOCKS;
            u32(&now)[4][4] = a[step % 2];
            u32(&later)[4][4] = a[(step + 1) % 2];
            wgmma_fence_sync_aligned();
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                const u64 at = MOVES ? cursor.tile[i] : wgmma_descriptor_at(tiles, unit * (S::TILE_BYTES / 16) + 2 * i, wgmma_descriptor_high());
                wgmma_m64k16<N, S::BF16>(sums[block], now[i], at);
            }
            wgmma_commit_group_sync_aligned();
            if (MOVES) {
                const u32 next = unit + 1 < CHUNK ? first_tile + unit + 1 : after;
#pragma unroll
                for (u32 i = 0; i < 4; ++i) wgmma_descriptor_move(cursor.tile[i], (next - (first_tile + unit)) * (S::TILE_BYTES / 16));
            }
            // All waiting is done while these run, and shared memory is read a step ahead, so that the matrix unit's short queue
            // does not run dry meanwhile.
            if (step + 2 == STEPS && more) wait_barrier(stages.chunk_full(place.stage()), place.parity());
            if (block + 1 == S::BLOCKS) {
                if (step + 1 < STEPS) {
                    wait_barrier(stages.tile_full(first_tile + unit + 1), cursor.parity);
                } else {
                    cursor.parity ^= after == 0;
                    if (more) wait_barrier(stages.tile_full(after), cursor.parity);
                }
            }
            wgmma_wait_group_sync_aligned<1>();  // the step before: `later` is free, and its tile too if this one is new
            if (block == 0 && (unit > 0 || !first) && elect_sync()) {
                mbarrier_arrive_shared_b64(stages.tile_empty(unit > 0 ? first_tile + unit - 1 : before));
            }
            raw.template decode<0, S::BF16>(later[0]);
            raw.template decode<1, S::BF16>(later[1]);
            raw.template decode<2, S::BF16>(later[2]);
            raw.template decode<3, S::BF16>(later[3]);
            // The last codes of the chunk are in registers.
            if (step + 2 == STEPS) {
                __syncwarp();
                if (elect_sync()) mbarrier_arrive_shared_b64(stages.chunk_empty(stage));
            }
            if (!S::CROWDED && step + 2 == STEPS) next_chunk(cursor);
            if (step + 2 < STEPS) {
                read(raw, cursor, stage, step + 2);
            } else if (more) {  // else what is decoded next is old, and not used
                read(raw, cursor, place.stage(), step + 2 - STEPS);
            }
        }
    }

    // How many chunks so far.
    __device__ __forceinline__ int done() const { return static_cast<int>(place.count); }

    // sums = the product over a segment, for N tokens.
    template <int N>
    __device__ __forceinline__ void multiply(float (&sums)[S::BLOCKS][N / 2], const Segment& segment) {
        int chunks = segment.end - segment.begin;
        // Where registers are few, addresses are not kept while sums are handed over and stored.
        if constexpr (S::CROWDED) aim(thread_of_block());
#pragma unroll
        for (int b = 0; b < S::BLOCKS; ++b) {
#pragma unroll
            for (int i = 0; i < N / 2; ++i) sums[b][i] = 0.0f;
        }
        u32 a[2][4][4];
        RawWeights raw;  // of the step after next, until that is decoded
        Cursor cursor{codes + swizzle + place.stage() * S::CODES_BYTES, scales + place.stage() * S::SCALES_BYTES, place.tile_parity(), {}};
#pragma unroll
        for (u32 i = 0; i < 4 && MOVES; ++i) cursor.tile[i] = wgmma_descriptor_at(descriptor, place.first_tile() * (S::TILE_BYTES / 16) + 2 * i, wgmma_descriptor_high());
        wait_barrier(stages.chunk_full(place.stage()), place.parity());
        read(raw, cursor, place.stage(), 0);
        raw.template decode<0, S::BF16>(a[0][0]);
        raw.template decode<1, S::BF16>(a[0][1]);
        raw.template decode<2, S::BF16>(a[0][2]);
        raw.template decode<3, S::BF16>(a[0][3]);
        wait_barrier(stages.tile_full(place.first_tile()), place.tile_parity());
        read(raw, cursor, place.stage(), 1);
        bool first = true;
        // Where the first tile of a chunk is a constant, a step has an instruction less. But each place has code of its own then, which is too
        // much where each width has, too.
        if constexpr (S::VARIABLE) {
#pragma unroll 1
            while (chunks > 0) {
                multiply_chunk<N>(sums, a, raw, cursor, place.first_tile(), first, --chunks > 0);
                first = false;
            }
        } else {
            if (S::TILES != CHUNK && place.first_tile() != 0) {
                multiply_chunk<N>(sums, a, raw, cursor, S::TILES - CHUNK, first, --chunks > 0);
                first = false;
            }
#pragma unroll 1
            while (chunks > 0) {
                multiply_chunk<N>(sums, a, raw, cursor, 0, first, --chunks > 0);
                first = false;
                if (S::TILES == CHUNK) continue;
                if (chunks == 0) break;
                multiply_chunk<N>(sums, a, raw, cursor, S::TILES - CHUNK, false, --chunks > 0);
            }
        }
        wgmma_wait_group_sync_aligned<0>();
        if (elect_sync()) mbarrier_arrive_shared_b64(stages.tile_empty((place.first_tile() + S::TILES - 1) % S::TILES));
    }
};

template <class S>
struct SameWidth {
    __device__ __forceinline__ int operator()(int) const { return S::TOKENS; }
};

// Of tiles of many widths: `make(turn)` finds what is known of the block's entry `turn`, which `note(turn)` gives.
struct NoNotes {};

// A tile of `width` rows of activations, which are at least N, or a part of it. Each width has code of its own. `finish(constant N, segment, sums)`
// does the rest.
template <int N, class S, class Finish>
__device__ __forceinline__ void multiply_tile(Multiplier<S>& multiplier, const Segment& segment, int width, Finish finish) {
    if constexpr (N < S::TOKENS) {
        if (width > N) {
            multiply_tile<N + WIDTH_STEP>(multiplier, segment, width, finish);
            return;
        }
    }
    float sums[S::BLOCKS][N / 2];
    multiplier.template multiply<N>(sums, segment);
    finish(Count<N>(), segment, sums);
}

// Tiles of many widths, one after another: see `run_roles`. `note(turn)` is the TileNote of each (pipeline/listed_tiles.cuh).
template <class S, class Work, class Notes, class Store>
__device__ __forceinline__ void multiply_listed(Multiplier<S>& multiplier, Work work, const Workspace& workspace, u32 group, Notes note, Store store) {
    for (u32 turn = 0;; ++turn) {
        // The same for the warp, as the compiler should know.
        const u32 word = __shfl_sync(0xFFFFFFFFu, note(turn).word, 0);
        if (word == NO_ENTRY) break;
        const Segment segment = segment_of_entry(word, work().chunks);
        const bool whole = segment.end - segment.begin == work().chunks;
        const int width = __shfl_sync(0xFFFFFFFFu, note(turn).width(), 0);
        multiply_tile<S::NARROWEST>(multiplier, segment, width, [&](auto count, const Segment& part, auto& sums) {
            constexpr int N = decltype(count)::VALUE;
            const TileNote& noted = note(turn);
            if (!whole) {
                if (part.begin > 0) {
                    leave_for_owner<N>(multiplier.stages, workspace, place_of_entry(noted.word), turn, group, sums);
                    return;
                }
                fetch_help<N, S>(workspace, place_of_entry(noted.word), group, sums[0]);
            }
            store(count, noted, sums);
        });
    }
}

// Makes the barriers, which this block may use behind it; those of the other block of a couple are there when `run_roles` has waited.
template <class S>
__device__ __forceinline__ void begin_block(const Stages<S>& stages) {
    if (threadIdx.x == 0) stages.init();
    __syncthreads();
    if constexpr (S::COUPLED) barrier_cluster_arrive_relaxed();  // what there is to release is fenced
}

// What follows in a kernel once its barriers are there: the roles. `operands(tile)` describes a tile, `share` is this block's of making
// the operand of activations (pipeline/sm90_activations.cuh), `store` is as for `multiply_and_store` (pipeline/stream_k_loop.cuh),
// with the warpgroup behind; `width_of(tile)` are a tile's rows of activations. Of tiles of many widths `note(turn)` is what multipliers know, and what
// `store` is given in place of the tile.
template <class S, int A_LAYOUT, bool EARLY_WEIGHTS, class Work, class Describe, class Share, class Store, class Width = SameWidth<S>, class Notes = NoNotes>
__device__ __forceinline__ void run_roles(const Stages<S>& stages, Work work, const Workspace& workspace, Describe operands,
                                          const Share& share, Store store, Width width_of = {}, Notes note = {}) {
    // The same for the warp, as the compiler should know; not kept, where registers are few.
    const auto find_warp = [] { return __shfl_sync(0xFFFFFFFFu, threadIdx.x / 32, 0); };
    const u32 kept_warp = find_warp(), kept_role = kept_warp - S::LOADER / 32;
    const auto load = [&](u32 first, u32 end) {
        const u32 role = S::RESIDENT == 2 ? find_warp() - S::LOADER / 32 : kept_role;
        if constexpr (S::TOGETHER) {
            if (role == 1) load_weights<S, PART_CODES>(stages, work(), operands, first, end);
            if (role == 2 && S::WEIGHT_LAYOUT == SCALES_LINEAR) load_weights<S, PART_SCALES>(stages, work(), operands, first, end);
        } else {
            if (role == 1) load_weights<S, PART_ALL>(stages, work(), operands, first, end);
        }
    };
    // Chunks of weights, at most so many as there is room for at once; more would keep the first activations waiting.
    // A helper may have no more of its first tile.
    constexpr u32 FIRST = S::TOGETHER && !S::BEGINS && !S::HELPED ? S::CHUNKS : 1;
    if (EARLY_WEIGHTS) load(0, FIRST);
    if constexpr (S::TOGETHER) share.prefetch();
    // Read when the block has met at a barrier, behind its share.
    if constexpr (S::VARIABLE) {
        if (threadIdx.x <= NOTED) note.make(static_cast<int>(threadIdx.x));
    }
    Segment first{};
    Operands<S::PARTS> first_operands{};
    u32 begun = 0;  // chunks that the block begins with
    if constexpr (S::BEGINS || S::COUPLED) {
        auto all = work();
        if (all.next(first)) begun = static_cast<u32>(min(first.end - first.begin, S::BEGUN));
    }
    if (S::BEGINS && begun > 0 && kept_role == 0) first_operands = operands(first.tile);
    griddepcontrol_wait();
    griddepcontrol_launch_dependents();
    if constexpr (S::COUPLED) barrier_cluster_wait_acquire();  // the barriers of the other block are there
    if constexpr (S::BEGINS) {
#pragma unroll 1
        for (u32 i = 0; i < S::BEGUN; ++i) {
            if (i < begun && kept_role == 0) load_raw_chunk<S, A_LAYOUT>(stages, i, first_operands, work().along_k(first.begin + static_cast<int>(i)));
        }
    }
    if (!EARLY_WEIGHTS) load(0, FIRST);
    if constexpr (S::TOGETHER) share.write();
    const auto of_couples = couple_share<S>(work());
    if constexpr (S::TOGETHER) __syncthreads();
    if (threadIdx.x >= S::LOADER) {
        setmaxnreg_dec_sync_aligned<S::LOAD_REGISTERS>();
        // Behind that, as multipliers wait for the registers of all warps here.
        if (S::TOGETHER && threadIdx.x == S::THREADS - 1) share.arrive();
        const u32 role = S::RESIDENT == 2 ? find_warp() - S::LOADER / 32 : kept_role;
        if constexpr (S::DECODES) {
            if (role == 0) load_raw<S, A_LAYOUT>(stages, work(), operands);
            if (role >= 2) decode_tiles<S>(stages, work(), role - 2);
        } else if (threadIdx.x == S::LOADER) {
            if constexpr (S::TOGETHER) share.await();
            load_tiles<S>(stages, work(), workspace, operands, begun);
            if constexpr (S::TOGETHER) share.depart();
        } else if (role >= 2) {
            if constexpr (S::ARRANGES) arrange_tiles<S>(stages, work(), role - 2);
            if constexpr (S::LEAVES) {
                if (threadIdx.x == S::THREADS - 32) release_sums(stages, work(), S::HELPED ? helped_sums(workspace) : workspace);
            }
        }
        load(FIRST, ALL_CHUNKS);
    } else {
        setmaxnreg_inc_sync_aligned<S::MULTIPLY_REGISTERS>();
        const int group = static_cast<int>((S::RESIDENT == 2 ? find_warp() : kept_warp) / 4);
        Multiplier<S> multiplier(stages);
        if constexpr (S::BEGINS) begin_tiles(stages, begun, kept_warp, static_cast<u32>(width_of(first.tile)));
        if constexpr (S::COUPLED) {
            if (threadIdx.x == 0 && exchanges(work())) offer_room(stages, of_couples);
        }
        const auto multiply = [&](auto work_of_block) {
            multiply_and_store<S::BLOCKS, S::TOKENS, S::BLOCKS == 2 ? 2 : 3>(multiplier, work_of_block, workspace, group,
                                                     [&](auto count, int tile, int from, int begin, int end, auto& sum) {
                                                         store(count, tile, from, begin, end, sum, group);
                                                     });
        };
        if constexpr (S::HELPED) {
            multiply_helped<S>(multiplier, work, helped_sums(workspace), static_cast<u32>(group), [&](auto count, int tile, int from, int begin, int end, auto& sum) {
                store(count, tile, from, begin, end, sum, group);
            });
        } else if constexpr (S::COUPLED) {
            multiply_in_couple<S>(multiplier, first, of_couples, workspace, static_cast<u32>(group), [&](auto count, int tile, int from, int begin, int end, auto& sum) {
                store(count, tile, from, begin, end, sum, group);
            });
        } else if constexpr (S::VARIABLE) {
            multiply_listed(multiplier, work, workspace, static_cast<u32>(group), note, [&](auto count, const TileNote& noted, auto& sum) {
                store(count, noted, 0, 0, decltype(count)::VALUE, sum, group);
            });
        } else if constexpr (S::ROOMY) {
            const StreamK once = work();
            const DealtStreamK<1, true> kept(once.deal, once.chunks, 0xFFFFFFFFu / once.chunks + 1);
            multiply([&] { return kept; });
        } else {
            multiply(work);
        }
    }
}
