// mbarrier objects of other blocks of the cluster (PTX ISA 9.7.13.15.13, "mbarrier.arrive"; sm_90).
#pragma once

#include "ptx/types.cuh"

// `barrier` is an address of the cluster's window (mapa).
__device__ __forceinline__ void mbarrier_arrive_release_cluster_shared_cluster_b64(u32 barrier) {
    asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// The same, releasing nothing that this thread has written to blocks other than its own.
__device__ __forceinline__ void mbarrier_arrive_shared_cluster_b64(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Whether the phase of `parity` has completed; what other blocks of the cluster did before they arrived is visible then.
__device__ __forceinline__ bool mbarrier_try_wait_parity_acquire_cluster_shared_b64(u32 barrier, u32 parity) {
    u32 done;
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
    return done != 0;
}

// Returns when the phase of `parity` has completed.
__device__ __forceinline__ void wait_barrier_cluster(u32 barrier, u32 parity) {
    while (!mbarrier_try_wait_parity_acquire_cluster_shared_b64(barrier, parity)) {
    }
}

// The rank of this block in its cluster.
__device__ __forceinline__ u32 cluster_ctarank() {
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
