// D [128, 16] = A [128, 16] B [16, 16]^T in bf16 with tcgen05, operands stored by threads without a swizzle; sm_100a.
#include "ptx.cuh"

#define DESCRIPTOR(p) (u64((SMEM(p) & 0x3FFFF) >> 4) | u64(128 >> 4) << 16 | u64(256 >> 4) << 32 | VERSION << 46)
#ifndef VERSION
#define VERSION 1ull
#endif
#ifndef COLUMNS
#define COLUMNS 32
#endif
#ifndef LOAD_COLUMN
#define LOAD_COLUMN 0
#endif
#ifndef LANES_OF
#define LANES_OF (t / 32)
#endif
#ifndef IDESC
#define IDESC (1u << 4 | 1u << 7 | 1u << 10 | (16u / 8) << 17 | (128u / 16) << 24)
#endif
#ifndef ACCUMULATE
#define ACCUMULATE 0
#endif

extern "C" __global__ void __launch_bounds__(128) kernel(const u16* a, const u16* b, float* out) {
    __shared__ __align__(1024) u16 tile_a[128 * 16];
    __shared__ __align__(1024) u16 tile_b[16 * 16];
    __shared__ __align__(8) u64 done;
    __shared__ u32 address;
    u32 t = threadIdx.x;
    if (t == 0) {
        MBAR_INIT(SMEM(&done), 1);
        MBAR_FENCE();
    }
    if (t < 32)
        asm volatile("tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%0], %1;" ::"r"(SMEM(&address)), "r"(COLUMNS) : "memory");  // @alloc
    for (u32 i = t; i < 128 * 16; i += 128) {
        u32 row = i / 16, k = i % 16;
        tile_a[row / 8 * 128 + k / 8 * 64 + row % 8 * 8 + k % 8] = a[i];  // @fill
        if (i < 256) tile_b[row / 8 * 128 + k / 8 * 64 + row % 8 * 8 + k % 8] = b[i];
    }
#ifndef NO_PROXY_FENCE
    FENCE_ASYNC();
#endif
    asm volatile("tcgen05.fence::before_thread_sync;" ::: "memory");
    __syncthreads();
    asm volatile("tcgen05.fence::after_thread_sync;" ::: "memory");
    u32 tmem = address;
    if (t == 0) {
        asm volatile("{ .reg .pred p; setp.ne.u32 p, %4, 0; tcgen05.mma.cta_group::1.kind::f16 [%0], %1, %2, %3, p; }" ::"r"(tmem), "l"(DESCRIPTOR(tile_a)), "l"(DESCRIPTOR(tile_b)), "r"(IDESC), "r"(ACCUMULATE) : "memory");  // @mma
#ifndef NO_COMMIT
        asm volatile("tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%0];" ::"r"(SMEM(&done)) : "memory");
#endif
    }
    __syncwarp();
#ifndef NO_WAIT
    MBAR_WAIT(SMEM(&done), 0);  // @wait
#endif
#ifndef NO_FENCE_AFTER
    asm volatile("tcgen05.fence::after_thread_sync;" ::: "memory");
#endif
    u32 r[16];
    asm volatile("tcgen05.ld.sync.aligned.32x32b.x16.b32 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, [%16];"  // @load
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]), "=r"(r[4]), "=r"(r[5]), "=r"(r[6]), "=r"(r[7]), "=r"(r[8]), "=r"(r[9]),
                   "=r"(r[10]), "=r"(r[11]), "=r"(r[12]), "=r"(r[13]), "=r"(r[14]), "=r"(r[15])
                 : "r"(tmem + (LANES_OF * 32 << 16) + LOAD_COLUMN));
#ifndef NO_WAIT_LD
    asm volatile("tcgen05.wait::ld.sync.aligned;" ::: "memory");
#endif
    // Columns 16 to 31 hold a copy for a moment.
    asm volatile("tcgen05.st.sync.aligned.32x32b.x4.b32 [%0], {%1, %2, %3, %4};" ::"r"(tmem + (t / 32 * 32 << 16) + 16), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");  // @store_copy
#ifndef NO_WAIT_ST
    asm volatile("tcgen05.wait::st.sync.aligned;" ::: "memory");
#endif
    asm volatile("tcgen05.ld.sync.aligned.32x32b.x4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(tmem + (t / 32 * 32 << 16) + 16));  // @load_copy
#ifndef NO_WAIT_LD
    asm volatile("tcgen05.wait::ld.sync.aligned;" ::: "memory");
#endif
    for (u32 j = 0; j < 16; ++j) out[t * 16 + j] = __uint_as_float(r[j]);  // @result
    asm volatile("tcgen05.fence::before_thread_sync;" ::: "memory");
    __syncthreads();
    if (t < 32) {
        asm volatile("tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;");
#ifndef NO_DEALLOC
        asm volatile("tcgen05.dealloc.cta_group::1.sync.aligned.b32 %0, %1;" ::"r"(tmem), "r"(COLUMNS));  // @dealloc
#endif
#ifdef USE_AFTER_FREE
        asm volatile("tcgen05.ld.sync.aligned.32x32b.x1.b32 {%0}, [%1];" : "=r"(r[0]) : "r"(tmem));  // @use_after_free
#endif
#ifdef FREE_TWICE
        asm volatile("tcgen05.dealloc.cta_group::1.sync.aligned.b32 %0, %1;" ::"r"(tmem), "r"(COLUMNS));  // @free_twice
#endif
    }
}
