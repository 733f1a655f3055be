"""Operands by type: every pair of sixteen special values, then random ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .program import Array, words
from .table import LANES, Pool


def columns(
    name: str, bits: int, special: Sequence[int], spread: Callable[[Array], Array] | None = None
) -> tuple[Array, Array, Array]:
    """Three columns of `LANES` values: pairs of `special` (sixteen), a third operand in another order, then random
    words."""
    mask = np.uint64((1 << bits) - 1)
    values = np.array([s & int(mask) for s in special], np.uint64)
    assert len(values) == 16, (name, len(values))
    tail = LANES - 256
    i = np.arange(256)
    order = (words(f"{name} order", 256) % np.uint64(16)).astype(int)
    found = []
    for j, head in enumerate((values[i // 16], values[i % 16], values[order])):
        random = words(f"{name} {j}", tail)
        random = (spread(random) if spread else random).astype(np.uint64) & mask
        found.append(np.concatenate([head, random]))
    return found[0], found[1], found[2]


I32 = (0, 1, 2, 3, 7, 31, 32, 33, 0x7F80, 0x8000, 0xFFFF, 0x12345678, 0x7FFFFFFF, 0x80000000, 0xFFFF8001, 0xFFFFFFFF)
I64 = (0, 1, 2, 3, 63, 64, 65, 0xFFFFFFFF, 0x100000000, 0x123456789ABCDEF0, 0x7FFFFFFF, 0x7FFFFFFFFFFFFFFF,
       0x8000000000000000, 0xFFFFFFFF80000000, 0xFFFFFFFFFFFFFFFE, 0xFFFFFFFFFFFFFFFF)  # fmt: skip
I16 = (0, 1, 2, 3, 7, 15, 16, 17, 0x7F, 0x80, 0xFF, 0x1234, 0x7FFF, 0x8000, 0x8001, 0xFFFF)
# zero, denormals, one and its neighbours, halves (rounding ties), largest, infinities, NaNs with payloads
F32 = (0x00000000, 0x80000000, 0x00000001, 0x807FFFFF, 0x00800000, 0x3F800000, 0xBF800001, 0x3F7FFFFF, 0x40200000,
       0xC0600000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC12345, 0xFF812345)  # fmt: skip
F64 = (0x0, 0x8000000000000000, 0x1, 0x800FFFFFFFFFFFFF, 0x0010000000000000, 0x3FF0000000000000, 0xBFF0000000000001,
       0x3FEFFFFFFFFFFFFF, 0x4004000000000000, 0xC00C000000000000, 0x7FEFFFFFFFFFFFFF, 0xFFEFFFFFFFFFFFFF,
       0x7FF0000000000000, 0xFFF0000000000000, 0x7FF8123456789ABC, 0xFFF0000000000123)  # fmt: skip
F16 = (0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x3C00, 0xBC01, 0x3BFF, 0x4100, 0xC300, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00,
       0x7E12, 0xFD23)  # fmt: skip
BF16 = (0x0000, 0x8000, 0x0001, 0x807F, 0x0080, 0x3F80, 0xBF81, 0x3F7F, 0x4020, 0xC060, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80,
        0x7FC1, 0xFF81)  # fmt: skip


def _near_f32(w: Array) -> Array:
    """Random float32 with exponents within 2^-20 .. 2^20, so that sums round and cancel."""
    exponent = 107 + (w >> np.uint64(40)) % np.uint64(41)
    return (w & np.uint64(0x807FFFFF)) | exponent << np.uint64(23)


def _near_f64(w: Array) -> Array:
    exponent = 1003 + (w >> np.uint64(8)) % np.uint64(41)
    return (w & np.uint64(0x800FFFFFFFFFFFFF)) | exponent << np.uint64(52)


def _near_f16(w: Array) -> Array:
    exponent = 9 + (w >> np.uint64(40)) % np.uint64(13)
    return (w & np.uint64(0x83FF)) | exponent << np.uint64(10)


def _near_bf16(w: Array) -> Array:
    exponent = 117 + (w >> np.uint64(40)) % np.uint64(21)
    return (w & np.uint64(0x807F)) | exponent << np.uint64(7)


def decode_f32(bits: Array) -> Array:
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def decode_f64(bits: Array) -> Array:
    return bits.astype(np.uint64).view(np.float64)


def decode_f16(bits: Array) -> Array:
    return bits.astype(np.uint16).view(np.float16).astype(np.float64)


def decode_bf16(bits: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)


def _packed(name: str, special: Sequence[int], spread: Callable[[Array], Array]) -> tuple[Array, Array, Array]:
    low = columns(name + " low", 16, special, spread)
    high = columns(name + " high", 16, tuple(special[5:]) + tuple(special[:5]), spread)
    return tuple(a | b << np.uint64(16) for a, b in zip(low, high, strict=True))  # type: ignore[return-value]


def _nonzero(source: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    """Division by zero has no defined result: the second column has none, nor has it -1 against the least integer."""
    a, b, c = source
    return a, np.where(b == 0, np.uint64(5), b), c


def _rounding_f32() -> tuple[Array, Array, Array]:
    """float32 at and between the values of narrower formats: ties and their neighbours, denormals, limits, specials."""
    values = []
    for mantissa_bits, bias, top in ((3, 7, 8), (2, 15, 15), (10, 15, 15), (7, 127, 127), (10, 127, 127)):
        least = 1 - bias - mantissa_bits
        for k in (1, 3, 5):  # ties in the denormal range
            values += [float(np.ldexp(k, least - 1))]
        for e in (1 - bias, -1, 0, 3, top):
            for k in (1, 3):
                tie = (1 + k / 2.0 ** (mantissa_bits + 1)) * 2.0**e
                values += [tie, float(np.nextafter(np.float32(tie), np.float32(np.inf)))]
        values.append((2 - 2.0**-mantissa_bits) * 2.0**top)
        values.append((2 - 2.0 ** -(mantissa_bits + 1)) * 2.0**top)
    values += [448.0, 464.0, 464.5, 480.0, 57344.0, 61440.0, 65504.0, 65519.0, 65520.0, 0.5, 1.5, 2.5, 127.5, 128.5,
               255.5, 32767.5, 65535.5, 2147483520.0, 2147483648.0, 4294967040.0, 4294967296.0, 9.2e18,
               1.9e19]  # fmt: skip
    with np.errstate(over="ignore"):
        bits = np.array(values, np.float32).view(np.uint32).astype(np.uint64)
    bits = np.concatenate([bits, np.array(F32, np.uint64)])
    assert len(bits) <= LANES, len(bits)
    found = np.concatenate([bits, _near_f32(words("f32 rounding", LANES))])[:LANES]
    signs = (np.arange(LANES, dtype=np.uint64) % np.uint64(2)) << np.uint64(31)
    return found ^ signs, np.roll(found, 37) ^ np.uint64(0x80000000), found


def _bytes() -> tuple[Array, Array, Array]:
    i = np.arange(LANES, dtype=np.uint64) % np.uint64(256)
    j = (i * np.uint64(73) + np.uint64(19)) % np.uint64(256)
    return i | j << np.uint64(8), j | i << np.uint64(8), i | i << np.uint64(8)


def pools() -> dict[str, Pool]:
    """All pools by name."""
    i16, i32, i64 = columns("i16", 16, I16), columns("i32", 32, I32), columns("i64", 64, I64)
    return {
        "i16": Pool(16, i16),
        "i32": Pool(32, i32),
        "i64": Pool(64, i64),
        "n16": Pool(16, _nonzero(i16)),
        "n32": Pool(32, _nonzero(i32)),
        "n64": Pool(64, _nonzero(i64)),
        "f32": Pool(32, columns("f32", 32, F32, _near_f32), decode_f32),
        "f64": Pool(64, columns("f64", 64, F64, _near_f64), decode_f64),
        "f16": Pool(16, columns("f16", 16, F16, _near_f16), decode_f16),
        "bf16": Pool(16, columns("bf16", 16, BF16, _near_bf16), decode_bf16),
        "f16x2": Pool(32, _packed("f16x2", F16, _near_f16)),
        "bf16x2": Pool(32, _packed("bf16x2", BF16, _near_bf16)),
        "t32": Pool(32, _rounding_f32(), decode_f32),
        "b8x2": Pool(16, _bytes()),
    }
