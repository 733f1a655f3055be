// C[l] = A[l] B[l]^T on Blackwell for 16-bit activations: the weights are decoded to 16 bits in shared memory, exactly.
//
//   A [L, M, K] fp16 or bf16, B [L, N, K] NVFP4, scales linear or in 128x4 tiles        C [L, M, N]  fp16, bf16 or fp32
//   K a multiple of 32; M, N, L any
//
// FP4 products need FP4 on both sides; so this is a product of 16-bit matrices (tcgen05.mma kind::f16). A code times its block scale has at
// most six significant bits between 2^-10 and 2688: a number of either type. The weights are X of the instruction (128 rows), the
// activations Y (PLAN_TILE_N rows): few rows of A waste nothing.
//
// A chunk is 64 elements along K: a 128-byte line of the swizzle for both operands, four instructions. A stage of shared memory:
//
//   X decoded [128][128 B] | Y [TILE_N][128 B] | codes [128][32 B] | tiled scales [512 B]
//
//   warps 0-3   epilogue (epilogue/sm100_store.cuh)
//   warp 4      one thread loads Y, codes, and tiled scales by tensor maps
//   warp 5      one thread multiplies; the warp owns tensor memory
//   warps 6-9   decode, in turn: a chunk each, a lane has four of its rows
//
//   full[stage] 1 and bytes: loads -> decode; ready[stage] 1: decode -> products; empty[stage] 1: commit -> loads
//   done[buffer], drained[buffer]: as in the other product kernels (pipeline/sm100_shape.cuh)
#include "epilogue/sm100_store.cuh"
#include "pipeline/tiling.cuh"
#include "ptx/cp_async_bulk_tensor_policy.cuh"
#include "ptx/cvt_e2m1.cuh"
#include "ptx/elect.cuh"
#include "ptx/f16x2.cuh"
#include "ptx/tcgen05_f16.cuh"

constexpr int KIND_FP16 = 1, KIND_BF16 = 2;
constexpr int KIND = PLAN_KIND, SPLITS = PLAN_SPLITS, B_LAYOUT = PLAN_B_LAYOUT, SCALE_UNIT = PLAN_SCALE_UNIT;
constexpr bool EARLY = PLAN_EARLY;  // B is not written by the kernel before in the queue

constexpr int DEPTH = 64;            // elements along K of a chunk
constexpr int CODE_BYTES = DEPTH / 2;  // of a row
constexpr int DECODERS = 4;

// What the shared parts of the product kernels want to know.
struct S {
    static constexpr int TILE_N = PLAN_TILE_N, PRODUCTS = 1, STAGES = PLAN_STAGES, BUFFERS = PLAN_BUFFERS;
    static constexpr int GROUP = 1, BLOCKS = 1, READERS = 1;
    static constexpr bool PAIR = false, MULTICAST = false;
    static constexpr int X_ROWS = 128, TILE_M = 128, D_COLUMNS = TILE_N, BUFFER_COLUMNS = TILE_N;
    static constexpr int X_BYTES = X_ROWS * 2 * DEPTH, Y_BYTES = TILE_N * 2 * DEPTH;
    static constexpr int Y = X_BYTES, CODES = Y + Y_BYTES, X_SCALE = CODES + X_ROWS * CODE_BYTES;
    static constexpr int Y_SCALE = X_SCALE, Y_SCALE_BYTES = 0;  // there are none
    static constexpr int STAGE_BYTES = X_SCALE + 1024;
    static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES;
    static constexpr int COPIED_BYTES = Y_BYTES + X_ROWS * CODE_BYTES + (B_LAYOUT == SCALES_TILED ? SCALE_TILE_BYTES : 0);
    static constexpr int USED_COLUMNS = BUFFERS * BUFFER_COLUMNS;
    static constexpr int COLUMNS = USED_COLUMNS;  // both are powers of two
    static_assert(COLUMNS >= 32 && COLUMNS <= 512, "tensor memory of a multiprocessor");
    static constexpr int LOAD_WARP = 4, PRODUCT_WARP = 5, FIRST_DECODER = 6, THREADS = 32 * (FIRST_DECODER + DECODERS);
};
static_assert(S::TILE_N == 32 || S::TILE_N == 64 || S::TILE_N == 128 || S::TILE_N == 256, "PLAN_TILE_N");
// Decoders that outnumber stages could mistake a phase of a barrier for the one before the last.
static_assert(S::STAGES >= DECODERS && S::SHARED_BYTES <= 226 * 1024, "PLAN_STAGES");
static_assert(S::BUFFERS == 1 || S::BUFFERS == 2, "PLAN_BUFFERS");
static_assert(S::STAGE_BYTES % 1024 == 0, "alignment of the swizzle");
static_assert(KIND == KIND_FP16 || KIND == KIND_BF16, "PLAN_KIND");

extern __shared__ u8 shared_memory[];

// Chunks [begin, end) of a part of K.
struct Part {
    int begin, end;

    __device__ __forceinline__ Part(int k, int split) {
        const int chunks = (k + DEPTH - 1) / DEPTH;
        begin = chunks * split / SPLITS;
        end = chunks * (split + 1) / SPLITS;
    }
};

// A tile: first rows of X and Y, and the matrix of the batch.
struct Place {
    int x, y, batch;
};

// One operand in device memory.
struct Weights {
    const u8* scales;
    int rows, k;
};

template <class At>
__device__ __forceinline__ void load(const Storage<S>& memory, StaticSchedule<SPLITS> schedule, At at, const TensorMap& codes,
                                     const TensorMap& scale_map, const TensorMap& activations, int scale_tiles, int k) {
    Ring<S::STAGES> ring;
    Work work;
    const auto weights = [&](u32 stage, const Place& place, int chunk) {
        cp_async_bulk_tensor_3d_policy(memory.x(stage) + S::CODES, &codes, chunk * CODE_BYTES, place.x, place.batch, memory.full(stage),
                                       POLICY_EVICT_FIRST);
        if constexpr (B_LAYOUT == SCALES_TILED) {
            cp_async_bulk_tensor_3d_policy(memory.x_scale(stage), &scale_map, 0, place.batch * scale_tiles + place.x / 128, chunk,
                                           memory.full(stage), POLICY_EVICT_FIRST);
        }
    };
    const auto other = [&](u32 stage, const Place& place, int chunk) {
        cp_async_bulk_tensor_3d_policy(memory.y(stage, 0), &activations, chunk * DEPTH, place.y, place.batch, memory.full(stage),
                                       POLICY_EVICT_LAST);
    };
    bool first = true;
    if constexpr (!EARLY) griddepcontrol_wait();
    while (schedule.next(work)) {
        const Place place = at(work.tile);
        const Part part(k, work.split);
        int chunk = part.begin;
        if constexpr (EARLY) {
            if (first) {
                // The stages are empty: nobody has to be waited for.
                const int ahead = min(part.end, chunk + S::STAGES);
                for (int c = chunk; c < ahead; ++c) {
                    mbarrier_arrive_expect_tx_shared_b64(memory.full(c - chunk), S::COPIED_BYTES);
                    weights(c - chunk, place, c);
                }
                griddepcontrol_wait();
                for (; chunk < ahead; ++chunk, ring.advance()) other(ring.index, place, chunk);
                first = false;
            }
        }
        for (; chunk < part.end; ++chunk, ring.advance()) {
            wait_barrier(memory.empty(ring.index), ring.parity ^ 1);
            mbarrier_arrive_expect_tx_shared_b64(memory.full(ring.index), S::COPIED_BYTES);
            weights(ring.index, place, chunk);
            other(ring.index, place, chunk);
        }
    }
}

__device__ __forceinline__ void multiply(const Storage<S>& memory, u32 tensor, StaticSchedule<SPLITS> schedule, int k) {
    constexpr u32 INSTRUCTION = tcgen05_f16_instruction(KIND == KIND_BF16, S::TILE_M, S::TILE_N);
    constexpr u32 EIGHT_ROWS = 8 * 2 * DEPTH;
    Ring<S::STAGES> ring;
    Ring<S::BUFFERS> out;
    Work work;
    while (schedule.next(work)) {
        const Part part(k, work.split);
        wait_barrier(memory.drained(out.index), out.parity ^ 1);
        tcgen05_fence_after_thread_sync();
        for (int chunk = part.begin; chunk < part.end; ++chunk, ring.advance()) {
            wait_barrier(memory.ready(ring.index), ring.parity);
            tcgen05_fence_after_thread_sync();
#pragma unroll
            for (int step = 0; step < DEPTH / 16; ++step) {
                const u64 x = tcgen05_matrix<TCGEN05_SWIZZLE_128>(memory.x(ring.index) + 32 * step, EIGHT_ROWS);
                const u64 y = tcgen05_matrix<TCGEN05_SWIZZLE_128>(memory.y(ring.index, 0) + 32 * step, EIGHT_ROWS);
                tcgen05_mma_f16(tensor + out.index * S::BUFFER_COLUMNS, x, y, INSTRUCTION, chunk > part.begin || step > 0);
            }
            tcgen05_commit<1>(memory.empty(ring.index));
        }
        tcgen05_commit<1>(memory.done(out.index));
        out.advance();
    }
}

// The four scales of row `row` (of the matrix) for `chunk`, zeros beyond it; linear scales.
__device__ __forceinline__ u32 linear_scales(const Weights& weights, int row, int chunk) {
    const int blocks = weights.k / 16, left = blocks - 4 * chunk;
    if (row >= weights.rows || left <= 0) return 0;
    const u8* from = weights.scales + static_cast<i64>(row) * blocks + 4 * chunk;
    if constexpr (SCALE_UNIT >= 4) return ld_global_b32(from);
    return ld_global_b16(from) | (left > 2 ? ld_global_b16(from + 2) << 16 : 0);
}

// Eight codes of a word times their scale, in their order: 16 bytes.
__device__ __forceinline__ u32x4 decoded(u32 codes, u32 scale_pair) {
    u32 values[4];
    cvt_rn_f16x2_e2m1x2(values, codes);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        values[i] = mul_rn_f16x2(values[i], scale_pair);
        if constexpr (KIND == KIND_BF16) values[i] = cvt_rn_bf16x2_f32(cvt_f32_f16(values[i]), cvt_f32_f16(values[i] >> 16));
    }
    return {values[0], values[1], values[2], values[3]};
}

// A decoding warp; `warp` is its number.
template <class At>
__device__ __forceinline__ void decode(const Storage<S>& memory, u32 warp, StaticSchedule<SPLITS> schedule, At at, const u8* scales,
                                       int rows, int k) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    Ring<S::STAGES> ring;
    u32 turn = 0;
    Work work;
    griddepcontrol_wait();
    while (schedule.next(work)) {
        const Place place = at(work.tile);
        const Part part(k, work.split);
        const Weights weights{scales + place.batch * scale_matrix_bytes<B_LAYOUT>(rows, k / 16), rows, k};
        for (int chunk = part.begin; chunk < part.end; ++chunk, ring.advance()) {
            const bool mine = turn == warp;
            turn = turn + 1 == DECODERS ? 0 : turn + 1;
            if (!mine) continue;
            u32 words[4];
            if constexpr (B_LAYOUT == SCALES_LINEAR) {
#pragma unroll
                for (int q = 0; q < 4; ++q) words[q] = linear_scales(weights, place.x + lane + 32 * q, chunk);
            }
            // First that the stage has been free: a decoder that is a round ahead would take its last phase for this one.
            wait_barrier(memory.empty(ring.index), ring.parity ^ 1);
            wait_barrier(memory.full(ring.index), ring.parity);
            if constexpr (B_LAYOUT == SCALES_TILED) {
                const u32x4 v = ld_shared_v4_b32(memory.x_scale(ring.index) + 16 * lane);
                words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
            }
            // What pads scales along K may be NaN, and codes there are zeros.
            const int left = k / 16 - 4 * chunk;
            const u32 mask = left >= 4 ? 0xFFFFFFFFu : (1u << 8 * left) - 1;
#pragma unroll
            for (int q = 0; q < 4; ++q) {
                const int row = lane + 32 * q;
                const u32 from = memory.x(ring.index) + S::CODES + row * CODE_BYTES, to = memory.x(ring.index) + row * (2 * DEPTH);
                const u32 bytes = words[q] & mask;
                const u32 pairs[2] = {cvt_rn_f16x2_e4m3x2(bytes), cvt_rn_f16x2_e4m3x2(bytes >> 16)};
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const u32x4 codes = ld_shared_v4_b32(from + 16 * half);
                    const u32 low = pairs[half] & 0xFFFFu, high = pairs[half] >> 16;
                    const u32 first = low | low << 16, second = high | high << 16;
                    const u32 line = 4 * half;
                    st_shared_v4_b32(to + ((line ^ (row & 7)) << 4), decoded(codes.x, first));
                    st_shared_v4_b32(to + ((line + 1 ^ (row & 7)) << 4), decoded(codes.y, first));
                    st_shared_v4_b32(to + ((line + 2 ^ (row & 7)) << 4), decoded(codes.z, second));
                    st_shared_v4_b32(to + ((line + 3 ^ (row & 7)) << 4), decoded(codes.w, second));
                }
            }
            fence_proxy_async_shared_cta();
            __syncwarp();
            if (lane == 0) mbarrier_arrive_shared_b64(memory.ready(ring.index));
        }
    }
}

extern "C" __global__ void __launch_bounds__(S::THREADS, 1)
    nvfp4_sm100_decode_gemm(const __grid_constant__ TensorMap activations, const __grid_constant__ TensorMap codes,
                            const __grid_constant__ TensorMap scale_map, const u8* scales, const float* tensor_scales, int tensor_stride,
                            u8* out, float* sums, u32* counters, int m, int n, int k, int l) {
    __shared__ Barriers<S> barriers;
    __shared__ u32 flag;
    const u32 warp = __shfl_sync(0xFFFFFFFFu, threadIdx.x / 32, 0);  // the same for the warp, as the compiler should know
    const Storage<S> memory{(shared_address(shared_memory) + 1023u) & ~1023u, shared_address(&barriers), 0};
    if (threadIdx.x == 0) memory.init();
    if (warp == S::PRODUCT_WARP) {
        tcgen05_alloc<1>(memory.tensor(), S::COLUMNS);
        tcgen05_relinquish_alloc_permit<1>();
    }
    synchronise<S>();
    griddepcontrol_launch_dependents();
    const u32 tensor = ld_shared_b32(memory.tensor());
    const Tiling<PLAN_BAND> tiling{(n + S::TILE_M - 1) / S::TILE_M, (m + S::TILE_N - 1) / S::TILE_N};
    const StaticSchedule<SPLITS> schedule{static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x),
                                          tiling.tiles_x * tiling.tiles_y * l * SPLITS};
    const auto at = [&](int tile) {
        const TileIndex index = tiling.at(tile);
        return Place{index.x * S::TILE_M, index.y * S::TILE_N, index.batch};
    };
    const auto target = [&](int tile) {
        const Place place = at(tile);
        return Target{out + static_cast<i64>(place.batch) * m * n * OUT_BYTES<PLAN_OUT>, place.x, n, place.y, m, n,
                      tensor_scale(tensor_scales, tensor_stride, place.batch), 1.0f, nullptr, 0, false};
    };
    if (warp < S::LOAD_WARP) {
        store_tiles<S, PLAN_OUT, true, false, SPLITS, 0>(memory, tensor, shared_address(&flag), schedule, Partials{sums, counters}, target,
                                                         Scaled{});
    } else if (warp == S::LOAD_WARP) {
        if (elect_sync()) load(memory, schedule, at, codes, scale_map, activations, (n + 127) / 128, k);
        __syncwarp();
    } else if (warp == S::PRODUCT_WARP) {
        if (elect_sync()) multiply(memory, tensor, schedule, k);
        __syncwarp();
    } else {
        decode(memory, warp - S::FIRST_DECODER, schedule, at, scales, n, k);
    }
    synchronise<S>();
    if (warp == S::PRODUCT_WARP) tcgen05_dealloc<1>(tensor, S::COLUMNS);
}
