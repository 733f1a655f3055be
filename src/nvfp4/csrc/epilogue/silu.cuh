// SiLU in fp32.
#pragma once

#include "ptx/rcp.cuh"

// x * sigmoid(x) = x / (1 + exp(-x)), for negative x as x * exp(x) / (1 + exp(x)): the exponential is then at most 1 and the denominator
// within [1, 2], where the approximate reciprocal is as good as a division and nothing overflows. (A division would take its slow
// path wherever exp(-x) is infinite: 15 us for the tiles of a contest shape.) x - x / (1 + exp(x)) would lose the digits of large
// negative x, and tanh.approx has only 11 bits.
__device__ __forceinline__ float silu(float x) {
    const float e = expf(-fabsf(x)), r = rcp_approx_ftz_f32(1.0f + e);
    return (x < 0.0f ? x * e : x) * r;
}

// Result i of fragments (mma/wgmma.cuh) whose rows g are of B1 and rows g + 8 of B2, counted without the latter. `first` and `second` finish sums.
template <class Sums, class First, class Second>
__device__ __forceinline__ float silu_of_pair(const Sums& sums, int i, First first, Second second) {
    const int element = i / 2 * 4 + i % 2;
    return silu(first(sums[element])) * second(sums[element + 2]);
}
