// cp.async: copies from global to shared memory that run beside the thread (PTX ISA 9.7.9.25.3.1-3; sm_80).
#pragma once

#include "ptx/types.cuh"

// 16 bytes, kept out of L1; the bytes from `size` (0..16) on are filled with zeros and not read.
__device__ __forceinline__ void cp_async_cg_shared_global_16(u32 shared, const void* global, u32 size) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(size) : "memory");
}

__device__ __forceinline__ void cp_async_commit_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most N of the newest groups of this thread are under way.
template <int N>
__device__ __forceinline__ void cp_async_wait_group() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// 4 bytes; zeros if `size` is 0, and then nothing is read.
__device__ __forceinline__ void cp_async_ca_shared_global_4(u32 shared, const void* global, u32 size) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared), "l"(global), "r"(size) : "memory");
}

// Arrives at `barrier`, as one of its counted arrivals, when the copies that this thread has issued so far are done.
__device__ __forceinline__ void cp_async_mbarrier_arrive_noinc_shared_b64(u32 barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
