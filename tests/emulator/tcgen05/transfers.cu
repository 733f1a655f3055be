// Every thread writes its words of tensor memory with .32x32b.x8 and reads them back with another shape; out [4 warps][regs][32].
#include "tcgen05.cuh"

extern "C" __global__ void __launch_bounds__(128) transfers(u32* out) {
    __shared__ u32 address;
    const u32 t = threadIdx.x, lane = t % 32, w = warp_id();
    if (w == 0) tmem_alloc<1>(smem(&address), 32);
    fence_before();
    __syncthreads();
    fence_after();
    const u32 tmem = address + (w * 32 << 16);
    for (u32 c = 0; c < 32; c += 8) {
        u32 r[8];
        for (u32 i = 0; i < 8; ++i) r[i] = t << 8 | (c + i);
        st_32x32b_x8(tmem + c, r);
    }
    wait_st();
    u32 r[8];
    u32* to = out + w * 5 * 8 * 32 + lane;
#define STORE(part) wait_ld(); for (u32 i = 0; i < 8; ++i) to[(part * 8 + i) * 32] = r[i]
#define OUT8 "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]), "=r"(r[4]), "=r"(r[5]), "=r"(r[6]), "=r"(r[7])
#define LD(shape, tail, at) \
    asm volatile("tcgen05.ld.sync.aligned." shape ".b32 {%0, %1, %2, %3, %4, %5, %6, %7}, [%8]" tail ";" : OUT8 : "r"(at))
    LD("16x64b.x8", "", tmem + (16 << 16)); STORE(0);
    LD("16x128b.x4", "", tmem); STORE(1);
    LD("16x256b.x2", "", tmem + 8); STORE(2);
    LD("16x32bx2.x8", ", 16", tmem + 2); STORE(3);
    LD("32x32b.x8.pack::16b", "", tmem + 4); STORE(4);
    __syncthreads();
    if (w == 0) tmem_free<1>(address, 32);
}
