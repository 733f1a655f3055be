// The roles of the Hopper GEMM kernels, and the shared memory between them.
//
//   warpgroup 0        loads: warp 0 the weights (codes; tiled scales), warp 1 the activations, warp 2 linear scales
//   warpgroup 1        decodes NVFP4 activations to fp16 (only if ACTIVATIONS is NVFP4)
//   the last two       decode weights to registers, multiply, finish
//
// A stage holds a unit (64 elements along K) of a tile: B's tile [TOKENS, 128 bytes] in the 128-byte swizzle; of each of the BLOCKS
// weight blocks 128 rows of codes and of scales; NVFP4 activations as they come. Barriers of a stage:
//
//   full    loads -> all: everything that comes from memory is there
//   ready   decoder -> multipliers: B is written (only NVFP4 activations)
//   empty   multipliers -> loads: the stage may be filled again. B was read last, so the activations' codes were too
//
// Each multiplier warpgroup owns 64 of the 128 rows of every weight block. One step is 64 rows x one unit: four instructions, whose
// A registers are decoded while the step before runs in the matrix unit (two sets of registers take turns).
#pragma once

#include "decode/wgmma_operand.cuh"
#include "mma/wgmma.cuh"
#include "pipeline/ring.cuh"
#include "pipeline/stream_k.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/cp_async_bulk.cuh"
#include "ptx/cp_async_bulk_tensor.cuh"
#include "ptx/fence.cuh"
#include "ptx/setmaxnreg.cuh"

constexpr int ACTIVATIONS_NVFP4 = 0;
constexpr int ACTIVATIONS_FP16 = 1;
constexpr int ACTIVATIONS_BF16 = 2;

template <int TOKENS_, int BLOCKS_, int STAGES_, int ACTIVATIONS_, int WEIGHT_LAYOUT_, int ACTIVATION_LAYOUT_>
struct Shape {
    static constexpr int TOKENS = TOKENS_, BLOCKS = BLOCKS_, STAGES = STAGES_;
    static constexpr int WEIGHT_LAYOUT = WEIGHT_LAYOUT_, ACTIVATION_LAYOUT = ACTIVATION_LAYOUT_;
    static constexpr bool DECODES = ACTIVATIONS_ == ACTIVATIONS_NVFP4;
    static constexpr bool BF16 = ACTIVATIONS_ == ACTIVATIONS_BF16;
    static constexpr int ORDER = DECODES ? ORDER_LANE : ORDER_MEMORY;
    // The product is the accumulator times FACTOR, a power of two.
    static constexpr int EXPONENT = BF16 ? DECODED_EXPONENT_BF16 : (DECODES ? 2 : 1) * DECODED_EXPONENT_F16;
    static constexpr float FACTOR = 1u << -EXPONENT;

    static constexpr int WARPGROUPS = DECODES ? 4 : 3;
    static constexpr int THREADS = 128 * WARPGROUPS;
    // Registers of a thread by role; together at most 512 over four warpgroups, or 504 over three (65536 in all).
    static constexpr int LOAD_REGISTERS = 40;
    static constexpr int DECODE_REGISTERS = 72;
    static constexpr int MULTIPLY_REGISTERS = DECODES ? 200 : 232;

    static constexpr int TILE_BYTES = TOKENS * 128;
    static constexpr int CODES_BYTES = BLOCKS * WEIGHT_CODES_BYTES;
    static constexpr int SCALES_BYTES = BLOCKS * WEIGHT_SCALES_BYTES;
    static constexpr int ACTIVATION_BYTES = DECODES ? TOKENS * UNIT_BYTES : 0;
    static constexpr int STAGING_BYTES = 2 * TOKENS * 128;  // results on their way out, see epilogue/tile_store.cuh

    static constexpr int TILES = 0;
    static constexpr int STAGING = TILES + STAGES * TILE_BYTES;
    static constexpr int CODES = STAGING + STAGING_BYTES;
    static constexpr int SCALES = CODES + STAGES * CODES_BYTES;
    static constexpr int ACTIVATION_CODES = SCALES + STAGES * SCALES_BYTES;
    static constexpr int BARRIERS = ACTIVATION_CODES + STAGES * ACTIVATION_BYTES;
    static constexpr int SHARED_BYTES = BARRIERS + STAGES * 24;

    static_assert(TOKENS % 8 == 0 && TOKENS >= 8 && TOKENS <= 128, "TOKENS");
    static_assert(BLOCKS == 1 || BLOCKS == 2, "BLOCKS");
    static_assert(SHARED_BYTES <= 227 * 1024, "shared memory of a block");
};

template <class S>
struct Stages {
    u32 base;  // 1024-byte aligned

    __device__ __forceinline__ u32 tile(u32 stage) const { return base + S::TILES + stage * S::TILE_BYTES; }
    __device__ __forceinline__ u32 codes(u32 stage) const { return base + S::CODES + stage * S::CODES_BYTES; }
    __device__ __forceinline__ u32 scales(u32 stage) const { return base + S::SCALES + stage * S::SCALES_BYTES; }
    __device__ __forceinline__ u32 activations(u32 stage) const {
        return base + S::ACTIVATION_CODES + stage * S::ACTIVATION_BYTES;
    }
    __device__ __forceinline__ u32 staging(u32 group) const { return base + S::STAGING + group * (S::STAGING_BYTES / 2); }
    __device__ __forceinline__ u32 full(u32 stage) const { return base + S::BARRIERS + 8 * stage; }
    __device__ __forceinline__ u32 ready(u32 stage) const { return base + S::BARRIERS + 8 * (S::STAGES + stage); }
    __device__ __forceinline__ u32 empty(u32 stage) const { return base + S::BARRIERS + 8 * (2 * S::STAGES + stage); }

    // By one thread, before the roles part.
    __device__ __forceinline__ void init() const {
        for (u32 stage = 0; stage < S::STAGES; ++stage) {
            mbarrier_init_shared_b64(full(stage), S::WEIGHT_LAYOUT == SCALES_LINEAR ? 2 + 32 : 2);
            mbarrier_init_shared_b64(ready(stage), 4);  // a lane of each decoder warp
            mbarrier_init_shared_b64(empty(stage), 8);  // a lane of each multiplier warp
        }
        fence_mbarrier_init_release_cluster();
    }
};

// What a tile is made of.
template <int BLOCKS>
struct Operands {
    const TensorMap* weight_codes[BLOCKS];  // u8 [batch, rows, K/2], boxes of 32 x 128
    const u8* weight_scales[BLOCKS];        // of the matrix
    int weight_row[BLOCKS];                 // a multiple of 128
    int weight_rows;                        // of the matrix
    int weight_batch;
    const TensorMap* activations;           // u8 [batch, tokens, K/2] or 16-bit [batch, tokens, K], boxes of UNIT x TOKENS
    const u8* activation_scales;            // of the matrix
    int token, tokens, activation_batch;    // first token of the tile, tokens of the matrix
    int units;                              // K / 64
};

// `operands(tile)` describes a tile; `work` deals out segments.
template <class S, class Work, class Describe>
__device__ __forceinline__ void load_weights(const Stages<S>& stages, Work work, Describe operands) {
    constexpr bool TILED = S::WEIGHT_LAYOUT == SCALES_TILED;
    Ring<S::STAGES> ring;
    Segment segment;
    while (work.next(segment)) {
        const Operands<S::BLOCKS> o = operands(segment.tile);
        for (int unit = segment.begin; unit < segment.end; ++unit, ring.advance()) {
            wait_barrier(stages.empty(ring.stage), ring.parity ^ 1);
            const u32 full = stages.full(ring.stage);
            mbarrier_arrive_expect_tx_shared_b64(full, S::CODES_BYTES + (TILED ? S::SCALES_BYTES : 0));
#pragma unroll
            for (int b = 0; b < S::BLOCKS; ++b) {
                cp_async_bulk_tensor_3d_shared_global_mbarrier(stages.codes(ring.stage) + b * WEIGHT_CODES_BYTES,
                                                               o.weight_codes[b], unit * UNIT_BYTES, o.weight_row[b],
                                                               o.weight_batch, full);
                if constexpr (TILED) {
                    // A block of rows beyond the matrix has no scales; its rows are dropped, whatever they multiply.
                    const int row = min(o.weight_row[b], (o.weight_rows - 1) / 128 * 128);
                    cp_async_bulk_shared_global_mbarrier(
                        stages.scales(ring.stage) + b * WEIGHT_SCALES_BYTES,
                        o.weight_scales[b] + (static_cast<i64>(row / 128) * o.units + unit) * WEIGHT_SCALES_BYTES,
                        WEIGHT_SCALES_BYTES, full);
                }
            }
        }
    }
}

template <class S, class Work, class Describe>
__device__ __forceinline__ void load_activations(const Stages<S>& stages, Work work, Describe operands) {
    Ring<S::STAGES> ring;
    Segment segment;
    while (work.next(segment)) {
        const Operands<S::BLOCKS> o = operands(segment.tile);
        for (int unit = segment.begin; unit < segment.end; ++unit, ring.advance()) {
            wait_barrier(stages.empty(ring.stage), ring.parity ^ 1);
            const u32 full = stages.full(ring.stage);
            mbarrier_arrive_expect_tx_shared_b64(full, S::DECODES ? S::ACTIVATION_BYTES : S::TILE_BYTES);
            cp_async_bulk_tensor_3d_shared_global_mbarrier(
                S::DECODES ? stages.activations(ring.stage) : stages.tile(ring.stage), o.activations,
                unit * (S::DECODES ? UNIT_BYTES : UNIT), o.token, o.activation_batch, full);
        }
    }
}

// A whole warp: four bytes of each of the rows.
template <class S, class Work, class Describe>
__device__ __forceinline__ void load_linear_scales(const Stages<S>& stages, Work work, Describe operands) {
    const u32 lane = threadIdx.x % 32;
    Ring<S::STAGES> ring;
    Segment segment;
    while (work.next(segment)) {
        const Operands<S::BLOCKS> o = operands(segment.tile);
        for (int unit = segment.begin; unit < segment.end; ++unit, ring.advance()) {
            wait_barrier(stages.empty(ring.stage), ring.parity ^ 1);
#pragma unroll 1  // few registers, and nothing waits for this loop
            for (int i = 0; i < S::BLOCKS * 4; ++i) {
                const int row0 = i < 4 ? o.weight_row[0] : o.weight_row[S::BLOCKS - 1];
                const int row = row0 + static_cast<int>(i % 4 * 32 + lane);
                const bool inside = row < o.weight_rows;
                const u8* matrix = i < 4 ? o.weight_scales[0] : o.weight_scales[S::BLOCKS - 1];
                const u8* from = matrix + static_cast<i64>(inside ? row : 0) * (4 * o.units) + 4 * unit;
                cp_async_ca_shared_global_4(stages.scales(ring.stage) + (i * 32 + lane) * 4, from, inside ? 4 : 0);
            }
            cp_async_mbarrier_arrive_noinc_shared_b64(stages.full(ring.stage));
        }
    }
}

// A warpgroup; thread i decodes token i. Scales come straight from memory, AHEAD units early.
template <class S, class Work, class Describe>
__device__ __forceinline__ void decode_activations(const Stages<S>& stages, Work work, Describe operands) {
    constexpr int AHEAD = 4;
    const u32 row = threadIdx.x % 128;
    const bool active = row < S::TOKENS;
    Ring<S::STAGES> ring;
    Segment segment;
    while (work.next(segment)) {
        const Operands<S::BLOCKS> o = operands(segment.tile);
        // Tokens beyond the matrix are zeros times the scales of the last one: finite.
        const int token = min(o.token + static_cast<int>(row), o.tokens - 1);
        const u8* scales = o.activation_scales + scale_offset<S::ACTIVATION_LAYOUT>(token, 0, 4 * o.units);
        const auto load = [&](int unit) {
            return unit < segment.end ? ld_global_nc_b32(scales + static_cast<i64>(unit) * SCALE_STEP_64<S::ACTIVATION_LAYOUT>)
                                      : 0u;
        };
        u32 ahead[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) ahead[i] = load(segment.begin + i);
        for (int first = segment.begin; first < segment.end; first += AHEAD) {
#pragma unroll
            for (int i = 0; i < AHEAD; ++i) {
                if (first + i >= segment.end) break;
                const u32 word = ahead[i];
                ahead[i] = load(first + i + AHEAD);
                wait_barrier(stages.full(ring.stage), ring.parity);
                if (active) {
                    decode_activation_row(stages.tile(ring.stage), row,
                                          stages.activations(ring.stage) + row * UNIT_BYTES, word);
                }
                fence_proxy_async_shared_cta();
                __syncwarp();
                if (row % 32 == 0) mbarrier_arrive_shared_b64(stages.ready(ring.stage));
                ring.advance();
            }
        }
    }
}

// One multiplier warpgroup's way through the ring.
template <class S>
struct Multiplier {
    Stages<S> stages;
    Ring<S::STAGES> ring;
    u32 row, t;         // this lane's row within 128, and column pair
    bool first_lane;
    u32 codes, scales;  // its offsets within a weight block

    __device__ __forceinline__ Multiplier(const Stages<S>& s, u32 group) : stages(s) {
        const u32 lane = threadIdx.x % 32;
        row = group * 64 + threadIdx.x % 128 / 32 * 16 + lane / 4;
        t = lane % 4;
        first_lane = lane == 0;
        codes = row * UNIT_BYTES;
        scales = unit_scale_offset<S::WEIGHT_LAYOUT>(row);
    }

    // Decodes, issues, and waits for the step before. The two sets of A are `a` of this step and of the step before.
    template <int N>
    __device__ __forceinline__ void step(float (&sums)[N / 2], u32 (&a)[4][4], int block, bool first_of_unit) {
        if (first_of_unit) wait_barrier(stages.full(ring.stage), ring.parity);
        decode_weights<S::ORDER, S::BF16, S::WEIGHT_LAYOUT>(
            a, stages.codes(ring.stage) + block * WEIGHT_CODES_BYTES + codes,
            stages.scales(ring.stage) + block * WEIGHT_SCALES_BYTES + scales, t);
        if (S::DECODES && first_of_unit) wait_barrier(stages.ready(ring.stage), ring.parity);
        const u64 tile = wgmma_descriptor_128b(stages.tile(ring.stage));
        wgmma_fence_sync_aligned();
#pragma unroll
        for (int i = 0; i < 4; ++i) wgmma_m64k16<N, S::BF16>(sums, a[i], tile + 2 * i);
        wgmma_commit_group_sync_aligned();
        wgmma_wait_group_sync_aligned<1>();
    }

    __device__ __forceinline__ void release(u32 stage) const {
        if (first_lane) mbarrier_arrive_shared_b64(stages.empty(stage));
    }

    // sums = the product over `units` units, for N tokens.
    template <int N>
    __device__ __forceinline__ void multiply(float (&sums)[S::BLOCKS][N / 2], int units) {
#pragma unroll
        for (int b = 0; b < S::BLOCKS; ++b) {
#pragma unroll
            for (int i = 0; i < N / 2; ++i) sums[b][i] = 0.0f;
        }
        u32 a[2][4][4];
        u32 before = 0;
        int unit = 0;
        const auto next = [&](bool release_before) {
            if (release_before) release(before);
            before = ring.stage;
        };
        if constexpr (S::BLOCKS == 2) {
#pragma unroll 1
            for (; unit < units; ++unit) {
                step<N>(sums[0], a[0], 0, true);
                next(unit > 0);
                step<N>(sums[1], a[1], 1, false);
                ring.advance();
            }
        } else {
#pragma unroll 1
            for (; unit + 2 <= units; unit += 2) {
                step<N>(sums[0], a[0], 0, true);
                next(unit > 0);
                ring.advance();
                step<N>(sums[0], a[1], 0, true);
                next(true);
                ring.advance();
            }
            if (unit < units) {
                step<N>(sums[0], a[0], 0, true);
                next(unit > 0);
                ring.advance();
            }
        }
        wgmma_wait_group_sync_aligned<0>();
        release(before);
    }
};
