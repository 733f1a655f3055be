// Reads `bytes` bytes once and does next to nothing with them: the time that no kernel on the same data can beat.
//
//   data      [bytes], 16-byte aligned, bytes a multiple of 16
//   partials  [gridDim.x] u32: the exclusive or of all 32-bit words that a block read; over all blocks it is that of the
//             data, so that the reading can be checked and cannot be optimised away
//
// Two entries, one measurement: read_floor_bulk for sm_90 and later, read_floor_loads for any GPU.
//
// read_floor_bulk: a ring of STAGES x STAGE_BYTES of dynamic shared memory. One producer warp, CONSUMERS warps that fold.
//
//     chunk c of the data  ->  block c % gridDim.x,  its stage (c / gridDim.x) % STAGES
//     full[s]   1 arrival (the producer's expect_tx) + the bytes of the chunk
//     empty[s]  CONSUMERS arrivals, one lane of each warp
//
// Bulk copies keep STAGES x STAGE_BYTES in flight a block without occupying registers, and the programmatic launch lets
// the next kernel's first copies start while the last ones of this kernel arrive. No kernel before this one writes `data`,
// so only the write of `partials` waits for it.

#include "ptx/barrier.cuh"
#include "ptx/cache_policy.cuh"
#include "ptx/cp_async_bulk.cuh"
#include "ptx/griddepcontrol.cuh"
#include "ptx/ld.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/types.cuh"

constexpr int CONSUMERS = CONFIG_CONSUMERS;      // warps that fold
constexpr int STAGES = CONFIG_STAGES;            // stages of the ring
constexpr int STAGE_BYTES = CONFIG_STAGE_BYTES;  // bytes of one stage
constexpr int CONSUMER_THREADS = 32 * CONSUMERS;
constexpr bool EVICT_FIRST = CONFIG_EVICT_FIRST;  // the data leaves L2 before whatever else is there
constexpr int LOADS = 8;  // vectors in flight a thread in read_floor_loads

static_assert(CONSUMERS >= 1 && CONSUMERS <= 16, "one producer warp and up to 16 consumer warps");
static_assert(STAGE_BYTES % (32 * CONSUMERS * 16) == 0, "every consumer thread folds whole 16-byte vectors");

__device__ __forceinline__ u32 fold(u32x4 value) { return value.x ^ value.y ^ value.z ^ value.w; }

// The exclusive or of `value` over the consumer threads, written by the first of them.
__device__ __forceinline__ void write_partial(u32 value, u32* partials) {
    __shared__ u32 warps[CONSUMERS];
    for (int distance = 16; distance > 0; distance /= 2) value ^= __shfl_xor_sync(~0u, value, distance);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    // Only the consumers meet here: the producer warp of read_floor_bulk has gone.
    barrier_sync(1, CONSUMER_THREADS);
    if (threadIdx.x == 0) {
        for (int warp = 1; warp < CONSUMERS; warp++) value ^= warps[warp];
        griddepcontrol_wait();
        partials[blockIdx.x] = value;
    }
}

#if __CUDA_ARCH__ >= 900

__device__ __forceinline__ void wait(u32 barrier, u32 parity) {
    while (!mbarrier_try_wait_parity_shared_b64(barrier, parity)) {
    }
}

extern "C" __global__ void __launch_bounds__(CONSUMER_THREADS + 32)
    read_floor_bulk(const u8* data, u64 bytes, u32* partials) {
    extern __shared__ __align__(128) u8 ring[];
    __shared__ __align__(8) u64 barriers[2 * STAGES];
    griddepcontrol_launch_dependents();
    const u32 full = shared_address(barriers), empty = full + 8 * STAGES, stages = shared_address(ring);
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; stage++) {
            mbarrier_init_shared_b64(full + 8 * stage, 1);
            mbarrier_init_shared_b64(empty + 8 * stage, CONSUMERS);
        }
        fence_mbarrier_init_release_cluster();
    }
    __syncthreads();

    const u64 chunks = (bytes + STAGE_BYTES - 1) / STAGE_BYTES;
    int stage = 0;
    u32 parity = 0;
    if (threadIdx.x >= CONSUMER_THREADS) {
        if (threadIdx.x != CONSUMER_THREADS) return;
        for (u64 chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
            wait(empty + 8 * stage, parity ^ 1);  // the first pass over the ring finds every stage empty
            const u64 begin = chunk * STAGE_BYTES, left = bytes - begin;
            const u32 size = left < STAGE_BYTES ? static_cast<u32>(left) : STAGE_BYTES;
            mbarrier_arrive_expect_tx_shared_b64(full + 8 * stage, size);
            const u32 to = stages + stage * STAGE_BYTES;
            if (EVICT_FIRST) {
                cp_async_bulk_shared_global_mbarrier_policy(to, data + begin, size, full + 8 * stage, POLICY_EVICT_FIRST);
            } else {
                cp_async_bulk_shared_global_mbarrier(to, data + begin, size, full + 8 * stage);
            }
            if (++stage == STAGES) stage = 0, parity ^= 1;
        }
        return;
    }
    u32 sum = 0;
    for (u64 chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
        wait(full + 8 * stage, parity);
        const u64 left = bytes - chunk * STAGE_BYTES;
#pragma unroll
        for (u32 offset = 0; offset < STAGE_BYTES; offset += CONSUMER_THREADS * 16) {
            const u32 mine = offset + threadIdx.x * 16;
            if (mine < left) sum ^= fold(ld_shared_v4_b32(stages + stage * STAGE_BYTES + mine));
        }
        __syncwarp();
        if (threadIdx.x % 32 == 0) mbarrier_arrive_shared_b64(empty + 8 * stage);
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
    write_partial(sum, partials);
}

#endif

extern "C" __global__ void __launch_bounds__(CONSUMER_THREADS)
    read_floor_loads(const u8* data, u64 bytes, u32* partials) {
    griddepcontrol_launch_dependents();
    const u64 vectors = bytes / 16, share = (vectors + gridDim.x - 1) / gridDim.x;
    const u64 begin = share * blockIdx.x, end = begin + share < vectors ? begin + share : vectors;
    u32 sum = 0;
    for (u64 base = begin + threadIdx.x; base < end; base += LOADS * CONSUMER_THREADS) {
        u32x4 values[LOADS];
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            const u64 index = base + i * CONSUMER_THREADS;
            values[i] = index < end ? ld_global_L1_no_allocate_v4_b32(data + 16 * index) : u32x4{0, 0, 0, 0};
        }
#pragma unroll
        for (int i = 0; i < LOADS; i++) sum ^= fold(values[i]);
    }
    write_partial(sum, partials);
}
