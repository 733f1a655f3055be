// stmatrix: 8x8 matrices of 16-bit elements to shared memory (PTX ISA 9.7.14.5.16; sm_90).
#pragma once

#include "ptx/types.cuh"

// Four matrices, transposed: lane i gives the address of column i % 8 of matrix i / 8, and holds of each matrix the elements
// 2 * (lane % 4) and the next of row lane / 4.
__device__ __forceinline__ void stmatrix_sync_aligned_m8n8_x4_trans_shared_b16(u32 address, u32 d0, u32 d1, u32 d2,
                                                                               u32 d3) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(d0),
                 "r"(d1), "r"(d2), "r"(d3)
                 : "memory");
}

__device__ __forceinline__ void stmatrix_sync_aligned_m8n8_x1_trans_shared_b16(u32 address, u32 d0) {
    asm volatile("stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%0], {%1};" ::"r"(address), "r"(d0) : "memory");
}

__device__ __forceinline__ void stmatrix_sync_aligned_m8n8_x2_trans_shared_b16(u32 address, u32 d0, u32 d1) {
    asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(address), "r"(d0), "r"(d1)
                 : "memory");
}
