// Fetching into L2 without waiting (PTX ISA 9.7.9.15, "prefetch"; 9.7.9.25.4.3, "cp.async.bulk.prefetch"; sm_90).
// Nothing is observed: a byte that is written later is still read right.
#pragma once

#include "ptx/types.cuh"

// The cache line of `address`.
__device__ __forceinline__ void prefetch_global_L2(const void* address) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

// `bytes` from `address`; both multiples of 16.
__device__ __forceinline__ void cp_async_bulk_prefetch_L2_global(const void* address, u32 bytes) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(address), "r"(bytes) : "memory");
}
