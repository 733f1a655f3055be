"""bar, barrier and mbarrier (PTX ISA 9.7.13.1 to 9.7.13.3, 9.7.13.15)."""

# Inline PTX stays on the line of its instruction.
# ruff: noqa: E501, RUF005
from __future__ import annotations

from ..program import PRELUDE, In, Out, Program, words


def _bar() -> Program:
    source = f"""{PRELUDE}
extern "C" __global__ void kernel(const u32* in, u32* out) {{
    __shared__ u32 box[256];
    u32 t = threadIdx.x, w = t >> 5, v = in[t], d;
    // All threads, several barriers and both spellings.
    box[t] = v;
    asm volatile("bar.sync 0;" ::: "memory");
    out[t] = box[(t * 37 + 5) & 127];
    asm volatile("barrier.sync 3, 128;" ::: "memory");
    box[t] = out[t] ^ t;
    asm volatile("barrier.sync.aligned 2;" ::: "memory");
    out[128 + t] = box[127 - t];
    // Reductions over a barrier.
    asm volatile("{{ .reg .pred p; setp.gt.s32 p, %1, 0; bar.red.popc.u32 %0, 1, p; }}" : "=r"(d) : "r"(v) : "memory");
    out[256 + t] = d;
    asm volatile("{{ .reg .pred p; setp.gt.s32 p, %1, 0; bar.red.popc.u32 %0, 4, 128, !p; }}" : "=r"(d) : "r"(v) : "memory");
    out[384 + t] = d;
    asm volatile("{{ .reg .pred p; setp.ne.s32 p, %1, 17; bar.red.and.pred p, 5, p; selp.u32 %0, 1, 0, p; }}" : "=r"(d) : "r"(t) : "memory");
    out[512 + t] = d;
    asm volatile("{{ .reg .pred p; setp.eq.s32 p, %1, 17; barrier.red.or.pred p, 6, p; selp.u32 %0, 1, 0, p; }}" : "=r"(d) : "r"(t) : "memory");
    out[640 + t] = d;
    // Half of the warps produce, half consume, over two named barriers; ten rounds through one slot.
    u32 sum = 0;
    for (u32 round = 0; round < 10; ++round) {{
        if (w < 2) {{
            asm volatile("bar.sync 8, 128;" ::: "memory");  // the slot is free
            box[128 + (t & 63)] = v * (round + 1) + t;
            asm volatile("bar.arrive 9, 128;" ::: "memory");
        }} else {{
            asm volatile("bar.arrive 8, 128;" ::: "memory");
            asm volatile("bar.sync 9, 128;" ::: "memory");
            sum = sum * 3 + box[128 + ((t + round) & 63)];
            // All consumers have read before one of them says so by arriving at 8 again.
            asm volatile("bar.sync 10, 64;" ::: "memory");
        }}
    }}
    out[768 + t] = sum;
}}
"""
    return Program("barriers/bar", "barriers", ("bar.sync", "bar.arrive", "bar.red", "barrier.sync", "barrier.red"), source,
                   (In("in"), Out("out", "uint32", (7, 128))), {"in": words("bar", 128).astype("u4")}, block=(128, 1, 1))  # fmt: skip


# One thread, one barrier: each line is a statement and the phases (parity 0, 1) that are tested after it.
_SEQUENCE = (
    "mbarrier.init.shared::cta.b64 [%1], 3;",
    "mbarrier.arrive.shared::cta.b64 s, [%1];",
    "mbarrier.arrive.shared::cta.b64 _, [%1], 2;",
    "mbarrier.arrive.release.cta.shared::cta.b64 _, [%1], 2;",
    "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%1], 64;",
    "mbarrier.arrive.shared::cta.b64 s, [%1];",
    "mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%1], 48;",
    "mbarrier.complete_tx.shared::cta.b64 [%1], 16;",
    "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%1], 32;",
    "mbarrier.arrive.shared::cta.b64 s, [%1], 2;",
    "mbarrier.complete_tx.shared::cta.b64 [%1], 32;",
    "mbarrier.arrive_drop.shared::cta.b64 _, [%1];",
    "mbarrier.arrive.shared::cta.b64 s, [%1], 2;",
    "mbarrier.arrive.shared::cta.b64 s, [%1], 2;",
    "mbarrier.arrive_drop.expect_tx.shared::cta.b64 _, [%1], 16;",
    "mbarrier.arrive.shared::cta.b64 _, [%1];",
    "mbarrier.complete_tx.shared::cta.b64 [%1], 16;",
    "mbarrier.arrive.noComplete.release.cta.shared::cta.b64 s, [%1], 0x0;",
    "mbarrier.arrive.shared::cta.b64 s, [%1];",
    "mbarrier.inval.shared::cta.b64 [%1]; mbarrier.init.shared::cta.b64 [%1], 2;",
    "mbarrier.arrive.noComplete.shared::cta.b64 s, [%1], 1;",
    "mbarrier.complete_tx.shared::cta.b64 [%1], 8;",
    "mbarrier.arrive.shared::cta.b64 s, [%1];",
    "mbarrier.expect_tx.shared::cta.b64 [%1], 8;",
    "mbarrier.arrive.shared::cta.b64 s, [%1], 2;",
    "mbarrier.arrive.shared::cta.b64 s, [%1], 2;",
)


def _phases() -> Program:
    text = ""
    sequence = [s for s in _SEQUENCE if "0x0" not in s]
    tests = (
        "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], 0;",
        "mbarrier.test_wait.parity.acquire.cta.shared::cta.b64 p, [%1], 1;",
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0, 100;",
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], 1, 100;",
    )
    for i, statement in enumerate(sequence):
        text += f'    asm volatile("{{ .reg .b64 s; {statement.replace("%1", "%0")} }}" :: "r"(bar) : "memory");\n'
        for j, test in enumerate(tests):
            text += (
                f'    asm volatile("{{ .reg .pred p; {test} selp.u32 %0, 1, 0, p; }}" : "=r"(d) : "r"(bar) : "memory"); '
                f"out[{i * 4 + j}] = d;\n"
            )
    n = len(sequence) * 4
    # Tokens: the state that an arrival returns, its pending count, and whether its phase has completed.
    tokens = f"""
    u64 s0, s1, s2;
    u32 at = {n};
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 3;" :: "r"(bar + 8) : "memory");
    #pragma unroll 1
    for (u32 round = 0; round < 3; ++round) {{
        asm volatile("mbarrier.arrive.shared::cta.b64 %0, [%1];" : "=l"(s0) : "r"(bar + 8) : "memory");
        asm volatile("mbarrier.pending_count.b64 %0, %1;" : "=r"(d) : "l"(s0)); out[at++] = d;
        asm volatile("mbarrier.arrive.shared::cta.b64 %0, [%1];" : "=l"(s1) : "r"(bar + 8) : "memory");
        asm volatile("mbarrier.pending_count.b64 %0, %1;" : "=r"(d) : "l"(s1)); out[at++] = d;
        asm volatile("{{ .reg .pred p; mbarrier.test_wait.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }}" : "=r"(d) : "r"(bar + 8), "l"(s1) : "memory");
        out[at++] = d;
        asm volatile("mbarrier.arrive.shared.b64 %0, [%1];" : "=l"(s2) : "r"(bar + 8) : "memory");
        asm volatile("mbarrier.pending_count.b64 %0, %1;" : "=r"(d) : "l"(s2)); out[at++] = d;
        asm volatile("{{ .reg .pred p; mbarrier.test_wait.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }}" : "=r"(d) : "r"(bar + 8), "l"(s0) : "memory");
        out[at++] = d;
        asm volatile("{{ .reg .pred p; mbarrier.try_wait.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }}" : "=r"(d) : "r"(bar + 8), "l"(s2) : "memory");
        out[at++] = d;
    }}
"""
    source = f"""{PRELUDE}
extern "C" __global__ void kernel(u32* out) {{
    __shared__ u64 barriers[2];
    u32 d, bar = shared_address(barriers);
    if (threadIdx.x) return;
{text}{tokens}}}
"""
    covers = tuple(dict.fromkeys(s.split()[0].split(".shared")[0] for s in sequence)) + (
        "mbarrier.test_wait", "mbarrier.try_wait", "mbarrier.pending_count")  # fmt: skip
    return Program("barriers/mbarrier phases", "mbarrier", covers, source, (Out("out", "uint32", (n + 18,)),))


def _pipeline() -> Program:
    """Two warps hand a ring of three slots to one another for twenty rounds."""
    source = f"""{PRELUDE}
__device__ __forceinline__ void wait(u32 bar, u32 parity) {{
    asm volatile("{{ .reg .pred p; W: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1; @p bra D; bra W; D: }}" :: "r"(bar), "r"(parity) : "memory");
}}
extern "C" __global__ void kernel(const u32* in, u32* out) {{
    __shared__ u64 full[3], empty[3];
    __shared__ u32 slots[3][32];
    u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    if (threadIdx.x == 0)
        for (u32 i = 0; i < 3; ++i) {{
            asm volatile("mbarrier.init.shared.b64 [%0], 32;" :: "r"(shared_address(full + i)));
            asm volatile("mbarrier.init.shared.b64 [%0], 1;" :: "r"(shared_address(empty + i)));
        }}
    __syncthreads();
    u32 sum = 0;
    for (u32 round = 0; round < 20; ++round) {{
        u32 slot = round % 3, use = round / 3;
        if (warp == 0) {{
            wait(shared_address(empty + slot), (use & 1) ^ 1);
            slots[slot][lane] = in[lane] * (round + 1);
            asm volatile("mbarrier.arrive.shared.b64 _, [%0];" :: "r"(shared_address(full + slot)) : "memory");
        }} else {{
            wait(shared_address(full + slot), use & 1);
            sum = sum * 5 + slots[slot][(lane + round) & 31];
            __syncwarp();
            if (lane == 0) asm volatile("mbarrier.arrive.shared.b64 _, [%0];" :: "r"(shared_address(empty + slot)) : "memory");
        }}
    }}
    out[threadIdx.x] = sum;
}}
"""
    source = (
        source.replace("W:", "W%=:")
        .replace("bra W;", "bra W%=;")
        .replace("D: }", "D%=: }")
        .replace("bra D;", "bra D%=;")
    )
    return Program("barriers/mbarrier ring", "mbarrier", ("mbarrier.arrive", "mbarrier.try_wait.parity"), source,
                   (In("in"), Out("out", "uint32", (64,))), {"in": words("ring", 32).astype("u4")}, block=(64, 1, 1))  # fmt: skip


def programs() -> list[Program]:
    return [_bar(), _phases(), _pipeline()]
