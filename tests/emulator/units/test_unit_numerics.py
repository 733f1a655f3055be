"""Number formats against ml_dtypes and IEEE arithmetic; accumulation against exact rationals."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from nvfp4.emulator.units import accumulate as acc
from nvfp4.emulator.units.errors import UnitError
from nvfp4.emulator.units.numerics import FORMATS, add_round_f32, element_format, round_to_f32_odd

SMALL = {
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "ue8m0": ml_dtypes.float8_e8m0fnu,
}


@pytest.mark.parametrize("name", SMALL)
def test_every_code_decodes_as_ml_dtypes(name: str) -> None:
    f = FORMATS[name]
    codes = np.arange(1 << f.bits, dtype=np.uint8)
    np.testing.assert_array_equal(f.decode(codes), codes.view(SMALL[name]).astype(np.float32))


@pytest.mark.parametrize("name", [n for n in SMALL if n != "ue8m0"])
def test_encode_rounds_as_ml_dtypes(name: str) -> None:
    f = FORMATS[name]
    finite = f.table[np.isfinite(f.table)].astype(np.float64)
    ladder = np.unique(finite)
    middles = (ladder[1:] + ladder[:-1]) / 2
    near = (
        np.concatenate([np.nextafter(middles, np.inf), np.nextafter(middles, -np.inf)])
        .astype(np.float32)
        .astype(np.float64)
    )
    x = np.concatenate([finite, middles, near, np.random.default_rng(0).uniform(ladder[0], ladder[-1], 5000)])
    x = x.astype(np.float32).astype(np.float64)
    expected = x.astype(np.float32).astype(SMALL[name]).view(np.uint8)
    np.testing.assert_array_equal(f.encode(x), expected)


@pytest.mark.parametrize("name", [*SMALL, "s8", "u8", "s4", "u4", "f16", "bf16"])
def test_round_trip(name: str) -> None:
    f = FORMATS[name]
    codes = np.arange(1 << f.bits, dtype=np.uint32)
    values = f.decode(codes)
    keep = ~np.isnan(values)
    np.testing.assert_array_equal(f.decode(f.encode(values[keep].astype(np.float64), saturate=False)), values[keep])


def test_saturation_and_nan() -> None:
    assert FORMATS["e2m1"].encode(np.array([np.inf, -1e9, np.nan])).tolist() == [7, 15, 7]
    assert FORMATS["e4m3"].encode(np.array([1e9, -np.inf, np.nan])).tolist() == [0x7E, 0xFE, 0x7F]
    assert FORMATS["e5m2"].encode(np.array([1e9, np.inf]), saturate=False).tolist() == [0x7C, 0x7C]
    assert FORMATS["f16"].encode(np.array([1e9, -1e9])).tolist() == [0x7BFF, 0xFBFF]
    assert FORMATS["ue4m3"].table.shape == (128,)
    assert FORMATS["ue4m3"].decode(np.array([0x38 | 0x80])).tolist() == [1.0]


@pytest.mark.parametrize(
    ("name", "bits"), [("e2m1", 4), ("e4m3", 8), ("f16", 16), ("bf16", 16), ("tf32", 32), ("s4", 4)]
)
def test_unpack_agrees_with_decode(name: str, bits: int) -> None:
    data = np.random.default_rng(1).integers(0, 256, (3, 24), dtype=np.uint8)
    f = FORMATS[name]
    if bits == 4:
        codes: Any = np.stack((data & 15, data >> 4), axis=-1).reshape(3, -1)
    else:
        codes = data.view({8: np.uint8, 16: np.uint16, 32: np.uint32}[bits])
    np.testing.assert_array_equal(f.unpack(data), f.decode(codes))


def test_tf32_ignores_the_low_bits() -> None:
    assert FORMATS["tf32"].decode(np.array([0x3F801FFF], np.uint32)).tolist() == [1.0]


def test_unknown_format_is_named() -> None:
    with pytest.raises(UnitError, match="e9m9"):
        element_format("e9m9")


def _round_f32(x: Fraction) -> np.float32:
    """Round a rational to the nearest float32, ties to even, without double rounding."""
    if x == 0:
        return np.float32(0)
    sign, x = (-1, -x) if x < 0 else (1, x)
    e = 0
    while x >= 2 ** (e + 1):
        e += 1
    while x < Fraction(2) ** e:
        e -= 1
    e = max(e, -126)
    scaled = x / Fraction(2) ** (e - 23)
    n = scaled.numerator // scaled.denominator
    rest = scaled - n
    if rest > Fraction(1, 2) or (rest == Fraction(1, 2) and n % 2):
        n += 1
    return np.float32(sign * float(n * Fraction(2) ** (e - 23)))


def test_addition_rounds_once() -> None:
    """Random sums of very different magnitudes, among them ones whose float64 value is a tie only because it was
    rounded."""
    rng = np.random.default_rng(2)
    a = np.ldexp(rng.integers(1 << 23, 1 << 24, 4000).astype(np.float64), -23).astype(np.float32)
    ulp = 2.0**-23
    b = rng.choice([0.5, -0.5, 1.5], 4000) * ulp
    b = np.where(rng.random(4000) < 0.5, np.nextafter(b, rng.choice([-1.0, 1.0], 4000)), b)
    exact = [Fraction(float(x)) + Fraction(float(y)) for x, y in zip(a, b, strict=True)]
    np.testing.assert_array_equal(add_round_f32(a, b), np.array([_round_f32(e) for e in exact]))
    # What plain float64 arithmetic gets wrong: 1 + (ulp / 2 plus a little) must round up.
    assert add_round_f32(np.array([1.0], np.float32), np.array([np.nextafter(ulp / 2, 1.0)]))[0] == np.float32(1 + ulp)
    tie = np.array([2.0**60 + 2.0**36])  # exactly between two float32 numbers (their distance there is 2**37)
    c = np.array([2.0**-30], np.float32)
    assert add_round_f32(c, tie)[0] == np.float32(2.0**60 + 2.0**37)
    assert add_round_f32(-c, tie)[0] == np.float32(2.0**60)


def test_round_to_odd() -> None:
    x = np.array([1.0, 1 + 2.0**-40, 1 - 2.0**-40, np.inf, np.nan, -(1 + 2.0**-40), 3e-46])
    got = round_to_f32_odd(x)
    bits = got.view(np.uint32)
    assert got[0] == 1.0
    assert bits[1] == 0x3F800001
    assert bits[2] == 0x3F7FFFFF
    assert np.isinf(got[3])
    assert np.isnan(got[4])
    assert bits[5] == 0xBF800001
    assert bits[6] == 1


def test_integer_accumulation_wraps_or_saturates() -> None:
    c = np.array([[2**31 - 1, -(2**31)]], np.int32)
    p = np.array([[1.0, -1.0]])
    assert acc.add_s32(c, p, saturate=False).tolist() == [[-(2**31), 2**31 - 1]]
    assert acc.add_s32(c, p, saturate=True).tolist() == [[2**31 - 1, -(2**31)]]


def _aligned_scalar(a: list[float], b: list[float], c: float, least: tuple[int, int], model: acc.Alignment) -> float:
    """The alignment model on rationals, one output at a time."""

    def split(x: float, low: int) -> tuple[Fraction, int]:
        if x == 0:
            return Fraction(0), -126
        e = max(int(np.frexp(x)[1]) - 1, low)
        return Fraction(x) / Fraction(2) ** e, e

    def cut(x: Fraction, bits: int) -> Fraction:
        scaled = x * 2**bits
        n = abs(scaled.numerator) // scaled.denominator
        return Fraction(n if x >= 0 else -n, 2**bits)

    out = c
    step = model.group or len(a)
    for s in range(0, len(a), step):
        terms = [split(out, -126)]
        for x, y in zip(a[s : s + step], b[s : s + step], strict=True):
            (sx, ex), (sy, ey) = split(x, least[0]), split(y, least[1])
            terms.append((sx * sy, ex + ey))
        top = max(e for _, e in terms)
        total = Fraction(0)
        for significand, e in terms:
            shifted = significand * Fraction(2) ** (e - top)
            total += cut(shifted, model.fraction_bits)
        value = total * Fraction(2) ** top
        if value == 0:
            out = 0.0
            continue
        significand, e = split(float(value), -126)
        out = float(cut(value / Fraction(2) ** e, model.out_fraction) * Fraction(2) ** e)
    return out


@pytest.mark.parametrize(("family", "kind"), [(f, k) for f, k in acc.SILICON if k != "mxf4"])
def test_alignment_model_against_rationals(family: str, kind: str) -> None:
    model = acc.SILICON[family, kind]
    name = {"f16": "f16", "tf32": "tf32", "f8": "e4m3"}[kind]
    k = {"f16": 16, "tf32": 8, "f8": 32}[kind]
    rng = np.random.default_rng(list(acc.SILICON).index((family, kind)))
    f = FORMATS[name]
    scale = np.exp2(rng.integers(-6, 6, (6, k)).astype(np.float64))
    a = f.decode(f.encode(rng.standard_normal((6, k)) * scale))
    b = f.decode(f.encode(rng.standard_normal((5, k))))
    c = (rng.standard_normal((6, 5)) * 4).astype(np.float32)
    got = acc.aligned(a, b, c, (name, name), model)
    least = (1 - f.bias, 1 - f.bias)
    for i in range(6):
        for j in range(5):
            want = _aligned_scalar(a[i].tolist(), b[j].tolist(), float(c[i, j]), least, model)
            assert got[i, j] == np.float32(want), (i, j)


def test_alignment_model_special_values() -> None:
    model = acc.SILICON["sm_90 wgmma", "f16"]
    a = np.zeros((1, 16), np.float32)
    b = np.ones((1, 16), np.float32)
    a[0, 3] = np.inf
    c = np.zeros((1, 1), np.float32)
    assert acc.aligned(a, b, c, ("f16", "f16"), model)[0, 0] == np.inf
    a[0, 4] = -np.inf
    assert acc.aligned(a, b, c, ("f16", "f16"), model).view(np.uint32)[0, 0] == 0x7FFFFFFF


def test_block_scaled_model_is_exact_when_nothing_is_cut() -> None:
    rng = np.random.default_rng(5)
    f = FORMATS["e2m1"]
    a, b = f.decode(rng.integers(0, 16, (4, 64))), f.decode(rng.integers(0, 16, (3, 64)))
    sa, sb = (
        FORMATS["ue4m3"].decode(rng.integers(0x30, 0x40, (4, 4))),
        FORMATS["ue4m3"].decode(rng.integers(0x30, 0x40, (3, 4))),
    )
    c = np.zeros((4, 3), np.float32)
    got = acc.aligned_block_scaled(a, b, c, (sa, sb), acc.SILICON["sm_100 tcgen05", "mxf4"])
    want = (a.reshape(4, 4, 16) * sa[:, :, None]).reshape(4, 64).astype(np.float64) @ (
        (b.reshape(3, 4, 16) * sb[:, :, None]).reshape(3, 64).astype(np.float64)
    ).T
    np.testing.assert_array_equal(got, want.astype(np.float32))
