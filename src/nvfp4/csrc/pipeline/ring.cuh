// Places in rings of shared memory.
#pragma once

#include "ptx/types.cuh"

// A place in a ring of N, and the parity of the phase that is filled there; whoever empties waits for the other parity.
template <int N>
struct Ring {
    u32 index = 0, parity = 0;

    __device__ __forceinline__ void advance() {
        if (++index == N) {
            index = 0;
            parity ^= 1;
        }
    }
};
