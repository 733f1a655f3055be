"""ldmatrix, stmatrix, movmatrix (PTX ISA 9.7.14.5.15 to .17) and mma.sync (9.7.14.5.14)."""

# Inline PTX stays on the line of its instruction.
# ruff: noqa: E501, RUF005
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..program import PRELUDE, Array, In, Out, Program, words


def _moves() -> Program:
    text, row = "", 0
    for num in (1, 2, 4):
        for trans in ("", ".trans"):
            targets = ", ".join(f"%{i}" for i in range(num))
            outs = ", ".join(f'"=r"(d[{i}])' for i in range(num))
            text += (
                f'    {{ u32 d[{num}]; asm volatile("ldmatrix.sync.aligned.m8n8.x{num}{trans}.shared.b16 {{{targets}}}, [%{num}];" : {outs} : '
                '"r"(shared_address(tile) + rows[lane]) : "memory"); '
                + " ".join(f"out[{row + i} * 32 + lane] = d[{i}];" for i in range(num))
                + " }\n"
            )
            row += num
    for num in (1, 2, 4):
        for trans in ("", ".trans"):
            sources = ", ".join(f"%{i + 1}" for i in range(num))
            ins = ", ".join(f'"r"(in[{512 + i * 32} + lane])' for i in range(num))
            text += (
                "    __syncthreads(); for (u32 i = lane; i < 512; i += 32) tile[i] = 0xEEEEEEEE; __syncthreads();\n"
                f'    asm volatile("stmatrix.sync.aligned.m8n8.x{num}{trans}.shared.b16 [%0], {{{sources}}};" :: "r"(shared_address(tile) + '
                f'rows[lane]), {ins} : "memory");\n    __syncthreads(); for (u32 i = lane; i < 512; i += 32) out[{row * 32} + i] = tile[i];\n'
            )
            row += 16
    text += (
        '    { u32 d; asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(d) : "r"(in[512 + lane])); '
        f"out[{row} * 32 + lane] = d; }}\n"
    )
    row += 1
    source = f"""{PRELUDE}
extern "C" __global__ void kernel(const u32* in, const u32* rows, u32* out) {{
    __shared__ __align__(16) u32 tile[512];
    u32 lane = threadIdx.x;
    for (u32 i = lane; i < 512; i += 32) tile[i] = in[i];
    __syncthreads();
{text}}}
"""
    # Every lane names another row of 16 bytes, in no order.
    rows = (np.argsort(words("matrix rows", 128))[:32] * 16).astype(np.uint32)
    inputs = {"in": words("matrix moves", 640).astype(np.uint32), "rows": rows}
    covers = tuple(f"{n}.x{k}{t}" for n in ("ldmatrix", "stmatrix") for k in (1, 2, 4) for t in ("", ".trans")) + (
        "movmatrix",
    )
    return Program(
        "matrix/moves",
        "ldmatrix, stmatrix, movmatrix",
        covers,
        source,
        (In("in"), In("rows"), Out("out", "uint32", (row, 32))),
        inputs,
    )


@dataclass(frozen=True)
class Mma:
    """One mma.sync: its opcode after ``mma.sync.aligned.``, registers of A, B, C and D, element types, and their bits."""

    opcode: str
    registers: tuple[int, int, int, int]
    types: tuple[str, str, str, str]  # d, a, b, c


def _spec(shape: str, d: str, a: str, b: str, c: str, extra: str = "", prefix: str = "") -> Mma:
    m, n, k = (int(x) for x in shape.replace("m", "").replace("n", " ").replace("k", " ").split())
    bits = {
        "f16": 16,
        "bf16": 16,
        "tf32": 32,
        "f64": 64,
        "s8": 8,
        "u8": 8,
        "s4": 4,
        "u4": 4,
        "b1": 1,
        "e4m3": 8,
        "e5m2": 8,
    }[a]
    width = 64 if a == "f64" else 32
    accumulators = m * n // 32
    halve = {"f16": 2}
    registers = (
        m * k * bits // 32 // width,
        n * k * bits // 32 // width,
        accumulators // halve.get(c, 1),
        accumulators // halve.get(d, 1),
    )
    suffix = f".{extra}" if extra else ""
    opcode = f"{shape}.row.col{prefix}.{d}.{a}.{b}.{c}{suffix}"
    return Mma(opcode, registers, (d, a, b, c))


def specs() -> dict[str, list[Mma]]:
    """All forms up to sm_90 by family."""
    half = [_spec(s, d, "f16", "f16", c) for s in ("m16n8k8", "m16n8k16") for d, c in (("f32", "f32"), ("f16", "f16"))]
    half += [_spec(s, "f32", "bf16", "bf16", "f32") for s in ("m16n8k8", "m16n8k16")]
    tf32 = [_spec(s, "f32", "tf32", "tf32", "f32") for s in ("m16n8k4", "m16n8k8")]
    f8 = [_spec(s, "f32", a, b, "f32") for s in ("m16n8k32",) for a in ("e4m3", "e5m2") for b in ("e4m3", "e5m2")]
    f8 += [_spec("m16n8k32", "f16", "e4m3", "e5m2", "f16"), _spec("m16n8k16", "f32", "e4m3", "e4m3", "f32"),
           _spec("m16n8k16", "f32", "e5m2", "e4m3", "f32")]  # fmt: skip
    i8 = [_spec(s, "s32", a, b, "s32", prefix=p) for s in ("m8n8k16", "m16n8k16", "m16n8k32")
          for a, b, p in (("s8", "s8", ""), ("u8", "s8", ".satfinite"), ("s8", "u8", ""), ("u8", "u8", ".satfinite"))]  # fmt: skip
    i4 = [_spec(s, "s32", a, b, "s32", prefix=p) for s in ("m8n8k32", "m16n8k32", "m16n8k64")
          for a, b, p in (("s4", "s4", ""), ("u4", "s4", ".satfinite"))]  # fmt: skip
    f64 = [_spec(s, "f64", "f64", "f64", "f64") for s in ("m8n8k4", "m16n8k4", "m16n8k8", "m16n8k16")]
    return {"f16 bf16": half, "tf32": tf32, "e4m3 e5m2": f8, "s8 u8": i8, "s4 u4": i4, "f64": f64}


def finite(kind: str, raw: Array, exact: bool) -> Array:
    """Random bits as elements of `kind` (a view as bytes): small integers when `exact`, else of many magnitudes; no NaN."""
    if kind in ("s8", "u8", "s4", "u4"):
        return raw.view(np.uint8)
    if kind == "f64":
        w = raw.view(np.uint64)
        values = (
            (w % np.uint64(17)).astype(np.float64) - 8
            if exact
            else np.ldexp((w >> np.uint64(12)).astype(np.float64) - 2.0**51, -50 + (w % np.uint64(9)).astype(int))
        )
        return values.view(np.uint8)
    if kind in ("f32", "tf32"):
        w = raw.view(np.uint32)
        if exact:
            return ((w % 17).astype(np.float32) - 8).view(np.uint8)
        bits = (w & np.uint32(0x807FFFFF)) | (np.uint32(119) + (w >> np.uint32(13)) % np.uint32(16)) << np.uint32(23)
        return bits.astype(np.uint32).view(np.uint8)
    if kind in ("f16", "bf16"):
        w = raw.view(np.uint16)
        if exact:
            small = (w % 17).astype(np.float32) - 8
            return (
                small.astype(np.float16).view(np.uint16)
                if kind == "f16"
                else (small.view(np.uint32) >> 16).astype(np.uint16)
            ).view(np.uint8)
        if kind == "f16":
            bits = (w & np.uint16(0x83FF)) | (np.uint16(8) + (w >> np.uint16(2)) % np.uint16(13)) << np.uint16(10)
        else:
            bits = (w & np.uint16(0x807F)) | (np.uint16(119) + (w >> np.uint16(3)) % np.uint16(16)) << np.uint16(7)
        return bits.astype(np.uint16).view(np.uint8)
    b = raw.view(np.uint8)
    if exact:  # 0 and the powers of two from 1/2 to 4, of either sign
        bias, mantissa = (7, 3) if kind == "e4m3" else (15, 2)
        magnitude = np.where(b & 4, (bias - 1 + (b & 3)) << mantissa, 0)
        return (magnitude | (b & 0x80)).astype(np.uint8)
    limit, step = (0x7F, 1) if kind == "e4m3" else (0x7C, 4)
    return (
        np.where((b & 0x7F) >= limit, b ^ np.uint8(step * 2), b).astype(np.uint8)
        if kind == "e4m3"
        else np.where((b & 0x7C) == 0x7C, b ^ 0x40, b).astype(np.uint8)
    )


TRIALS = 3


def _mma(family: str, forms: list[Mma], exact: bool) -> Program:
    """Each block is one trial; operands are read as raw registers, so the fragment layouts are part of what is compared."""
    wide = family == "f64"
    ctype, constraint, dtype, bits = ("u64", "l", "uint64", 64) if wide else ("u32", "r", "uint32", 32)
    if wide:
        ctype, constraint = "double", "d"
    text, at, out_at = "", 0, 0
    parts: list[Array] = []
    for n, form in enumerate(forms):
        counts = form.registers
        names = []
        k = 0
        for count in (counts[3], *counts[:3]):
            names.append("{" + ", ".join(f"%{k + i}" for i in range(count)) + "}")
            k += count
        outs = ", ".join(f'"={constraint}"(d[{i}])' for i in range(counts[3]))
        ins, offset = [], 0
        for count in counts[:3]:
            ins += [f'"{constraint}"(in[(trial * PER_TRIAL + {at + offset + i}) * 32 + lane])' for i in range(count)]
            offset += count
        text += (
            f'    {{ {ctype} d[{counts[3]}]; asm volatile("mma.sync.aligned.{form.opcode} {", ".join(names)};" : {outs} : {", ".join(ins)}); '
            + " ".join(f"out[(trial * OUT_PER_TRIAL + {out_at + i}) * 32 + lane] = d[{i}];" for i in range(counts[3]))
            + " }\n"
        )
        for j, count in enumerate(counts[:3]):
            kind = (form.types[1], form.types[2], form.types[3])[j]
            raw = words(f"mma {family} {n} {j} {exact}", TRIALS * count * 32 * bits // 64)
            if kind == "s32":
                w = raw.view(np.uint32)
                near_limit = np.where(
                    w & 1, np.uint32(0x7FFFFFFF) - (w >> np.uint32(20)), np.uint32(0x80000000) + (w >> np.uint32(20))
                )
                block = (w >> np.uint32(16) if exact else near_limit).astype(np.uint32).view(np.uint8)
            else:
                block = finite(kind, raw, exact)
            parts.append(np.ascontiguousarray(block).view(dtype).reshape(TRIALS, count, 32))
        at += sum(counts[:3])
        out_at += counts[3]
    source = f"""{PRELUDE}
#define PER_TRIAL {at}
#define OUT_PER_TRIAL {out_at}
extern "C" __global__ void kernel(const {ctype}* in, {ctype}* out) {{
    u32 lane = threadIdx.x, trial = blockIdx.x;
{text}}}
"""
    data = np.concatenate(parts, axis=1)
    covers = tuple(f"mma.sync.aligned.{f.opcode}" for f in forms)
    name = f"mma/{family} {'exact' if exact else 'random'}"
    inexact = "" if exact or family in ("s8 u8", "s4 u4") else "mma"
    return Program(name, "mma.sync", covers, source, (In("in"), Out("out", dtype, (TRIALS, out_at, 32))), {"in": data},
                   grid=(TRIALS, 1, 1), inexact=inexact)  # fmt: skip


def programs() -> list[Program]:
    found = [_moves()]
    for family, forms in specs().items():
        found += [_mma(family, forms, True), _mma(family, forms, False)]
    return found
