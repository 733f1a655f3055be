// Warp 0 passes two words, one after the other, to two warps through one word of shared memory; sm_80.
#include "ptx.cuh"

extern "C" __global__ void __launch_bounds__(96) kernel(const u32* in, u32* out) {
    __shared__ __align__(8) u32 box[2];
    u32 t = threadIdx.x, warp = t / 32, first = 0;
    if (t == 0) box[1] = in[0];  // @fill
    __syncthreads();
    if (warp == 0) {
#ifdef ONE_READER_TOLD
        asm volatile("bar.sync 1, 64;" ::: "memory");
#else
        asm volatile("bar.sync 1, 96;" ::: "memory");
#endif
        if (t == 0) box[1] = in[1];  // @overwrite
    } else {
        // A reader with another clock than the other one: which of the two is remembered must not matter.
        if (warp == 2) __threadfence_block();
        asm volatile("ld.shared.u32 %0, [%1];" : "=r"(first) : "r"(SMEM(box + 1)) : "memory");  // @read
#ifdef ONE_READER_TOLD
        if (warp == 1) asm volatile("bar.arrive 1, 64;" ::: "memory");
#else
        asm volatile("bar.arrive 1, 96;" ::: "memory");
#endif
    }
    __syncthreads();
    out[t] = first * 1000 + box[1];
}
