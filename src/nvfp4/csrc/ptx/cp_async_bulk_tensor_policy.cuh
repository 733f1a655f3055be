// cp.async.bulk.tensor with a cache policy, into this block, a pair of blocks, or several (PTX ISA 9.7.9.27.1.2; sm_100a).
#pragma once

#include "ptx/cache_policy.cuh"
#include "ptx/cp_async_bulk_tensor.cuh"
#include "ptx/types.cuh"

// Fetches the box into L2 (9.7.9.27.1.4, "cp.async.bulk.prefetch.tensor"); nothing is observed.
__device__ __forceinline__ void cp_async_bulk_prefetch_tensor_3d_L2(const TensorMap* map, i32 x, i32 y, i32 z) {
    asm volatile("cp.async.bulk.prefetch.tensor.3d.L2.global [%0, {%1, %2, %3}];" ::"l"(map), "r"(x), "r"(y), "r"(z) : "memory");
}

// The box at (x, y, z); `barrier` is of this block.
__device__ __forceinline__ void cp_async_bulk_tensor_3d_policy(u32 shared, const TensorMap* map, i32 x, i32 y, i32 z,
                                                               u32 barrier, u64 policy) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
        " [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(shared),
        "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier), "l"(policy)
        : "memory");
}

// The same; `barrier` may be of the other block of the pair (an address of the cluster's window).
__device__ __forceinline__ void cp_async_bulk_tensor_3d_cta_group_2_policy(u32 shared, const TensorMap* map, i32 x, i32 y,
                                                                           i32 z, u32 barrier, u64 policy) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.cta_group::2.L2::cache_hint"
        " [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(shared),
        "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier), "l"(policy)
        : "memory");
}

// The same box to the same offset of every block of `mask`, which is a pair; the bytes of both are counted by the barrier of the block that
// `barrier` (an address of the cluster's window) is of.
__device__ __forceinline__ void cp_async_bulk_tensor_3d_multicast_cta_group_2_policy(u32 shared, const TensorMap* map, i32 x, i32 y,
                                                                                     i32 z, u32 barrier, u32 mask, u64 policy) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster.cta_group::2.L2::cache_hint"
        " [%0], [%1, {%2, %3, %4}], [%5], %6, %7;" ::"r"(shared),
        "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier), "h"(static_cast<u16>(mask)), "l"(policy)
        : "memory");
}

// The same box to the same offset of every block of `mask`, each of which counts its bytes on its own barrier.
__device__ __forceinline__ void cp_async_bulk_tensor_3d_multicast_policy(u32 shared, const TensorMap* map, i32 x, i32 y,
                                                                         i32 z, u32 barrier, u32 mask, u64 policy) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint"
        " [%0], [%1, {%2, %3, %4}], [%5], %6, %7;" ::"r"(shared),
        "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier), "h"(static_cast<u16>(mask)), "l"(policy)
        : "memory");
}
