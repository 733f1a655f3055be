"""Integer arithmetic, logic, shifts, bit fields and comparisons (PTX ISA 9.7.1, 9.7.2, 9.7.6, 9.7.8)."""

# Inline PTX stays on the line of its instruction.
# ruff: noqa: E501, PERF401, UP031
from __future__ import annotations

from ..pools import pools
from ..program import Array, Program
from ..table import Op, binary, op, table, ternary, unary

_S = {16: "16", 32: "32", 64: "64"}


def _arithmetic() -> list[Op]:
    ops = [binary(f"add.{t}", int(t[1:]), f"i{t[1:]}") for t in ("u16", "s32", "s64")]
    ops += [binary(f"sub.{t}", int(t[1:]), f"i{t[1:]}") for t in ("u16", "s32", "s64")]
    ops += [binary("add.sat.s32", 32, "i32"), binary("sub.sat.s32", 32, "i32")]
    for t in ("s16", "u16", "s32", "u32", "s64", "u64"):
        w = int(t[1:])
        ops += [
            binary(f"mul.lo.{t}", w, f"i{w}"),
            binary(f"mul.hi.{t}", w, f"i{w}"),
            ternary(f"mad.lo.{t}", w, f"i{w}"),
        ]
        ops += [ternary(f"mad.hi.{t}", w, f"i{w}"), binary(f"div.{t}", w, f"n{w}"), binary(f"rem.{t}", w, f"n{w}")]
        ops += [binary(f"min.{t}", w, f"i{w}"), binary(f"max.{t}", w, f"i{w}"), ternary(f"sad.{t}", w, f"i{w}")]
        if w < 64:
            ops += [binary(f"mul.wide.{t}", w, f"i{w}", 2 * w)]
            ops += [op(f"mad.wide.{t} %0, %1, %2, %3;", 2 * w, f"i{w}", f"i{w}", f"i{2 * w}")]
        if t[0] == "s":
            ops += [unary(f"abs.{t}", w, f"i{w}"), unary(f"neg.{t}", w, f"i{w}")]
    ops += [ternary("mad.hi.sat.s32", 32, "i32")]
    for t in ("s32", "u32"):
        ops += [binary(f"mul24.{h}.{t}", 32, "i32") for h in ("lo", "hi")]
        ops += [ternary(f"mad24.{h}.{t}", 32, "i32") for h in ("lo", "hi")]
    ops += [ternary("mad24.hi.sat.s32", 32, "i32")]
    ops += [binary("min.relu.s32", 32, "i32"), binary("max.relu.s32", 32, "i32"), binary("add.u16x2", 32, "i32")]
    for t in ("s16x2", "u16x2"):
        ops += [binary(f"min.{t}", 32, "i32"), binary(f"max.{t}", 32, "i32")]
    ops += [binary("min.relu.s16x2", 32, "i32"), binary("max.relu.s16x2", 32, "i32")]
    for a in ("s32", "u32"):
        for b in ("s32", "u32"):
            ops += [ternary(f"dp4a.{a}.{b}", 32, "i32"), ternary(f"dp2a.lo.{a}.{b}", 32, "i32")]
            ops += [ternary(f"dp2a.hi.{a}.{b}", 32, "i32")]
    # Extended precision: the low halves set the carry, the high halves use it.
    high = "{ .reg .b32 t; %s t, %%1, %%2; %s %%0, %%3, %%1; }"
    ops += [op(high % (a, b), 32, "i32", "i32", "i32") for a, b in
            (("add.cc.u32", "addc.u32"), ("sub.cc.u32", "subc.u32"), ("add.cc.s32", "addc.s32"), ("sub.cc.s32", "subc.s32"))]  # fmt: skip
    wide = "{ .reg .b64 t; %s t, %%1, %%2; %s %%0, %%3, %%1; }"
    ops += [
        op(wide % (a, b), 64, "i64", "i64", "i64") for a, b in (("add.cc.u64", "addc.u64"), ("sub.cc.u64", "subc.u64"))
    ]
    ops += [op("{ .reg .b32 t, s; add.cc.u32 t, %1, %2; addc.cc.u32 s, %2, %3; addc.u32 %0, s, %1; }", 32, "i32", "i32", "i32"),
            op("{ .reg .b32 t; mad.lo.cc.u32 t, %1, %2, %3; madc.hi.u32 %0, %1, %2, %3; }", 32, "i32", "i32", "i32"),
            op("{ .reg .b32 t; mad.lo.cc.u32 t, %1, %2, %3; madc.hi.cc.u32 t, %1, %2, %3; addc.u32 %0, t, 0; }", 32, "i32", "i32", "i32")]  # fmt: skip
    return ops


def _bytes(value: Array, position: Array, length: Array) -> Array:
    del value
    return (position < 256) & (length < 256)


def _bits() -> list[Op]:
    ops: list[Op] = []
    for w in (16, 32, 64):
        pool = f"i{w}"
        ops += [binary(f"{name}.b{w}", w, pool) for name in ("and", "or", "xor")]
        ops += [unary(f"not.b{w}", w, pool), unary(f"cnot.b{w}", w, pool)]
        for name in (f"shl.b{w}", f"shr.u{w}", f"shr.s{w}", f"shr.b{w}"):
            ops.append(op(f"{name} %0, %1, %2;", w, pool, "i32"))
    for w in (32, 64):
        ops += [
            unary(f"popc.b{w}", w, f"i{w}", 32),
            unary(f"clz.b{w}", w, f"i{w}", 32),
            unary(f"brev.b{w}", w, f"i{w}"),
        ]
        for s in ("u", "s"):
            ops += [unary(f"bfind.{s}{w}", w, f"i{w}", 32), unary(f"bfind.shiftamt.{s}{w}", w, f"i{w}", 32)]
            # Position and length are 0..255 (9.7.1.22); beyond, the 64-bit form, which ptxas builds of others, differs.
            ops.append(op(f"bfe.{s}{w} %0, %1, %2, %3;", w, f"i{w}", "i32", "i32", defined=_bytes))
        # Only eight bits of position and length count; here they stay below that as well as beyond.
        ops.append(
            op("{ .reg .b32 c; and.b32 c, %%3, 63; bfi.b%d %%0, %%1, %%2, c, 9; }" % w, w, f"i{w}", f"i{w}", "i32")
        )
        ops.append(
            op("{ .reg .b32 c; and.b32 c, %%3, 255; bfi.b%d %%0, %%1, %%2, 3, c; }" % w, w, f"i{w}", f"i{w}", "i32")
        )
    for side in ("l", "r"):
        for mode in ("wrap", "clamp"):
            ops.append(ternary(f"shf.{side}.{mode}.b32", 32, "i32"))
            ops.append(
                op(
                    "{ .reg .b32 c; and.b32 c, %%3, 63; shf.%s.%s.b32 %%0, %%1, %%2, c; }" % (side, mode),
                    32,
                    "i32",
                    "i32",
                    "i32",
                )
            )
    ops.append(ternary("prmt.b32", 32, "i32"))
    ops += [ternary(f"prmt.b32.{mode}", 32, "i32") for mode in ("f4e", "b4e", "rc8", "ecl", "ecr", "rc16")]
    for table_ in (0x00, 0x80, 0x96, 0xCA, 0xE8, 0x1B, 0x3C, 0xFE, 0xFF):
        ops.append(op(f"lop3.b32 %0, %1, %2, %3, {table_};", 32, "i32", "i32", "i32"))
    for mode in ("clamp", "wrap"):
        ops.append(binary(f"bmsk.{mode}.b32", 32, "i32"))
        ops += [binary(f"szext.{mode}.{t}", 32, "i32") for t in ("s32", "u32")]
    ops.append(
        op("{ .reg .b32 b, c; and.b32 b, %2, 31; rem.s32 c, %3, 7; fns.b32 %0, %1, b, c; }", 32, "i32", "i32", "i32")
    )
    return ops


def _compare() -> list[Op]:
    ops: list[Op] = []
    for t in ("s16", "u16", "s32", "u32", "s64", "u64"):
        w = t[1:]
        for c in ("eq", "ne", "lt", "le", "gt", "ge"):
            ops.append(op(f"setp.{c}.{t} p, %1, %2;", "p", f"i{w}", f"i{w}"))
    ops += [op(f"setp.{c}.u32 p, %1, %2;", "p", "i32", "i32") for c in ("lo", "ls", "hi", "hs")]
    ops += [op(f"setp.{c}.b{w} p, %1, %2;", "p", f"i{w}", f"i{w}") for c in ("eq", "ne") for w in (16, 32, 64)]
    for logic in ("and", "or", "xor"):
        ops.append(op(f"setp.gt.s32 q, %3, %1; setp.lt.{logic}.s32 p, %1, %2, q;", "p", "i32", "i32", "i32"))
        ops.append(op(f"setp.gt.s32 q, %3, %1; setp.lt.{logic}.s32 p, %1, %2, !q;", "p", "i32", "i32", "i32"))
        ops.append(op(f"setp.gt.u32 q, %3, %1; setp.ge.u32 p, %1, %2; {logic}.pred p, p, q;", "p", "i32", "i32", "i32"))
    ops += [
        op("setp.lt.s32 p|q, %1, %2; not.pred p, q;", "p", "i32", "i32"),
        op("setp.lt.u64 p|q, %1, %2; mov.pred p, q;", "p", "i64", "i64"),
        op("set.lt.s32.s32 %0, %1, %2;", 32, "i32", "i32"),
        op("set.hi.u32.u32 %0, %1, %2;", 32, "i32", "i32"),
        op("set.ge.f32.s32 %0, %1, %2;", 32, "i32", "i32"),
        op("slct.s32.s32 %0, %1, %2, %3;", 32, "i32", "i32", "i32"),
        op("slct.u64.s32 %0, %1, %2, %3;", 64, "i64", "i64", "i32"),
        op("slct.b32.f32 %0, %1, %2, %3;", 32, "i32", "i32", "f32"),
        op("slct.ftz.b32.f32 %0, %1, %2, %3;", 32, "i32", "i32", "f32"),
        op("{ .reg .pred q; setp.lt.s32 q, %3, 7; selp.b64 %0, %1, %2, q; }", 64, "i64", "i64", "i32"),
        op("{ .reg .pred q; setp.lt.s32 q, %3, 7; selp.b16 %0, %1, %2, q; }", 16, "i16", "i16", "i32"),
        op("{ .reg .b16 l, h; mov.b32 {l, h}, %1; mov.b32 %0, {h, l}; }", 32, "i32"),
        op("{ .reg .b32 l, h; mov.b64 {l, h}, %1; mov.b64 %0, {h, l}; }", 64, "i64"),
        op("{ .reg .b16 a, b, c, d; mov.b64 {a, b, c, d}, %1; mov.b64 %0, {d, a, c, b}; }", 64, "i64"),
    ]
    return ops


def programs() -> list[Program]:
    p = pools()
    return [
        table("arithmetic", "integer arithmetic", _arithmetic(), p),
        table("bits", "logic, shifts, bit fields", _bits(), p),
        table("comparison", "comparison and selection", _compare(), p),
    ]
