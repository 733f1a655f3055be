"""Scalar arithmetic against exact oracles: rational numbers for rounding, ml_dtypes for the narrow formats, Python for
integers."""

# ruff: noqa: E501 - CUDA and PTX text
from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from cuda_text import ptx_module

N = 2048
SPECIAL32 = np.array(
    [
        0,
        0x80000000,
        1,
        0x80000001,
        0x007FFFFF,
        0x00800000,
        0x3F800000,
        0xBF800000,
        0x7F7FFFFF,
        0xFF7FFFFF,
        0x7F800000,
        0xFF800000,
        0x7FC00000,
        0x7F800001,
        0xFFC12345,
        0x33800000,
        0x477FE000,
        0x477FF000,
        0x38800000,
        0x33000000,
        0x4B000001,
        0xCF000000,
        0x4F000000,
    ],
    np.uint32,
)


def words(seed: int, bits: int = 32, near: bool = False) -> np.ndarray:
    """Random bit patterns with the special ones in front; ``near`` keeps exponents together, so that sums round
    interestingly."""
    rng = np.random.default_rng(seed)
    if bits == 16:
        out = rng.integers(0, 1 << 16, N).astype(np.uint32)
        out[:16] = [
            0,
            0x8000,
            1,
            0x3FF,
            0x400,
            0x3C00,
            0xBC00,
            0x7BFF,
            0xFBFF,
            0x7C00,
            0xFC00,
            0x7E00,
            0x7C01,
            0x7F80,
            0xFF80,
            0x7FC0,
        ]
        return out
    out = rng.integers(0, 1 << 32, N, dtype=np.uint64).astype(np.uint32)
    if near:
        out = (out & np.uint32(0x807FFFFF)) | (np.uint32(120) + rng.integers(0, 24, N).astype(np.uint32)) << np.uint32(
            23
        )
    out[: SPECIAL32.size] = np.roll(SPECIAL32, seed)
    return out


def execute(statement: str, *inputs: np.ndarray, wide_out: bool = False, arch: str = "sm_100a") -> np.ndarray:
    """Run ``statement`` (inputs %r0, %r1, ...; result %d, 64 bits: %e) on every element."""
    n = inputs[0].size
    loads = "".join(
        f"ld.param.u64 %p, [i{k}]; add.s64 %p, %p, %o; ld.global.b32 %r{k}, [%p];" for k in range(len(inputs))
    )
    store = "st.global.b64 [%q], %e;" if wide_out else "st.global.b32 [%q], %d;"
    body = f"""
    .reg .b32 %r<8>, %d, %t<8>; .reg .b64 %p, %o, %q, %e, %x<8>; .reg .pred %c<4>; .reg .b16 %h<8>; .reg .b32 %i, %b, %s; .reg .b8 %y<4>;
    mov.u32 %i, %tid.x; mov.u32 %b, %ctaid.x; mad.lo.u32 %i, %b, 128, %i; mul.wide.u32 %o, %i, 4; mov.b32 %d, 0;
    {loads} {statement}
    ld.param.u64 %q, [out]; mul.wide.u32 %p, %i, {8 if wide_out else 4}; add.s64 %q, %q, %p; {store}"""
    parameters = ", ".join([*(f".param .u64 i{k}" for k in range(len(inputs))), ".param .u64 out"])
    out = np.zeros(n, np.uint64 if wide_out else np.uint32)
    ptx_module(body, parameters, arch).launch("k", grid=n // 128, block=128, args=[*inputs, out])
    return out


def f32(x: np.ndarray) -> np.ndarray:
    return x.view(np.float32)


# -- rounding --------------------------------------------------------------------------------------------------------


def round_exact(value: Fraction, mode: str) -> int | None:
    """The f32 encoding of a nonzero rational in a rounding mode; None where it overflows."""
    sign = value < 0
    magnitude = -value if sign else value
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    exponent = max(exponent, -126)
    scaled = magnitude / Fraction(2) ** (exponent - 23)
    low = scaled.numerator // scaled.denominator
    rest = scaled - low
    up = {
        "rn": rest > Fraction(1, 2) or (rest == Fraction(1, 2) and low & 1),
        "rz": False,
        "rm": sign and rest > 0,
        "rp": not sign and rest > 0,
    }[mode]
    code = ((exponent + 126) << 23) + low + int(bool(up))
    return None if code >= 0x7F800000 else (0x80000000 if sign else 0) | code


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("op", ["add", "sub", "mul", "fma", "div"])
def test_f32_rounds_exactly(op: str, mode: str) -> None:
    a, b, c = words(1, near=True), words(2, near=True), words(3, near=True)
    args = "%r0, %r1, %r2" if op == "fma" else "%r0, %r1"
    inputs = (a, b, c) if op == "fma" else (a, b)
    out = execute(f"{op}.{mode}.f32 %d, {args};", *inputs)
    checked = 0
    for x, y, z, got in zip(f32(a).tolist(), f32(b).tolist(), f32(c).tolist(), out.tolist(), strict=True):
        if not all(np.isfinite((x, y, z))):
            continue
        x, y, z = Fraction(x), Fraction(y), Fraction(z)
        if op == "div" and y == 0:
            continue
        exact = {
            "add": lambda x, y, z: x + y,
            "sub": lambda x, y, z: x - y,
            "mul": lambda x, y, z: x * y,
            "fma": lambda x, y, z: x * y + z,
            "div": lambda x, y, z: x / y,
        }[op](x, y, z)
        if exact == 0:
            continue
        want = round_exact(exact, mode)
        if want is not None:
            assert got == want, (op, mode, x, y, z, hex(got), hex(want))
            checked += 1
    assert checked > N // 2


def test_nan_results_are_canonical() -> None:
    a, b = words(4), words(5)
    for op in ("add.f32", "mul.f32", "min.NaN.f32", "max.NaN.f32", "div.rn.f32"):
        out = execute(f"{op} %d, %r0, %r1;", a, b)
        nan = np.isnan(f32(out))
        assert (out[nan] == 0x7FFFFFFF).all(), op


def test_min_max_prefer_numbers_and_order_zeros() -> None:
    a, b = words(6), words(7)
    a[:2], b[:2] = [0x80000000, 0], [0, 0x80000000]
    low, high = execute("min.f32 %d, %r0, %r1;", a, b), execute("max.f32 %d, %r0, %r1;", a, b)
    assert low[:2].tolist() == [0x80000000] * 2
    assert high[:2].tolist() == [0, 0]
    np.testing.assert_array_equal(np.isnan(f32(low)), np.isnan(f32(a)) & np.isnan(f32(b)))
    both = ~np.isnan(f32(a)) & ~np.isnan(f32(b))
    np.testing.assert_array_equal(f32(low)[both], np.minimum(f32(a), f32(b))[both])


def test_ftz_flushes_both_ends() -> None:
    a, b = words(8), words(9)
    a[100:200] = np.arange(1, 101) * 1000
    out = f32(execute("mul.ftz.f32 %d, %r0, %r1;", a, b))
    assert not ((np.abs(out) < np.float32(2.0**-126)) & (out != 0)).any()
    assert (out[100:200][np.isfinite(f32(b)[100:200])] == 0).all()


def test_sat_clamps_and_takes_nan_to_zero() -> None:
    a = words(10, near=True)
    out = f32(execute("add.sat.f32 %d, %r0, 0f00000000;", a))
    want = np.where(np.isnan(f32(a)), np.float32(0), np.clip(f32(a), 0, 1))
    np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize(("kind", "dtype"), [("f16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_half_fma_rounds_once(kind: str, dtype: type) -> None:
    a, b, c = (words(s, 16) for s in (11, 12, 13))
    rng = np.random.default_rng(0)
    # Products whose sum with c lies near a tie.
    base = (rng.integers(0x3000, 0x4400, N) if kind == "f16" else rng.integers(0x3F00, 0x4100, N)).astype(np.uint32)
    a[1000:], b[1000:] = base[1000:], np.roll(base, 7)[1000:]
    out = execute(
        f"mov.b32 {{%h0, %h7}}, %r0; mov.b32 {{%h1, %h7}}, %r1; mov.b32 {{%h2, %h7}}, %r2; "
        f"fma.rn.{kind} %h3, %h0, %h1, %h2; cvt.u32.u16 %d, %h3;",
        a,
        b,
        c,
    )
    with np.errstate(invalid="ignore"):
        values = [x.astype(np.uint16).view(dtype).astype(np.float64) for x in (a, b, c)]
    limit = 0x7C00 if kind == "f16" else 0x7F80
    checked = 0
    for x, y, z, got in zip(*(v.tolist() for v in values), out.tolist(), strict=True):
        if not all(np.isfinite((x, y, z))) or (got & 0x7FFF) >= limit - 1:
            continue
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        code = got & 0x7FFF
        near = [(code + d) | (got & 0x8000) for d in (-1, 1) if 0 <= code + d < limit]

        def value(n: int) -> Fraction:
            return Fraction(float(np.array([n], np.uint16).view(dtype)[0]))

        error = abs(value(got) - exact)
        for other in near:
            distance = abs(value(other) - exact)
            assert error < distance or (error == distance and code % 2 == 0), (x, y, z, hex(got), hex(other))
        checked += 1
    assert checked > N // 2


# -- conversions -----------------------------------------------------------------------------------------------------


NARROW = {
    "e4m3": (ml_dtypes.float8_e4m3fn, 448.0),
    "e5m2": (ml_dtypes.float8_e5m2, 57344.0),
    "e2m1": (ml_dtypes.float4_e2m1fn, 6.0),
    "e2m3": (ml_dtypes.float6_e2m3fn, 7.5),
    "e3m2": (ml_dtypes.float6_e3m2fn, 28.0),
}


@pytest.mark.parametrize("kind", NARROW)
def test_encode_narrow(kind: str) -> None:
    dtype, largest = NARROW[kind]
    rng = np.random.default_rng(3)
    a = (rng.standard_normal(N) * largest * rng.choice([1e-4, 1e-2, 0.3, 1.2], N)).astype(np.float32)
    a[:12] = [0, -0.0, largest, -largest, largest * 1.01, 1e30, -1e30, np.inf, -np.inf, 0.25, 0.75, 2.5]
    b = np.roll(a, 3)
    if kind == "e2m1":
        text = f"cvt.rn.satfinite.{kind}x2.f32 %y0, %r0, %r1; mov.b16 %h0, {{%y0, 0}}; cvt.u32.u16 %d, %h0;"
    else:
        text = f"cvt.rn.satfinite.{kind}x2.f32 %h0, %r0, %r1; cvt.u32.u16 %d, %h0;"
    out = execute(text, a.view(np.uint32), b.view(np.uint32))
    clipped = [np.clip(x, -largest, largest).astype(dtype).view(np.uint8) for x in (a, b)]
    shift = 4 if kind == "e2m1" else 8
    np.testing.assert_array_equal(out, clipped[0].astype(np.uint32) << shift | clipped[1])


@pytest.mark.parametrize("kind", NARROW)
def test_decode_narrow(kind: str) -> None:
    dtype, _ = NARROW[kind]
    bits = 4 if kind == "e2m1" else (6 if kind in ("e2m3", "e3m2") else 8)
    codes = np.arange(N, dtype=np.uint32) % (1 << bits)
    other = (codes * 7 + 3) % (1 << bits)
    if bits == 4:
        text = "cvt.u16.u32 %h0, %r0; mov.b16 {%y0, %y1}, %h0; cvt.rn.f16x2.e2m1x2 %d, %y0;"
        packed = codes | other << 4
    else:
        text = f"cvt.u16.u32 %h0, %r0; cvt.rn.f16x2.{kind}x2 %d, %h0;"
        packed = codes | other << 8
    out = execute(text, packed)
    for k, c in ((0, codes), (16, other)):
        want = c.astype(np.uint8).view(dtype).astype(np.float32).astype(np.float16)
        got = (out >> k & 0xFFFF).astype(np.uint16).view(np.float16)
        np.testing.assert_array_equal(got, want)
        nan = np.isnan(got)
        assert (got.view(np.uint16)[nan] == 0x7FFF).all()


@pytest.mark.parametrize("mode", ["rni", "rzi", "rmi", "rpi"])
@pytest.mark.parametrize("kind", ["s32", "u32", "s16", "u8"])
def test_float_to_integer(kind: str, mode: str) -> None:
    a = words(20, near=True)
    a[30:60] = (np.arange(30, dtype=np.float32) / 4 - 3).view(np.uint32)
    target = "%d" if kind.endswith("32") else "%h0"
    tail = "" if target == "%d" else (" cvt.s32.s16 %d, %h0;" if kind[0] == "s" else " cvt.u32.u16 %d, %h0;")
    out = execute(f"cvt.{mode}.{kind}.f32 {target}, %r0;{tail}", a)
    bits = int(kind[1:])
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if kind[0] == "s" else (0, (1 << bits) - 1)
    function = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[mode]
    with np.errstate(invalid="ignore"):
        want = np.clip(
            np.nan_to_num(function(f32(a).astype(np.float64)), nan=0.0, posinf=1e30, neginf=-1e30), low, high
        ).astype(np.int64)
    np.testing.assert_array_equal(out, want.astype(np.uint32))


def test_scale_to_power_of_two() -> None:
    a = np.abs(f32(words(21)))
    a[np.isnan(a)] = 1
    a[0:6] = [1.0, 1.5, 2.0**-127, 2.0**-126, 3e38, np.inf]
    out = execute("cvt.rp.satfinite.ue8m0x2.f32 %h0, %r0, %r0; cvt.u32.u16 %d, %h0;", a.view(np.uint32)) & 0xFF
    with np.errstate(divide="ignore"):
        want = np.clip(np.ceil(np.log2(a.astype(np.float64))) + 127, 0, 254)
    np.testing.assert_array_equal(out, want.astype(np.uint32))


# -- integers --------------------------------------------------------------------------------------------------------


def signed(x: int) -> int:
    return x - (1 << 32) if x >> 31 else x


INTEGER: dict[str, Callable[[int, int, int], int]] = {
    "add.sat.s32 %d, %r0, %r1;": lambda a, b, c: max(-(1 << 31), min((1 << 31) - 1, signed(a) + signed(b))),
    "mul.hi.s32 %d, %r0, %r1;": lambda a, b, c: signed(a) * signed(b) >> 32,
    "mul.hi.u32 %d, %r0, %r1;": lambda a, b, c: a * b >> 32,
    "mad.lo.s32 %d, %r0, %r1, %r2;": lambda a, b, c: a * b + c,
    "mul24.lo.u32 %d, %r0, %r1;": lambda a, b, c: (a & 0xFFFFFF) * (b & 0xFFFFFF),
    "sad.s32 %d, %r0, %r1, %r2;": lambda a, b, c: abs(signed(a) - signed(b)) + c,
    "lop3.b32 %d, %r0, %r1, %r2, 0xE8;": lambda a, b, c: (a & b) | (b & c) | (a & c),
    "lop3.b32 %d, %r0, %r1, %r2, 0x1D;": lambda a, b, c: sum(
        ((0x1D >> ((a >> i & 1) * 4 + (b >> i & 1) * 2 + (c >> i & 1))) & 1) << i for i in range(32)
    ),
    "shf.l.wrap.b32 %d, %r0, %r1, %r2;": lambda a, b, c: ((b << 32 | a) << (c & 31)) >> 32,
    "shf.r.clamp.b32 %d, %r0, %r1, %r2;": lambda a, b, c: (b << 32 | a) >> min(c, 32),
    "shl.b32 %d, %r0, %r2;": lambda a, b, c: a << c if c < 32 else 0,
    "shr.s32 %d, %r0, %r2;": lambda a, b, c: signed(a) >> min(c, 31),
    "bfe.u32 %d, %r0, %r1, %r2;": lambda a, b, c: (a >> (b & 255)) & ((1 << (c & 255)) - 1) if (b & 255) < 32 else 0,
    "bfi.b32 %d, %r0, %r1, 5, 9;": lambda a, b, c: (b & ~(511 << 5)) | (a & 511) << 5,
    "brev.b32 %d, %r0;": lambda a, b, c: int(f"{a:032b}"[::-1], 2),
    "bfind.u32 %d, %r0;": lambda a, b, c: a.bit_length() - 1,
    "clz.b32 %d, %r0;": lambda a, b, c: 32 - a.bit_length(),
    "popc.b32 %d, %r0;": lambda a, b, c: bin(a).count("1"),
    "prmt.b32 %d, %r0, %r1, 0x9C27;": lambda a, b, c: prmt(a, b, 0x9C27),
    "prmt.b32 %d, %r0, %r1, %r2;": lambda a, b, c: prmt(a, b, c),
    "dp4a.s32.u32 %d, %r0, %r1, %r2;": lambda a, b, c: (
        c + sum(((a >> 8 * k & 255) ^ 128) * (b >> 8 * k & 255) - 128 * (b >> 8 * k & 255) for k in range(4))
    ),
    "div.s32 %d, %r0, %r1;": lambda a, b, c: int(Fraction(signed(a), signed(b))) if b else -1,
    "rem.u32 %d, %r0, %r1;": lambda a, b, c: a % b if b else a,
    "min.s32 %d, %r0, %r1;": lambda a, b, c: min(signed(a), signed(b)),
    "max.u16x2 %d, %r0, %r1;": lambda a, b, c: max(a >> 16, b >> 16) << 16 | max(a & 65535, b & 65535),
    "add.cc.u32 %t0, %r0, %r1; addc.u32 %d, %r2, 0;": lambda a, b, c: c + (a + b >> 32),
    "sub.cc.u32 %t0, %r0, %r1; subc.u32 %d, %r2, 0;": lambda a, b, c: c - (a < b),
    "setp.lt.and.u32 %c0|%c1, %r0, %r1, 1; selp.b32 %t0, 1, 0, %c0; selp.b32 %t1, 2, 0, %c1; or.b32 %d, %t0, %t1;": lambda a, b, c: (
        1 if a < b else 2
    ),
}


def prmt(a: int, b: int, selector: int) -> int:
    data = struct.pack("<II", a, b)
    out = 0
    for k in range(4):
        pick = selector >> 4 * k & 15
        byte = data[pick & 7]
        out |= (255 if pick & 8 and byte & 128 else (0 if pick & 8 else byte)) << 8 * k
    return out


@pytest.mark.parametrize("text", [t for t in INTEGER if "setp.lt.and" not in t])
def test_integer(text: str) -> None:
    a, b, c = words(30), words(31), words(32) % np.uint32(70)
    if "prmt" in text and "%r2" in text:
        c = words(33)
    out = execute(text, a, b, c)
    for x, y, z, got in zip(a.tolist(), b.tolist(), c.tolist(), out.tolist(), strict=True):
        assert got == INTEGER[text](x, y, z) & 0xFFFFFFFF, (text, hex(x), hex(y), hex(z), hex(got))


def test_wide_products() -> None:
    a, b = words(40), words(41)
    out = execute("mul.wide.s32 %e, %r0, %r1;", a, b, wide_out=True)
    want = a.view(np.int32).astype(np.int64) * b.view(np.int32)
    np.testing.assert_array_equal(out.view(np.int64), want)


def test_approximations_are_within_their_documented_error() -> None:
    rng = np.random.default_rng(5)
    x = rng.uniform(-20, 20, N).astype(np.float32)
    cases = {"ex2.approx.f32": np.exp2, "tanh.approx.f32": np.tanh, "rcp.approx.f32": lambda v: 1 / v}
    for opcode, reference in cases.items():
        out = f32(execute(f"{opcode} %d, %r0;", x.view(np.uint32)))
        np.testing.assert_allclose(
            out, reference(x.astype(np.float64)), rtol=2.0**-10.9 if "tanh" in opcode else 2.0**-22
        )
    positive = np.abs(x) + np.float32(0.1)
    for opcode, reference in {
        "lg2.approx.f32": np.log2,
        "rsqrt.approx.f32": lambda v: v**-0.5,
        "sqrt.rn.f32": np.sqrt,
    }.items():
        out = f32(execute(f"{opcode} %d, %r0;", positive.view(np.uint32)))
        np.testing.assert_allclose(out, reference(positive.astype(np.float64)), rtol=2.0**-22, atol=2.0**-22)
