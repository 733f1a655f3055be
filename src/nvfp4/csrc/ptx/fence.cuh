// fence: ordering between proxies (PTX ISA 9.7.13.4, "membar / fence"; sm_90).
#pragma once

// Shared memory written by this thread, to be read by the matrix unit or the copy engine after the next barrier.
__device__ __forceinline__ void fence_proxy_async_shared_cta() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Device memory that this thread has seen written, to be read by the copy engine on its behalf.
__device__ __forceinline__ void fence_proxy_async_global() { asm volatile("fence.proxy.async.global;" ::: "memory"); }
