// A ring of shared-memory stages, and the barriers that guard them.
#pragma once

#include "ptx/mbarrier.cuh"
#include "ptx/types.cuh"

// The position of one role in the ring. `parity` is that of the phase in which the stage is filled.
template <int STAGES>
struct Ring {
    u32 stage = 0;
    u32 parity = 0;

    __device__ __forceinline__ void advance() {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

__device__ __forceinline__ void wait_barrier(u32 barrier, u32 parity) {
    while (!mbarrier_try_wait_parity_shared_b64(barrier, parity)) {
    }
}
