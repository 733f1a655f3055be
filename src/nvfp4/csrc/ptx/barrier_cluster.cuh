// barrier.cluster, and reading the shared memory of other blocks of the cluster (PTX ISA 9.7.13.3, 9.7.9.24 "mapa",
// 9.7.9.8 "ld"; sm_90).
#pragma once

#include "ptx/types.cuh"

__device__ __forceinline__ void barrier_cluster_arrive_release() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

// Orders nothing: for threads that have used what they read, and wrote nothing that others wait for.
__device__ __forceinline__ void barrier_cluster_arrive_relaxed() {
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}

__device__ __forceinline__ void barrier_cluster_wait_acquire() {
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// The address that `shared`, an address of this block, has in block `rank` of the cluster.
__device__ __forceinline__ u32 mapa_shared_cluster_u32(u32 shared, u32 rank) {
    u32 address;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared), "r"(rank));
    return address;
}

__device__ __forceinline__ float ld_shared_cluster_f32(u32 address) {
    float value;
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
    return value;
}
