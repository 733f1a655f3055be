// cp.async.bulk.tensor from shared to global memory, and the groups by which its completion is known (PTX ISA 9.7.9.27.1.2, 9.7.9.27.1.5; sm_90).
#pragma once

#include "ptx/cp_async_bulk_tensor.cuh"
#include "ptx/types.cuh"

// The box at element coordinates (x, y, z); what lies beyond the tensor is not written.
__device__ __forceinline__ void cp_async_bulk_tensor_3d_global_shared(const TensorMap* map, i32 x, i32 y, i32 z, u32 shared) {
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(map), "r"(x), "r"(y), "r"(z),
                 "r"(shared)
                 : "memory");
}

// Ends the group of this thread's copies since the last one.
__device__ __forceinline__ void cp_async_bulk_commit_group() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// Until at most N groups of this thread have sources that are still to be read.
template <int N>
__device__ __forceinline__ void cp_async_bulk_wait_group_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}

// Until at most N groups of this thread are incomplete.
template <int N>
__device__ __forceinline__ void cp_async_bulk_wait_group() {
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory");
}
