// One thread copies rows into a ring of two slots, a warp adds them up; sm_90.
#include "ptx.cuh"

#ifndef FULL_COUNT
#define FULL_COUNT 1
#endif
#ifndef BYTES
#define BYTES 128
#endif
#define ROWS 8

extern "C" __global__ void kernel(const u32* in, u32* out) {
    __shared__ __align__(128) u32 slots[2][32];
    __shared__ u64 full[2], empty[2];
    u32 t = threadIdx.x, lane = t & 31;
    if (t == 0) {
        for (u32 s = 0; s < 2; ++s) {
#ifndef NO_INIT
            MBAR_INIT(SMEM(full + s), FULL_COUNT);
#endif
            MBAR_INIT(SMEM(empty + s), 32);
        }
        MBAR_FENCE();
    }
#ifndef NO_BARRIER_AFTER_INIT
    __syncthreads();
#endif
    if (t < 32) {
        if (lane == 0) {
            for (u32 r = 0; r < ROWS; ++r) {
                u32 s = r & 1, use = r >> 1;
#ifndef NO_WAIT_EMPTY
                MBAR_WAIT(SMEM(empty + s), (use & 1) ^ 1);  // @wait_empty
#endif
                MBAR_EXPECT(SMEM(full + s), BYTES);  // @expect
#ifdef TWICE
                MBAR_ARRIVE(SMEM(full + s));  // @twice
#endif
                BULK_LOAD(SMEM(slots[s]), in + 32 * r, 128, SMEM(full + s));  // @load
            }
        }
    } else {
        u32 sum = 0;
        for (u32 r = 0; r < ROWS; ++r) {
            u32 s = r & 1, use = r >> 1;
#ifdef WRONG_PHASE
            MBAR_WAIT(SMEM(full + s), (use & 1) ^ 1);  // @wait_full
#elif !defined(NO_WAIT_FULL)
            MBAR_WAIT(SMEM(full + s), use & 1);  // @wait_full
#endif
            sum += slots[s][lane];  // @use
#ifdef FORGET_LANE
            if (lane != 3) MBAR_ARRIVE(SMEM(empty + s));
#else
            MBAR_ARRIVE(SMEM(empty + s));  // @free
#endif
        }
        out[lane] = sum;
    }
}
