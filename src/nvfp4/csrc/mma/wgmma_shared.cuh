// wgmma with both factors in shared memory (PTX ISA 9.7.15.5.2; sm_90a): D [64, N] += A [64, 16] * B [16, N].
// Layout of D: mma/wgmma.cuh.
#pragma once

#include "mma/wgmma.cuh"

// Descriptor of 16 elements along K of a tile whose rows are 128 bytes in the 128-byte swizzle, at a multiple of 1024 bytes
// (9.7.15.5.1.2): groups of 8 rows lie 1024 bytes apart. The next 16 elements are 32 bytes further: add 2.
__device__ __forceinline__ u64 wgmma_matrix_128b(u32 address) {
    return static_cast<u64>((address & 0x3FFFFu) >> 4) | 1ull << 16 | static_cast<u64>(1024 >> 4) << 32 | 1ull << 62;
}

#define NVFP4_WGMMA_SHARED(N, TYPE, A, B)                                                                            \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" NVFP4_REGISTERS_##N "}, " A ", " B \
                 ", 1, 1, 1, 0, 0;"                                                                                  \
                 : NVFP4_OUTPUTS_##N                                                                                 \
                 : "l"(a), "l"(b))

// `a` and `b` are such descriptors.
__device__ __forceinline__ void wgmma_m64n128k16_f32_f16_shared(float (&d)[64], u64 a, u64 b) {
    NVFP4_WGMMA_SHARED(128, "f16", "%64", "%65");
}

// The same for N columns, in fp16 or bf16.
template <int N, bool BF16>
__device__ __forceinline__ void wgmma_m64k16_shared(float (&d)[N / 2], u64 a, u64 b) {
    static_assert(N % 8 == 0 && N >= 8 && N <= 256, "columns of one instruction");
#define NVFP4_WGMMA_CASE(COLUMNS, A, B)                \
    if constexpr (N == COLUMNS && BF16) NVFP4_WGMMA_SHARED(COLUMNS, "bf16", A, B); \
    if constexpr (N == COLUMNS && !BF16) NVFP4_WGMMA_SHARED(COLUMNS, "f16", A, B);
    NVFP4_WGMMA_CASE(8, "%4", "%5")
    NVFP4_WGMMA_CASE(16, "%8", "%9")
    NVFP4_WGMMA_CASE(24, "%12", "%13")
    NVFP4_WGMMA_CASE(32, "%16", "%17")
    NVFP4_WGMMA_CASE(40, "%20", "%21")
    NVFP4_WGMMA_CASE(48, "%24", "%25")
    NVFP4_WGMMA_CASE(56, "%28", "%29")
    NVFP4_WGMMA_CASE(64, "%32", "%33")
    NVFP4_WGMMA_CASE(72, "%36", "%37")
    NVFP4_WGMMA_CASE(80, "%40", "%41")
    NVFP4_WGMMA_CASE(88, "%44", "%45")
    NVFP4_WGMMA_CASE(96, "%48", "%49")
    NVFP4_WGMMA_CASE(104, "%52", "%53")
    NVFP4_WGMMA_CASE(112, "%56", "%57")
    NVFP4_WGMMA_CASE(120, "%60", "%61")
    NVFP4_WGMMA_CASE(128, "%64", "%65")
    NVFP4_WGMMA_CASE(136, "%68", "%69")
    NVFP4_WGMMA_CASE(144, "%72", "%73")
    NVFP4_WGMMA_CASE(152, "%76", "%77")
    NVFP4_WGMMA_CASE(160, "%80", "%81")
    NVFP4_WGMMA_CASE(168, "%84", "%85")
    NVFP4_WGMMA_CASE(176, "%88", "%89")
    NVFP4_WGMMA_CASE(184, "%92", "%93")
    NVFP4_WGMMA_CASE(192, "%96", "%97")
    NVFP4_WGMMA_CASE(200, "%100", "%101")
    NVFP4_WGMMA_CASE(208, "%104", "%105")
    NVFP4_WGMMA_CASE(216, "%108", "%109")
    NVFP4_WGMMA_CASE(224, "%112", "%113")
    NVFP4_WGMMA_CASE(232, "%116", "%117")
    NVFP4_WGMMA_CASE(240, "%120", "%121")
    NVFP4_WGMMA_CASE(248, "%124", "%125")
    NVFP4_WGMMA_CASE(256, "%128", "%129")
#undef NVFP4_WGMMA_CASE
}
