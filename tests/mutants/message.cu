// One block hands values to another through global memory; sm_80.
#include "ptx.cuh"

extern "C" __global__ void kernel(const u32* in, u32* out, volatile u32* flag, u32* box) {
    u32 t = threadIdx.x;
    if (blockIdx.x == 0) {
        box[t] = in[t] * 3;  // @write
        __syncthreads();
        if (t == 0) {
#ifndef NO_RELEASE
            __threadfence();
#endif
            *flag = 1;
        }
    } else {
        if (t == 0) {
#ifndef NO_SPIN
            while (*flag == 0) {
            }
#endif
#ifndef NO_ACQUIRE
            __threadfence();
#endif
        }
        __syncthreads();
        out[t] = box[t] + 1;  // @read
    }
}
