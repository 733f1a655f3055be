// D = A B^T with kind::f16 (bf16 operands), A from shared memory or, with -DA_IN_TMEM, from tensor memory. One CTA, M = 128, K = 64.
// Operands are stored by threads in the 128-byte swizzled layout, so the kernel needs fence.proxy.async.
#include "tcgen05.cuh"

#ifndef N
#define N 64
#endif

extern "C" __global__ void __launch_bounds__(128) dense(const u16* a, const u16* b, float* d) {
    __shared__ __align__(1024) u8 tile_a[128 * 128];
    __shared__ __align__(1024) u8 tile_b[N * 128];
    __shared__ __align__(8) u64 bar;
    __shared__ u32 address;
    const u32 t = threadIdx.x;
    if (t == 0) { mbar_init(smem(&bar), 1); fence_mbar_init(); }
    if (warp_id() == 0) tmem_alloc<1>(smem(&address), 128);
    for (u32 c = 0; c < 8; ++c)
        *reinterpret_cast<uint4*>(tile_a + t * 128 + ((c ^ (t & 7)) * 16)) = reinterpret_cast<const uint4*>(a + t * 64)[c];
    for (u32 r = t; r < N; r += 128)
        for (u32 c = 0; c < 8; ++c)
            *reinterpret_cast<uint4*>(tile_b + r * 128 + ((c ^ (r & 7)) * 16)) = reinterpret_cast<const uint4*>(b + r * 64)[c];
#ifndef MUTANT_NO_PROXY_FENCE
    fence_async();
#endif
    fence_before();
    __syncthreads();
    fence_after();
    const u32 tmem = address;
#ifdef A_IN_TMEM
    const u32* row = reinterpret_cast<const u32*>(a + t * 64);
    for (u32 c = 0; c < 32; c += 8) {
        u32 r[8];
        for (u32 i = 0; i < 8; ++i) r[i] = row[c + i];
        st_32x32b_x8(tmem + (warp_id() * 32 << 16) + 64 + c, r);
    }
#ifndef MUTANT_NO_WAIT_ST
    wait_st();
#endif
    fence_before();
    __syncthreads();
    fence_after();
#endif
    if (warp_id() == 0 && elect()) {
        const u32 idesc = 1u << 4 | 1u << 7 | 1u << 10 | (N / 8) << 17 | 8u << 24;
        for (u32 k = 0; k < 4; ++k) {
            const u64 db = matrix(smem(tile_b) + 32 * k, 16, 1024, 2);
#ifdef A_IN_TMEM
            asm volatile("{ .reg .pred p; setp.ne.u32 p, %4, 0;\n"
                         "tcgen05.mma.cta_group::1.kind::f16 [%0], [%1], %2, %3, p; }" ::"r"(tmem), "r"(tmem + 64 + 8 * k), "l"(db),
                         "r"(idesc), "r"(k) : "memory");
#else
            const u64 da = matrix(smem(tile_a) + 32 * k, 16, 1024, 2);
            asm volatile("{ .reg .pred p; setp.ne.u32 p, %4, 0;\n"
                         "tcgen05.mma.cta_group::1.kind::f16 [%0], %1, %2, %3, p; }" ::"r"(tmem), "l"(da), "l"(db), "r"(idesc), "r"(k)
                         : "memory");
#endif
        }
        commit(smem(&bar));
    }
    __syncwarp();
    mbar_wait(smem(&bar), 0);
    fence_after();
    for (u32 c = 0; c < N; c += 8) {
        u32 r[8];
        ld_32x32b_x8(r, tmem + (warp_id() * 32 << 16) + c);
        wait_ld();
        for (int i = 0; i < 8; ++i) d[t * N + c + i] = __uint_as_float(r[i]);
    }
    fence_before();
    __syncthreads();
    if (warp_id() == 0) tmem_free<1>(tmem, 128);
}
