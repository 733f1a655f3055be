"""Clusters: distributed shared memory, remote barriers, multicast, cluster barriers; and kernels' own registers and grids."""

# Inline PTX stays on the line of its instruction.
# ruff: noqa: E501
from __future__ import annotations

import numpy as np

from ..program import PRELUDE, In, Map, Out, Program, random_bytes, words
from .copies import WAIT

_SYNC = (
    '    asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::: "memory");\n'
)


def _shared() -> Program:
    """mapa, loads, stores and atomics on the shared memory of other blocks, through both windows."""
    source = f"""{PRELUDE}
extern "C" __global__ void __cluster_dims__(4, 1, 1) kernel(const u32* in, u32* out) {{
    __shared__ __align__(16) u32 box[128];
    __shared__ u32 counters[8];
    u32 t = threadIdx.x, rank, d, e;
    asm volatile("mov.u32 %0, %cluster_ctarank;" : "=r"(rank));
    box[t] = in[rank * 64 + t];
    box[64 + t] = 0;
    if (t < 8) counters[t] = 0;
{_SYNC}    u32 peer = (rank + 1) & 3, remote;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(shared_address(box)), "r"(peer));
    asm volatile("getctarank.shared::cluster.u32 %0, %1;" : "=r"(e) : "r"(remote));
    asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(d) : "r"(remote + 4 * t) : "memory");
    u64 generic;
    asm volatile("mapa.u64 %0, %1, %2;" : "=l"(generic) : "l"((u64)box), "r"((rank + 2) & 3));
    u32 f = *(const u32*)(generic + 4 * (63 - t));
    asm volatile("st.shared::cluster.u32 [%0], %1;" :: "r"(remote + 256 + 4 * t), "r"(d + rank) : "memory");
    u32 target;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(target) : "r"(shared_address(counters)), "r"(t & 3));
    asm volatile("red.relaxed.cluster.shared::cluster.add.u32 [%0], %1;" :: "r"(target), "r"(t + rank) : "memory");
    asm volatile("atom.shared::cluster.max.u32 %0, [%1], %2;" : "=r"(target) : "r"(target + 4), "r"(t * 3 + rank) : "memory");
{_SYNC}    u32* mine = out + rank * 256;
    mine[t] = d ^ e;
    mine[64 + t] = f;
    mine[128 + t] = box[64 + t];
    mine[192 + t] = t < 2 ? counters[t] : 0;
}}
"""
    return Program("cluster/shared memory", "distributed shared memory",
                   ("mapa", "getctarank", "ld.shared::cluster", "st.shared::cluster", "red.shared::cluster", "atom.shared::cluster",
                    "barrier.cluster.arrive", "barrier.cluster.wait"), source, (In("in"), Out("out", "uint32", (4, 256))),
                   {"in": words("cluster", 128).view(np.uint32)}, grid=(4, 1, 1), block=(64, 1, 1), cluster=(4, 1, 1))  # fmt: skip


def _remote_barriers() -> Program:
    """Arrivals at the mbarrier of another block, st.async, red.async and bulk copies between blocks."""
    source = f"""{PRELUDE}{WAIT}
__device__ __forceinline__ u32 map_to(u32 address, u32 rank) {{
    u32 r;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(address), "r"(rank));
    return r;
}}
extern "C" __global__ void __cluster_dims__(2, 1, 1) kernel(const u32* in, u32* out) {{
    __shared__ __align__(128) u32 box[256];
    __shared__ u64 bars[4];
    u32 t = threadIdx.x, rank;
    asm volatile("mov.u32 %0, %cluster_ctarank;" : "=r"(rank));
    u32 b = shared_address(bars);
    if (t == 0) {{ init(b, 33); init(b + 8, 1); init(b + 16, 1); init(b + 24, 1); }}
    box[t] = in[rank * 32 + t];
    for (u32 i = 32 + t; i < 256; i += 32) box[i] = 0;
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
{_SYNC}    u32 other = rank ^ 1;
    // Everyone writes into the other block and arrives there.
    u32 remote = map_to(shared_address(box), other);
    asm volatile("st.shared::cluster.u32 [%0], %1;" :: "r"(remote + 4 * (32 + t)), "r"(box[t] * 3) : "memory");
    asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" :: "r"(map_to(b, other)) : "memory");
    if (t == 0) {{
        asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" :: "r"(b) : "memory");
        expect(b + 8, 32 * 4 + 16);
        expect(b + 16, 32 * 4);
        expect(b + 24, 128);
    }}
    u32 done = 0;
    while (!done)
        asm volatile("{{ .reg .pred p; mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], 0; selp.u32 %0, 1, 0, p; }}" : "=r"(done) : "r"(b) : "memory");
    u32 first = box[32 + t];
    // Stores and reductions that complete on the other block's barriers.
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%0], %1, [%2];" :: "r"(remote + 4 * (64 + t)), "r"(box[t] ^ 0x55), "r"(map_to(b + 8, other)) : "memory");
    if (t == 3) asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {{%1, %2, %3, %4}}, [%5];" :: "r"(remote + 4 * 96), "r"(1), "r"(2), "r"(rank), "r"(4), "r"(map_to(b + 8, other)) : "memory");
    asm volatile("red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%0], %1, [%2];" :: "r"(remote + 4 * (128 + (t & 7))), "r"(t), "r"(map_to(b + 16, other)) : "memory");
    wait(b + 8, 0);
    wait(b + 16, 0);
    if (t == 0)
        asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], 128, [%2];" :: "r"(remote + 4 * 160), "r"(shared_address(box)), "r"(map_to(b + 24, other)) : "memory");
    wait(b + 24, 0);
    u32* mine = out + rank * 256;
    mine[t] = first;
    for (u32 i = t; i < 224; i += 32) mine[32 + i] = box[32 + i];
{_SYNC}}}
"""
    return Program("cluster/remote barriers", "remote barriers and asynchronous stores",
                   ("mbarrier.arrive.shared::cluster", "st.async", "red.async", "cp.async.bulk.shared::cluster.shared::cta"), source,
                   (In("in"), Out("out", "uint32", (2, 256))), {"in": words("remote", 64).view(np.uint32)}, grid=(2, 1, 1), cluster=(2, 1, 1))  # fmt: skip


def _multicast() -> Program:
    """One copy into several blocks, each of whose barriers counts the bytes; and both kinds of cluster barrier."""
    source = f"""{PRELUDE}{WAIT}
extern "C" __global__ void __cluster_dims__(4, 1, 1) kernel(const __grid_constant__ Map m, const u8* in, u32* out) {{
    __shared__ __align__(1024) u32 tile[512];
    __shared__ u64 bars[2];
    u32 t = threadIdx.x, rank, b = shared_address(bars);
    asm volatile("mov.u32 %0, %cluster_ctarank;" : "=r"(rank));
    for (u32 i = t; i < 512; i += 32) tile[i] = 0xEEEEEEEE;
    if (t == 0) {{ init(b, 1); init(b + 8, 1); }}
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    if (t == 0) {{ expect(b, rank == 2 ? 1024 : 2048 ); expect(b + 8, rank == 3 ? 512 : 0); }}
    __syncthreads();
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
    if (t == 0 && rank == 1)
        asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {{%3, %4}}], [%2], %5;" :: "r"(shared_address(tile)), "l"(&m), "r"(b), "r"(32), "r"(5), "h"((u16)0xF) : "memory");
    if (t == 0 && rank == 0)
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], 1024, [%2], %3;" :: "r"(shared_address(tile) + 1024), "l"((u64)in), "r"(b), "h"((u16)0xB) : "memory");
    wait(b, 0);
    if (t == 0 && rank == 3)
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], 512, [%2], %3;" :: "r"(shared_address(tile) + 512), "l"((u64)(in + 2048)), "r"(b + 8), "h"((u16)0x8) : "memory");
    wait(b + 8, 0);
    for (u32 i = t; i < 512; i += 32) out[rank * 512 + i] = tile[i];
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
}}
"""
    args = (Map("in", "u16", (128, 32), (256,), (64, 8), (), 128), In("in"), Out("out", "uint32", (4, 512)))
    return Program("cluster/multicast", "multicast", ("cp.async.bulk.tensor.multicast::cluster", "cp.async.bulk.multicast::cluster"), source, args,
                   {"in": random_bytes("multicast", 8192)}, grid=(4, 1, 1), cluster=(4, 1, 1))  # fmt: skip


def _registers() -> Program:
    """setmaxnreg between warpgroups, griddepcontrol in a plain launch, nanosleep, fences and clocks that only move on."""
    source = f"""{PRELUDE}
extern "C" __global__ void __launch_bounds__(256, 1) kernel(const u32* in, u32* out) {{
    u32 t = threadIdx.x;
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    if (t < 128) {{
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        asm volatile("nanosleep.u32 20;");
        out[t] = in[t] + 1;
    }} else {{
        asm volatile("setmaxnreg.inc.sync.aligned.u32 200;");
        u32 v[64], s = 0;
        #pragma unroll
        for (u32 i = 0; i < 64; ++i) v[i] = in[(t + i * 3) & 255];
        #pragma unroll
        for (u32 i = 0; i < 64; ++i) s = s * 31 + v[(i * 7) & 63];
        out[t] = s;
    }}
    asm volatile("membar.cta; membar.gl; membar.sys; fence.acq_rel.cta; fence.acq_rel.cluster; fence.sc.gpu; fence.proxy.async; fence.proxy.alias; fence.proxy.async.global;" ::: "memory");
    u64 before, after; u32 c0, c1;
    asm volatile("mov.u64 %0, %globaltimer; mov.u32 %1, %clock;" : "=l"(before), "=r"(c0) :: "memory");
    asm volatile("nanosleep.u32 2000;" ::: "memory");
    asm volatile("mov.u64 %0, %globaltimer; mov.u32 %1, %clock;" : "=l"(after), "=r"(c1) :: "memory");
    out[256 + t] = after >= before && c0 != c1;
}}
"""
    return Program("cluster/registers and grids", "setmaxnreg, griddepcontrol, fences",
                   ("setmaxnreg", "griddepcontrol", "nanosleep", "membar", "fence"), source, (In("in"), Out("out", "uint32", (2, 256))),
                   {"in": words("registers", 128).view(np.uint32)}, block=(256, 1, 1))  # fmt: skip


def programs() -> list[Program]:
    return [_shared(), _remote_barriers(), _multicast(), _registers()]
