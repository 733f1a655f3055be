// What the Blackwell product kernels keep in shared and in tensor memory, and their barriers.
//
// A kernel computes D = X Y^T for tiles of 128 rows of X in each block and TILE_N rows of Y, and for one or two Ys (PRODUCTS). A chunk
// is 256 elements along K: 128 bytes of codes a row, one line of the 128-byte swizzle, four steps of 64 elements (one instruction of
// each product). Two blocks of a cluster may share work:
//
//   CLUSTER_MULTICAST  the same X for two tiles of Y: each block loads half of X for both
//   CLUSTER_PAIR       one instruction for both (.cta_group::2): 256 rows of X, of Y each block holds half of the rows
//   CLUSTER_HALVES     the same with 128 rows of X, 64 in each block
//
// A stage in shared memory (all parts are multiples of 1024 bytes, and aligned to that):
//
//   X codes [X_ROWS][128 B] | PRODUCTS x Y codes [Y_ROWS][128 B] | X scales [4 steps][512 B] | PRODUCTS x Y scales [4 steps][Y_TILES][512 B]
//
// Scales of 128 rows x 64 elements are a tile of 512 bytes (nvfp4/layouts.py); in tensor memory it takes four columns, row r in lane
// r % 32 of column r / 32, copied to all four quarters of the lanes. Tensor memory, columns from left to right:
//
//   BUFFERS x [ PRODUCTS x D_COLUMNS accumulator ] | SETS x [ X scales: 4 steps x 4 | PRODUCTS x Y scales: 4 steps x Y_STEP_COLUMNS ]
//
// Lane i of the accumulator is row i of X, column j row j of Y. With CLUSTER_HALVES lanes 64..127 have rows 0..63 again, with the second
// half of Y: there are only TILE_N / 2 columns (PTX ISA 9.7.16.10.5.2, layout B). They take the scales of that half of Y from their own
// lanes: those of rows 0..127 are copied to lanes 0..63 (twice), of rows 128..255 to lanes 64..127 (CUTLASS,
// mma_traits_sm100_frag.hpp, ScaleFactorDuplicated2by2; the text of the ISA does not say).
//
// Barriers, and who arrives at them in a phase:
//
//   full[stage]    1: the loading thread, and the bytes that the copies bring
//   ready[stage]   1 for each block that the product reads: the scale warp whose turn it is (only with SCALE_WARPS)
//   empty[stage]   1: the commit behind the last product that read the stage (2 with CLUSTER_MULTICAST: of both blocks)
//   done[buffer]   1: the commit behind the last product of a tile
//   gated[buffer]  1: the commit behind the last first product of a tile, if that is finished early
//   drained[buffer] 4 for each block whose accumulator it is: a lane of each epilogue warp
//   answered[slot] 1: the scheduling thread, and the 16 bytes of an answer (only with work that is taken over, see sm100_work.cuh)
//   taken[slot]    1 for each reader of answers in the cluster
#pragma once

#include "decode/scale_layout.cuh"
#include "pipeline/ring.cuh"
#include "ptx/barrier_cluster.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/mbarrier_cluster.cuh"
#include "ptx/tcgen05.cuh"
#include "ptx/types.cuh"

constexpr int CHUNK = 256;      // elements along K of a stage
constexpr int STEP = 64;        // of an instruction
constexpr int STEPS = CHUNK / STEP;
constexpr int LINE_BYTES = CHUNK / 2;
constexpr int LANES = 128;      // of tensor memory: a thread of the epilogue each
constexpr int SCALE_TILE_BYTES = 512;

constexpr int CLUSTER_NONE = 0;
constexpr int CLUSTER_MULTICAST = 1;
constexpr int CLUSTER_PAIR = 2;
constexpr int CLUSTER_HALVES = 3;

// How the scales of an operand come to shared memory.
constexpr int SCALES_BY_TENSOR_MAP = 0;  // 128x4 tiles, copied as they are
constexpr int SCALES_FROM_LINEAR = 1;    // rearranged by the scale warps
constexpr int SCALES_FROM_TILED = 2;     // the same, where rows do not begin at a multiple of 64

template <int TILE_N_, int PRODUCTS_, int STAGES_, int BUFFERS_, int SETS_, int CLUSTER_, int X_SCALES_, int Y_SCALES_, bool INSPECT_,
          bool TAKEOVER_, bool SHARE_SCALES_>
struct Shape {
    static constexpr int TILE_N = TILE_N_, PRODUCTS = PRODUCTS_, STAGES = STAGES_, BUFFERS = BUFFERS_, SETS = SETS_;
    static constexpr int CLUSTER = CLUSTER_, X_SCALES = X_SCALES_, Y_SCALES = Y_SCALES_;
    static constexpr bool INSPECT = INSPECT_;  // negative scales, or a last step of less than 64 elements

    static constexpr bool HALVES = CLUSTER == CLUSTER_HALVES;
    static constexpr bool PAIR = CLUSTER == CLUSTER_PAIR || HALVES, MULTICAST = CLUSTER == CLUSTER_MULTICAST;
    static constexpr int GROUP = PAIR ? 2 : 1;
    static constexpr int BLOCKS = CLUSTER == CLUSTER_NONE ? 1 : 2;  // of a cluster
    static constexpr int X_ROWS = HALVES ? 64 : 128;  // of a block
    static constexpr int TILE_M = X_ROWS * GROUP;
    static constexpr int Y_ROWS = TILE_N / GROUP;
    static constexpr int D_COLUMNS = HALVES ? TILE_N / 2 : TILE_N;
    // A tile may begin in the middle of a tile of scales, and its columns of tensor memory two further on, if TILE_N is an odd multiple of 64.
    static constexpr bool ODD = TILE_N % 128 != 0 && Y_SCALES == SCALES_BY_TENSOR_MAP;
    static constexpr int Y_TILES = (TILE_N + 64) / 128;
    // Both blocks need the same scales, of X (multicast) or of Y (a pair): each loads half of the steps of a chunk for both.
    static constexpr bool SHARED_X_SCALES = SHARE_SCALES_ && MULTICAST && X_SCALES == SCALES_BY_TENSOR_MAP;
    static constexpr bool SHARED_Y_SCALES = SHARE_SCALES_ && PAIR && Y_SCALES == SCALES_BY_TENSOR_MAP;

    static constexpr bool CONVERTS = X_SCALES != SCALES_BY_TENSOR_MAP || Y_SCALES != SCALES_BY_TENSOR_MAP;
    // They take turns with the chunks; more of them than stages could mistake a phase of a barrier for the one before the last.
    static constexpr int SCALE_WARPS = CONVERTS || INSPECT ? (STAGES < 4 ? STAGES : 4) : 0;
    // Warps: four of the epilogue, one that loads, one that multiplies, those that prepare scales.
    static constexpr int LOAD_WARP = 4, PRODUCT_WARP = 5, FIRST_SCALE_WARP = 6;
    static constexpr bool TAKEOVER = TAKEOVER_;  // tiles are taken over from clusters that have not started
    static constexpr int SCHEDULE_WARP = FIRST_SCALE_WARP + SCALE_WARPS;
    static constexpr int THREADS = 32 * (SCHEDULE_WARP + (TAKEOVER ? 1 : 0));
    // Who reads answers: epilogue and scale warps, loading threads, the multiplying thread of each block that has one, scheduling threads.
    static constexpr int READERS = BLOCKS * (4 + SCALE_WARPS + 2) + (PAIR ? 1 : BLOCKS);

    static constexpr int X_BYTES = X_ROWS * LINE_BYTES;
    static constexpr int Y_BYTES = Y_ROWS * LINE_BYTES;
    static constexpr int X_SCALE_BYTES = STEPS * SCALE_TILE_BYTES;
    static constexpr int Y_SCALE_BYTES = Y_TILES * STEPS * SCALE_TILE_BYTES;
    static constexpr int Y = X_BYTES;
    static constexpr int X_SCALE = Y + PRODUCTS * Y_BYTES;
    static constexpr int Y_SCALE = X_SCALE + X_SCALE_BYTES;
    static constexpr int STAGE_BYTES = Y_SCALE + PRODUCTS * Y_SCALE_BYTES;
    static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES;
    // What the copies bring to a block in a stage.
    static constexpr int COPIED_BYTES = X_BYTES + PRODUCTS * Y_BYTES + (X_SCALES == SCALES_BY_TENSOR_MAP ? X_SCALE_BYTES : 0) +
                                        (Y_SCALES == SCALES_BY_TENSOR_MAP ? PRODUCTS * Y_SCALE_BYTES : 0);

    static constexpr int X_SCALE_COLUMNS = 4 * STEPS;
    static constexpr int Y_STEP_COLUMNS = HALVES ? 4 : 4 * Y_TILES;
    static constexpr int Y_SCALE_COLUMNS = Y_STEP_COLUMNS * STEPS;
    static constexpr int BUFFER_COLUMNS = PRODUCTS * D_COLUMNS;
    static constexpr int SET_COLUMNS = X_SCALE_COLUMNS + PRODUCTS * Y_SCALE_COLUMNS;
    static constexpr int SCALE_COLUMNS = BUFFERS * BUFFER_COLUMNS;  // where they begin
    static constexpr int USED_COLUMNS = SCALE_COLUMNS + SETS * SET_COLUMNS;
    static constexpr int COLUMNS = USED_COLUMNS <= 128 ? 128 : (USED_COLUMNS <= 256 ? 256 : 512);

    static_assert(TILE_N == 64 || TILE_N == 128 || TILE_N == 192 || TILE_N == 256, "TILE_N");
    // A copy of scales begins with the first row of a tile in both blocks, the second of which wants to begin in its middle.
    static_assert(!HALVES || (X_SCALES != SCALES_BY_TENSOR_MAP && TILE_N == 256), "scales of 64 rows are rearranged");
    static_assert(PRODUCTS == 1 || PRODUCTS == 2, "PRODUCTS");
    static_assert(BUFFERS == 1 || BUFFERS == 2, "BUFFERS");
    static_assert(SETS >= 1 && SETS <= 4 && SETS <= STAGES, "SETS");
    static_assert(STAGES >= 2 && SHARED_BYTES <= 226 * 1024, "shared memory of a block");
    static_assert(USED_COLUMNS <= 512, "tensor memory of a multiprocessor");
    static_assert(STAGE_BYTES % 1024 == 0, "alignment of the swizzle");
};

constexpr int ANSWERS = 2;  // under way at once

template <class S>
struct Barriers {
    alignas(16) u64 answer[ANSWERS][2];
    u64 full[S::STAGES], ready[S::STAGES], empty[S::STAGES], done[S::BUFFERS], drained[S::BUFFERS], gated[S::BUFFERS];
    u64 answered[ANSWERS], taken[ANSWERS];
    u32 tensor;  // address of the tensor memory
};

// Shared memory by name.
template <class S>
struct Storage {
    u32 stages;    // 1024-byte aligned
    u32 barriers;  // of Barriers<S>
    u32 rank;      // of the block in its cluster

    __device__ __forceinline__ u32 x(u32 stage) const { return stages + stage * S::STAGE_BYTES; }
    __device__ __forceinline__ u32 y(u32 stage, int product) const { return x(stage) + S::Y + product * S::Y_BYTES; }
    __device__ __forceinline__ u32 x_scale(u32 stage) const { return x(stage) + S::X_SCALE; }
    __device__ __forceinline__ u32 y_scale(u32 stage, int product) const {
        return x(stage) + S::Y_SCALE + product * S::Y_SCALE_BYTES;
    }
    __device__ __forceinline__ u32 answer(u32 slot) const { return barriers + 16 * slot; }
    __device__ __forceinline__ u32 full(u32 stage) const { return barriers + 16 * ANSWERS + 8 * stage; }
    __device__ __forceinline__ u32 ready(u32 stage) const { return full(S::STAGES + stage); }
    __device__ __forceinline__ u32 empty(u32 stage) const { return full(2 * S::STAGES + stage); }
    __device__ __forceinline__ u32 done(u32 buffer) const { return full(3 * S::STAGES + buffer); }
    __device__ __forceinline__ u32 drained(u32 buffer) const { return done(S::BUFFERS + buffer); }
    __device__ __forceinline__ u32 gated(u32 buffer) const { return done(2 * S::BUFFERS + buffer); }
    __device__ __forceinline__ u32 answered(u32 slot) const { return done(3 * S::BUFFERS + slot); }
    __device__ __forceinline__ u32 taken(u32 slot) const { return answered(ANSWERS + slot); }
    __device__ __forceinline__ u32 tensor() const { return taken(ANSWERS); }

    __device__ __forceinline__ bool leads() const { return !S::PAIR || rank == 0; }

    // One arrival at a barrier of the block whose product warp waits for it.
    __device__ __forceinline__ void arrive_at_leader(u32 barrier) const { arrive_at_first<S::PAIR>(barrier); }

    // The same at a barrier of the first block of the cluster, if there is a REMOTE one.
    template <bool REMOTE>
    __device__ __forceinline__ void arrive_at_first(u32 barrier) const {
        if constexpr (REMOTE) {
            mbarrier_arrive_release_cluster_shared_cluster_b64(mapa_shared_cluster_u32(barrier, 0));
        } else {
            mbarrier_arrive_shared_b64(barrier);
        }
    }

    // By one thread, before anyone uses them.
    __device__ __forceinline__ void init() const {
        for (u32 stage = 0; stage < S::STAGES; ++stage) {
            mbarrier_init_shared_b64(full(stage), 1);
            mbarrier_init_shared_b64(ready(stage), S::GROUP);
            mbarrier_init_shared_b64(empty(stage), S::MULTICAST ? 2 : 1);
        }
        for (u32 buffer = 0; buffer < S::BUFFERS; ++buffer) {
            mbarrier_init_shared_b64(done(buffer), 1);
            mbarrier_init_shared_b64(gated(buffer), 1);
            mbarrier_init_shared_b64(drained(buffer), 4 * S::GROUP);
        }
        for (u32 slot = 0; slot < ANSWERS; ++slot) {
            mbarrier_init_shared_b64(answered(slot), 1);
            mbarrier_init_shared_b64(taken(slot), S::READERS);
        }
        fence_mbarrier_init_release_cluster();
    }
};

// All threads of the cluster, so that nobody signals a barrier that is not there yet, or a block that has left.
template <class S>
__device__ __forceinline__ void synchronise() {
    tcgen05_fence_before_thread_sync();
    if constexpr (S::BLOCKS > 1) {
        barrier_cluster_arrive_release();
        barrier_cluster_wait_acquire();
    } else {
        __syncthreads();
    }
    tcgen05_fence_after_thread_sync();
}
