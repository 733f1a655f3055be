// barrier: the numbered barriers of a block (PTX ISA 9.7.13.1, "barrier"); number 0 is that of __syncthreads.
#pragma once

#include "ptx/types.cuh"

// Waits for `threads` threads (a multiple of 32) at barrier `number` (0..15).
__device__ __forceinline__ void barrier_sync(u32 number, u32 threads) {
    asm volatile("barrier.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// Counts for it without waiting.
__device__ __forceinline__ void barrier_arrive(u32 number, u32 threads) {
    asm volatile("barrier.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
