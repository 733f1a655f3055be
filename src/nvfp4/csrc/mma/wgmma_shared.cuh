// wgmma with both factors in shared memory (PTX ISA 9.7.15.5.2; sm_90a): D [64, N] += A [64, 16] * B [16, N].
// Layout of D: mma/wgmma.cuh.
#pragma once

#include "mma/wgmma.cuh"

// Descriptor of 16 elements along K of a tile whose rows are 128 bytes in the 128-byte swizzle, at a multiple of 1024 bytes
// (9.7.15.5.1.2): groups of 8 rows lie 1024 bytes apart. The next 16 elements are 32 bytes further: add 2.
__device__ __forceinline__ u64 wgmma_matrix_128b(u32 address) {
    return static_cast<u64>((address & 0x3FFFFu) >> 4) | 1ull << 16 | static_cast<u64>(1024 >> 4) << 32 | 1ull << 62;
}

// `a` and `b` are such descriptors.
__device__ __forceinline__ void wgmma_m64n128k16_f32_f16_shared(float (&d)[64], u64 a, u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" NVFP4_REGISTERS_128 "}, %64, %65, 1, 1, 1, 0, 0;"
                 : NVFP4_OUTPUTS_128
                 : "l"(a), "l"(b));
}
