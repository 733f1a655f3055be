// A block reverses its 128 elements through shared memory; sm_80.
#include "ptx.cuh"

__constant__ u32 table[4] = {1, 2, 3, 4};

extern "C" __global__ void kernel(const u32* in, u32* out, u32 n) {
    __shared__ u32 tile[128];
    u32 t = threadIdx.x, i = blockIdx.x * 128 + t;
#ifdef READ_BEYOND
    tile[t] = in[i + 1];  // @read_beyond
#elif defined(READ_MISALIGNED)
    tile[t] = *(const u32*)((const u8*)(in + i) + (t == 5 ? 2 : 0));  // @read_misaligned
#elif defined(SHARED_BEYOND)
    tile[t + 1] = in[i];  // @shared_beyond
#elif defined(SHARED_MISALIGNED)
    tile[t] = in[i];
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(SMEM(tile) + 4 * t + (t == 77 ? 1 : 0)), "r"(t) : "memory");  // @shared_misaligned
#elif defined(SAME_CELL_IN_WARP)
    tile[t & ~1u] = in[i];  // @same_lanes
    tile[t] = in[i];  // @same_lanes
#elif defined(HALF_FILLED)
    if (t < 64) tile[t] = in[i];
#else
    tile[t] = in[i];  // @fill
#endif
#ifdef NO_BARRIER
#elif defined(DIVERGENT_BARRIER)
    if (t & 1) asm volatile("bar.sync 0;" ::: "memory");  // @divergent_barrier
#elif defined(COUNT_MISMATCH)
    if (t < 64) asm volatile("bar.sync 1, 64;" ::: "memory");  // @count_mismatch
    else asm volatile("bar.sync 1, 128;" ::: "memory");  // @count_mismatch
#elif defined(MISSING_WARP)
    if (t >= 32) asm volatile("bar.sync 1, 128;" ::: "memory");  // @missing_warp
#else
    __syncthreads();
#endif
    u32 v = tile[127 - t];  // @drain
#ifdef UNSET_REGISTER
    asm volatile("{ .reg .b32 r; .reg .pred p; setp.ne.u32 p, %1, 9; @p mov.u32 r, 0;\n add.u32 %0, %0, r; }" : "+r"(v) : "r"(t));  // @unset_register
#endif
#ifdef UNSET_REDUCTION
    // Half of the lanes hold a value; a reduction hands on what the others do not hold, and all use the result.
    asm volatile("{ .reg .b32 r, s; .reg .pred p; and.b32 s, %1, 16; setp.eq.u32 p, s, 0; @p mov.u32 r, %1;\n shfl.sync.bfly.b32 s, r, 16, 31, -1; add.u32 s, s, r; add.u32 %0, %0, s; }" : "+r"(v) : "r"(t));
#endif
#ifdef UNSET_LOCAL
    u32 heap[8];
    for (u32 k = 0; k < 8; ++k)
        if (k != (n & 7)) heap[(k * 3) & 7] = k;
    v += heap[(t + n) & 7];  // @unset_local
#endif
#ifdef LOCAL_BEYOND
    u32 box[8];
    for (u32 k = 0; k < 8; ++k) box[(k * 3 + n) & 7] = k;
    v += box[8 + n];  // @local_beyond
#endif
#ifdef WRITE_CONSTANT
    if (t == 0) asm volatile("st.u32 [%0], %1;" ::"l"(table), "r"(v) : "memory");  // @write_constant
#endif
#ifdef TRAP
    if (v == 75) asm volatile("trap;");  // @trap
#endif
#ifdef ENDLESS
    while (n) asm volatile("" ::: "memory");  // @endless
#endif
#ifdef WRITE_BEYOND
    out[i + (i + 1 == n)] = v;  // @write_beyond
#elif defined(SKIP_LAST)
    if (i + 1 < n) out[i] = v;
#elif defined(SAME_CELL)
    out[i & ~64u] = v;  // @same_cell
    out[i] = v;  // @same_cell
#else
    out[i] = v;  // @store
#endif
}
