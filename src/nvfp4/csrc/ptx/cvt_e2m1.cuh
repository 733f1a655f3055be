// cvt.rn.f16x2.e2m1x2: two E2M1 codes of a byte to half precision (PTX ISA 9.7.9.21; sm_100a). Compiled for plain sm_100 this becomes bit
// arithmetic.
#pragma once

#include "ptx/types.cuh"

// The eight codes of a word in memory order, two to a register, the even one in the low half.
__device__ __forceinline__ void cvt_rn_f16x2_e2m1x2(u32 (&values)[4], u32 codes) {
    asm("{\n"
        ".reg .b8 b0, b1, b2, b3;\n"
        "mov.b32 {b0, b1, b2, b3}, %4;\n"
        "cvt.rn.f16x2.e2m1x2 %0, b0;\n"
        "cvt.rn.f16x2.e2m1x2 %1, b1;\n"
        "cvt.rn.f16x2.e2m1x2 %2, b2;\n"
        "cvt.rn.f16x2.e2m1x2 %3, b3;\n"
        "}"
        : "=r"(values[0]), "=r"(values[1]), "=r"(values[2]), "=r"(values[3])
        : "r"(codes));
}
