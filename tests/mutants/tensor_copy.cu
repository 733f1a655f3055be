// A box of a tensor into shared memory and out to the caller; sm_90.
#include "ptx.cuh"

struct alignas(64) Map { u64 opaque[16]; };
#ifndef X
#define X 8
#endif
#ifndef SHIFT
#define SHIFT 0
#endif
#ifndef BYTES
#define BYTES 512
#endif

extern "C" __global__ void kernel(const __grid_constant__ Map map, u32* out) {
    __shared__ __align__(1024) u32 tile[256];
    __shared__ u64 bar;
    u32 t = threadIdx.x;
    if (t == 0) {
        MBAR_INIT(SMEM(&bar), 1);
        MBAR_FENCE();
    }
    __syncthreads();
    if (t == 0) {
        MBAR_EXPECT(SMEM(&bar), BYTES);
#ifdef THREE_COORDINATES
        asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %3}], [%4];" ::"r"(SMEM(tile)), "l"(&map), "r"(X), "r"(2), "r"(SMEM(&bar)) : "memory");  // @copy
#else
        asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(SMEM(tile) + SHIFT), "l"(&map), "r"(X), "r"(2), "r"(SMEM(&bar)) : "memory");  // @copy
#endif
    }
    MBAR_WAIT(SMEM(&bar), 0);  // @wait
    for (u32 i = t; i < 128; i += 32) out[i] = tile[i];
}
