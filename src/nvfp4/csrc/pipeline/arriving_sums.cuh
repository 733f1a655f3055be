// Sums that blocks hand each other in device memory, each word of which says itself that it has arrived: no fence, no counter, one trip.
//
// The memory is zero before the launch and after it. What is left there is the complement of a sum's bits, which is zero only for a NaN with all bits
// set: of that one bit is lost. Who has read a word puts the zero back; nobody writes it again before the next launch.
#pragma once

#include "pipeline/stream_k.cuh"
#include "ptx/flag.cuh"
#include "ptx/types.cuh"

// Four sums, 128 fours from the next.
__device__ __forceinline__ void leave_arriving(u32x4* to, const float* four) {
    const auto word = [&](int i) { return max(~__float_as_uint(four[i]), 1u); };
    st_relaxed_gpu_global_v4_b32(to, {word(0), word(1), word(2), word(3)});
}

// Adds COUNT fours of each weight block that each of `senders` has left, AHEAD senders at once, in their order. `from(i)` is where sender i has left
// the first of them.
template <int COUNT, int BLOCKS, int REGISTERS, class From>
__device__ __forceinline__ void add_arriving(float (&sums)[BLOCKS][REGISTERS], int senders, From from) {
    constexpr int EACH = COUNT * BLOCKS, AHEAD = EACH < 8 ? 8 / EACH : 1;
#pragma unroll 1
    for (int turn = 0; turn < senders; turn += AHEAD) {
        u32x4* at[AHEAD];
        u32x4 parts[AHEAD][EACH];
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) at[i] = from(turn + i);
        bool missing;
        do {
            missing = false;
#pragma unroll
            for (int i = 0; i < AHEAD; ++i) {
                if (turn + i >= senders) continue;
#pragma unroll
                for (int part = 0; part < EACH; ++part) parts[i][part] = ld_relaxed_gpu_global_v4_b32(at[i] + part * 128);
            }
#pragma unroll
            for (int i = 0; i < AHEAD; ++i) {
                if (turn + i >= senders) continue;
#pragma unroll
                for (const u32x4& part : parts[i]) missing |= part.x == 0 || part.y == 0 || part.z == 0 || part.w == 0;
            }
        } while (__any_sync(0xFFFFFFFFu, missing));
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            if (turn + i >= senders) continue;
#pragma unroll
            for (int part = 0; part < EACH; ++part) {
                const u32x4& words = parts[i][part];
                add_part(sums[part % BLOCKS], part / BLOCKS, make_float4(__uint_as_float(~words.x), __uint_as_float(~words.y), __uint_as_float(~words.z),
                                                                         __uint_as_float(~words.w)));
                st_relaxed_gpu_global_v4_b32(at[i] + part * 128, {0, 0, 0, 0});
            }
        }
    }
}

// The same of `count` fours, 1 to MOST.
template <int MOST, int BLOCKS, int REGISTERS, class From>
__device__ __forceinline__ void add_arriving(float (&sums)[BLOCKS][REGISTERS], int count, int senders, From from) {
    if (count == MOST) {
        add_arriving<MOST>(sums, senders, from);
    } else if constexpr (MOST > 1) {
        add_arriving<MOST - 1>(sums, count, senders, from);
    }
}
