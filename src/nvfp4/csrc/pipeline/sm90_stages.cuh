// Shared memory of the Hopper GEMM kernels that decode weights to registers, and the barriers of its rings.
//
// Two rings of shared memory. A chunk is four units (256 elements along K) of weights: of each of the BLOCKS weight blocks 128 rows of
// codes and of scales. A tile is B of one unit: [TOKENS, 128 bytes] of 16-bit activations in the 128-byte swizzle. Barriers:
//
//   chunk_full, tile_full     loader -> multipliers     chunk_empty, tile_empty   multipliers -> loader
//
// Where tiles are arranged, the arrangers are between them: tile_here (loader -> arrangers), and tile_full is theirs. Where they
// decode, so is tile_empty, and raw_full and raw_empty are between them and the loader.
#pragma once

#include "decode/wgmma_operand.cuh"
#include "epilogue/tile_store.cuh"
#include "pipeline/sm90_activations.cuh"
#include "ptx/cp_async_bulk_tensor.cuh"
#include "ptx/fence.cuh"
#include "ptx/mbarrier.cuh"

constexpr int WIDTH_STEP = 16;  // of tiles, where they are not all of the same width

constexpr int ACTIVATIONS_NVFP4 = 0, ACTIVATIONS_FP16 = 1, ACTIVATIONS_BF16 = 2;

// RESIDENT blocks share a multiprocessor: one or, for few tokens, two, of which one hands over sums while the other multiplies.
template <int TOKENS_, int BLOCKS_, int CHUNKS_, int TILES_, int ACTIVATIONS_, int WEIGHT_LAYOUT_, bool MAKES_, bool BEGINS_, int RESIDENT_ = 1,
          int NARROWEST_ = TOKENS_, bool PAIRED_ = false, bool COUPLED_ = false, bool HELPED_ = false>
struct Shape {
    static constexpr int TOKENS = TOKENS_, BLOCKS = BLOCKS_, CHUNKS = CHUNKS_, TILES = TILES_;
    static constexpr int WEIGHT_LAYOUT = WEIGHT_LAYOUT_;
    static constexpr bool NVFP4 = ACTIVATIONS_ == ACTIVATIONS_NVFP4;  // activations; decoded to fp16
    static constexpr bool BF16 = ACTIVATIONS_ == ACTIVATIONS_BF16;
    // Tiles of activations are loaded from what all blocks have made together; or each block decodes its own, or arranges them.
    static constexpr bool TOGETHER = !MAKES_, DECODES = MAKES_ && NVFP4, ARRANGES = MAKES_ && !NVFP4;
    // All blocks make the operand together, but each makes the tiles of its first chunk itself, too, so that it need not wait for the others.
    static constexpr bool BEGINS = BEGINS_;
    static constexpr int RESIDENT = RESIDENT_;
    // Tiles have TOKENS rows of activations; or from NARROWEST on, in steps of WIDTH_STEP, as many as suit them.
    static constexpr int NARROWEST = NARROWEST_;
    static constexpr bool VARIABLE = NARROWEST < TOKENS;
    // Weights of a tile come in PARTS of PART_ROWS rows: its blocks; or, PAIRED, the halves of one, which are the same rows of two matrices. A lane
    // has two rows of a block, so far APART: then the two factors of each result.
    static constexpr bool PAIRED = PAIRED_;
    static constexpr int PARTS = PAIRED ? 2 : BLOCKS, PART_ROWS = PAIRED ? WEIGHT_ROWS / 2 : WEIGHT_ROWS, APART = PAIRED ? PART_ROWS : 8;
    // A cluster of two blocks multiplies a tile, each every other chunk of it, and each finishes half of its tokens (pipeline/sm90_couples.cuh).
    static constexpr bool COUPLED = COUPLED_;
    // Blocks that own no tile multiply a part of each (pipeline/sm90_helpers.cuh).
    static constexpr bool HELPED = HELPED_;
    // Of a warpgroup, and a block of weights, in the ring.
    static constexpr int HELP_TILES = COUPLED ? 1 : 2;
    // Couples, for which a chunk takes half as long as it is deep, begin with the tiles of two. NVFP4 codes of the second one lie where the last
    // stage of weights will be, whose loader waits for their readers.
    static constexpr int BEGUN = !BEGINS ? 0 : COUPLED && TILES == 2 * CHUNK ? 2 : 1;
    static constexpr bool CODES_WAIT = NVFP4 && BEGUN == 2;
    // The product is the accumulator times FACTOR, a power of two.
    static constexpr int EXPONENT = BF16 ? DECODED_EXPONENT_BF16 : (NVFP4 ? 2 : 1) * DECODED_EXPONENT_F16;
    static constexpr float FACTOR = 1u << -EXPONENT;

    static constexpr int MULTIPLIERS = 2;
    static constexpr int LOADER = 128 * MULTIPLIERS;  // its first thread
    static constexpr int THREADS = LOADER + 128;
    // Registers of a thread, dealt out anew after the launch: 504 over three warpgroups, or 240 of each of two blocks. Multipliers of narrow
    // tiles leave more to the loaders, some of which arrange or decode.
    static constexpr bool NARROW = RESIDENT == 1 && BLOCKS * TOKENS <= 128;
    static constexpr int LOAD_REGISTERS = RESIDENT == 2 ? 48 : VARIABLE ? 72 : NARROW ? 88 : 56;
    static constexpr int MULTIPLY_REGISTERS = RESIDENT == 2 ? 96 : VARIABLE ? 216 : NARROW ? 208 : 224;
    static constexpr int ARRANGERS = 2;  // warps
    // So many of them decode a tile, 32 rows each, and so many tiles at once.
    static constexpr int DECODERS = (TOKENS + 31) / 32, TURNS = DECODES ? ARRANGERS / DECODERS : 1;
    static constexpr int RAW = DECODES ? 2 : BEGUN;  // chunks of activations that are decoded, or begun with
    // Multipliers have registers to keep what is the same for many tiles, or hardly any beside sums and operands.
    static constexpr bool ROOMY = TOGETHER && RESIDENT == 1 && BLOCKS * TOKENS <= MANY_SUMS;
    static constexpr bool CROWDED = RESIDENT == 1 && BLOCKS * TOKENS > MANY_SUMS;

    static constexpr int TILE_BYTES = TOKENS * 128;
    static constexpr int CODES_BYTES = BLOCKS * WEIGHT_CODES_BYTES;
    static constexpr int SCALES_BYTES = BLOCKS * WEIGHT_SCALES_BYTES;
    // Results on their way out: of so many tokens at a time, and of a warpgroup.
    static constexpr int STAGED_TOKENS = RESIDENT == 2 ? TOKENS : TOKENS > 128 ? STAGING_TOKENS / 2 : STAGING_TOKENS;
    static constexpr int STAGED_BYTES = STAGED_TOKENS * 128;
    static constexpr int STAGING_BYTES = MULTIPLIERS * STAGED_BYTES;

    static constexpr int TILE = 0;
    static constexpr int CODES = TILE + TILES * TILE_BYTES + (DECODES ? RAW * TILE_BYTES : 0);
    static constexpr int STAGING = CODES + CHUNKS * CODES_BYTES;
    static constexpr int RAW_TILE = BEGINS ? STAGING : TILE + TILES * TILE_BYTES;  // codes of a chunk: [TOKENS, 128 bytes]
    static constexpr int SCALES = STAGING + STAGING_BYTES;
    static constexpr int RAW_SCALES_BYTES = TOKENS * CHUNK_SCALES;
    static constexpr int RAW_SCALES = SCALES + CHUNKS * SCALES_BYTES;
    static constexpr int BARRIERS = RAW_SCALES + (NVFP4 ? RAW * RAW_SCALES_BYTES : 0);
    static constexpr int SUMS_BARRIERS = BARRIERS + CHUNKS * 16 + TILES * 24 + RAW * 16;
    // What a warpgroup gets of the other block's sums: HANDED groups of four for each thread, as many as there is room for where results are
    // staged, others where tiles were.
    static constexpr int HANDED = BLOCKS * TOKENS / 16, STAGED = STAGING_GROUP_BYTES / (128 * 16), HANDS = (HANDED + STAGED - 1) / STAGED;
    static constexpr int LEFT_BARRIERS = SUMS_BARRIERS + (COUPLED ? HANDS * (MULTIPLIERS + 1) * 8 : 0);
    static constexpr bool LEAVES = HELPED || VARIABLE;  // sums for other blocks to add
    static constexpr int SHARED_BYTES = LEFT_BARRIERS + (LEAVES ? 16 : 0);

    static_assert(TOKENS % 8 == 0 && TOKENS >= 8 && TOKENS <= 144, "TOKENS");
    static_assert(CHUNKS >= 2 && CHUNKS <= 4, "CHUNKS");
    static_assert(TILES == CHUNK || TILES == 2 * CHUNK, "the tiles of one chunk or of two");
    static_assert(BLOCKS == 1 || BLOCKS == 2, "BLOCKS");
    static_assert(NARROWEST >= 8 && NARROWEST <= TOKENS && (TOKENS - NARROWEST) % WIDTH_STEP == 0, "widths of tiles");
    static_assert(!VARIABLE || TOKENS % WIDTH_STEP == 0, "what a block begins with is made in steps of widths");
    static_assert(!VARIABLE || TOGETHER, "all tiles that a block makes for itself are of the same width");
    static_assert(!PAIRED || (BLOCKS == 1 && WEIGHT_LAYOUT == SCALES_LINEAR), "a tile of scales is of 128 rows of one matrix");
    static_assert(TURNS >= 1, "a row of a tile of NVFP4 for each lane of the arrangers");
    static_assert(!BEGINS || (TOGETHER && RESIDENT == 1 && TILE_BYTES <= STAGING_BYTES), "nothing is staged before the first chunk is decoded");
    static_assert(!CODES_WAIT || TILE_BYTES <= CODES_BYTES, "codes of activations where a stage of weights will be");
    static_assert(RESIDENT == 1 || (RESIDENT == 2 && TOGETHER && TOKENS <= 24), "registers");
    static_assert(!COUPLED || (!VARIABLE && STAGED_BYTES == STAGING_GROUP_BYTES && TOKENS % 16 == 0 && HANDS <= 2), "halves of tiles that are handed over");
    static_assert(!HELPED || (TOGETHER && TILES == 2 * CHUNK && !VARIABLE && RESIDENT == 1), "sums of a helper fill half of the ring of tiles, or all of it");
    static_assert(!HELPED || !COUPLED || BLOCKS == 1, "couples hand over sums through half of the ring");
    static_assert(SHARED_BYTES <= 226 * 1024 / RESIDENT, "shared memory of a block, less the alignment");
};

template <class S>
struct Stages {
    u32 base;  // 1024-byte aligned

    __device__ __forceinline__ u32 tile(u32 stage) const { return base + S::TILE + stage * S::TILE_BYTES; }
    __device__ __forceinline__ u32 raw_tile(u32 stage) const {
        return S::CODES_WAIT && stage == 1 ? codes(S::CHUNKS - 1) : base + S::RAW_TILE + stage * S::TILE_BYTES;
    }
    __device__ __forceinline__ u32 raw_scales(u32 stage) const { return base + S::RAW_SCALES + stage * S::RAW_SCALES_BYTES; }
    __device__ __forceinline__ u32 codes(u32 stage) const { return base + S::CODES + stage * S::CODES_BYTES; }
    __device__ __forceinline__ u32 scales(u32 stage) const { return base + S::SCALES + stage * S::SCALES_BYTES; }
    __device__ __forceinline__ u32 staging(u32 group) const { return base + S::STAGING + group * S::STAGED_BYTES; }
    __device__ __forceinline__ u32 chunk_full(u32 stage) const { return base + S::BARRIERS + 8 * stage; }
    __device__ __forceinline__ u32 chunk_empty(u32 stage) const { return chunk_full(S::CHUNKS + stage); }
    __device__ __forceinline__ u32 tile_full(u32 stage) const { return chunk_full(2 * S::CHUNKS + stage); }
    __device__ __forceinline__ u32 tile_empty(u32 stage) const { return chunk_full(2 * S::CHUNKS + S::TILES + stage); }
    __device__ __forceinline__ u32 tile_here(u32 stage) const {
        return S::ARRANGES ? chunk_full(2 * S::CHUNKS + 2 * S::TILES + stage) : tile_full(stage);
    }
    __device__ __forceinline__ u32 raw_full(u32 stage) const { return chunk_full(2 * S::CHUNKS + 3 * S::TILES + stage); }
    __device__ __forceinline__ u32 raw_empty(u32 stage) const { return raw_full(S::RAW + stage); }
    // Of sums that the other block hands over, `hand` 0 or 1: there is room for them in the other block; they have arrived here.
    __device__ __forceinline__ u32 sums_room(u32 hand) const { return base + S::SUMS_BARRIERS + 8 * hand; }
    __device__ __forceinline__ u32 sums_full(u32 hand, u32 group) const { return sums_room(S::HANDS + hand * S::MULTIPLIERS + group); }
    // Where they are: group `i` of four; some where tiles were, from tile `free` on.
    __device__ __forceinline__ u32 handed(u32 i, u32 group, u32 thread, u32 free) const {
        const u32 first = i < S::STAGED ? staging(group) : tile(free) + group * S::STAGED_BYTES;
        return first + (i % S::STAGED * 128 + thread) * 16;
    }

    // A helper has left the sums of a tile; those before have been released.
    __device__ __forceinline__ u32 left() const { return base + S::LEFT_BARRIERS; }
    __device__ __forceinline__ u32 left_before() const { return left() + 8; }

    // By one thread, before the roles part.
    __device__ __forceinline__ void init() const {
        for (u32 stage = 0; stage < S::CHUNKS; ++stage) {
            mbarrier_init_shared_b64(chunk_full(stage), S::WEIGHT_LAYOUT == SCALES_LINEAR ? 1 + 32 : 1);
            mbarrier_init_shared_b64(chunk_empty(stage), 4 * S::MULTIPLIERS);  // a lane of each warp
        }
        for (u32 stage = 0; stage < S::TILES; ++stage) {
            mbarrier_init_shared_b64(tile_full(stage), S::DECODES ? S::DECODERS : 1);
            mbarrier_init_shared_b64(tile_empty(stage), 4 * S::MULTIPLIERS);
            if (S::ARRANGES) mbarrier_init_shared_b64(tile_here(stage), 1);
        }
        for (u32 stage = 0; stage < S::RAW; ++stage) {
            mbarrier_init_shared_b64(raw_full(stage), S::NVFP4 ? 1 + 32 : 1);
            mbarrier_init_shared_b64(raw_empty(stage), S::DECODERS * S::TURNS);
        }
        if constexpr (S::LEAVES) {
            mbarrier_init_shared_b64(left(), 4 * S::MULTIPLIERS);
            mbarrier_init_shared_b64(left_before(), 1);
        }
        if constexpr (S::COUPLED) {
            for (u32 hand = 0; hand < S::HANDS; ++hand) {
                mbarrier_init_shared_b64(sums_room(hand), hand == 0 ? 1 : 4 * S::MULTIPLIERS);
                const u32 count = min(S::HANDED - static_cast<int>(hand) * S::STAGED, S::STAGED);
                for (u32 group = 0; group < S::MULTIPLIERS; ++group) {
                    mbarrier_init_shared_b64(sums_full(hand, group), 1);
                    if (hand > 0) mbarrier_arrive_expect_tx_shared_b64(sums_full(hand, group), count * 128 * 16);
                }
            }
        }
        fence_mbarrier_init_release_cluster();
    }
};

// Where activations are loaded from: the operand that all blocks make, or what each makes its own tiles of; and, where blocks begin with
// tiles of their own, both.
template <class S>
struct ActivationMaps {
    TensorMap map[1 + S::BEGINS];

    __device__ __forceinline__ const TensorMap* operand() const { return &map[0]; }
    __device__ __forceinline__ const TensorMap* raw() const { return &map[S::BEGINS]; }
    __device__ __forceinline__ void prefetch() const {
        for (const TensorMap& each : map) prefetch_tensormap(&each);
    }
};

// Where a role is in the rings: chunks in turn, and the tiles of a chunk with it.
template <class S>
struct Position {
    u32 count = 0;  // chunks so far

    __device__ __forceinline__ u32 stage() const { return count % S::CHUNKS; }
    __device__ __forceinline__ u32 parity() const { return count / S::CHUNKS % 2; }

    // Of the chunk in the ring of NVFP4 activations.
    __device__ __forceinline__ u32 raw_stage() const { return count % S::RAW; }
    __device__ __forceinline__ u32 raw_parity() const { return count / S::RAW % 2; }

    // Of the chunk's first tile; the others follow it.
    __device__ __forceinline__ u32 first_tile() const { return S::TILES == CHUNK ? 0 : count % 2 * CHUNK; }
    __device__ __forceinline__ u32 tile_parity() const { return S::TILES == CHUNK ? count % 2 : count / 2 % 2; }
};
