"""Floating-point arithmetic (PTX ISA 9.7.3, 9.7.4) and comparisons."""

# Inline PTX stays on the line of its instruction.
# ruff: noqa: E501, RUF005
from __future__ import annotations

import numpy as np

from ..pools import pools
from ..program import Approximate, Array, Program
from ..table import Op, binary, op, table, ternary, unary

ROUNDINGS = ("rn", "rz", "rm", "rp")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan")


def _f32() -> list[Op]:
    ops: list[Op] = []
    for r in ROUNDINGS:
        for mod in ("", ".ftz", ".sat", ".ftz.sat"):
            ops += [binary(f"{name}.{r}{mod}.f32", 32, "f32") for name in ("add", "sub", "mul")]
            ops.append(ternary(f"fma.{r}{mod}.f32", 32, "f32"))
        for mod in ("", ".ftz"):
            ops += [binary(f"div.{r}{mod}.f32", 32, "f32"), unary(f"rcp.{r}{mod}.f32", 32, "f32")]
            ops.append(unary(f"sqrt.{r}{mod}.f32", 32, "f32"))
    for name in ("min", "max"):
        ops += [binary(f"{name}{mod}.f32", 32, "f32") for mod in
                ("", ".ftz", ".NaN", ".ftz.NaN", ".xorsign.abs", ".NaN.xorsign.abs", ".ftz.xorsign.abs")]  # fmt: skip
    ops += [unary(f"{name}{ftz}.f32", 32, "f32") for name in ("abs", "neg") for ftz in ("", ".ftz")]
    ops += [
        binary("copysign.f32", 32, "f32"),
        binary("add.f32", 32, "f32"),
        binary("mul.f32", 32, "f32"),
        ternary("mad.rn.f32", 32, "f32"),
    ]
    return ops


def _f64() -> list[Op]:
    ops: list[Op] = []
    for r in ROUNDINGS:
        ops += [binary(f"{name}.{r}.f64", 64, "f64") for name in ("add", "sub", "mul", "div")]
        ops += [ternary(f"fma.{r}.f64", 64, "f64"), unary(f"rcp.{r}.f64", 64, "f64"), unary(f"sqrt.{r}.f64", 64, "f64")]
    ops += [binary(f"{name}.f64", 64, "f64") for name in ("min", "max", "copysign")]
    return ops + [unary("abs.f64", 64, "f64"), unary("neg.f64", 64, "f64")]


def _half(t: str, pool: str, width: int) -> list[Op]:
    half = t.startswith("f16")
    ops: list[Op] = []
    for mod in ("", ".ftz", ".sat", ".ftz.sat") if half else ("",):
        ops += [binary(f"{name}.rn{mod}.{t}", width, pool) for name in ("add", "sub", "mul")]
        ops.append(ternary(f"fma.rn{mod}.{t}", width, pool))
    ops += [ternary(f"fma.rn{mod}.{t}", width, pool) for mod in ((".relu", ".ftz.relu") if half else (".relu",))]
    for name in ("min", "max"):
        ops += [binary(f"{name}{mod}.{t}", width, pool) for mod in ("", ".NaN", ".xorsign.abs", ".NaN.xorsign.abs")]
        if half:
            ops += [binary(f"{name}{mod}.{t}", width, pool) for mod in (".ftz", ".ftz.NaN")]
    ops += [unary(f"abs.{t}", width, pool), unary(f"neg.{t}", width, pool)]
    if half:
        ops += [unary(f"abs.ftz.{t}", width, pool), unary(f"neg.ftz.{t}", width, pool)]
    return ops


def _compare() -> list[Op]:
    ops: list[Op] = []
    for t, w in (("f32", 32), ("f64", 64), ("f16", 16), ("bf16", 16)):
        ops += [op(f"setp.{c}.{t} p, %1, %2;", "p", t, t) for c in COMPARISONS]
        if t in ("f32", "f64"):
            for kind in ("finite", "infinite", "number", "notanumber", "normal", "subnormal"):
                ops.append(op(f"testp.{kind}.{t} p, %1;", "p", t))
            ops.append(op(f"slct.{t}.f32 %0, %1, %2, %3;", w, t, t, "f32"))
    ops += [op(f"setp.{c}.ftz.f32 p, %1, %2;", "p", "f32", "f32") for c in ("eq", "lt", "ge", "ltu")]
    ops += [op(f"setp.{c}.ftz.f16 p, %1, %2;", "p", "f16", "f16") for c in ("eq", "lt")]
    for t in ("f16x2", "bf16x2"):
        for c in ("eq", "lt", "geu", "nan"):
            ops.append(op(f"setp.{c}.{t} p|q, %1, %2;", "p", t, t))
            ops.append(op(f"setp.{c}.{t} p|q, %1, %2; mov.pred p, q;", "p", t, t))
    ops += [
        op("set.lt.f32.f32 %0, %1, %2;", 32, "f32", "f32"),
        op("set.geu.u32.f32 %0, %1, %2;", 32, "f32", "f32"),
        op("set.lt.ftz.s32.f32 %0, %1, %2;", 32, "f32", "f32"),
        op("set.lt.u32.f64 %0, %1, %2;", 32, "f64", "f64"),
        op("set.lt.f16.f16 %0, %1, %2;", 16, "f16", "f16"),
        op("set.gtu.f16x2.f16x2 %0, %1, %2;", 32, "f16x2", "f16x2"),
        op("set.lt.bf16x2.bf16x2 %0, %1, %2;", 32, "bf16x2", "bf16x2"),
        op("set.num.u16.f16 %0, %1, %2;", 16, "f16", "f16"),
    ]
    return ops


def _ulps(count: float) -> object:
    def bound(x: Array, exact: Array) -> Array:
        del x
        _, e = np.frexp(exact)
        return np.where(exact == 0, 0.0, np.ldexp(np.float64(count), np.maximum(e - 24, -149)))

    return bound


def _relative(factor: float) -> object:
    def bound(x: Array, exact: Array) -> Array:
        del x
        return np.abs(exact) * factor + 2.0**-149

    return bound


def _absolute(value: float) -> object:
    def bound(x: Array, exact: Array) -> Array:
        del x
        return np.full(exact.shape, value)

    return bound


def _log_bound(x: Array, exact: Array) -> Array:
    """lg2.approx: absolute 2^-22 for x in (0.5, 2), relative 2^-22 elsewhere."""
    return np.where((x > 0.5) & (x < 2), 2.0**-22, np.abs(exact) * 2.0**-22)


def _approximate() -> list[Op]:
    def f(text: str, exact: object, bound: object, source: str, domain: object = None, operands: int = 1) -> Op:
        rule = Approximate(exact, bound, source, domain)  # type: ignore[arg-type]
        return op(text, 32, *["f32"] * operands, rule=rule, out_type="f32")

    def normal(x: Array) -> Array:
        return (np.abs(x) >= 2.0**-126) & (np.abs(x) < 2.0**126)

    def circle(x: Array) -> Array:
        return np.abs(x) <= np.pi

    def finite(x: Array) -> Array:
        return np.abs(x) >= 2.0**-126

    def quick(x: Array, y: Array) -> Array:
        """Divisors beyond 2^126 give zero (9.7.3.8)."""
        return np.where(np.abs(y) > 2.0**126, 0.0, np.divide(x, y))

    ops: list[Op] = []
    for ftz in ("", ".ftz"):
        ops += [
            f(f"rcp.approx{ftz}.f32 %0, %1;", np.reciprocal, _ulps(1), "9.7.3.14: 1 ulp", normal),
            f(
                f"rsqrt.approx{ftz}.f32 %0, %1;",
                lambda x: 1 / np.sqrt(x),
                _relative(2.0**-22.9),
                "9.7.3.18: 2^-22.9",
                normal,
            ),
            f(
                f"sqrt.approx{ftz}.f32 %0, %1;",
                np.sqrt,
                _relative(2.0**-22),
                "9.7.3.16: 2^-23, and the rounding",
                normal,
            ),
            f(f"ex2.approx{ftz}.f32 %0, %1;", np.exp2, _ulps(2), "9.7.3.22: 2 ulp", lambda x: np.abs(x) < 126),
            f(f"lg2.approx{ftz}.f32 %0, %1;", np.log2, _log_bound, "9.7.3.21: 2^-22", normal),
            f(f"sin.approx{ftz}.f32 %0, %1;", np.sin, _absolute(2.0**-20.5), "9.7.3.19: 2^-20.5 in [-pi, pi]", circle),
            f(f"cos.approx{ftz}.f32 %0, %1;", np.cos, _absolute(2.0**-20.5), "9.7.3.20: 2^-20.5 in [-pi, pi]", circle),
            f(f"div.full{ftz}.f32 %0, %1, %2;", np.divide, _ulps(2), "9.7.3.8: 2 ulp", finite, 2),
            f(f"div.approx{ftz}.f32 %0, %1, %2;", quick, _ulps(2), "9.7.3.8: 2 ulp", finite, 2),
        ]
    ops.append(f("tanh.approx.f32 %0, %1;", np.tanh, _relative(2.0**-10.987), "9.7.3.23: 2^-11", normal))
    return ops


def _narrow(count: float, digits: int, least: int) -> object:
    """`count` units in the last place of a format with `digits` significant bits and least exponent `least`."""

    def bound(x: Array, exact: Array) -> Array:
        del x
        _, e = np.frexp(exact)
        return np.ldexp(np.float64(count), np.maximum(e - digits, least))

    return bound


def _approximate_half() -> list[Op]:
    def f(text: str, t: str, exact: object, bound: object, source: str, domain: object = None) -> Op:
        return op(text, 16, t, rule=Approximate(exact, bound, source, domain), out_type=t)  # type: ignore[arg-type]

    def small(x: Array) -> Array:
        return np.abs(x) < 14

    return [
        f("ex2.approx.f16 %0, %1;", "f16", np.exp2, lambda x, y: np.abs(y) * 2.0**-9.9 + 2.0**-24, "9.7.4.11: 2^-9.9", small),
        f("tanh.approx.f16 %0, %1;", "f16", np.tanh, lambda x, y: np.full(y.shape, 2.0**-10.987), "9.7.4.10: 2^-10.987", None),
        f("tanh.approx.bf16 %0, %1;", "bf16", np.tanh, lambda x, y: np.full(y.shape, 2.0**-8), "9.7.4.10: 2^-8", None),
        f("ex2.approx.ftz.bf16 %0, %1;", "bf16", np.exp2, lambda x, y: np.abs(y) * 2.0**-7, "9.7.4.11: 2^-7", small),
    ]  # fmt: skip


def programs() -> list[Program]:
    p = pools()
    f32 = _f32()
    half = len(f32) // 2
    return [
        table("f32 a", "f32 arithmetic", f32[:half], p),
        table("f32 b", "f32 arithmetic", f32[half:], p),
        table("f64", "f64 arithmetic", _f64(), p),
        table("f16", "f16 and bf16 arithmetic", _half("f16", "f16", 16), p),
        table("f16x2", "f16 and bf16 arithmetic", _half("f16x2", "f16x2", 32), p),
        table("bf16", "f16 and bf16 arithmetic", _half("bf16", "bf16", 16), p),
        table("bf16x2", "f16 and bf16 arithmetic", _half("bf16x2", "bf16x2", 32), p),
        table("comparison", "floating-point comparison", _compare(), p),
        table("approximate", "approximate functions", _approximate(), p),
        table("approximate half", "approximate functions", _approximate_half(), p),
    ]
