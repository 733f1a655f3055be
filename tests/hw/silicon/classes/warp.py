"""Warp-wide operations (PTX ISA 9.7.9.6, 9.7.13.8 to 9.7.13.16) and divergent control flow (9.7.12)."""

# Inline PTX stays on the line of its instruction.
# ruff: noqa: E501
from __future__ import annotations

import numpy as np

from ..pools import pools
from ..program import PRELUDE, In, Out, Program, words
from ..table import LANES, Op, Pool, op, table

_ALL = "0xffffffff"


def _operations() -> list[Op]:
    ops: list[Op] = []
    for mode in ("up", "down", "bfly", "idx"):
        ops.append(op(f"shfl.sync.{mode}.b32 %0, %1, %2, %3, {_ALL};", 32, "i32", "lane", "clamp"))
        ops.append(
            op(
                f"shfl.sync.{mode}.b32 %0|p, %1, %2, %3, {_ALL}; selp.u32 %0, 1, 0, p;".replace("%0|p", "t|p").join(
                    ("{ .reg .pred p; .reg .b32 t; ", " }")
                ),
                32,
                "i32",
                "lane",
                "clamp",
            )
        )
        for b, c in ((1, 0x1F), (5, 0x1F), (3, 0x1803), (9, 0x1C07 & 0x1F1F), (2, 0)):
            ops.append(op(f"shfl.sync.{mode}.b32 %0, %1, {b}, {c}, {_ALL};", 32, "i32"))
    for mode in ("all", "any", "uni"):
        ops.append(op(f"setp.gt.s32 q, %1, 5; vote.sync.{mode}.pred p, q, {_ALL};", "p", "i32"))
        ops.append(op(f"setp.ne.s32 q, %1, 77; vote.sync.{mode}.pred p, !q, {_ALL};", "p", "lane"))
    ops.append(op(f"{{ .reg .pred q; setp.gt.s32 q, %1, 5; vote.sync.ballot.b32 %0, q, {_ALL}; }}", 32, "i32"))
    ops.append(op(f"match.any.sync.b32 %0, %1, {_ALL};", 32, "few"))
    ops.append(
        op(f"{{ .reg .b64 w; cvt.u64.u32 w, %1; shl.b64 w, w, 33; match.any.sync.b64 %0, w, {_ALL}; }}", 32, "few")
    )
    ops.append(op(f"{{ .reg .pred q; match.all.sync.b32 %0|q, %1, {_ALL}; @!q mov.b32 %0, 99; }}", 32, "few"))
    ops.append(op(f"{{ .reg .b32 z; and.b32 z, %1, 0; match.all.sync.b32 %0, z, {_ALL}; }}", 32, "few"))
    for kind in ("add", "min", "max"):
        ops += [op(f"redux.sync.{kind}.{t} %0, %1, {_ALL};", 32, "i32") for t in ("u32", "s32")]
    ops += [op(f"redux.sync.{kind}.b32 %0, %1, {_ALL};", 32, "i32") for kind in ("and", "or", "xor")]
    ops.append(
        op(
            f"{{ .reg .b32 r; .reg .pred e; elect.sync r|e, {_ALL}; selp.u32 %0, 100, 0, e; add.u32 %0, %0, r; }}",
            32,
            "few",
        )
    )
    ops.append(op("activemask.b32 %0;", 32, "few"))
    return ops


def _masked() -> Program:
    """Subsets of a warp, each with its mask; lanes outside do something else in the meantime."""
    source = f"""{PRELUDE}
extern "C" __global__ void kernel(const u32* in, u32* out) {{
    u32 lane = threadIdx.x, v = in[lane], d = 0xAAAA;
    for (u32 round = 0; round < 6; ++round) {{
        u32 mask = in[64 + round];
        if (mask >> lane & 1) {{
            u32 s, b, r, m, e, leader;
            asm volatile("shfl.sync.bfly.b32 %0, %1, 2, 0x1f, %2;" : "=r"(s) : "r"(v), "r"(mask));
            asm volatile("{{ .reg .pred q; setp.gt.u32 q, %1, 0x80000000; vote.sync.ballot.b32 %0, q, %2; }}" : "=r"(b) : "r"(v), "r"(mask));
            asm volatile("redux.sync.add.u32 %0, %1, %2;" : "=r"(r) : "r"(v), "r"(mask));
            asm volatile("match.any.sync.b32 %0, %1, %2;" : "=r"(m) : "r"(v & 1), "r"(mask));
            asm volatile("{{ .reg .pred q; elect.sync %0|q, %2; selp.u32 %1, 1, 0, q; }}" : "=r"(leader), "=r"(e) : "r"(mask));
            bool source_in = mask >> (lane ^ 2) & 1;
            out[(round * 6 + 0) * 32 + lane] = source_in ? s : 0;
            out[(round * 6 + 1) * 32 + lane] = b;
            out[(round * 6 + 2) * 32 + lane] = r;
            out[(round * 6 + 3) * 32 + lane] = m;
            out[(round * 6 + 4) * 32 + lane] = e;
            out[(round * 6 + 5) * 32 + lane] = leader;
            d += r;
            asm volatile("bar.warp.sync %0;" :: "r"(mask) : "memory");
        }} else {{
            d = d * 3 + round;
            for (u32 j = 0; j < 6; ++j) out[(round * 6 + j) * 32 + lane] = 0;
        }}
    }}
    out[36 * 32 + lane] = d;
}}
"""
    data = words("masked", 128).astype(np.uint32)
    data[64:70] = (0xFFFFFFFF, 0x0000FFFF, 0xF0F0F0F0, 0x55555555, 0x80000001, 0x00010000)
    return Program("warp/masked", "warp operations", ("shfl.sync", "vote.sync", "redux.sync", "match.sync", "elect.sync", "bar.warp.sync"), source,
                   (In("in"), Out("out", "uint32", (37, 32))), {"in": data})  # fmt: skip


_CONTROL = {
    "loops": """
    u32 sum = 0;
    for (u32 i = 0; i < (v & 31); ++i) { if (i % 3 == 1) continue; if (i > 20 + (v >> 28)) break; sum += i * v; }
    u32 n = v & 0xFFFF, steps = 0;
    while (n > 1 && steps < 60) { n = n & 1 ? 3 * n + 1 : n >> 1; ++steps; }
    out[t] = sum; out[64 + t] = steps * 65536 + (n & 0xFFFF);
""",
    "nested": """
    u32 r = 0;
    if (v & 1) { if (v & 2) { r = v * 3; if (v & 4) r ^= 0x55; else r += 9; } else { r = v + 1; } r += 5; }
    else { for (u32 i = 0; i < (v >> 29) + 1; ++i) { if ((v >> i) & 1) r += i; else r ^= v; } }
    out[t] = r; out[64 + t] = r + t;
""",
    "switch": """
    u32 r = v;
    #pragma unroll 1
    for (u32 i = 0; i < 12; ++i) {
        switch ((r ^ i) % 9) {
            case 0: r = r * 5 + 1; break;
            case 1: r ^= r >> 7;
            case 2: r += 0x1234; break;
            case 3: r = ~r; break;
            case 4: if (r & 16) { r -= 77; break; }
            case 5: r = (r << 3) | (r >> 29); break;
            case 6: r = r / 3; break;
            case 7: r ^= 0xF0F0F0F0; break;
            default: r = r * r + i; break;
        }
    }
    out[t] = r; out[64 + t] = r >> 3;
""",
    "calls": """
    out[t] = ackermannish(v & 3, v >> 2 & 7); out[64 + t] = apply(v & 1 ? triple : swap, v);
""",
    "exit": """
    out[t] = 1; out[64 + t] = 2;
    if (v % 5 == 0) return;
    out[t] = v;
    if (t >= 32 && v % 3 == 0) return;
    __syncwarp(__activemask());
    out[64 + t] = v * 7;
""",
    "local": """
    u32 heap[16];
    for (u32 i = 0; i < 16; ++i) heap[i] = v * (i + 1) ^ (v >> i);
    for (u32 i = 1; i < 16; ++i) { u32 x = heap[i]; u32 j = i; while (j > 0 && heap[j - 1] > x) { heap[j] = heap[j - 1]; --j; } heap[j] = x; }
    out[t] = heap[v & 15]; out[64 + t] = heap[15 - (v & 7)] - heap[0];
""",
}
_FUNCTIONS = """
__device__ __noinline__ u32 triple(u32 x) { return 3 * x + 1; }
__device__ __noinline__ u32 swap(u32 x) { return x << 16 | x >> 16; }
__device__ __noinline__ u32 apply(u32 (*f)(u32), u32 x) { return x & 2 ? triple(swap(x)) : swap(triple(x)); }
__device__ __noinline__ u32 ackermannish(u32 m, u32 n) {
    u32 r = n;
    for (u32 i = 0; i < m; ++i) r = triple(r) + swap(r & 0xF);
    return r;
}
"""


def _control(name: str) -> Program:
    source = f"""{PRELUDE}{_FUNCTIONS if name == "calls" else ""}
extern "C" __global__ void kernel(const u32* in, u32* out) {{
    u32 t = threadIdx.x, v = in[t];
{_CONTROL[name]}}}
"""
    covers = ("bra", "brx.idx", "call", "ret", "exit")
    return Program(f"control/{name}", "divergent control flow", covers, source, (In("in"), Out("out", "uint32", (2, 64))),
                   {"in": words("control", 64).astype(np.uint32)}, block=(64, 1, 1))  # fmt: skip


def programs() -> list[Program]:
    p = pools()
    lane = words("lane", 3 * LANES).reshape(3, LANES) % np.uint64(40)
    # segments of 4, 8, 16 and 32 lanes, with clamps inside and outside of them
    masks = np.array([0x1C03, 0x1807, 0x100F, 0x001F, 0x1C00, 0x1003, 0x0000, 0x1F1F], np.uint64)
    clamp = masks[(words("clamp", 3 * LANES).reshape(3, LANES) % np.uint64(8)).astype(int)]
    few = words("few", 3 * LANES).reshape(3, LANES) % np.uint64(5)
    p["lane"] = Pool(32, (lane[0], lane[1], lane[2]))
    p["clamp"] = Pool(32, (clamp[0], clamp[1], clamp[2]))
    p["few"] = Pool(32, (few[0], few[1], few[2]))
    return [table("operations", "warp operations", _operations(), p), _masked(), *(_control(name) for name in _CONTROL)]
