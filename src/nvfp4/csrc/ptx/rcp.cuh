// rcp.approx: 1 / x within one unit in the last place (PTX ISA 9.7.3.15).
#pragma once

__device__ __forceinline__ float rcp_approx_ftz_f32(float x) {
    float d;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
    return d;
}
