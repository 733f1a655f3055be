// NVFP4 activations to fp16, times 2^-14, by all blocks of a GEMM's grid together before they multiply.
//
// Every tile of weights reads all activations of its tokens: decoded once, into device memory that stays in L2, they cost the
// multipliers nothing (a warp that decodes beside them takes more from them than the copies do; docs/optimisation-log.md). Each 64
// elements of a row come out in ORDER_LANE (decode/wgmma_operand.cuh), in which weights are cheapest to decode.
//
// A counter says when all blocks are done; all of them must be resident together, as for stream-K. It returns to zero by itself.
#pragma once

#include "decode/wgmma_operand.cuh"
#include "pipeline/stream_k.cuh"
#include "ptx/fence.cuh"
#include "ptx/flag.cuh"
#include "ptx/ld.cuh"
#include "ptx/prefetch.cuh"
#include "ptx/st.cuh"

constexpr u32 HALVES = 2;  // of a unit: of each of its four blocks the first or the second word, 64 bytes in a row when decoded

// A matrix, or several of the same sizes one behind another: codes [matrices, rows, K/2], out [matrices, rows, K].
struct Activations {
    const u8* codes;
    const u8* scales;
    u8* out;
    u32 rows, units;

    // Where half `index` of all, counted along K, then rows, then matrices, has its words (8 bytes apart) and its scales.
    __device__ __forceinline__ const u8* words(u32 index) const {
        return codes + static_cast<u64>(index / HALVES) * UNIT_BYTES + index % HALVES * 4;
    }
    template <int LAYOUT>
    __device__ __forceinline__ const u8* scale(u32 index) const {
        const u32 row_of_all = index / HALVES / units, unit = index / HALVES - row_of_all * units;
        const u32 matrix = row_of_all < rows ? 0 : row_of_all / rows, row = row_of_all - matrix * rows;
        const int blocks = static_cast<int>(4 * units);
        return scales + matrix * scale_matrix_bytes<LAYOUT>(rows, blocks) + scale_offset<LAYOUT>(row, 4 * unit, blocks);
    }
};

// A block's share of `halves`, dealt out thread by thread. `locate(index)` makes `index` one of a matrix, and returns that. For all
// threads of the block.
template <int LAYOUT, class Locate>
struct DecodeShare {
    static constexpr u32 BATCH = 4;  // halves under way in a thread
    u32 halves;
    u32* counter;
    Locate locate;

    static __device__ __forceinline__ u32 first() { return blockIdx.x * blockDim.x + threadIdx.x; }
    static __device__ __forceinline__ u32 step() { return grid_blocks() * blockDim.x; }

    // Before activations may be read: brings the first of them into L2, which is right whoever writes them yet.
    __device__ __forceinline__ void prefetch() const {
#pragma unroll 1
        for (u32 i = first(); i < halves && i < first() + BATCH * step(); i += step()) {
            u32 index = i;
            const Activations x = locate(index);
            if (index % 8 == 0) prefetch_global_L2(x.words(index));
            if (index % 8 == 0) prefetch_global_L2(x.template scale<LAYOUT>(index));
        }
    }

    __device__ __forceinline__ void decode() const {
#pragma unroll 1
        for (u32 base = first(); base < halves; base += BATCH * step()) {
            u32 words[BATCH][4], scale[BATCH];
            u8* to[BATCH];
#pragma unroll
            for (u32 i = 0; i < BATCH; ++i) {
                u32 index = base + i * step();
                to[i] = nullptr;
                if (index >= halves) continue;
                const Activations x = locate(index);
                to[i] = x.out + static_cast<u64>(index) * 64;
                scale[i] = ld_global_nc_b32(x.template scale<LAYOUT>(index));
#pragma unroll
                for (u32 block = 0; block < 4; ++block) words[i][block] = ld_global_nc_b32(x.words(index) + 8 * block);
            }
#pragma unroll
            for (u32 i = 0; i < BATCH; ++i) {
                if (to[i] == nullptr) continue;
                st_global_v4_b32(to[i], decode_piece<0>(words[i], scale[i]));
                st_global_v4_b32(to[i] + 16, decode_piece<1>(words[i], scale[i]));
                st_global_v4_b32(to[i] + 32, decode_piece<2>(words[i], scale[i]));
                st_global_v4_b32(to[i] + 48, decode_piece<3>(words[i], scale[i]));
            }
        }
        __syncthreads();
        if (threadIdx.x == 0) red_release_gpu_global_add_u32(counter, 1);
    }

    // Returns when the shares of all blocks may be read by the copy engine. For one thread of each block.
    __device__ __forceinline__ void await() const {
        const u32 blocks = grid_blocks();
        while (ld_acquire_gpu_global_b32(counter) < blocks) {
        }
        fence_proxy_async_global();
        // Everyone counts once more when it has seen all; the last one leaves the counter as it was found.
        if (atom_acq_rel_gpu_global_add_u32(counter, 1) == 2 * blocks - 1) *counter = 0;
    }
};

template <int LAYOUT, class Locate>
__device__ __forceinline__ DecodeShare<LAYOUT, Locate> decode_share(u32 halves, u32* counter, Locate locate) {
    return {halves, counter, locate};
}
