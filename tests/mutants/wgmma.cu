// D [64, 16] = A [64, 16] B [16, 16] in bf16, operands stored by threads without a swizzle, twice over; sm_90a.
#include "ptx.cuh"

#define DESCRIPTOR(p) (u64((SMEM(p) & 0x3FFFF) >> 4) | u64(128 >> 4) << 16 | u64(256 >> 4) << 32)
#ifndef BITS
#define BITS 0ull
#endif

extern "C" __global__ void __launch_bounds__(128) kernel(const u16* a, const u16* b, float* out) {
    __shared__ __align__(1024) u16 tile_a[64 * 16];
    __shared__ __align__(1024) u16 tile_b[16 * 16];
    u32 t = threadIdx.x;
    for (u32 round = 0; round < 2; ++round) {
        // Core matrices of 8 rows of 16 bytes: (row / 8) * 256 + (k / 8) * 128 + (row % 8) * 16 bytes.
        for (u32 i = t; i < 64 * 16; i += 128) {
            u32 row = i / 16, k = i % 16;
            tile_a[row / 8 * 128 + k / 8 * 64 + row % 8 * 8 + k % 8] = a[round * 1024 + i];  // @fill
        }
#ifdef HALF_B
        for (u32 i = t; i < 8 * 16; i += 128) {
#else
        for (u32 i = t; i < 16 * 16; i += 128) {
#endif
            u32 row = i / 16, k = i % 16;
            tile_b[row / 8 * 128 + k / 8 * 64 + row % 8 * 8 + k % 8] = b[round * 256 + i];
        }
#ifndef NO_PROXY_FENCE
        FENCE_ASYNC();
#endif
#ifndef NO_BARRIER
        __syncthreads();
#endif
        u32 d[8];
        for (u32 j = 0; j < 8; ++j) d[j] = 0;
#ifndef NO_WGMMA_FENCE
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
        asm volatile("wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7}, %8, %9, 1, 1, 1, 0, 0;\n"  // @wgmma
                     : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]), "+r"(d[4]), "+r"(d[5]), "+r"(d[6]), "+r"(d[7])
                     : "l"(DESCRIPTOR(tile_a) | BITS), "l"(DESCRIPTOR(tile_b)));
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#ifdef EARLY_REUSE
        tile_b[t] = 0;  // @early_reuse
#endif
#ifndef NO_WAIT
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#endif
        for (u32 j = 0; j < 8; ++j) out[(round * 128 + t) * 8 + j] = __uint_as_float(d[j]);  // @result
#ifndef NO_BARRIER
        __syncthreads();
#endif
    }
}
