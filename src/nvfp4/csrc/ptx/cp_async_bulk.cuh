// cp.async.bulk: copies of whole byte ranges by the copy engine (PTX ISA 9.7.9.25.4, "Bulk copy"; sm_90).
#pragma once

#include "ptx/types.cuh"

// `bytes` (a multiple of 16) from 16-byte aligned global memory; their arrival is counted by `barrier`.
__device__ __forceinline__ void cp_async_bulk_shared_global_mbarrier(u32 shared, const void* global, u32 bytes,
                                                                     u32 barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared),
        "l"(global), "r"(bytes), "r"(barrier)
        : "memory");
}

// The same, with a cache policy (ptx/cache_policy.cuh).
__device__ __forceinline__ void cp_async_bulk_shared_global_mbarrier_policy(u32 shared, const void* global, u32 bytes,
                                                                            u32 barrier, u64 policy) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(
            shared),
        "l"(global), "r"(bytes), "r"(barrier), "l"(policy)
        : "memory");
}
