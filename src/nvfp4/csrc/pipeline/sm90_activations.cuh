// Activations to the operand that WGMMA reads, by all blocks of a GEMM's grid together before they multiply: NVFP4 to fp16 times 2^-14,
// 16-bit values as they are, each 64 elements of a row in the order in which weights are cheapest to decode
// (decode/wgmma_operand.cuh).
//
// Every tile of weights reads all activations of its tokens: made once, into device memory that stays in L2, they cost the
// multipliers nothing (a warp that works beside them takes more from them than the copies do; docs/optimisation-log.md).
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
struct alignas(16) Activations {
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
        if constexpr (LAYOUT == SCALES_LINEAR) return scales + static_cast<u64>(index / HALVES) * 4;
        const u32 row_of_all = index / HALVES / units, unit = index / HALVES - row_of_all * units;
        const u32 matrix = row_of_all < rows ? 0 : row_of_all / rows;
        return scale<LAYOUT>(matrix, row_of_all - matrix * rows, unit);
    }

    // The same of a unit of a matrix; whether it is there, and its number of all.
    template <int LAYOUT>
    __device__ __forceinline__ const u8* scale(int matrix, int row, int unit) const {
        const int blocks = static_cast<int>(4 * units);
        return scales + matrix * scale_matrix_bytes<LAYOUT>(rows, blocks) + scale_offset<LAYOUT>(row, 4 * unit, blocks);
    }
    __device__ __forceinline__ bool has(u32 row, u32 unit) const { return row < rows && unit < units; }
    __device__ __forceinline__ u64 unit_of(u32 matrix, u32 row, u32 unit) const {
        return (static_cast<u64>(matrix) * rows + row) * units + unit;
    }
};

// A block's share of `halves`, dealt out warp by warp. `locate(index)` makes `index` one of a matrix, and returns that. INDEXED: there is
// one matrix, and row i of the operand is row rows[i] of it, or its first or last one, so that no value leads outside. For all threads of
// the block.
template <bool NVFP4, int LAYOUT, bool INDEXED, class Locate>
struct ActivationShare {
    static constexpr u32 BATCH = NVFP4 ? 4 : 2;  // halves under way in a thread
    static constexpr u32 EIGHT = NVFP4 ? 4 : 16;  // bytes of eight elements
    u32 halves;
    u32* counters;  // of the workspace (pipeline/stream_k.cuh), behind which lies ours
    Locate locate;
    const int* rows;

    // Found when it is used: no register keeps it until then.
    __device__ __forceinline__ u32* counter() const { return counters + WORKSPACE_GROUPS * grid_blocks(); }
    // Warps of all blocks in turn, so that each block has as many with something to do.
    static __device__ __forceinline__ u32 first() { return (threadIdx.x / 32 * grid_blocks() + blockIdx.x) * 32 + threadIdx.x % 32; }
    static __device__ __forceinline__ u32 step() { return grid_blocks() * blockDim.x; }

    // Before activations may be read: brings the first of them into L2, which is right whoever writes them yet. INDEXED: which rows these
    // are may not be read either; where all rows of the matrix may be among them, they are fetched as they lie, and the index too.
    __device__ __forceinline__ void prefetch() const {
        u32 present = halves;
        if constexpr (INDEXED) {
            u32 index = 0;
            const Activations x = locate(index);
            const u32 width = x.units * HALVES;
            if (first() * 8 < halves / width) prefetch_global_L2(rows + first() * 8);
            present = x.rows * width <= halves ? x.rows * width : 0;
        }
#pragma unroll 1
        for (u32 i = first(); i < present && i < first() + BATCH * step(); i += step()) {
            u32 index = i;
            const Activations x = locate(index);
            if (index % (32 / EIGHT) == 0) prefetch_global_L2(x.eights<EIGHT>(index));
            if (NVFP4 && index % 8 == 0) prefetch_global_L2(x.template scale<LAYOUT>(index));
        }
    }

    __device__ __forceinline__ void write() const {
#pragma unroll 1
        for (u32 base = first(); !none_of_warp(base); base += BATCH * step()) {  // whole warps
            if constexpr (NVFP4) {
                write_decoded(base);
            } else {
                write_permuted(base);
            }
        }
    }

    // Says that the share is written, when the block has met: for one thread, which that takes a microsecond.
    __device__ __forceinline__ void arrive() const { red_release_gpu_global_add_u32(counter(), 1); }

    // Whether no lane of the warp has a half of its own, where this one's would be `index`.
    __device__ __forceinline__ bool none_of_warp(u32 index) const { return index - threadIdx.x % 32 >= halves; }

    // INDEXED: which halves of the matrix those of a batch are, all looked up before the first is waited for.
    __device__ __forceinline__ void look_up(u32 base, u32 (&from)[BATCH]) const {
        if constexpr (!INDEXED) return;
        const u32 distance = step();
#pragma unroll
        for (u32 i = 0; i < BATCH; ++i) {
            u32 index = min(base + i * distance, halves - 1);
            const Activations x = locate(index);
            const u32 width = x.units * HALVES, row = index / width;
            const int named = static_cast<int>(ld_global_b32(rows + row));
            from[i] = min(max(named, 0), static_cast<int>(x.rows) - 1) * width + (index - row * width);
        }
    }

    // INDEXED: where a half of the operand goes, found anew when it is written: there are no registers to keep it.
    __device__ __forceinline__ u8* place(u32 index) const {
        u32 inside = index;
        const Activations x = locate(inside);
        return x.out + static_cast<u64>(inside) * 64;
    }

    __device__ __forceinline__ void write_decoded(u32 base) const {
        u32x4 codes[BATCH] = {};
        u32 scale[BATCH] = {}, found[BATCH];
        u8* to[BATCH];
        look_up(base, found);
        const u32 distance = step();
#pragma unroll
        for (u32 i = 0; i < BATCH; ++i) {
            u32 index = base + i * distance;
            if (none_of_warp(index)) break;
            if (index >= halves) continue;
            const Activations x = locate(index);
            to[i] = x.out + static_cast<u64>(index) * 64;
            const u32 from = INDEXED ? found[i] : index;
            scale[i] = ld_global_b32(x.template scale<LAYOUT>(from));
            // Of the unit's 32 bytes the first ones or the others: of two blocks, but both eights.
            codes[i] = ld_global_v4_b32(x.data + static_cast<u64>(from) * 16);
        }
#pragma unroll
        for (u32 i = 0; i < BATCH; ++i) {
            if (none_of_warp(base + i * distance)) break;
            const bool there = base + i * distance < halves, odd = threadIdx.x % 2 != 0;
            const u32x4& own = codes[i];
            const u32 first = exchange(odd ? own.x : own.y), second = exchange(odd ? own.z : own.w);
            const u32 words[4] = {odd ? first : own.x, odd ? second : own.z, odd ? own.y : first, odd ? own.w : second};
            store_half(there, INDEXED ? place(base + i * distance) : to[i], decode_piece<0>(words, scale[i]), decode_piece<1>(words, scale[i]),
                       decode_piece<2>(words, scale[i]), decode_piece<3>(words, scale[i]));
        }
    }

    __device__ __forceinline__ void write_permuted(u32 base) const {
        u32x4 values[BATCH][4] = {};
        u32 found[BATCH];
        u8* to[BATCH];
        look_up(base, found);
        const u32 distance = step();
#pragma unroll
        for (u32 i = 0; i < BATCH; ++i) {
            u32 index = base + i * distance;
            if (none_of_warp(index)) break;
            if (index >= halves) continue;
            const Activations x = locate(index);
            to[i] = x.out + static_cast<u64>(index) * 64;
            const u32 from = INDEXED ? found[i] : index;
#pragma unroll
            for (u32 block = 0; block < 4; ++block) {
                values[i][block] = ld_global_v4_b32(x.eights<EIGHT>(from) + 2 * EIGHT * block);
            }
        }
#pragma unroll
        for (u32 i = 0; i < BATCH; ++i) {
            if (none_of_warp(base + i * distance)) break;
            const bool there = base + i * distance < halves;
            store_half(there, INDEXED ? place(base + i * distance) : to[i], permute_piece<0>(values[i]), permute_piece<1>(values[i]),
                       permute_piece<2>(values[i]), permute_piece<3>(values[i]));
        }
    }

    // The four pieces of a half to `to`, if it is `there`. Lanes 2 i and 2 i + 1 have the halves of one unit: they exchange pieces, so that
    // both write to the same sector of 32 bytes at a time. A whole warp. (A null `to` must not say that nothing is there: ptxas 13.0
    // zeroes 64 bits with CS2R, and was seen to test them before they were, where a predicated instruction may write them in between.)
    static __device__ __forceinline__ void store_half(bool there, u8* to, const u32x4& p0, const u32x4& p1, const u32x4& p2,
                                                      const u32x4& p3) {
        const bool odd = threadIdx.x % 2 != 0;
        const u32x4 q0 = exchange(select(odd, p0, p1)), q2 = exchange(select(odd, p2, p3));
        if (!there) return;
        u8* const unit = to - (odd ? 64 - 16 : 0);
        st_global_v4_b32(unit, select(odd, q0, p0));
        st_global_v4_b32(unit + 32, select(odd, q2, p2));
        st_global_v4_b32(unit + 64, select(odd, p1, q0));
        st_global_v4_b32(unit + 96, select(odd, p3, q2));
    }
    static __device__ __forceinline__ u32x4 select(bool first, const u32x4& a, const u32x4& b) {
        return {first ? a.x : b.x, first ? a.y : b.y, first ? a.z : b.z, first ? a.w : b.w};
    }
    static __device__ __forceinline__ u32 exchange(u32 word) { return __shfl_xor_sync(0xFFFFFFFFu, word, 1); }
    static __device__ __forceinline__ u32x4 exchange(const u32x4& v) { return {exchange(v.x), exchange(v.y), exchange(v.z), exchange(v.w)}; }

    // Returns when the shares of all blocks may be read by the copy engine. For one thread of each block.
    __device__ __forceinline__ void await() const {
        const u32 blocks = grid_blocks();
        u32* const arrived = counter();
        while (ld_acquire_gpu_global_b32(arrived) < blocks) {
        }
        fence_proxy_async_global();
    }

    // For the same thread, once and any time later: its answer takes as long as a load of what all have made.
    __device__ __forceinline__ void depart() const { leave_counter(counter(), grid_blocks()); }
};

template <bool NVFP4, int LAYOUT, bool INDEXED = false, class Locate>
__device__ __forceinline__ ActivationShare<NVFP4, LAYOUT, INDEXED, Locate> activation_share(u32 halves, u32* counters, Locate locate,
                                                                                            const int* rows = nullptr) {
    return {halves, counters, locate, rows};
}
