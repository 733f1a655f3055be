"""cvt among all types (PTX ISA 9.7.9.21)."""

# Inline PTX stays on the line of its instruction.
# ruff: noqa: E501, PERF401
from __future__ import annotations

from ..pools import pools
from ..program import Program
from ..table import Op, op, table

_INTEGERS = ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64")
_FLOATS = {"f16": 16, "bf16": 16, "f32": 32, "f64": 64}


def _width(t: str) -> int:
    """Bits of the register that holds a value of the type."""
    return max(int(t[1:]), 16) if t in _INTEGERS else _FLOATS[t]


def _pool(t: str) -> str:
    return f"i{_width(t)}" if t in _INTEGERS else ("t32" if t == "f32" else t)


def _integers() -> list[Op]:
    ops: list[Op] = []
    for d in _INTEGERS:
        for s in _INTEGERS:
            # A register of 32 bits is read for u8 too: the upper bits must not count. Results of u8 are kept in 32 bits.
            source = "i32" if s in ("u8", "s8") else _pool(s)
            # ptxas wants 8-bit values in registers of at least 16 bits; the wide ones show the extension.
            out = 32 if d in ("u8", "s8") else _width(d)
            ops += [op(f"cvt.{d}.{s} %0, %1;", out, source)]
            if (
                d != s
                and not (d[0] == s[0] and int(d[1:]) > int(s[1:]))
                and not (d[0] == "s" and s[0] == "u" and int(d[1:]) > int(s[1:]))
            ):
                ops += [op(f"cvt.sat.{d}.{s} %0, %1;", out, source)]
    for d in ("u8", "s8", "u16", "s16"):
        if d in ("u8", "s8"):
            ops += [op(f"cvt.pack.sat.{d}.s32.b32 %0, %1, %2, %3;", 32, "i32", "i32", "i32")]
        else:
            ops += [op(f"cvt.pack.sat.{d}.s32 %0, %1, %2;", 32, "i32", "i32")]
    return ops


def _to_integer() -> list[Op]:
    ops: list[Op] = []
    for s in ("f32", "f64", "f16"):
        for d in ("s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64"):
            out = 32 if d in ("u8", "s8") else _width(d)
            for r in ("rni", "rzi", "rmi", "rpi") if d[1:] in ("32", "64") else ("rni", "rzi"):
                ops.append(op(f"cvt.{r}.{d}.{s} %0, %1;", out, _pool(s)))
        ops.append(op(f"cvt.rzi.sat.s16.{s} %0, %1;", 16, _pool(s)))
    ops += [op(f"cvt.rni.ftz.{d}.f32 %0, %1;", _width(d), "t32") for d in ("s32", "u64")]
    ops += [
        op(f"cvt.{r}.{d}.bf16 %0, %1;", _width(d), "bf16") for r in ("rni", "rzi") for d in ("s32", "u32", "s64", "u16")
    ]
    return ops


def _from_integer() -> list[Op]:
    ops: list[Op] = []
    for d in ("f32", "f64", "f16"):
        for s in ("s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64"):
            source = "i32" if s in ("u8", "s8") else _pool(s)
            for r in ("rn", "rz", "rm", "rp") if s[1:] in ("32", "64") else ("rn",):
                ops.append(op(f"cvt.{r}.{d}.{s} %0, %1;", _FLOATS[d], source))
    ops += [
        op(f"cvt.{r}.bf16.{s} %0, %1;", 16, _pool(s)) for r in ("rn", "rz", "rm", "rp") for s in ("s32", "u32", "u16")
    ]
    ops += [op(f"cvt.rn.bf16.{s} %0, %1;", 16, _pool(s)) for s in ("s64", "u64")]
    return ops


def _floats() -> list[Op]:
    ops = [op(f"cvt.{r}{ftz}.f32.f64 %0, %1;", 32, "f64") for r in ("rn", "rz", "rm", "rp") for ftz in ("", ".ftz")]
    ops += [
        op("cvt.rn.sat.f32.f64 %0, %1;", 32, "f64"),
        op("cvt.f64.f32 %0, %1;", 64, "t32"),
        op("cvt.ftz.f64.f32 %0, %1;", 64, "t32"),
    ]
    ops += [op(f"cvt.{r}.f16.f64 %0, %1;", 16, "f64") for r in ("rn", "rz", "rm", "rp")]
    ops += [
        op(f"cvt.{r}{m}.f16.f32 %0, %1;", 16, "t32") for r in ("rn", "rz", "rm", "rp") for m in ("", ".ftz", ".sat")
    ]
    ops += [
        op(f"cvt.{r}{m}.f16.f32 %0, %1;", 16, "t32")
        for r in ("rn", "rz")
        for m in (".relu", ".satfinite", ".relu.satfinite")
    ]
    ops += [
        op(f"cvt.{r}{m}.bf16.f32 %0, %1;", 16, "t32")
        for r in ("rn", "rz")
        for m in ("", ".relu", ".satfinite", ".relu.satfinite")
    ]
    ops += [op(f"cvt.{r}.bf16.f32 %0, %1;", 16, "t32") for r in ("rm", "rp")]
    for d in ("f16x2", "bf16x2"):
        for r in ("rn", "rz"):
            ops += [
                op(f"cvt.{r}{m}.{d}.f32 %0, %1, %2;", 32, "t32", "t32")
                for m in ("", ".relu", ".satfinite", ".relu.satfinite")
            ]
    ops += [
        op("cvt.f32.f16 %0, %1;", 32, "f16"),
        op("cvt.ftz.f32.f16 %0, %1;", 32, "f16"),
        op("cvt.sat.f32.f16 %0, %1;", 32, "f16"),
    ]
    ops += [
        op("cvt.f64.f16 %0, %1;", 64, "f16"),
        op("cvt.f32.bf16 %0, %1;", 32, "bf16"),
        op("cvt.f64.bf16 %0, %1;", 64, "bf16"),
    ]
    ops += [op(f"cvt.{r}.f16.bf16 %0, %1;", 16, "bf16") for r in ("rn", "rz", "rm", "rp")]
    ops += [op(f"cvt.{r}.bf16.f16 %0, %1;", 16, "f16") for r in ("rn", "rz", "rm", "rp")]
    ops += [op("cvt.rn.bf16.f64 %0, %1;", 16, "f64")]
    for r in ("rni", "rzi", "rmi", "rpi"):
        ops += [op(f"cvt.{r}.f32.f32 %0, %1;", 32, "t32"), op(f"cvt.{r}.f64.f64 %0, %1;", 64, "f64")]
        ops += [op(f"cvt.{r}.f16.f16 %0, %1;", 16, "f16"), op(f"cvt.{r}.ftz.f32.f32 %0, %1;", 32, "t32")]
    ops += [
        op("cvt.sat.f32.f32 %0, %1;", 32, "t32"),
        op("cvt.ftz.f32.f32 %0, %1;", 32, "t32"),
        op("cvt.sat.f64.f64 %0, %1;", 64, "f64"),
    ]
    ops += [op(f"cvt.{m}.tf32.f32 %0, %1;", 32, "t32") for m in ("rna", "rn", "rz", "rn.relu", "rz.relu")]
    return ops


def _narrow() -> list[Op]:
    ops: list[Op] = []
    for t in ("e4m3x2", "e5m2x2"):
        for relu in ("", ".relu"):
            ops += [op(f"cvt.rn.satfinite{relu}.{t}.f32 %0, %1, %2;", 16, "t32", "t32")]
            ops += [op(f"cvt.rn.satfinite{relu}.{t}.f16x2 %0, %1;", 16, "f16x2")]
            ops += [op(f"cvt.rn{relu}.f16x2.{t} %0, %1;", 32, "b8x2")]
    return ops


def programs() -> list[Program]:
    p = pools()
    return [
        table("integers", "conversion", _integers(), p),
        table("to integers", "conversion", _to_integer(), p),
        table("from integers", "conversion", _from_integer(), p),
        table("floats", "conversion", _floats(), p),
        table("e4m3 e5m2", "conversion", _narrow(), p),
    ]
