// NVFP4 (kind::mxf4nvf4, block16, UE4M3) product of one tile, by one CTA or a CTA pair (-DGROUP=1 or 2).
//
// a [M, K/2] and b [N, K/2]: packed E2M1; sfa, sfb: [tiles, 256] u16, 512-byte tiles of 128 rows x 4 scales, K/64 tiles for each 128 rows;
// d [M, N] float. M = 128 * GROUP, N given, K = 256 * blocks. CTA r holds rows 128 r of A, N/GROUP rows of B, all scales of B.
#include "tcgen05.cuh"

#ifndef GROUP
#define GROUP 1
#endif
#ifndef N
#define N 128
#endif
constexpr u32 ROWS_B = N / GROUP, TILES_B = (N + 127) / 128, STAGES = 2;
constexpr u32 A_BYTES = 128 * 128, B_BYTES = ROWS_B * 128, SFA_BYTES = 4 * 512, SFB_BYTES = 4 * 512 * TILES_B;
constexpr u32 STAGE = A_BYTES + B_BYTES + SFA_BYTES + SFB_BYTES;
constexpr u32 COLUMNS = N > 128 ? 512 : 256, SFA = N, SFB = N + 16;

__device__ inline void load(u32 to, const TensorMap* map, int c0, int c1, u32 bar) {
    if (GROUP == 2) tma_2d_pair(to, map, c0, c1, bar); else tma_2d(to, map, c0, c1, bar);
}

extern "C" __global__ void __launch_bounds__(128)
block_scaled(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, const __grid_constant__ TensorMap sfa,
             const __grid_constant__ TensorMap sfb, float* d, int blocks) {
    extern __shared__ __align__(1024) u8 memory[];
    __shared__ __align__(8) u64 bars[2 * STAGES + 1];
    __shared__ u32 address;
    const u32 rank = GROUP == 2 ? cluster_rank() : 0;
    const u32 full = smem(bars), empty = smem(bars + STAGES), done = smem(bars + 2 * STAGES);
    if (threadIdx.x == 0) {
        for (u32 s = 0; s < STAGES; ++s) { mbar_init(full + 8 * s, 1); mbar_init(empty + 8 * s, 1); }
        mbar_init(done, 1);
        fence_mbar_init();
    }
#ifdef MUTANT_ALLOC_ALONE
    if (warp_id() == 0 && rank == 0) tmem_alloc<GROUP>(smem(&address), COLUMNS);
#else
    if (warp_id() == 0) tmem_alloc<GROUP>(smem(&address), COLUMNS);
#endif
    fence_before();
    if (GROUP == 2) cluster_sync(); else __syncthreads();
    fence_after();
    const u32 tmem = address;

    if (warp_id() == 0 && elect()) {  // loads
        for (int k = 0; k < blocks; ++k) {
            const u32 s = k % STAGES, base = smem(memory) + s * STAGE;
#ifndef MUTANT_NO_EMPTY_WAIT
            if (k >= int(STAGES)) mbar_wait(empty + 8 * s, (k / STAGES - 1) & 1);
#endif
            const u32 bar = GROUP == 2 ? in_cta(full + 8 * s, 0) : full + 8 * s;
#ifdef MUTANT_TOO_MANY_BYTES
            if (rank == 0) mbar_expect(full + 8 * s, GROUP * STAGE + 16);
#else
            if (rank == 0) mbar_expect(full + 8 * s, GROUP * STAGE);
#endif
            load(base, &a, k * 128, rank * 128, bar);
            load(base + A_BYTES, &b, k * 128, rank * ROWS_B, bar);
            const u32 to = base + A_BYTES + B_BYTES;
            const int kb = k * 4, all = blocks * 4;
            for (int t = 0; t < 4; ++t) {
                load(to + 512 * t, &sfa, 0, rank * all + kb + t, bar);
                for (int j = 0; j < int(TILES_B); ++j) load(to + SFA_BYTES + 512 * (t * TILES_B + j), &sfb, 0, j * all + kb + t, bar);
            }
        }
#ifdef MUTANT_ALL_LANES
    } else if (warp_id() == 1 && rank == 0) {
#else
    } else if (warp_id() == 1 && rank == 0 && elect()) {  // products
#endif
#ifdef MUTANT_INSTRUCTION
        const u32 idesc = 1u << 7 | 1u << 10 | (N / 8) << 17 | (64 * GROUP / 16) << 24;
#else
        const u32 idesc = 1u << 7 | 1u << 10 | (N / 8) << 17 | (128 * GROUP / 16) << 24;
#endif
        for (int k = 0; k < blocks; ++k) {
            const u32 s = k % STAGES, base = smem(memory) + s * STAGE;
            mbar_wait(full + 8 * s, (k / STAGES) & 1);
            fence_after();
            for (u32 t = 0; t < 4; ++t) {
                const u32 sf = base + A_BYTES + B_BYTES;
#ifdef MUTANT_SCALES_MISPLACED
                cp_scales<GROUP>(tmem + SFA + 4 * t + 1, matrix(sf + 512 * t, 0, 128, 0));
#else
                cp_scales<GROUP>(tmem + SFA + 4 * t, matrix(sf + 512 * t, 0, 128, 0));
#endif
                for (u32 j = 0; j < TILES_B; ++j)
                    cp_scales<GROUP>(tmem + SFB + (t * TILES_B + j) * 4, matrix(sf + SFA_BYTES + 512 * (t * TILES_B + j), 0, 128, 0));
            }
            for (u32 t = 0; t < 4; ++t) {
                const u64 da = matrix(base + 32 * t, 16, 1024, 2), db = matrix(base + A_BYTES + 32 * t, 16, 1024, 2);
#ifdef MUTANT_ACCUMULATE_FIRST
                const u32 accumulate = 1;
#else
                const u32 accumulate = k > 0 || t > 0;
#endif
#if GROUP == 2
                asm volatile("{ .reg .pred p; setp.ne.u32 p, %4, 0;\n"
                             "tcgen05.mma.cta_group::2.kind::mxf4nvf4.block_scale.block16 [%0], %1, %2, %3, [%5], [%6], p; }" ::"r"(tmem),
                             "l"(da), "l"(db), "r"(idesc), "r"(accumulate), "r"(tmem + SFA + 4 * t), "r"(tmem + SFB + 4 * t * TILES_B) : "memory");
#else
                asm volatile("{ .reg .pred p; setp.ne.u32 p, %4, 0;\n"
                             "tcgen05.mma.cta_group::1.kind::mxf4nvf4.block_scale.block16 [%0], %1, %2, %3, [%5], [%6], p; }" ::"r"(tmem),
                             "l"(da), "l"(db), "r"(idesc), "r"(accumulate), "r"(tmem + SFA + 4 * t), "r"(tmem + SFB + 4 * t * TILES_B) : "memory");
#endif
            }
            if (GROUP == 2) commit_pair(empty + 8 * s, 3); else commit(empty + 8 * s);
        }
        if (GROUP == 2) commit_pair(done, 3); else commit(done);
    }
    __syncwarp();
#ifndef MUTANT_NO_WAIT
    mbar_wait(done, 0);
#endif
#ifndef MUTANT_NO_FENCE_AFTER
    fence_after();
#endif
    float* row = d + (rank * 128 + threadIdx.x) * N;
    for (u32 c = 0; c < N; c += 8) {
        u32 r[8];
#ifdef MUTANT_WRONG_LANES
        ld_32x32b_x8(r, tmem + c);
#else
        ld_32x32b_x8(r, tmem + (warp_id() * 32 << 16) + c);
#endif
#ifndef MUTANT_NO_WAIT_LD
        wait_ld();
#endif
        for (int i = 0; i < 8; ++i) row[c + i] = __uint_as_float(r[i]);
    }
    fence_before();
    if (GROUP == 2) cluster_sync(); else __syncthreads();
#ifndef MUTANT_NO_DEALLOC
    if (warp_id() == 0) tmem_free<GROUP>(tmem, COLUMNS);
#endif
}
