// tcgen05: tensor memory and the products into it (PTX ISA 9.7.16; sm_100a, sm_103a). GROUP is .cta_group: a kernel uses one.
// An address in tensor memory has the lane in its upper half and the column in its lower.
#pragma once

#include "ptx/types.cuh"

// ---- allocation (9.7.16.7), by a whole warp; the address is written to shared memory
template <int GROUP>
__device__ __forceinline__ void tcgen05_alloc(u32 shared, u32 columns) {
    if constexpr (GROUP == 1) {
        asm volatile("tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%0], %1;" ::"r"(shared), "r"(columns)
                     : "memory");
    } else {
        asm volatile("tcgen05.alloc.cta_group::2.sync.aligned.shared::cta.b32 [%0], %1;" ::"r"(shared), "r"(columns)
                     : "memory");
    }
}

template <int GROUP>
__device__ __forceinline__ void tcgen05_relinquish_alloc_permit() {
    if constexpr (GROUP == 1) {
        asm volatile("tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;" ::: "memory");
    } else {
        asm volatile("tcgen05.relinquish_alloc_permit.cta_group::2.sync.aligned;" ::: "memory");
    }
}

template <int GROUP>
__device__ __forceinline__ void tcgen05_dealloc(u32 address, u32 columns) {
    if constexpr (GROUP == 1) {
        asm volatile("tcgen05.dealloc.cta_group::1.sync.aligned.b32 %0, %1;" ::"r"(address), "r"(columns) : "memory");
    } else {
        asm volatile("tcgen05.dealloc.cta_group::2.sync.aligned.b32 %0, %1;" ::"r"(address), "r"(columns) : "memory");
    }
}

// ---- order with other threads (9.7.16.6.3)
__device__ __forceinline__ void tcgen05_fence_before_thread_sync() {
    asm volatile("tcgen05.fence::before_thread_sync;" ::: "memory");
}

__device__ __forceinline__ void tcgen05_fence_after_thread_sync() {
    asm volatile("tcgen05.fence::after_thread_sync;" ::: "memory");
}

// ---- completion (9.7.16.12): one arrival at `barrier` when all that this thread has issued is done
template <int GROUP>
__device__ __forceinline__ void tcgen05_commit(u32 barrier) {
    if constexpr (GROUP == 1) {
        asm volatile("tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%0];" ::"r"(barrier)
                     : "memory");
    } else {
        asm volatile("tcgen05.commit.cta_group::2.mbarrier::arrive::one.shared::cluster.b64 [%0];" ::"r"(barrier)
                     : "memory");
    }
}

// The same at the same offset in every block of `mask`.
template <int GROUP>
__device__ __forceinline__ void tcgen05_commit_multicast(u32 barrier, u32 mask) {
    if constexpr (GROUP == 1) {
        asm volatile(
            "tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.multicast::cluster.b64 [%0], %1;" ::"r"(barrier),
            "h"(static_cast<u16>(mask))
            : "memory");
    } else {
        asm volatile(
            "tcgen05.commit.cta_group::2.mbarrier::arrive::one.shared::cluster.multicast::cluster.b64 [%0], %1;" ::"r"(barrier),
            "h"(static_cast<u16>(mask))
            : "memory");
    }
}

// ---- shared to tensor memory (9.7.16.9.2): 32 rows of 16 bytes to the four quarters of 32 lanes, four columns
template <int GROUP>
__device__ __forceinline__ void tcgen05_cp_32x128b_warpx4(u32 tensor, u64 matrix) {
    if constexpr (GROUP == 1) {
        asm volatile("tcgen05.cp.cta_group::1.32x128b.warpx4 [%0], %1;" ::"r"(tensor), "l"(matrix) : "memory");
    } else {
        asm volatile("tcgen05.cp.cta_group::2.32x128b.warpx4 [%0], %1;" ::"r"(tensor), "l"(matrix) : "memory");
    }
}

// 64 rows of 16 bytes: the first 32 to the first two quarters of lanes each, the others to the last two.
template <int GROUP>
__device__ __forceinline__ void tcgen05_cp_64x128b_warpx2_01_23(u32 tensor, u64 matrix) {
    if constexpr (GROUP == 1) {
        asm volatile("tcgen05.cp.cta_group::1.64x128b.warpx2::01_23 [%0], %1;" ::"r"(tensor), "l"(matrix) : "memory");
    } else {
        asm volatile("tcgen05.cp.cta_group::2.64x128b.warpx2::01_23 [%0], %1;" ::"r"(tensor), "l"(matrix) : "memory");
    }
}

// ---- D (+)= A B^T with a scale for 16 elements (9.7.16.10.9, "tcgen05.mma"). COLLECTOR: what becomes of A in the collector buffer.
constexpr int COLLECTOR_DISCARD = 0;  // the default
constexpr int COLLECTOR_FILL = 1;     // keep it for the next instruction
constexpr int COLLECTOR_LASTUSE = 2;  // take it from there

#define NVFP4_TCGEN05_MMA(GROUP, COLLECTOR)                                                                             \
    asm volatile(                                                                                                       \
        "{\n"                                                                                                           \
        ".reg .pred p;\n"                                                                                               \
        "setp.ne.u32 p, %6, 0;\n"                                                                                       \
        "tcgen05.mma.cta_group::" GROUP ".kind::mxf4nvf4.block_scale.block16" COLLECTOR                                 \
        " [%0], %1, %2, %3, [%4], [%5], p;\n"                                                                           \
        "}" ::"r"(d),                                                                                                   \
        "l"(a), "l"(b), "r"(instruction), "r"(scale_a), "r"(scale_b), "r"(accumulate)                                   \
        : "memory")

template <int GROUP, int COLLECTOR>
__device__ __forceinline__ void tcgen05_mma_mxf4nvf4_block16(u32 d, u64 a, u64 b, u32 instruction, u32 scale_a, u32 scale_b,
                                                             u32 accumulate) {
    if constexpr (GROUP == 1) {
        if constexpr (COLLECTOR == COLLECTOR_FILL) {
            NVFP4_TCGEN05_MMA("1", ".collector::a::fill");
        } else if constexpr (COLLECTOR == COLLECTOR_LASTUSE) {
            NVFP4_TCGEN05_MMA("1", ".collector::a::lastuse");
        } else {
            NVFP4_TCGEN05_MMA("1", "");
        }
    } else {
        if constexpr (COLLECTOR == COLLECTOR_FILL) {
            NVFP4_TCGEN05_MMA("2", ".collector::a::fill");
        } else if constexpr (COLLECTOR == COLLECTOR_LASTUSE) {
            NVFP4_TCGEN05_MMA("2", ".collector::a::lastuse");
        } else {
            NVFP4_TCGEN05_MMA("2", "");
        }
    }
}
#undef NVFP4_TCGEN05_MMA

// ---- tensor memory to registers and back (9.7.16.8): lane i of warp w gets lane 32 (w % 4) + i, 32 columns from that of `address`
__device__ __forceinline__ void tcgen05_ld_32x32b_x32(u32 (&r)[32], u32 address) {
    asm volatile(
        "tcgen05.ld.sync.aligned.32x32b.x32.b32 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, [%32];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]), "=r"(r[4]), "=r"(r[5]), "=r"(r[6]), "=r"(r[7]), "=r"(r[8]),
          "=r"(r[9]), "=r"(r[10]), "=r"(r[11]), "=r"(r[12]), "=r"(r[13]), "=r"(r[14]), "=r"(r[15]), "=r"(r[16]),
          "=r"(r[17]), "=r"(r[18]), "=r"(r[19]), "=r"(r[20]), "=r"(r[21]), "=r"(r[22]), "=r"(r[23]), "=r"(r[24]),
          "=r"(r[25]), "=r"(r[26]), "=r"(r[27]), "=r"(r[28]), "=r"(r[29]), "=r"(r[30]), "=r"(r[31])
        : "r"(address));
}

__device__ __forceinline__ void tcgen05_st_32x32b_x32(u32 address, const u32 (&r)[32]) {
    asm volatile(
        "tcgen05.st.sync.aligned.32x32b.x32.b32 [%0], {%1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, "
        "%15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32};" ::"r"(address),
        "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "r"(r[4]), "r"(r[5]), "r"(r[6]), "r"(r[7]), "r"(r[8]), "r"(r[9]),
        "r"(r[10]), "r"(r[11]), "r"(r[12]), "r"(r[13]), "r"(r[14]), "r"(r[15]), "r"(r[16]), "r"(r[17]), "r"(r[18]),
        "r"(r[19]), "r"(r[20]), "r"(r[21]), "r"(r[22]), "r"(r[23]), "r"(r[24]), "r"(r[25]), "r"(r[26]), "r"(r[27]),
        "r"(r[28]), "r"(r[29]), "r"(r[30]), "r"(r[31])
        : "memory");
}

__device__ __forceinline__ void tcgen05_wait_ld() { asm volatile("tcgen05.wait::ld.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void tcgen05_wait_st() { asm volatile("tcgen05.wait::st.sync.aligned;" ::: "memory"); }

// ---- descriptors
// A matrix of rows in shared memory (9.7.16.4.1, table 40): `stride` bytes from eight rows to the next eight.
constexpr u64 TCGEN05_SWIZZLE_NONE = 0;
constexpr u64 TCGEN05_SWIZZLE_128 = 2;

template <u64 SWIZZLE>
__device__ __forceinline__ u64 tcgen05_matrix(u32 shared, u32 stride) {
    constexpr u64 LEADING = 16;  // not used by these layouts
    return static_cast<u64>((shared & 0x3FFFFu) >> 4) | LEADING >> 4 << 16 | static_cast<u64>(stride >> 4) << 32 |
           1ull << 46 | SWIZZLE << 61;
}

// E2M1 times E2M1 with UE4M3 scales (9.7.16.4.2, table 44).
constexpr u32 tcgen05_mxf4nvf4_instruction(u32 m, u32 n) { return 1u << 7 | 1u << 10 | n / 8 << 17 | m / 128 << 27; }
