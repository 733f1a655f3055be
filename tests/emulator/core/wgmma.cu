// One warpgroup: D[64 x 64] = A[64 x 64] B[64 x 64]^T in f16, operands by TMA with the 128-byte swizzle.
struct alignas(64) CUtensorMap { unsigned long long opaque[16]; };
__device__ unsigned shared(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
__device__ unsigned long long descriptor(unsigned address) {
  return ((unsigned long long)(address & 0x3FFFF) >> 4) | (1ull << 16) | (64ull << 32) | (1ull << 62);
}
extern "C" __global__ void k(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b, float* out) {
  __shared__ __align__(1024) unsigned char tiles[2][8192];
  __shared__ unsigned long long bar;
  int t = threadIdx.x;
  if (t == 0) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared(&bar)));
    asm volatile("fence.mbarrier_init.release.cluster;");
  }
  __syncthreads();
  if (t == 0) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 16384;" ::"r"(shared(&bar)) : "memory");
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {0, 0}], [%2];" ::"r"(shared(tiles[0])), "l"(&a), "r"(shared(&bar)) : "memory");
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {0, 0}], [%2];" ::"r"(shared(tiles[1])), "l"(&b), "r"(shared(&bar)) : "memory");
  }
#ifndef NO_COPY_WAIT
  asm volatile("{ .reg .pred p;\nagain: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], 0;\n@!p bra again; }" ::"r"(shared(&bar)) : "memory");
#endif
#ifdef GENERIC_WRITE
  // Row 0 of A is negated by ordinary stores.
  __syncthreads();
  if (t < 64) ((unsigned short*)tiles[0])[t] ^= 0x8000;
#ifdef PROXY_FENCE
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
  __syncthreads();
#endif
  float d[32];
#ifndef NO_FENCE
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
#pragma unroll
  for (int step = 0; step < 4; ++step)
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,"
                 "%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, p, 1, 1, 0, 0; }"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]),
                   "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
                   "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]),
                   "+f"(d[31])
                 : "l"(descriptor(shared(tiles[0]) + 32 * step)),
#ifdef BAD_SWIZZLE
                   "l"((descriptor(shared(tiles[1]) + 32 * step) & ~(3ull << 62)) | (2ull << 62)),
#elif defined(BAD_DESCRIPTOR)
                   "l"(descriptor(shared(tiles[1]) + 32 * step) | (1ull << 15)),
#elif defined(PAST_END)
                   "l"(descriptor(shared(tiles[1]) + 4096 + 32 * step)),
#else
                   "l"(descriptor(shared(tiles[1]) + 32 * step)),
#endif
                   "r"(step));
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#ifndef NO_WAIT
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#endif
  int warp = t / 32, lane = t % 32;
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    int row = warp * 16 + lane / 4 + (i / 2 % 2) * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    out[row * 64 + column] = d[i];
  }
}
