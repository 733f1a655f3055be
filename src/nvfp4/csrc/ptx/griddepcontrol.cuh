// griddepcontrol: programmatic dependent launch (PTX ISA 9.7.13.13; sm_90). Nothing before that architecture, where a
// kernel starts after the previous one has finished.
#pragma once

// Lets the next kernel of the queue start; its griddepcontrol.wait still waits for all of this one.
__device__ __forceinline__ void griddepcontrol_launch_dependents() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Waits until the previous kernel has finished and its writes are visible.
__device__ __forceinline__ void griddepcontrol_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
