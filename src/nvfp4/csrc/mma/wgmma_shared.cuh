// wgmma with both factors in shared memory (PTX ISA 9.7.15.5.2; sm_90a): D [64, 128] += A [64, 16] * B [16, 128] in fp16.
// Layout of D: mma/wgmma.cuh.
#pragma once

#include "mma/wgmma.cuh"

// `a` and `b` are descriptors of 16 elements along K.
__device__ __forceinline__ void wgmma_m64n128k16_f32_f16_shared(float (&d)[64], u64 a, u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" NVFP4_REGISTERS_128 "}, %64, %65, 1, 1, 1, 0, 0;"
                 : NVFP4_OUTPUTS_128
                 : "l"(a), "l"(b));
}

// Behind a wait: the compiler, which knows of no asynchronous writes to registers, must not use them before.
template <int N>
__device__ __forceinline__ void wgmma_results(float (&d)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
