// st.async: stores to another block of the cluster, counted in bytes by an mbarrier there (PTX ISA 9.7.9.12, "st.async"; sm_90).
#pragma once

#include "ptx/types.cuh"

// Both addresses are of the cluster's window (mapa) and lie in the same block.
__device__ __forceinline__ void st_async_shared_cluster_mbarrier_complete_tx_bytes_v4_f32(u32 address, float x, float y, float z, float w,
                                                                                         u32 barrier) {
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(address), "f"(x), "f"(y),
                 "f"(z), "f"(w), "r"(barrier)
                 : "memory");
}
