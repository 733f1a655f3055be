// Loads of 32 bytes with priorities of L1 and L2 (PTX ISA 9.7.9.8, "ld"; .v8.b32 and .L2::evict_*: sm_100).
#pragma once

#include "ptx/types.cuh"

struct alignas(32) u32x8 {
    u32 word[8];
};

#define NVFP4_LD_256(PRIORITIES)                                                                                      \
    u32x8 v;                                                                                                          \
    asm volatile("ld.global" PRIORITIES ".v8.b32 {%0, %1, %2, %3, %4, %5, %6, %7}, [%8];"                          \
                 : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3]), "=r"(v.word[4]),               \
                   "=r"(v.word[5]), "=r"(v.word[6]), "=r"(v.word[7])                                                  \
                 : "l"(address));                                                                                     \
    return v

// Read once: not kept in L1, the first to leave L2.
__device__ __forceinline__ u32x8 ld_global_L1_no_allocate_L2_evict_first_v8_b32(const void* address) {
    NVFP4_LD_256(".L1::no_allocate.L2::evict_first");
}

// Read by every block: the last to leave L2.
__device__ __forceinline__ u32x8 ld_global_L2_evict_last_v8_b32(const void* address) { NVFP4_LD_256(".L2::evict_last"); }

#undef NVFP4_LD_256
