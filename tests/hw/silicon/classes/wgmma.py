"""wgmma.mma_async (PTX ISA 9.7.15): every type, A from registers and from shared memory, layouts, transposes, scales.

Shared memory is filled with random elements and the descriptors point into it, so that the result shows which bytes the hardware
read: layouts and swizzles are compared, not assumed.
"""

# Inline PTX stays on the line of its instruction.
# ruff: noqa: E501
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..program import PRELUDE, Array, In, Int, Out, Program, words
from .matrix import finite

SHARED = 48 * 1024


@dataclass(frozen=True)
class Case:
    """One instruction; descriptors are (start, leading offset, stride offset, swizzle code, base offset) in bytes."""

    n: int
    d: str
    a: str
    b: str
    a_desc: tuple[int, int, int, int, int] | None
    b_desc: tuple[int, int, int, int, int]
    scale_d: int = 1
    negate: tuple[int, int] = (1, 1)
    trans: tuple[int, int] = (0, 0)
    saturate: bool = False

    @property
    def opcode(self) -> str:
        k = {"f16": 16, "bf16": 16, "tf32": 8}.get(self.a, 32)
        sat = ".satfinite" if self.saturate else ""
        return f"wgmma.mma_async.sync.aligned.m64n{self.n}k{k}.{self.d}.{self.a}.{self.b}{sat}"

    @property
    def registers(self) -> int:
        return self.n // 4 if self.d == "f16" else self.n // 2


def encode(d: tuple[int, int, int, int, int]) -> int:
    """A matrix descriptor (PTX ISA 9.7.15.5.1.2.2)."""
    start, leading, stride, swizzle, base = d
    return start >> 4 | (leading >> 4) << 16 | (stride >> 4) << 32 | base << 49 | swizzle << 62


# K-major tiles: rows of 8 x (16 << swizzle) bytes. Without a swizzle the core matrices are 128 bytes.
_NONE = (0, 128, 256, 0, 0)
_B32 = (0, 16, 256, 3, 0)
_B64 = (0, 16, 512, 2, 0)
_B128 = (0, 16, 1024, 1, 0)


def _at(desc: tuple[int, int, int, int, int], start: int) -> tuple[int, int, int, int, int]:
    return (start, *desc[1:])


def families() -> dict[str, tuple[str, list[Case]]]:
    """(element type of the filling, cases) by name."""
    found: dict[str, tuple[str, list[Case]]] = {}
    high = 16384
    for t in ("f16", "bf16"):
        d = "f32"
        cases = [
            Case(8, d, t, t, _NONE, _at(_NONE, high)),
            Case(16, d, t, t, _B32, _at(_B64, high)),
            Case(24, d, t, t, _B64, _at(_B32, high)),
            Case(32, d, t, t, _B128, _at(_B128, high)),
            Case(32, d, t, t, _at(_B128, 32), _at(_B128, high + 96)),  # further along K within the swizzle
            Case(8, d, t, t, None, _at(_B128, high + 64)),
            Case(40, d, t, t, None, _at(_NONE, high), scale_d=0),
            Case(16, d, t, t, _B128, _at(_B128, high), negate=(-1, 1)),
            Case(16, d, t, t, _B128, _at(_B128, high), negate=(1, -1)),
            Case(16, d, t, t, _B128, _at(_B128, high), negate=(-1, -1), scale_d=0),
            # MN-major: B, A, both; each swizzle. Leading offset between repeats along MN, stride between groups of 8 K.
            Case(64, d, t, t, _B128, (high, 4096, 1024, 1, 0), trans=(0, 1)),
            Case(16, d, t, t, (0, 4096, 1024, 1, 0), (high, 4096, 1024, 1, 0), trans=(1, 1)),
            Case(16, d, t, t, (0, 2048, 512, 2, 0), _at(_B64, high), trans=(1, 0)),
            Case(32, d, t, t, (0, 1024, 256, 3, 0), (high, 1024, 256, 3, 0), trans=(1, 1)),
            Case(16, d, t, t, (0, 1024, 128, 0, 0), (high, 1024, 128, 0, 0), trans=(1, 1)),
            Case(16, d, t, t, (0, 256, 2048, 0, 0), (high, 256, 1024, 0, 0), trans=(1, 1)),
            Case(64, d, t, t, _B64, (high, 2048, 512, 2, 0), trans=(0, 1)),
            # Tiles that do not start on the swizzle's period.
            Case(16, d, t, t, (512, 16, 1024, 1, 4), (high + 256, 16, 1024, 1, 2)),
        ]
        if t == "f16":
            cases += [
                Case(16, "f16", t, t, _B128, _at(_B128, high)),
                Case(8, "f16", t, t, None, _at(_B32, high), scale_d=0),
            ]
        found[t] = (t, cases)
    found["tf32"] = ("tf32", [
        Case(8, "f32", "tf32", "tf32", _NONE, _at(_NONE, high)),
        Case(16, "f32", "tf32", "tf32", _B32, _at(_B64, high)),
        Case(24, "f32", "tf32", "tf32", _B128, _at(_B128, high)),
        Case(16, "f32", "tf32", "tf32", None, _at(_B128, high + 32), negate=(-1, 1)),
    ])  # fmt: skip
    for t in ("e4m3", "e5m2"):
        found[t] = (t, [
            Case(8, "f32", t, t, _NONE, _at(_NONE, high)),
            Case(16, "f32", t, t, _B32, _at(_B128, high)),
            Case(24, "f32", t, t, _B128, _at(_B64, high), negate=(1, -1)),
            Case(16, "f32", t, t, None, _at(_B128, high + 64)),
            Case(16, "f16", t, t, _B128, _at(_B128, high)),
        ])  # fmt: skip
    for t in ("s8", "u8"):
        other = "u8" if t == "s8" else "s8"
        found[t] = (t, [
            Case(8, "s32", t, t, _NONE, _at(_NONE, high)),
            Case(16, "s32", t, other, _B32, _at(_B64, high)),
            Case(24, "s32", t, t, _B128, _at(_B128, high), saturate=True),
            Case(32, "s32", t, other, None, _at(_B128, high + 96), saturate=True),
        ])  # fmt: skip
    # Mixed e4m3 and e5m2: bytes that are finite numbers of both.
    found["e4m3 e5m2"] = ("e5m2", [
        Case(16, "f32", "e4m3", "e5m2", _B128, _at(_B128, high)),
        Case(16, "f32", "e5m2", "e4m3", None, _at(_B128, high)),
    ])  # fmt: skip
    for n in (48, 96, 128, 192, 256):
        found[f"n{n}"] = ("bf16", [Case(n, "f32", "bf16", "bf16", _B128, _at(_B128, 8192))])
    return found


def _program(name: str, kind: str, cases: list[Case], exact: bool) -> Program:
    text, row = "", 0
    for case in cases:
        r = case.registers
        targets = "{" + ", ".join(f"%{i}" for i in range(r)) + "}"
        outs = ", ".join(f'"+r"(d[{i}])' for i in range(r))
        k = r
        ins = []
        if case.a_desc is None:
            a = "{" + ", ".join(f"%{k + i}" for i in range(4)) + "}"
            ins += [f'"r"(a[{i}])' for i in range(4)]
            k += 4
        else:
            a = f"%{k}"
            ins.append(f'"l"(base + {encode(case.a_desc):#x}ull)')
            k += 1
        b = f"%{k}"
        ins.append(f'"l"(base + {encode(case.b_desc):#x}ull)')
        tail = ", p"
        if case.d != "s32":
            tail += f", {case.negate[0]}, {case.negate[1]}"
        if case.a in ("f16", "bf16"):
            tail += f", {case.trans[1]}" if case.a_desc is None else f", {case.trans[0]}, {case.trans[1]}"
        source_d = "seed[(j * 7 + t) & 511]"
        text += f"""    {{
        u32 d[{r}];
        #pragma unroll
        for (u32 j = 0; j < {r}; ++j) d[j] = {source_d};
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        asm volatile("{{ .reg .pred p; setp.ne.b32 p, %{k + 1}, 0; {case.opcode} {targets}, {a}, {b}{tail}; }}" : {outs} : {", ".join(ins)}, "r"({case.scale_d} + zero));
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        #pragma unroll
        for (u32 j = 0; j < {r}; ++j) out[({row} + j) * 128 + t] = d[j];
    }}
"""
        row += r
    source = f"""{PRELUDE}
extern "C" __global__ void __launch_bounds__(128) kernel(const u32* in, const u32* seed, u32* out, u32 zero) {{
    extern __shared__ __align__(1024) u32 tile[];
    u32 t = threadIdx.x;
    u32 start = (shared_address(tile) + 1023) & ~1023u;
    for (u32 i = t; i < {SHARED // 4}; i += 128) asm volatile("st.shared.u32 [%0], %1;" :: "r"(start + 4 * i), "r"(in[i]) : "memory");
    u32 a[4];
    for (u32 i = 0; i < 4; ++i) a[i] = in[i * 128 + t + 77];
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    u64 base = start >> 4;
{text}}}
"""
    raw = words(f"wgmma {name} {exact}", SHARED // 8)
    data = np.ascontiguousarray(finite(kind, raw, exact)).view(np.uint32)
    d_kind = "f16" if all(c.d == "f16" for c in cases) else ("s32" if cases[0].d == "s32" else "f32")
    seed_raw = words(f"wgmma seed {name}", 256)
    if d_kind == "s32":
        w = seed_raw.view(np.uint32)
        seed: Array = np.where(
            w & 1, np.uint32(0x7FFFFFFF) - (w >> np.uint32(18)), np.uint32(0x80000000) + (w >> np.uint32(18))
        ).astype(np.uint32)
    else:
        # Bits that are a finite float32 and two finite float16 as well.
        f = np.ascontiguousarray(finite("f32", seed_raw, exact)).view(np.uint32)
        seed = (f & np.uint32(0xFFFF0000)) | np.uint32(0x3C00) if exact else (f & np.uint32(0xFFFF3FFF))
        if exact:
            seed = (f & np.uint32(0xFFFF0000)).astype(np.uint32)
    if kind in ("s8", "u8"):
        data = raw.view(np.uint32)
    inexact = "" if exact or cases[0].d == "s32" else "wgmma"
    inputs = {"in": data, "seed": seed.astype(np.uint32)}
    args = (In("in"), In("seed"), Out("out", "uint32", (row, 128)), Int(0))
    return Program(
        f"wgmma/{name} {'exact' if exact else 'random'}", "wgmma", tuple(dict.fromkeys(c.opcode for c in cases)), source, args, inputs,
        block=(128, 1, 1), shared_bytes=SHARED + 1024, inexact=inexact,
    )  # fmt: skip


def programs() -> list[Program]:
    found = []
    for name, (kind, cases) in families().items():
        if name.startswith("n"):
            found.append(_program(name, kind, cases, True))
        else:
            found.append(_program(name, kind, cases, True))
            found.append(_program(name, kind, cases, False))
    return found
