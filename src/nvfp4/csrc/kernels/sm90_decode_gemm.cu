// C[l] = A[l] B[l]^T, or C = silu(A B1^T) * (A B2^T), on Hopper for 16-bit activations, as they lie, and NVFP4 weights, which the
// multipliers decode.
//
//   A [L, M, K]  activations: fp16 or bf16        B, B1, B2 [L, N, K]  weights: NVFP4
//   C [L, M, N]  fp16, bf16 or fp32               K a multiple of 64 (256 for linear scales); M, N, L any (L is 1 for two products)
//
// The instruction's M is rows of B, its N tokens (rows of A). A tile is 128 rows, or 64 of both B1 and B2, x TOKENS tokens of one block
// of the grid; clusters of SHARE blocks with neighbouring rows share activations (pipeline/sm90_decode.cuh), and the clusters of the grid
// take whole tiles in turn, or share the work of all tiles evenly (pipeline/stream_k.cuh), or both, one after the other. Order of tiles:
// pipeline/tiling.cuh.
//
// Resources: DecodeShape::SHARED_BYTES + 1024 of dynamic shared memory, all registers of an SM: one block an SM.
#include "epilogue/silu.cuh"
#include "epilogue/tile_store.cuh"
#include "pipeline/sm90_decode.cuh"
#include "pipeline/tiling.cuh"

// Constants: PLAN_MATRICES (1 or 2), PLAN_TOKENS, PLAN_SHARE, PLAN_WHOLE, PLAN_HALVED, PLAN_TILES, PLAN_CHUNKS (of the rings), PLAN_BF16
// (activations, else fp16), PLAN_B_LAYOUT, PLAN_OUT, and PLAN_EARLY_WEIGHTS: weights are not written by the kernel before in the queue,
// and may be read before it has ended.
constexpr bool EARLY_WEIGHTS = PLAN_EARLY_WEIGHTS;
using S = DecodeShape<PLAN_TOKENS, PLAN_MATRICES, PLAN_SHARE, PLAN_WHOLE, PLAN_TILES, PLAN_CHUNKS, PLAN_BF16, PLAN_B_LAYOUT, PLAN_HALVED>;
constexpr int CLUSTER_ROWS = S::SHARE * S::ROWS;  // of a matrix
constexpr int BAND = 8;                           // tiles of tokens
static_assert(PLAN_OUT >= OUT_FP16 && PLAN_OUT <= OUT_FP32, "output");

// A parameter of each matrix.
template <class T>
struct Each {
    T of[S::MATRICES];
};

extern __shared__ u8 shared_memory[];

extern "C" __global__ void __launch_bounds__(S::THREADS, 1)
    nvfp4_sm90_decode_gemm(const __grid_constant__ TensorMap a_map, const __grid_constant__ Each<TensorMap> b_map,
                           const __grid_constant__ Each<TensorMap> b_scale_map, const __grid_constant__ Each<const u8*> b_scales,
                           const __grid_constant__ Each<const float*> b_tensor_scale, int b_tensor_stride, u8* out, float* sums,
                           u32* counters, int m, int n, int k, int tiles, int rounds, int share, int extra, u32 reciprocal) {
    const DecodeStages<S> stages{(shared_address(shared_memory) + 1023u) & ~1023u};
    // What is to be done is computed anew wherever it is asked for: there are few registers to keep it in.
    const auto teams = [] { return grid_blocks() / S::SHARE; };
    const auto split = [&] {
        int each = share, longer = extra, depth = k;
        asm volatile("" : "+r"(each), "+r"(longer), "+r"(depth));
        return LateStreamK<S::SHARE>({each, longer}, chunks_of(depth), reciprocal, teams(), rounds, tiles);
    };
    const auto work = [&] {
        const auto range = split();
        const int from = range.shared_from();
        return DecodeWork{range.chunks, range.team(), range.teams, S::WHOLE ? tiles : rounds * range.teams, range.tile_of(from), from, range.last};
    };
    const auto describe = [&](int tile) {
        int rows = n, tokens = m;
        asm volatile("" : "+r"(rows), "+r"(tokens));
        const TileIndex index = Tiling<BAND>{(rows + CLUSTER_ROWS - 1) / CLUSTER_ROWS, (tokens + S::TOKENS - 1) / S::TOKENS}.at(tile);
        const int block = index.x * S::SHARE + static_cast<int>(place_in_cluster<S>());
        return DecodeItem{block * S::ROWS, index.y * S::TOKENS, index.batch};
    };
    DecodeSource<S::MATRICES> source;
#pragma unroll
    for (int i = 0; i < S::MATRICES; ++i) {
        source.codes[i] = &b_map.of[i];
        source.scales[i] = &b_scale_map.of[i];
        source.tiled[i] = b_scales.of[i];
    }
    source.rows = n;
    source.units = k / UNIT;

    if (threadIdx.x == S::MULTIPLIERS) {
        prefetch_tensormap(&a_map);
#pragma unroll
        for (int i = 0; i < S::MATRICES; ++i) {
            prefetch_tensormap(&b_map.of[i]);
            prefetch_tensormap(&b_scale_map.of[i]);
        }
    }
    if (!EARLY_WEIGHTS) griddepcontrol_wait();
    if (threadIdx.x == S::MULTIPLIERS + 32) {  // the one that loads weights later, too
        stages.init();
        load_first_raw(stages, work(), source, describe);
    }
    if constexpr (S::SHARE > 1) {
        // Barriers are made known by their own fence. The neighbours' are waited for by those who reach for them.
        __syncwarp();
        barrier_cluster_arrive_relaxed();
    }
    __syncthreads();

    const auto store = [&](auto count, int tile, int from, int begin, int end, auto& sums_of_tile, u32 group, u32 rows) {
        const DecodeItem o = describe(tile);
        constexpr int COLUMNS = 64 / S::MATRICES;
        float scale[S::MATRICES];
#pragma unroll
        for (int i = 0; i < S::MATRICES; ++i) scale[i] = S::FACTOR * tensor_scale(b_tensor_scale.of[i], b_tensor_stride, o.batch);
        store_tile_transposed<decltype(count)::VALUE, PLAN_OUT, STAGING_TOKENS, COLUMNS>(
            out + static_cast<i64>(o.batch) * m * n * OUT_BYTES<PLAN_OUT>, o.token + from, o.token + begin, min(o.token + end, m),
            o.row + static_cast<int>(rows) * COLUMNS, n, stages.staging(group), 1 + group, [&](int i) {
                if constexpr (S::MATRICES == 1) return sums_of_tile[i] * scale[0];
                return silu_of_pair(sums_of_tile, i, [&](float sum) { return sum * scale[0]; }, [&](float sum) { return sum * scale[1]; });
            });
    };
    const int before = static_cast<int>(place_in_cluster<S>()) * teams();  // blocks with workspace before this one's
    const Workspace workspace{sums + static_cast<i64>(before) * WORKSPACE_SUMS<S::TOKENS / 2>, counters + before * WORKSPACE_GROUPS};
    run_decode<S, EARLY_WEIGHTS>(stages, work, split, workspace, source, &a_map, describe, store);
}
