// clusterlaunchcontrol: taking over the work of a cluster that has not started (PTX ISA 9.7.13.17; sm_100).
#pragma once

#include "ptx/types.cuh"

// Asks for one; the answer, 16 bytes, arrives at `response` and is counted by `barrier`.
__device__ __forceinline__ void clusterlaunchcontrol_try_cancel(u32 response, u32 barrier) {
    asm volatile("clusterlaunchcontrol.try_cancel.async.shared::cta.mbarrier::complete_tx::bytes.b128 [%0], [%1];" ::"r"(response),
                 "r"(barrier)
                 : "memory");
}

// The same; the answer arrives at the same offsets in every block of the cluster.
__device__ __forceinline__ void clusterlaunchcontrol_try_cancel_multicast(u32 response, u32 barrier) {
    asm volatile(
        "clusterlaunchcontrol.try_cancel.async.shared::cta.mbarrier::complete_tx::bytes.multicast::cluster::all.b128 [%0], [%1];" ::"r"(
            response),
        "r"(barrier)
        : "memory");
}

// The first block's index along x, or -1: all clusters have started.
__device__ __forceinline__ i32 clusterlaunchcontrol_query_cancel_x(u32 response) {
    u32 x, canceled;
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        ".reg .b128 answer;\n"
        ".reg .b64 low, high;\n"
        "ld.shared.v2.b64 {low, high}, [%2];\n"
        "mov.b128 answer, {low, high};\n"
        "clusterlaunchcontrol.query_cancel.is_canceled.pred.b128 p, answer;\n"
        "mov.u32 %0, 0;\n"
        "@p clusterlaunchcontrol.query_cancel.get_first_ctaid::x.b32.b128 %0, answer;\n"
        "selp.u32 %1, 1, 0, p;\n"
        "}"
        : "=r"(x), "=r"(canceled)
        : "r"(response)
        : "memory");
    return canceled != 0 ? static_cast<i32>(x) : -1;
}
