// A ring of shared-memory stages: warp 0 loads tiles with TMA, four warps double them and hand them to a TMA store.
// The macros break one thing each; without them the kernel is sound.
struct alignas(64) CUtensorMap { unsigned long long opaque[16]; };

#ifndef STAGES
#define STAGES 3
#endif
constexpr int ROWS = 16, COLUMNS = 64, BYTES = ROWS * COLUMNS * 4;

__device__ unsigned shared(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
__device__ void init(unsigned bar, unsigned count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count)); }
__device__ void wait(unsigned bar, unsigned parity) {
#ifdef WAIT_ONCE
  asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1; }" ::"r"(bar), "r"(parity) : "memory");
#else
  asm volatile("{ .reg .pred p;\nagain: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@!p bra again; }" ::"r"(bar), "r"(parity) : "memory");
#endif
}
__device__ void arrive(unsigned bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory"); }
__device__ void expect(unsigned bar, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
__device__ void load(unsigned dst, const CUtensorMap* map, int x, int y, unsigned bar) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(dst), "l"(map), "r"(x), "r"(y), "r"(bar) : "memory");
}
__device__ void store(const CUtensorMap* map, int x, int y, unsigned src) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(x), "r"(y), "r"(src) : "memory");
}

extern "C" __global__ void ring(const __grid_constant__ CUtensorMap in, const __grid_constant__ CUtensorMap out, int tiles) {
  extern __shared__ __align__(1024) unsigned char raw[];
  float* tile = (float*)raw;                         // STAGES tiles, then STAGES output tiles, then barriers
  float* result = tile + STAGES * BYTES / 4;
  unsigned long long* full = (unsigned long long*)(result + STAGES * BYTES / 4);
  unsigned long long* empty = full + STAGES;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (int s = 0; s < STAGES; ++s) {
      init(shared(full + s), 1);
#ifdef EMPTY_COUNT
      init(shared(empty + s), EMPTY_COUNT);
#else
      init(shared(empty + s), 4);
#endif
    }
    asm volatile("fence.mbarrier_init.release.cluster;");
  }
#ifndef NO_INIT_SYNC
  __syncthreads();
#endif
  int first = blockIdx.x * tiles;
  if (warp == 0) {
    if (lane == 0)
      for (int i = 0; i < tiles; ++i) {
        int s = i % STAGES, round = i / STAGES;
#ifndef NO_EMPTY_WAIT
        if (round > 0) wait(shared(empty + s), (round - 1) & 1);
#endif
#ifdef SHORT_TX
        expect(shared(full + s), BYTES / 2);
#elif defined(LONG_TX)
        expect(shared(full + s), BYTES + 16);
#else
        expect(shared(full + s), BYTES);
#endif
        load(shared(tile) + s * BYTES, &in, 0, (first + i) * ROWS, shared(full + s));
      }
  } else {
    for (int i = 0; i < tiles; ++i) {
      int s = i % STAGES, round = i / STAGES;
#ifdef WRONG_PARITY
      wait(shared(full + s), (round & 1) ^ 1);
#elif !defined(NO_FULL_WAIT)
      wait(shared(full + s), round & 1);
#endif
      float* o = result + s * (BYTES / 4);
      // The previous store from this buffer must have read it.
#ifndef NO_STORE_READ_WAIT
      if (warp == 1 && lane == 0) asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(STAGES - 1) : "memory");
      asm volatile("bar.sync 1, 128;" ::: "memory");
#endif
      for (int k = threadIdx.x - 32; k < BYTES / 4; k += 128) {
        float v = tile[s * (BYTES / 4) + k];
#ifdef READ_PAST
        if (i == tiles - 1 && k == BYTES / 4 - 1) v = *(volatile float*)(raw + 400000);
#endif
        o[k] = 2 * v;
      }
      __syncwarp();
#ifndef NO_EMPTY_ARRIVE
      if (lane == 0) arrive(shared(empty + s));
#endif
#ifndef NO_PROXY_FENCE
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
#ifndef NO_STORE_SYNC
      asm volatile("bar.sync 2, 128;" ::: "memory");
#endif
      if (warp == 1 && lane == 0) {
        store(&out, 0, (first + i) * ROWS, shared(o));
        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
      }
    }
#ifndef NO_FINAL_WAIT
    if (warp == 1 && lane == 0) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
#endif
  }
}
