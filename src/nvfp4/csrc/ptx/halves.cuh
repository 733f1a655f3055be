// A half of a word in both halves, by mov (PTX ISA 9.7.9.1, packing and unpacking). Packed half-precision arithmetic takes such an operand
// as it is (HMUL2 R, R, R.H0_H0), while a prmt remains an instruction.
#pragma once

#include "ptx/types.cuh"

__device__ __forceinline__ u32 low_half_twice(u32 word) {
    u32 both;
    asm("{\n.reg .b16 low, high;\nmov.b32 {low, high}, %1;\nmov.b32 %0, {low, low};\n}" : "=r"(both) : "r"(word));
    return both;
}

__device__ __forceinline__ u32 high_half_twice(u32 word) {
    u32 both;
    asm("{\n.reg .b16 low, high;\nmov.b32 {low, high}, %1;\nmov.b32 %0, {high, high};\n}" : "=r"(both) : "r"(word));
    return both;
}
