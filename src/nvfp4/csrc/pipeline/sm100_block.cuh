// A block of the Blackwell product kernels: shared and tensor memory, and who does what.
#pragma once

#include "epilogue/sm100_store.cuh"
#include "pipeline/sm100_roles.cuh"
#include "pipeline/sm100_scales.cuh"
#include "ptx/elect.cuh"

// Constants that the product kernels have in common, defined by the launch (nvfp4/backends/sm100/plans.py says what they mean).
using S = Shape<PLAN_TILE_N, PLAN_PRODUCTS, PLAN_STAGES, PLAN_BUFFERS, PLAN_SETS, PLAN_CLUSTER, PLAN_X_SCALES, PLAN_Y_SCALES, PLAN_INSPECT>;
constexpr int SPLITS = PLAN_SPLITS;
constexpr bool SWAPPED = PLAN_SWAPPED;  // X is B, the weights, and Y is A
constexpr u64 X_POLICY = PLAN_HINTS ? (SWAPPED ? POLICY_EVICT_FIRST : POLICY_EVICT_LAST) : POLICY_EVICT_NORMAL;
constexpr u64 Y_POLICY = PLAN_HINTS ? (SWAPPED ? POLICY_EVICT_LAST : POLICY_EVICT_FIRST) : POLICY_EVICT_NORMAL;
static_assert(PLAN_OUT >= OUT_FP16 && PLAN_OUT <= OUT_FP32, "PLAN_OUT");

extern __shared__ u8 shared_memory[];

// Runs the roles over `items` parts of tiles. `describe(tile)` gives what a tile is made of for this block, `target(tile)` where it goes.
template <class Describe, class TargetOf, class Finish>
__device__ __forceinline__ void run_block(int items, const Partials& partials, Describe describe, TargetOf target, Finish finish) {
    __shared__ Barriers<S> barriers;
    __shared__ u32 flag;
    const u32 warp = __shfl_sync(0xFFFFFFFFu, threadIdx.x / 32, 0);  // the same for the warp, as the compiler should know
    const Storage<S> memory{(shared_address(shared_memory) + 1023u) & ~1023u, shared_address(&barriers),
                            S::BLOCKS > 1 ? cluster_ctarank() : 0};
    if (threadIdx.x == 0) memory.init();
    if (warp == S::PRODUCT_WARP) tcgen05_alloc<S::GROUP>(memory.tensor(), S::COLUMNS);
    synchronise<S>();
    griddepcontrol_launch_dependents();
    const u32 tensor = ld_shared_b32(memory.tensor());
    const StaticSchedule<SPLITS> schedule{static_cast<int>(blockIdx.x / S::BLOCKS), static_cast<int>(gridDim.x / S::BLOCKS), items};

    if (warp < S::LOAD_WARP) {
        store_tiles<S, PLAN_OUT, SWAPPED, SPLITS>(memory, tensor, shared_address(&flag), schedule, partials, target, finish);
    } else if (warp == S::LOAD_WARP) {
        // Only Y can be early: it is the weights unless the operands are swapped.
        if (elect_sync()) load<S, SPLITS, PLAN_EARLY && !SWAPPED, X_POLICY, Y_POLICY>(memory, schedule, describe);
        __syncwarp();
    } else if (warp == S::PRODUCT_WARP) {
        if (memory.leads() && elect_sync()) multiply<S, SPLITS, PLAN_INTERLEAVE, PLAN_COLLECT>(memory, tensor, schedule, describe);
        __syncwarp();
    } else if constexpr (S::SCALE_WARPS > 0) {
        prepare_scales<S, SPLITS, PLAN_SCALE_UNIT>(memory, warp - S::FIRST_SCALE_WARP, schedule, describe);
    }

    synchronise<S>();
    if (warp == S::PRODUCT_WARP) {
        tcgen05_relinquish_alloc_permit<S::GROUP>();
        tcgen05_dealloc<S::GROUP>(tensor, S::COLUMNS);
    }
}
