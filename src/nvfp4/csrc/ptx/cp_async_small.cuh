// cp.async of 4, 8 and 16 bytes with zero fill (PTX ISA 9.7.9.25.3, "Non-bulk copy"; sm_80): where `valid` is false
// nothing is read and the destination becomes zero.
#pragma once

#include "ptx/types.cuh"

__device__ __forceinline__ void cp_async_cg_shared_global_L2_128B_16(u32 shared, const void* global, bool valid) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
}

// The same, with a cache policy (ptx/cache_policy.cuh).
__device__ __forceinline__ void cp_async_cg_shared_global_L2_cache_hint_L2_128B_16(u32 shared, const void* global, bool valid,
                                                                                   u64 policy) {
    asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %3;" ::"r"(shared), "l"(global),
                 "r"(valid ? 16 : 0), "l"(policy)
                 : "memory");
}

__device__ __forceinline__ void cp_async_ca_shared_global_8(u32 shared, const void* global, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared), "l"(global), "r"(valid ? 8 : 0)
                 : "memory");
}

__device__ __forceinline__ void cp_async_ca_shared_global_4(u32 shared, const void* global, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared), "l"(global), "r"(valid ? 4 : 0)
                 : "memory");
}
