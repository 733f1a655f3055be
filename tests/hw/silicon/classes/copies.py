"""cp.async, cp.async.bulk and cp.reduce.async.bulk (PTX ISA 9.7.9.25): copies without tensor maps."""

# Inline PTX stays on the line of its instruction.
# ruff: noqa: E501
from __future__ import annotations

import numpy as np

from ..program import PRELUDE, In, Out, Program, random_bytes, words
from .matrix import finite

WAIT = """
__device__ __forceinline__ void init(u32 bar, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(bar), "r"(count) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void expect(u32 bar, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(bar), "r"(bytes) : "memory");
}
__device__ __forceinline__ void wait(u32 bar, u32 parity) {
    u32 done = 0;
    while (!done)
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }" : "=r"(done) : "r"(bar), "r"(parity) : "memory");
}
"""


def _cp_async() -> Program:
    text, row = "", 0
    for form, size, source_size in (("ca", 4, ""), ("ca", 8, ""), ("ca", 16, ""), ("cg", 16, ""), ("ca", 4, "lane % 5"), ("ca", 8, "lane % 9"),
                                    ("cg", 16, "lane % 17"), ("cg", 16, "ignore")):  # fmt: skip
        name = f"cp.async.{form}.shared.global"
        extra, more, prologue = "", "", ""
        if source_size == "ignore":
            prologue, extra = "{ .reg .pred q; setp.gt.u32 q, %2, 15; ", ", q; }"
            more = ', "r"(lane)'
        elif source_size:
            extra, more = ", %2;", f', "r"((u32)({source_size}))'
        else:
            extra = ";"
        if form == "cg" and not source_size:
            name += ".L2::128B"
        text += f"""    for (u32 i = lane; i < 512; i += 32) tile[i] = 0xEE; __syncwarp();
    asm volatile("{prologue}{name} [%0], [%1], {size}{extra}" :: "r"(shared_address(tile + 16 * lane)), "l"((u64)(in + {row * 512} + 16 * ((lane * 5) & 31))){more} : "memory");
    asm volatile("{"cp.async.wait_all;" if row % 2 else "cp.async.commit_group; cp.async.wait_group 0;"}" ::: "memory");
    __syncwarp();
    for (u32 i = lane; i < 512; i += 32) out[{row * 512} + i] = tile[i];
    __syncwarp();
"""
        row += 1
    # Three groups in flight, the newest left open; then an mbarrier that counts the copies of all lanes.
    text += f"""    for (u32 g = 0; g < 3; ++g) {{
        asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" :: "r"(shared_address(tile + 512 * g + 16 * lane)), "l"((u64)(in + 512 * g + 16 * lane)) : "memory");
        asm volatile("cp.async.commit_group;" ::: "memory");
    }}
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    __syncwarp();
    for (u32 i = lane; i < 512; i += 32) out[{row * 512} + i] = tile[i] ^ tile[512 + i];
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    __syncwarp();
    if (lane == 0) {{ init(shared_address(bars), 64); init(shared_address(bars + 1), 32); }}
    __syncwarp();
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(shared_address(tile + 16 * lane)), "l"((u64)(in + 1024 + 16 * lane)) : "memory");
    asm volatile("cp.async.mbarrier.arrive.shared::cta.b64 [%0];" :: "r"(shared_address(bars)) : "memory");
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" :: "r"(shared_address(bars + 1)) : "memory");
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], 2;" :: "r"(shared_address(bars)) : "memory");
    wait(shared_address(bars + 1), 0);
    wait(shared_address(bars), 0);
    for (u32 i = lane; i < 512; i += 32) out[{(row + 1) * 512} + i] = tile[i];
"""
    row += 2
    source = f"""{PRELUDE}{WAIT}
extern "C" __global__ void kernel(const u8* in, u8* out) {{
    __shared__ __align__(16) u8 tile[1536];
    __shared__ u64 bars[2];
    u32 lane = threadIdx.x;
{text}}}
"""
    covers = (
        "cp.async.ca",
        "cp.async.cg",
        "cp.async.commit_group",
        "cp.async.wait_group",
        "cp.async.wait_all",
        "cp.async.mbarrier.arrive",
    )
    return Program(
        "copies/cp.async",
        "cp.async",
        covers,
        source,
        (In("in"), Out("out", "uint8", (row, 512))),
        {"in": random_bytes("cp.async", 8 * 512)},
    )


def _bulk() -> Program:
    source = f"""{PRELUDE}{WAIT}
extern "C" __global__ void kernel(const u8* in, u8* out) {{
    __shared__ __align__(128) u8 tile[4096];
    __shared__ u64 bars[4];
    u32 t = threadIdx.x;
    if (t == 0) for (u32 i = 0; i < 4; ++i) init(shared_address(bars + i), 1);
    __syncthreads();
    if (t == 0) {{
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], 2048;" :: "l"((u64)in) : "memory");
        // Two copies of different sizes counted by one barrier, a third by another, one of them with a cache policy.
        u64 policy;
        asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
        expect(shared_address(bars), 1024 + 16);
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" :: "r"(shared_address(tile)), "l"((u64)in), "r"(1024), "r"(shared_address(bars)) : "memory");
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" :: "r"(shared_address(tile + 1024)), "l"((u64)(in + 4000)), "r"(16), "r"(shared_address(bars)), "l"(policy) : "memory");
        expect(shared_address(bars + 1), 2048);
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" :: "r"(shared_address(tile + 2048)), "l"((u64)(in + 1008)), "r"(2048), "r"(shared_address(bars + 1)) : "memory");
    }}
    wait(shared_address(bars), 0);
    wait(shared_address(bars + 1), 0);
    for (u32 i = t; i < 1040; i += 32) out[i] = tile[i];
    for (u32 i = t; i < 2048; i += 32) out[1040 + i] = tile[2048 + i];
    __syncthreads();
    // Shared to global, from what threads wrote.
    for (u32 i = t; i < 1024; i += 32) tile[i] = tile[2048 + i] + 1;
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    if (t == 0) {{
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], 1024;" :: "l"((u64)(out + 4096)), "r"(shared_address(tile)) : "memory");
        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], 48;" :: "l"((u64)(out + 5120)), "r"(shared_address(tile + 16)) : "memory");
        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
        asm volatile("cp.async.bulk.wait_group.read 1;" ::: "memory");
        asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    }}
}}
"""
    covers = ("cp.async.bulk.shared::cluster.global", "cp.async.bulk.global.shared::cta",
              "cp.async.bulk.prefetch", "cp.async.bulk.commit_group", "cp.async.bulk.wait_group", "createpolicy", "fence.proxy.async",
              "fence.mbarrier_init")  # fmt: skip
    return Program(
        "copies/bulk",
        "cp.async.bulk",
        covers,
        source,
        (In("in"), Out("out", "uint8", (5168,))),
        {"in": random_bytes("bulk", 8192)},
    )


_REDUCTIONS = (
    [("add", t) for t in ("u32", "s32", "u64", "f32", "f64", "noftz.f16", "noftz.bf16")]
    + [(o, t) for o in ("min", "max") for t in ("u32", "s32", "u64", "s64", "f16", "bf16")]
    + [(o, t) for o in ("and", "or", "xor") for t in ("b32", "b64")]
    + [("inc", "u32"), ("dec", "u32")]
)


def _reduce() -> Program:
    text = ""
    states, values = [], []
    for i, (o, t) in enumerate(_REDUCTIONS):
        kind = t.replace("noftz.", "")
        for seed, into in (("state", states), ("value", values)):
            raw = words(f"bulk reduce {seed} {i}", 32)
            filled = (
                finite(kind, raw, False)
                if kind[0] in "fb" and kind[1] != "3" and kind not in ("b64", "f32")
                else raw.view(np.uint8)
            )
            filled = finite("f32", raw, False) if kind == "f32" else filled
            into.append(np.ascontiguousarray(filled).view(np.uint8)[:256])
        text += (
            f'        asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.{o}.{t} [%0], [%1], 256;" :: '
            f'"l"((u64)(state + {i * 256})), "r"(shared_address(tile + {i * 256})) : "memory");\n'
        )
    n = len(_REDUCTIONS)
    source = f"""{PRELUDE}
extern "C" __global__ void kernel(const u8* in, u8* state) {{
    __shared__ __align__(128) u8 tile[{n * 256}];
    u32 t = threadIdx.x;
    for (u32 i = t; i < {n * 256}; i += 32) tile[i] = in[i];
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    if (t == 0) {{
{text}        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
        asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    }}
}}
"""
    covers = tuple(f"cp.reduce.async.bulk.{o}.{t}" for o, t in _REDUCTIONS)
    inputs = {"in": np.concatenate(values), "state": np.concatenate(states)}
    return Program(
        "copies/bulk reduce",
        "cp.reduce.async.bulk",
        covers,
        source,
        (In("in"), In("state")),
        inputs,
        recorded_inputs=("state",),
    )


def programs() -> list[Program]:
    return [_cp_async(), _bulk(), _reduce()]
