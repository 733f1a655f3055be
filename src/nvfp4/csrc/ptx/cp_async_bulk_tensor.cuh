// cp.async.bulk.tensor: boxes of a tensor by the copy engine (PTX ISA 9.7.9.25.5, "Tensor copy"; sm_90).
#pragma once

#include "ptx/types.cuh"

// What cuTensorMapEncodeTiled fills in; passed as a __grid_constant__ parameter.
struct alignas(64) TensorMap {
    u64 opaque[16];
};

// The box at element coordinates (x, y, z), x the fastest; its bytes, also those beyond the tensor, are counted by `barrier`.
__device__ __forceinline__ void cp_async_bulk_tensor_3d_shared_global_mbarrier(u32 shared, const TensorMap* map, i32 x,
                                                                               i32 y, i32 z, u32 barrier) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(
            shared),
        "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier)
        : "memory");
}

// Fetches the descriptor itself (9.7.9.16, "prefetch").
__device__ __forceinline__ void prefetch_tensormap(const TensorMap* map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
