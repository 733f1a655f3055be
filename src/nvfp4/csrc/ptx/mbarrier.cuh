// mbarrier: barriers in shared memory that count arrivals and bytes (PTX ISA 9.7.13.15; sm_80, what is used here sm_90).
#pragma once

#include "ptx/types.cuh"

__device__ __forceinline__ void mbarrier_init_shared_b64(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes the initialisation visible to the asynchronous copies of the cluster (9.7.13.4, "fence").
__device__ __forceinline__ void fence_mbarrier_init_release_cluster() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void mbarrier_arrive_shared_b64(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// One arrival, and `bytes` more that the phase waits for.
__device__ __forceinline__ void mbarrier_arrive_expect_tx_shared_b64(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Whether the phase of `parity` has completed; the thread may be suspended for a while before it is told no.
__device__ __forceinline__ bool mbarrier_try_wait_parity_shared_b64(u32 barrier, u32 parity) {
    u32 done;
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
    return done != 0;
}

// Returns when the phase of `parity` has completed.
__device__ __forceinline__ void wait_barrier(u32 barrier, u32 parity) {
    while (!mbarrier_try_wait_parity_shared_b64(barrier, parity)) {
    }
}

// mbarrier_try_wait, answered at once.
__device__ __forceinline__ bool mbarrier_test_wait_parity_shared_b64(u32 barrier, u32 parity) {
    u32 done;
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
    return done != 0;
}
