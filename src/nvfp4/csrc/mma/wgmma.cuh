// wgmma: warpgroup-wide matrix multiply-accumulate (PTX ISA 9.7.15; sm_90a).
//
// D [64, N] += A [64, 16] * B [16, N]; D in fp32 registers, A in registers, B in shared memory through a matrix
// descriptor. With warp w of the warpgroup, g = lane / 4 and t = lane % 4, a lane holds of each
//   A: (row 16w+g, k 2t..2t+1), (row 16w+g+8, k 2t..), (row 16w+g, k 2t+8..), (row 16w+g+8, k 2t+8..)
//   D: element 4j + 2h + e is (row 16w+g+8h, column 8j+2t+e)
// The table of shapes is regular: one line of operands for each N.
#pragma once

#include "ptx/types.cuh"

__device__ __forceinline__ void wgmma_fence_sync_aligned() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void wgmma_commit_group_sync_aligned() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until at most N of the newest groups are under way.
template <int N>
__device__ __forceinline__ void wgmma_wait_group_sync_aligned() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// Behind a wait: the compiler, which knows of no asynchronous writes to registers, must not use them before.
template <int N>
__device__ __forceinline__ void wgmma_results(float (&d)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// Descriptor of a K-major tile of 128-byte rows in the 128-byte swizzle, at a multiple of 1024 bytes (9.7.15.5.1.2.2): groups
// of 8 rows lie 1024 bytes apart. The lower half is `start` of some tile plus the distance to another in units of 16 bytes (16 elements
// further along K is 2), the upper half the same for all.
__device__ __forceinline__ u32 wgmma_descriptor_start(u32 address) { return (address & 0x3FFFFu) >> 4 | 1u << 16; }
constexpr u32 WGMMA_DESCRIPTOR_HIGH = 1u << 30 | 1024u >> 4;
__device__ __forceinline__ u64 wgmma_descriptor_at(u32 start, u32 distance, u32 high = WGMMA_DESCRIPTOR_HIGH) {
    return static_cast<u64>(high) << 32 | (start + distance);
}

// The upper half, unknown to the compiler, as it does not know that these kernels have one block along z. A constant it would write anew for every
// instruction that has a descriptor of its own, and each costs an issue slot.
__device__ __forceinline__ u32 wgmma_descriptor_high() {
    u32 one;
    asm("mov.u32 %0, %%nctaid.z;" : "=r"(one));
    return WGMMA_DESCRIPTOR_HIGH - 1 + one;
}

// Moves a descriptor by a distance in units of 16 bytes, in place.
__device__ __forceinline__ void wgmma_descriptor_move(u64& descriptor, u32 distance) {
    asm("{.reg .u32 low, high; mov.b64 {low, high}, %0; add.u32 low, low, %1; mov.b64 %0, {low, high};}" : "+l"(descriptor) : "r"(distance));
}

// Operands of the instruction by its N, a line for each 8 columns: accumulators as they are named in the text, and as they are passed.
#define NVFP4_REGISTERS_8 "%0, %1, %2, %3"
#define NVFP4_REGISTERS_16 NVFP4_REGISTERS_8 ", %4, %5, %6, %7"
#define NVFP4_REGISTERS_24 NVFP4_REGISTERS_16 ", %8, %9, %10, %11"
#define NVFP4_REGISTERS_32 NVFP4_REGISTERS_24 ", %12, %13, %14, %15"
#define NVFP4_REGISTERS_40 NVFP4_REGISTERS_32 ", %16, %17, %18, %19"
#define NVFP4_REGISTERS_48 NVFP4_REGISTERS_40 ", %20, %21, %22, %23"
#define NVFP4_REGISTERS_56 NVFP4_REGISTERS_48 ", %24, %25, %26, %27"
#define NVFP4_REGISTERS_64 NVFP4_REGISTERS_56 ", %28, %29, %30, %31"
#define NVFP4_REGISTERS_72 NVFP4_REGISTERS_64 ", %32, %33, %34, %35"
#define NVFP4_REGISTERS_80 NVFP4_REGISTERS_72 ", %36, %37, %38, %39"
#define NVFP4_REGISTERS_88 NVFP4_REGISTERS_80 ", %40, %41, %42, %43"
#define NVFP4_REGISTERS_96 NVFP4_REGISTERS_88 ", %44, %45, %46, %47"
#define NVFP4_REGISTERS_104 NVFP4_REGISTERS_96 ", %48, %49, %50, %51"
#define NVFP4_REGISTERS_112 NVFP4_REGISTERS_104 ", %52, %53, %54, %55"
#define NVFP4_REGISTERS_120 NVFP4_REGISTERS_112 ", %56, %57, %58, %59"
#define NVFP4_REGISTERS_128 NVFP4_REGISTERS_120 ", %60, %61, %62, %63"
#define NVFP4_REGISTERS_136 NVFP4_REGISTERS_128 ", %64, %65, %66, %67"
#define NVFP4_REGISTERS_144 NVFP4_REGISTERS_136 ", %68, %69, %70, %71"
#define NVFP4_REGISTERS_152 NVFP4_REGISTERS_144 ", %72, %73, %74, %75"
#define NVFP4_REGISTERS_160 NVFP4_REGISTERS_152 ", %76, %77, %78, %79"
#define NVFP4_REGISTERS_168 NVFP4_REGISTERS_160 ", %80, %81, %82, %83"
#define NVFP4_REGISTERS_176 NVFP4_REGISTERS_168 ", %84, %85, %86, %87"
#define NVFP4_REGISTERS_184 NVFP4_REGISTERS_176 ", %88, %89, %90, %91"
#define NVFP4_REGISTERS_192 NVFP4_REGISTERS_184 ", %92, %93, %94, %95"
#define NVFP4_REGISTERS_200 NVFP4_REGISTERS_192 ", %96, %97, %98, %99"
#define NVFP4_REGISTERS_208 NVFP4_REGISTERS_200 ", %100, %101, %102, %103"
#define NVFP4_REGISTERS_216 NVFP4_REGISTERS_208 ", %104, %105, %106, %107"
#define NVFP4_REGISTERS_224 NVFP4_REGISTERS_216 ", %108, %109, %110, %111"
#define NVFP4_REGISTERS_232 NVFP4_REGISTERS_224 ", %112, %113, %114, %115"
#define NVFP4_REGISTERS_240 NVFP4_REGISTERS_232 ", %116, %117, %118, %119"
#define NVFP4_REGISTERS_248 NVFP4_REGISTERS_240 ", %120, %121, %122, %123"
#define NVFP4_REGISTERS_256 NVFP4_REGISTERS_248 ", %124, %125, %126, %127"
#define NVFP4_OUTPUTS_8 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
#define NVFP4_OUTPUTS_16 NVFP4_OUTPUTS_8, "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define NVFP4_OUTPUTS_24 NVFP4_OUTPUTS_16, "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11])
#define NVFP4_OUTPUTS_32 NVFP4_OUTPUTS_24, "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define NVFP4_OUTPUTS_40 NVFP4_OUTPUTS_32, "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19])
#define NVFP4_OUTPUTS_48 NVFP4_OUTPUTS_40, "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
#define NVFP4_OUTPUTS_56 NVFP4_OUTPUTS_48, "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27])
#define NVFP4_OUTPUTS_64 NVFP4_OUTPUTS_56, "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define NVFP4_OUTPUTS_72 NVFP4_OUTPUTS_64, "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35])
#define NVFP4_OUTPUTS_80 NVFP4_OUTPUTS_72, "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39])
#define NVFP4_OUTPUTS_88 NVFP4_OUTPUTS_80, "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43])
#define NVFP4_OUTPUTS_96 NVFP4_OUTPUTS_88, "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
#define NVFP4_OUTPUTS_104 NVFP4_OUTPUTS_96, "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51])
#define NVFP4_OUTPUTS_112 NVFP4_OUTPUTS_104, "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55])
#define NVFP4_OUTPUTS_120 NVFP4_OUTPUTS_112, "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59])
#define NVFP4_OUTPUTS_128 NVFP4_OUTPUTS_120, "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define NVFP4_OUTPUTS_136 NVFP4_OUTPUTS_128, "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67])
#define NVFP4_OUTPUTS_144 NVFP4_OUTPUTS_136, "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71])
#define NVFP4_OUTPUTS_152 NVFP4_OUTPUTS_144, "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75])
#define NVFP4_OUTPUTS_160 NVFP4_OUTPUTS_152, "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79])
#define NVFP4_OUTPUTS_168 NVFP4_OUTPUTS_160, "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83])
#define NVFP4_OUTPUTS_176 NVFP4_OUTPUTS_168, "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87])
#define NVFP4_OUTPUTS_184 NVFP4_OUTPUTS_176, "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91])
#define NVFP4_OUTPUTS_192 NVFP4_OUTPUTS_184, "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
#define NVFP4_OUTPUTS_200 NVFP4_OUTPUTS_192, "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99])
#define NVFP4_OUTPUTS_208 NVFP4_OUTPUTS_200, "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103])
#define NVFP4_OUTPUTS_216 NVFP4_OUTPUTS_208, "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107])
#define NVFP4_OUTPUTS_224 NVFP4_OUTPUTS_216, "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111])
#define NVFP4_OUTPUTS_232 NVFP4_OUTPUTS_224, "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115])
#define NVFP4_OUTPUTS_240 NVFP4_OUTPUTS_232, "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119])
#define NVFP4_OUTPUTS_248 NVFP4_OUTPUTS_240, "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123])
#define NVFP4_OUTPUTS_256 NVFP4_OUTPUTS_248, "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])

// One instruction; TYPE is "f16" or "bf16".
#define NVFP4_WGMMA(N, TYPE, REGISTERS, A0, A1, A2, A3, DESCRIPTOR, ...)                                             \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" REGISTERS "}, {" A0 ", " A1    \
                 ", " A2 ", " A3 "}, " DESCRIPTOR ", 1, 1, 1, 0;"                                                     \
                 : __VA_ARGS__                                                                                        \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

// D += A * B for TOKENS columns; `b` describes 16 elements along K of B.
template <int TOKENS, bool BF16>
__device__ __forceinline__ void wgmma_m64k16(float (&d)[TOKENS / 2], const u32 (&a)[4], u64 b) {
    static_assert(TOKENS % 8 == 0 && TOKENS >= 8 && TOKENS <= 256, "columns of one instruction");
#define NVFP4_WGMMA_CASE(N, A0, A1, A2, A3, DESCRIPTOR)                                                                \
    if constexpr (TOKENS == N) {                                                                                       \
        if constexpr (BF16) {                                                                                          \
            NVFP4_WGMMA(N, "bf16", NVFP4_REGISTERS_##N, A0, A1, A2, A3, DESCRIPTOR, NVFP4_OUTPUTS_##N);                \
        } else {                                                                                                       \
            NVFP4_WGMMA(N, "f16", NVFP4_REGISTERS_##N, A0, A1, A2, A3, DESCRIPTOR, NVFP4_OUTPUTS_##N);                 \
        }                                                                                                              \
    }
    NVFP4_WGMMA_CASE(8, "%4", "%5", "%6", "%7", "%8")
    NVFP4_WGMMA_CASE(16, "%8", "%9", "%10", "%11", "%12")
    NVFP4_WGMMA_CASE(24, "%12", "%13", "%14", "%15", "%16")
    NVFP4_WGMMA_CASE(32, "%16", "%17", "%18", "%19", "%20")
    NVFP4_WGMMA_CASE(40, "%20", "%21", "%22", "%23", "%24")
    NVFP4_WGMMA_CASE(48, "%24", "%25", "%26", "%27", "%28")
    NVFP4_WGMMA_CASE(56, "%28", "%29", "%30", "%31", "%32")
    NVFP4_WGMMA_CASE(64, "%32", "%33", "%34", "%35", "%36")
    NVFP4_WGMMA_CASE(72, "%36", "%37", "%38", "%39", "%40")
    NVFP4_WGMMA_CASE(80, "%40", "%41", "%42", "%43", "%44")
    NVFP4_WGMMA_CASE(88, "%44", "%45", "%46", "%47", "%48")
    NVFP4_WGMMA_CASE(96, "%48", "%49", "%50", "%51", "%52")
    NVFP4_WGMMA_CASE(104, "%52", "%53", "%54", "%55", "%56")
    NVFP4_WGMMA_CASE(112, "%56", "%57", "%58", "%59", "%60")
    NVFP4_WGMMA_CASE(120, "%60", "%61", "%62", "%63", "%64")
    NVFP4_WGMMA_CASE(128, "%64", "%65", "%66", "%67", "%68")
    NVFP4_WGMMA_CASE(136, "%68", "%69", "%70", "%71", "%72")
    NVFP4_WGMMA_CASE(144, "%72", "%73", "%74", "%75", "%76")
    NVFP4_WGMMA_CASE(152, "%76", "%77", "%78", "%79", "%80")
    NVFP4_WGMMA_CASE(160, "%80", "%81", "%82", "%83", "%84")
    NVFP4_WGMMA_CASE(168, "%84", "%85", "%86", "%87", "%88")
    NVFP4_WGMMA_CASE(176, "%88", "%89", "%90", "%91", "%92")
    NVFP4_WGMMA_CASE(184, "%92", "%93", "%94", "%95", "%96")
    NVFP4_WGMMA_CASE(192, "%96", "%97", "%98", "%99", "%100")
    NVFP4_WGMMA_CASE(200, "%100", "%101", "%102", "%103", "%104")
    NVFP4_WGMMA_CASE(208, "%104", "%105", "%106", "%107", "%108")
    NVFP4_WGMMA_CASE(216, "%108", "%109", "%110", "%111", "%112")
    NVFP4_WGMMA_CASE(224, "%112", "%113", "%114", "%115", "%116")
    NVFP4_WGMMA_CASE(232, "%116", "%117", "%118", "%119", "%120")
    NVFP4_WGMMA_CASE(240, "%120", "%121", "%122", "%123", "%124")
    NVFP4_WGMMA_CASE(248, "%124", "%125", "%126", "%127", "%128")
    NVFP4_WGMMA_CASE(256, "%128", "%129", "%130", "%131", "%132")
#undef NVFP4_WGMMA_CASE
}
