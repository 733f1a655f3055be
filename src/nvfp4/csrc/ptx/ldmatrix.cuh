// ldmatrix: 8x8 matrices of 16-bit elements from shared memory (PTX ISA 9.7.14.5.15; sm_75).
#pragma once

#include "ptx/types.cuh"

// Four matrices; lane i gives the address of row i % 8 of matrix i / 8, and gets of each matrix the elements
// 2 * (lane % 4) and the next of row lane / 4.
__device__ __forceinline__ void ldmatrix_sync_aligned_m8n8_x4_shared_b16(u32 (&d)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(address)
                 : "memory");
}
