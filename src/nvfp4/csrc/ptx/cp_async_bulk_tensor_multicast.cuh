// cp.async.bulk.tensor into several blocks of a cluster (PTX ISA 9.7.9.25.5.2, "cp.async.bulk.tensor"; sm_90).
#pragma once

#include "ptx/cp_async_bulk_tensor.cuh"

// The box at element coordinates (x, y, z) to the same offset of every block of `mask`, each of which counts its bytes on its own barrier.
__device__ __forceinline__ void cp_async_bulk_tensor_3d_multicast(u32 shared, const TensorMap* map, i32 x, i32 y, i32 z, u32 barrier,
                                                                  u32 mask) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
        " [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(shared),
        "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier), "h"(static_cast<u16>(mask))
        : "memory");
}
