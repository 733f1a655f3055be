// setmaxnreg: moves registers between the warpgroups of a block (PTX ISA 9.7.19.5; sm_90a).
#pragma once

template <int REGISTERS>
__device__ __forceinline__ void setmaxnreg_dec_sync_aligned() {
    static_assert(REGISTERS % 8 == 0 && REGISTERS >= 24 && REGISTERS <= 256, "registers of a thread");
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

template <int REGISTERS>
__device__ __forceinline__ void setmaxnreg_inc_sync_aligned() {
    static_assert(REGISTERS % 8 == 0 && REGISTERS >= 24 && REGISTERS <= 256, "registers of a thread");
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
