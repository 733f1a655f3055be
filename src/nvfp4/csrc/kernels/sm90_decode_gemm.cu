// C[l] = A[l] B[l]^T, or C = silu(A B1^T) * (A B2^T), on Hopper for 16-bit activations: NVFP4 weights decoded into shared memory beside the
// multipliers, activations as they lie.
//
//   A [L, M, K]  activations: fp16 or bf16        B, B1, B2 [L, N, K]  weights: NVFP4
//   C [L, M, N]  fp16, bf16 or fp32               K a multiple of 64 (256 for linear scales); M, N, L any (L is 1 for two products)
//
// The instruction's M is rows of B, its N tokens (rows of A). A tile is 128 rows, or 64 of both B1 and B2, x TOKENS tokens of one block
// of the grid; clusters of SHARE
// blocks with neighbouring rows share activations (pipeline/sm90_feed.cuh), and the clusters of the grid the work of all tiles evenly
// (pipeline/stream_k.cuh).
//
// Order of tiles: bands of BAND tiles of tokens; within a band, the tiles of one block of weights follow one another, so that both
// the weights and the band's activations are found in L2.
//
// Resources: FeedShape::SHARED_BYTES + 1024 of dynamic shared memory, all registers of an SM: one block an SM.
#include "epilogue/silu.cuh"
#include "epilogue/tile_store.cuh"
#include "pipeline/sm90_feed.cuh"

// Constants: PLAN_MATRICES (1 or 2), PLAN_TOKENS, PLAN_SHARE, PLAN_WHOLE, PLAN_WEIGHTS, PLAN_TILES, PLAN_CHUNKS (of the rings), PLAN_BF16 (activations, else fp16),
// PLAN_B_LAYOUT, PLAN_OUT, PLAN_BAND, and PLAN_EARLY_WEIGHTS: weights are not written by the kernel before in the queue, and may be read
// before it has ended.
constexpr int B_LAYOUT = PLAN_B_LAYOUT, BAND = PLAN_BAND;
constexpr bool EARLY_WEIGHTS = PLAN_EARLY_WEIGHTS;
using S = FeedShape<PLAN_TOKENS, PLAN_MATRICES, PLAN_SHARE, PLAN_WHOLE, PLAN_WEIGHTS, PLAN_TILES, PLAN_CHUNKS, PLAN_BF16, B_LAYOUT>;
static_assert(PLAN_OUT >= OUT_FP16 && PLAN_OUT <= OUT_FP32, "output");

struct Tiling {
    int tiles_m, tiles_n;  // of all neighbours together

    __device__ __forceinline__ Tiling(int m, int n)
        : tiles_m((m + S::TOKENS - 1) / S::TOKENS), tiles_n((n + S::SHARE * S::ROWS - 1) / (S::SHARE * S::ROWS)) {}

    __device__ __forceinline__ int count() const { return tiles_m * tiles_n; }

    __device__ __forceinline__ FeedItem at(int tile) const {
        const int batch = tile / count(), rest = tile % count(), neighbour = S::SHARE == 1 ? 0 : static_cast<int>(cluster_ctarank());
        const int band = rest / (BAND * tiles_n), inside = rest % (BAND * tiles_n), width = min(BAND, tiles_m - band * BAND);
        return {(inside / width * S::SHARE + neighbour) * S::ROWS, (band * BAND + inside % width) * S::TOKENS, batch};
    }
};

// A parameter of each matrix.
template <class T>
struct Each {
    T of[S::MATRICES];
};

extern __shared__ u8 shared_memory[];

extern "C" __global__ void __launch_bounds__(S::THREADS, 1)
    nvfp4_sm90_decode_gemm(const __grid_constant__ TensorMap a_map, const __grid_constant__ Each<TensorMap> b_map,
                           const __grid_constant__ Each<TensorMap> b_scale_map, const __grid_constant__ Each<const u8*> b_scales,
                           const __grid_constant__ Each<const float*> b_tensor_scale, int b_tensor_stride, u8* out, float* sums, u32* counters, int m, int n, int k, int l,
                           int share, int extra, u32 reciprocal) {
    const FeedStages<S> stages{(shared_address(shared_memory) + 1023u) & ~1023u};
    const Tiling tiling(m, n);
    const DealtStreamK<S::SHARE> range(share, extra, chunks_of(k), reciprocal);
    const auto split = [&] {
        // Anew each time where sums and results leave few registers to keep it in.
        int each = share, longer = extra, depth = k;
        if constexpr (!S::NARROW || PLAN_OUT == OUT_FP32) asm volatile("" : "+r"(each), "+r"(longer), "+r"(depth));
        return DealtStreamK<S::SHARE>(each, longer, chunks_of(depth), reciprocal);
    };
    const FeedWork work = S::WHOLE ? FeedWork{0, tiling.count() * l, range.chunks, k / UNIT, range.team(), static_cast<int>(gridDim.x) / S::SHARE}
                                   : FeedWork{range.position, range.last, range.chunks, k / UNIT, range.tile_of(range.position), 1};
    const auto describe = [&](int tile) { return tiling.at(tile); };
    FeedSource<S::MATRICES> source;
#pragma unroll
    for (int i = 0; i < S::MATRICES; ++i) {
        source.codes[i] = &b_map.of[i];
        source.scales[i] = &b_scale_map.of[i];
        source.tiles[i] = b_scales.of[i];
    }
    source.rows = n;
    source.units = k / UNIT;

    if (!EARLY_WEIGHTS) griddepcontrol_wait();
    if (threadIdx.x == S::MULTIPLIERS + 32) {  // the one that loads weights later, too
        stages.init();
        load_first_raw(stages, work, source, describe);
    }
    if constexpr (S::SHARE > 1) {
        __syncwarp();
        barrier_cluster_arrive_release();
        barrier_cluster_wait_acquire();
    } else {
        __syncthreads();
    }

    const auto store = [&](auto count, int tile, int from, int begin, int end, auto& sums_of_tile, u32 group) {
        const FeedItem o = tiling.at(tile);
        constexpr int COLUMNS = 64 / S::MATRICES;
        float scale[S::MATRICES];
#pragma unroll
        for (int i = 0; i < S::MATRICES; ++i) scale[i] = S::FACTOR * tensor_scale(b_tensor_scale.of[i], b_tensor_stride, o.batch);
        store_tile_transposed<decltype(count)::VALUE, PLAN_OUT, S::STAGED, COLUMNS>(
            out + static_cast<i64>(o.batch) * m * n * OUT_BYTES<PLAN_OUT>, o.token + from, o.token + begin, min(o.token + end, m),
            o.row + static_cast<int>(group) * COLUMNS, n, stages.staging(group), 1 + group, [&](int i) {
                if constexpr (S::MATRICES == 1) return sums_of_tile[i] * scale[0];
                // Rows g and g + 8 of a fragment are of B1 and B2.
                const int first = i / 2 * 4 + i % 2;
                return silu(sums_of_tile[first] * scale[0]) * (sums_of_tile[first + 2] * scale[1]);
            });
    };
    const int teams = static_cast<int>(gridDim.x) / S::SHARE, neighbour = S::SHARE == 1 ? 0 : static_cast<int>(cluster_ctarank());
    const Workspace workspace{sums + static_cast<i64>(neighbour) * teams * 2 * WORKSPACE_GROUPS * 128 * (S::TOKENS / 2),
                              counters + neighbour * teams * WORKSPACE_GROUPS};
    run_feed<S, EARLY_WEIGHTS>(stages, work, split, workspace, source, &a_map, describe, store);
}
