// A block of the Blackwell product kernels: shared and tensor memory, and who does what.
#pragma once

#include "epilogue/sm100_store.cuh"
#include "pipeline/sm100_roles.cuh"
#include "pipeline/sm100_scales.cuh"
#include "ptx/elect.cuh"

// Constants that the product kernels have in common, defined by the launch (nvfp4/backends/sm100/plans.py says what they mean).
using S = Shape<PLAN_TILE_N, PLAN_PRODUCTS, PLAN_STAGES, PLAN_BUFFERS, PLAN_SETS, PLAN_CLUSTER, PLAN_X_SCALES, PLAN_Y_SCALES, PLAN_INSPECT,
                PLAN_TAKEOVER, PLAN_SHARE_SCALES>;
constexpr int SPLITS = PLAN_SPLITS;
constexpr bool SWAPPED = PLAN_SWAPPED;  // X is B, the weights, and Y is A
constexpr bool STAGED = PLAN_STAGED;    // results go to C through shared memory
constexpr u64 X_POLICY = PLAN_HINTS ? (SWAPPED ? POLICY_EVICT_FIRST : POLICY_EVICT_LAST) : POLICY_EVICT_NORMAL;
constexpr u64 Y_POLICY = PLAN_HINTS ? (SWAPPED ? POLICY_EVICT_LAST : POLICY_EVICT_FIRST) : POLICY_EVICT_NORMAL;
// Chunks at the end of a tile whose first products are all computed before their second ones, so that the epilogue can begin with those.
constexpr int FINISH = PLAN_FINISH;
static_assert(FINISH == 0 || (S::PRODUCTS == 2 && SPLITS == 1 && FINISH <= S::SETS && FINISH <= S::STAGES), "PLAN_FINISH");
static_assert(!STAGED || !SWAPPED, "PLAN_STAGED");
static_assert(PLAN_OUT >= OUT_FP16 && PLAN_OUT <= OUT_FP32, "PLAN_OUT");

extern __shared__ u8 shared_memory[];

// Runs the roles over `items` parts of tiles. `describe(tile)` gives what a tile is made of for this block, `target(tile)` where it goes; `maps`
// may replace the tensor maps of a tile (sm100_maps.cuh).
template <class Describe, class TargetOf, class Finish, class Maps = ParameterMaps>
__device__ __forceinline__ void run_block(int items, const Partials& partials, Describe describe, TargetOf target, Finish finish,
                                          Maps maps = {}) {
    __shared__ Barriers<S> barriers;
    __shared__ u32 flag;
    const u32 warp = __shfl_sync(0xFFFFFFFFu, threadIdx.x / 32, 0);  // the same for the warp, as the compiler should know
    const Storage<S> memory{(shared_address(shared_memory) + 1023u) & ~1023u, shared_address(&barriers),
                            S::BLOCKS > 1 ? cluster_ctarank() : 0};
    if (threadIdx.x == 0) memory.init();
    if (warp == S::PRODUCT_WARP) {
        tcgen05_alloc<S::GROUP>(memory.tensor(), S::COLUMNS);
        tcgen05_relinquish_alloc_permit<S::GROUP>();
    }
    synchronise<S>();
    griddepcontrol_launch_dependents();
    const u32 tensor = ld_shared_b32(memory.tensor());
    const int cluster = static_cast<int>(blockIdx.x / S::BLOCKS);
    const auto schedule = [&](auto alone) {
        if constexpr (S::TAKEOVER) {
            return TakeoverSchedule<S, SPLITS, decltype(alone)::VALUE != 0>{memory, cluster, items};
        } else {
            return StaticSchedule<SPLITS>{cluster, static_cast<int>(gridDim.x / S::BLOCKS), items};
        }
    };
    const Mode<0> warps;
    const Mode<1> thread;

    if (warp < S::LOAD_WARP) {
        store_tiles<S, PLAN_OUT, SWAPPED, STAGED, SPLITS, FINISH>(memory, tensor, shared_address(&flag), schedule(warps), partials, target, finish);
    } else if (warp == S::LOAD_WARP) {
        // Only Y can be early: it is the weights unless the operands are swapped.
        if (elect_sync()) {
            load<S, SPLITS, PLAN_EARLY && !SWAPPED, PLAN_PREFETCH, X_POLICY, Y_POLICY>(memory, schedule(thread), describe, maps);
        }
        __syncwarp();
    } else if (warp == S::PRODUCT_WARP) {
        if (memory.leads() && elect_sync()) {
            multiply<S, SPLITS, PLAN_INTERLEAVE, PLAN_COLLECT, FINISH>(memory, tensor, schedule(thread), describe);
        }
        __syncwarp();
    } else if (warp < S::SCHEDULE_WARP) {
        if constexpr (S::SCALE_WARPS > 0) {
            prepare_scales<S, SPLITS, PLAN_SCALE_UNIT>(memory, warp - S::FIRST_SCALE_WARP, schedule(warps), describe);
        }
    } else if constexpr (S::TAKEOVER) {
        if (elect_sync()) ask_for_work<S, SPLITS>(memory, schedule(thread));
        __syncwarp();
    }

    synchronise<S>();
    if (warp == S::PRODUCT_WARP) tcgen05_dealloc<S::GROUP>(tensor, S::COLUMNS);
}
