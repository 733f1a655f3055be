// Two blocks exchange rows through distributed shared memory; sm_90.
#include "ptx.cuh"

#ifndef PEER
#define PEER (rank ^ 1)
#endif
#ifndef SPACE
#define SPACE "shared::cluster"
#endif

extern "C" __global__ void __cluster_dims__(2, 1, 1) kernel(const u32* in, u32* out) {
    __shared__ u32 box[32], got[32];
    u32 t = threadIdx.x, rank, remote, v;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    box[t] = in[rank * 32 + t];  // @fill
    got[t] = 0;
#ifdef ARRIVE_TWICE
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
#ifndef NO_FIRST_BARRIER
    CLUSTER_SYNC();  // @sync
#endif
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(SMEM(box)), "r"(PEER));
    asm volatile("ld." SPACE ".u32 %0, [%1];" : "=r"(v) : "r"(remote + 4 * (31 - t)) : "memory");  // @load
    out[rank * 32 + t] = v;
#ifndef NO_LAST_BARRIER
    CLUSTER_SYNC();
#endif
}
