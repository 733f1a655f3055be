// Threads fill a tile, the copy engine stores it, twice through the same tile; cp.async brings the operands; sm_90.
#include "ptx.cuh"

extern "C" __global__ void kernel(const u32* in, u32* out) {
    __shared__ __align__(128) u32 tile[64], stage[64];
    u32 t = threadIdx.x;
    for (u32 r = 0; r < 2; ++r) {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(SMEM(stage + t)), "l"(in + 64 * r + t) : "memory");  // @cp_async
#ifndef NO_CP_WAIT
        asm volatile("cp.async.wait_all;" ::: "memory");
#endif
#ifdef OTHERS_COPY
        tile[t] = stage[63 - t] + r;  // @use_stage
#else
        tile[t] = stage[t] + r;  // @use_stage
#endif
#ifndef NO_PROXY_FENCE
        FENCE_ASYNC();
#endif
#ifndef NO_BARRIER
        __syncthreads();
#endif
        if (t == 0) {
#ifdef ODD_SIZE
            BULK_STORE(out + 64 * r, SMEM(tile), 252);  // @odd_size
#elif defined(STORE_BEYOND)
            BULK_STORE(out + 64 * r + 32, SMEM(tile), 256);  // @store_beyond
#elif defined(STORE_MISALIGNED)
            BULK_STORE(out + 64 * r, SMEM(tile) + 8, 128);  // @store_misaligned
#else
            BULK_STORE(out + 64 * r, SMEM(tile), 256);  // @store
#endif
            BULK_COMMIT();
#ifndef NO_WAIT
            if (r == 0) BULK_WAIT_READ();
#endif
#ifndef NO_LAST_WAIT
            if (r == 1) BULK_WAIT();
#endif
        }
        __syncthreads();
    }
}
