// Activations to the operand that WGMMA reads: NVFP4 to fp16 times 2^-14, 16-bit values as they are, each 64 elements of a row in the
// order in which weights are cheapest to decode (decode/wgmma_operand.cuh).
//
// Every tile of weights reads all activations of its tokens. So they are made once, into device memory that stays in L2, by all
// blocks of a GEMM's grid together before they multiply, and cost the multipliers nothing (a warp that works beside them takes more
// from them than the copies do; docs/optimisation-log.md). Only what a block multiplies first it makes for itself, straight into
// shared memory: by the time that it needs more, the other blocks' shares are there.
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

constexpr u32 HALVES = 2;  // of a unit: of each of its four blocks the first or the second eight elements, 64 bytes in a row of the operand

// A matrix, or several of the same sizes one behind another: data [matrices, rows, K/2] (codes) or [matrices, rows, K] (16-bit values),
// out [matrices, rows, K].
struct Activations {
    const u8* data;
    const u8* scales;  // of NVFP4
    u8* out;
    u32 rows, units;

    // Where half `index` of all, counted along K, then rows, then matrices, has the first of its eights; EIGHT bytes each, they lie
    // 2 * EIGHT bytes apart. And where its scales are.
    template <u32 EIGHT>
    __device__ __forceinline__ const u8* eights(u32 index) const {
        return data + (static_cast<u64>(index / HALVES) * 8 + index % HALVES) * EIGHT;
    }
    template <int LAYOUT>
    __device__ __forceinline__ const u8* scale(u32 index) const {
        const u32 row_of_all = index / HALVES / units, unit = index / HALVES - row_of_all * units;
        const u32 matrix = row_of_all < rows ? 0 : row_of_all / rows, row = row_of_all - matrix * rows;
        const int blocks = static_cast<int>(4 * units);
        return scales + matrix * scale_matrix_bytes<LAYOUT>(rows, blocks) + scale_offset<LAYOUT>(row, 4 * unit, blocks);
    }
};

// A half on its way from activations to the operand.
template <bool NVFP4, int LAYOUT>
struct Half {
    static constexpr u32 EIGHT = 4, BATCH = 4;  // bytes of eight elements; halves under way in a thread
    u32 words[4], scales;

    __device__ __forceinline__ void load(const Activations& x, u32 index) {
        scales = ld_global_nc_b32(x.template scale<LAYOUT>(index));
#pragma unroll
        for (u32 block = 0; block < 4; ++block) words[block] = ld_global_nc_b32(x.eights<EIGHT>(index) + 2 * EIGHT * block);
    }
    __device__ __forceinline__ void clear() { words[0] = words[1] = words[2] = words[3] = scales = 0; }

    template <int N>
    __device__ __forceinline__ u32x4 piece() const {
        return decode_piece<N>(words, scales);
    }
};

template <int LAYOUT>
struct Half<false, LAYOUT> {
    static constexpr u32 EIGHT = 16, BATCH = 2;
    u32x4 values[4];

    __device__ __forceinline__ void load(const Activations& x, u32 index) {
#pragma unroll
        for (u32 block = 0; block < 4; ++block) values[block] = ld_global_nc_v4_b32(x.eights<EIGHT>(index) + 2 * EIGHT * block);
    }
    __device__ __forceinline__ void clear() { values[0] = values[1] = values[2] = values[3] = {0, 0, 0, 0}; }

    template <int N>
    __device__ __forceinline__ u32x4 piece() const {
        return permute_piece<N>(values);
    }
};

// The tiles of a chunk, [tokens, 128 bytes] each and TILE_BYTES apart, in the 128-byte swizzle: `tokens` rows of `x` from `row` on (of all
// its matrices; only `rows` are there, the others are zeros), units from `unit` on (those beyond K are zeros). For all threads of the
// block.
template <bool NVFP4, int LAYOUT, u32 TOKENS, u32 TILE_BYTES>
__device__ __forceinline__ void write_tiles(u32 tiles, const Activations& x, u32 row, int rows, u32 unit) {
    using Source = Half<NVFP4, LAYOUT>;
    constexpr u32 ALL = CHUNK * TOKENS * HALVES;
#pragma unroll 1
    for (u32 base = threadIdx.x; base < ALL; base += Source::BATCH * blockDim.x) {
        Source batch[Source::BATCH];
#pragma unroll
        for (u32 i = 0; i < Source::BATCH; ++i) {
            const u32 at = base + i * blockDim.x, half = at % HALVES, token = at / HALVES % TOKENS, u = at / HALVES / TOKENS;
            if (at < ALL && static_cast<int>(token) < rows && unit + u < x.units) {
                batch[i].load(x, ((row + token) * x.units + unit + u) * HALVES + half);
            } else {
                batch[i].clear();
            }
        }
#pragma unroll
        for (u32 i = 0; i < Source::BATCH; ++i) {
            const u32 at = base + i * blockDim.x, half = at % HALVES, token = at / HALVES % TOKENS, u = at / HALVES / TOKENS;
            if (at >= ALL) continue;
            const u32 to = tiles + u * TILE_BYTES + token * 128, swizzle = (token % 8 ^ half * 4) * 16;
            st_shared_v4_b32(to + swizzle, batch[i].template piece<0>());
            st_shared_v4_b32(to + (swizzle ^ 16), batch[i].template piece<1>());
            st_shared_v4_b32(to + (swizzle ^ 32), batch[i].template piece<2>());
            st_shared_v4_b32(to + (swizzle ^ 48), batch[i].template piece<3>());
        }
    }
}

// A block's share of `halves`, dealt out thread by thread. `locate(index)` makes `index` one of a matrix, and returns that.
template <bool NVFP4, int LAYOUT, class Locate>
struct ActivationShare {
    using Source = Half<NVFP4, LAYOUT>;
    static constexpr u32 BATCH = Source::BATCH, EIGHT = Source::EIGHT;
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
            if (index % (32 / EIGHT) == 0) prefetch_global_L2(x.eights<EIGHT>(index));
            if (NVFP4 && index % 8 == 0) prefetch_global_L2(x.template scale<LAYOUT>(index));
        }
    }

    // For all threads of the block; a barrier of theirs must follow before `release`.
    __device__ __forceinline__ void write() const {
#pragma unroll 1
        for (u32 base = first(); base < halves; base += BATCH * step()) {
            Source batch[BATCH];
            u8* to[BATCH];
#pragma unroll
            for (u32 i = 0; i < BATCH; ++i) {
                u32 index = base + i * step();
                to[i] = nullptr;
                if (index >= halves) continue;
                const Activations x = locate(index);
                to[i] = x.out + static_cast<u64>(index) * 64;
                batch[i].load(x, index);
            }
#pragma unroll
            for (u32 i = 0; i < BATCH; ++i) {
                if (to[i] == nullptr) continue;
                st_global_v4_b32(to[i], batch[i].template piece<0>());
                st_global_v4_b32(to[i] + 16, batch[i].template piece<1>());
                st_global_v4_b32(to[i] + 32, batch[i].template piece<2>());
                st_global_v4_b32(to[i] + 48, batch[i].template piece<3>());
            }
        }
    }

    // Says that this block's share is written. For one thread.
    __device__ __forceinline__ void release() const { red_release_gpu_global_add_u32(counter, 1); }

    // Returns when the shares of all blocks may be read by the copy engine. For that thread of each block, once.
    __device__ __forceinline__ void await() const {
        const u32 blocks = grid_blocks();
        while (ld_acquire_gpu_global_b32(counter) < blocks) {
        }
        fence_proxy_async_global();
        // Everyone counts once more when it has seen all; the last one leaves the counter as it was found.
        if (atom_acq_rel_gpu_global_add_u32(counter, 1) == 2 * blocks - 1) *counter = 0;
    }
};

template <bool NVFP4, int LAYOUT, class Locate>
__device__ __forceinline__ ActivationShare<NVFP4, LAYOUT, Locate> activation_share(u32 halves, u32* counter, Locate locate) {
    return {halves, counter, locate};
}
