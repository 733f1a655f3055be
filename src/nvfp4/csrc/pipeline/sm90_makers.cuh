// Tiles of NVFP4 activations made by a block for itself, straight into its ring of shared memory: by the three warps beside its loader.
//
// They take instructions from the multipliers, and need about as long for a chunk as there are tokens. For few tokens that is less than
// to wait until all blocks together have made the operand (pipeline/sm90_activations.cuh): docs/optimisation-log.md.
#pragma once

#include "decode/wgmma_operand.cuh"
#include "pipeline/sm90_activations.cuh"
#include "ptx/ld.cuh"
#include "ptx/st.cuh"

// A thread's part of the tiles of a chunk, on its way: TOKENS rows from `token` of matrix `batch` on, units from `unit` on. What is not
// there becomes zeros.
//
// Units of a row: 32 bytes and four scales. Eight lanes take eight rows, so that they write to different banks.
template <int LAYOUT, int TOKENS, int THREADS>
struct ChunkPart {
    static constexpr int ALL = TOKENS * CHUNK, EACH = (ALL + THREADS - 1) / THREADS;
    u32x4 codes[EACH][2];
    u32 scales[EACH];

    static __device__ __forceinline__ int row_of(int i) { return i / 32 * 8 + i % 8; }
    static __device__ __forceinline__ int unit_of(int i) { return i / 8 % 4; }

    __device__ __forceinline__ void load(int thread, const Activations& x, int batch, int token, int unit) {
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
            const int i = thread + j * THREADS, row = token + row_of(i), u = unit + unit_of(i);
            codes[j][0] = codes[j][1] = {0, 0, 0, 0};
            scales[j] = 0;
            if (i >= ALL || !x.has(row, u)) continue;
            const u8* from = x.data + x.unit_of(batch, row, u) * UNIT_BYTES;
            codes[j][0] = ld_global_nc_v4_b32(from);
            codes[j][1] = ld_global_nc_v4_b32(from + 16);
            scales[j] = ld_global_nc_b32(x.template scale<LAYOUT>(batch, row, u));
        }
    }

    __device__ __forceinline__ void write(int thread, u32 tiles) const {
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
            const int i = thread + j * THREADS;
            if (i >= ALL) continue;
            const u32 r = row_of(i), to = tiles + unit_of(i) * (TOKENS * 128) + r * 128 + r % 8 * 16;
            const u32x4 low = codes[j][0], high = codes[j][1];
#pragma unroll
            for (u32 v = 0; v < 2; ++v) {
                const u32 words[4] = {v == 0 ? low.x : low.y, v == 0 ? low.z : low.w, v == 0 ? high.x : high.y, v == 0 ? high.z : high.w};
                st_shared_v4_b32(to ^ (4 * v + 0) * 16, decode_piece<0>(words, scales[j]));
                st_shared_v4_b32(to ^ (4 * v + 1) * 16, decode_piece<1>(words, scales[j]));
                st_shared_v4_b32(to ^ (4 * v + 2) * 16, decode_piece<2>(words, scales[j]));
                st_shared_v4_b32(to ^ (4 * v + 3) * 16, decode_piece<3>(words, scales[j]));
            }
        }
    }
};
