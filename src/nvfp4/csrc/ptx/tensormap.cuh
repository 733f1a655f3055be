// tensormap.replace and the fences between changing a tensor map and using it (PTX ISA 9.7.9.28, 9.7.13.4; sm_90a, sm_100a). The map lies in
// device memory, aligned to 128 bytes.
#pragma once

#include "ptx/cp_async_bulk_tensor.cuh"
#include "ptx/types.cuh"

__device__ __forceinline__ void tensormap_replace_global_address(TensorMap* map, const void* address) {
    asm volatile("tensormap.replace.tile.global_address.global.b1024.b64 [%0], %1;" ::"l"(map), "l"(address) : "memory");
}

// Elements in dimension ORDINAL.
template <int ORDINAL>
__device__ __forceinline__ void tensormap_replace_global_dim(TensorMap* map, u32 elements) {
    asm volatile("tensormap.replace.tile.global_dim.global.b1024.b32 [%0], %1, %2;" ::"l"(map), "n"(ORDINAL), "r"(elements) : "memory");
}

// Bytes between neighbours in dimension ORDINAL + 1.
template <int ORDINAL>
__device__ __forceinline__ void tensormap_replace_global_stride(TensorMap* map, u64 bytes) {
    asm volatile("tensormap.replace.tile.global_stride.global.b1024.b64 [%0], %1, %2;" ::"l"(map), "n"(ORDINAL), "l"(bytes) : "memory");
}

// What this thread has written to tensor maps, for those who acquire them.
__device__ __forceinline__ void fence_proxy_tensormap_generic_release_gpu() {
    asm volatile("fence.proxy.tensormap::generic.release.gpu;" ::: "memory");
}

// Before this thread hands a map that was changed to the copy engine.
__device__ __forceinline__ void fence_proxy_tensormap_generic_acquire_gpu(const TensorMap* map) {
    asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" ::"l"(map) : "memory");
}
