"""Number formats of the matrix units: decode and encode, vectorised and exact.

Every format up to 8 bits is a table of all its codes, built from the definition of the format (PTX ISA 5.2.3
"Alternate floating
point data formats"; OCP Microscaling Formats 1.0 for e2m1, e2m3, e3m2, ue8m0). Values are float32, which holds each
of them exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nvfp4.emulator.units.errors import UnitError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]

Specials = Literal["none", "nan_all_ones", "ieee"]


@dataclass(frozen=True)
class Format:
    """One element format.

    name: the PTX name; bits: width of a code; exponent, mantissa: field widths (0 and 0 for integers); specials:
    which codes are not
    numbers ("none", "nan_all_ones": only the all-ones magnitude is NaN, "ieee": top exponent holds infinity and
    NaN); signed.
    """

    name: str
    bits: int
    exponent: int
    mantissa: int
    specials: Specials = "none"
    signed: bool = True

    @property
    def integer(self) -> bool:
        """Whether codes are two's complement or unsigned integers."""
        return self.exponent == 0 and self.mantissa == 0

    @property
    def bias(self) -> int:
        """Exponent bias (127 for the ue8m0 scale, 2^(e-1)-1 otherwise)."""
        return 127 if self.name == "ue8m0" else (1 << (self.exponent - 1)) - 1

    @cached_property
    def table(self) -> F32:
        """float32 [2**bits]: the value of every code of a format of at most 8 bits (NaN where the code is not a
        number)."""
        codes = np.arange(1 << self.bits, dtype=np.int64)
        if self.integer:
            half = 1 << (self.bits - 1)
            values = np.where(codes >= half, codes - 2 * half, codes) if self.signed else codes
            integers: F32 = values.astype(np.float32)
            return integers
        if self.name == "ue8m0":
            exact = np.ldexp(1.0, codes - 127)
            exact[255] = np.nan
            scales: F32 = exact.astype(np.float32)
            return scales
        sign = np.where((codes >> (self.bits - 1)) & 1, -1.0, 1.0) if self.signed else np.ones(codes.shape)
        field = (codes >> self.mantissa) & ((1 << self.exponent) - 1)
        fraction = codes & ((1 << self.mantissa) - 1)
        significand = np.where(field == 0, fraction, fraction + (1 << self.mantissa))
        exact = np.ldexp(significand.astype(np.float64), np.maximum(field, 1) - self.bias - self.mantissa) * sign
        top = (1 << self.exponent) - 1
        if self.specials == "nan_all_ones":
            exact[(field == top) & (fraction == (1 << self.mantissa) - 1)] = np.nan
        elif self.specials == "ieee":
            exact[(field == top) & (fraction == 0)] *= np.inf
            exact[(field == top) & (fraction != 0)] = np.nan
        out: F32 = exact.astype(np.float32)
        return out

    @cached_property
    def pairs(self) -> F32:
        """float32 [256, 2]: both values of a byte of a 4-bit format, the low nibble first."""
        codes = np.arange(256)
        return np.stack((self.table[codes & 15], self.table[codes >> 4]), axis=1)

    @cached_property
    def wide(self) -> F32:
        """float32 table indexed by 16-bit words: [65536] for a 16-bit format, [65536, 2] for 8 bits, [65536, 4] for
        4 bits.

        One gather through it decodes a whole 16-bit word: the fast path of every matrix unit.
        """
        words = np.arange(65536, dtype=np.uint32)
        if self.name == "f16":
            values: F32 = words.astype(np.uint16).view(np.float16).astype(np.float32)
            return values
        if self.name == "bf16":
            halves: F32 = (words << 16).astype(np.uint32).view(np.float32)
            return halves
        if self.bits == 4:
            return np.stack([self.table[(words >> shift) & 15] for shift in (0, 4, 8, 12)], axis=1)
        mask = (1 << self.bits) - 1
        return np.stack((self.table[words & mask], self.table[(words >> 8) & mask]), axis=1)

    def decode(self, codes: NDArray[Any]) -> F32:
        """Values of an array of codes (one code an element, any integer dtype), float32 of the same shape."""
        if self.bits <= 8:
            small: F32 = self.table[np.asarray(codes).astype(np.intp) & ((1 << self.bits) - 1)]
            return small
        if self.bits == 16:
            wide: F32 = self.wide[np.asarray(codes).astype(np.uint16)]
            return wide
        raw = np.asarray(codes).astype(np.uint32)
        if self.name == "tf32":
            raw = raw & np.uint32(0xFFFFE000)  # PTX ISA 9.7.15.5.2: the low 13 bits are not part of the operand
        values: F32 = raw.view(np.float32)
        return values

    @cached_property
    def _wide_cells(self) -> NDArray[Any]:
        """`wide` with the values of a word as one opaque cell: gathering scalars is several times faster than rows."""
        table = np.ascontiguousarray(self.wide)
        per_word = 16 // self.bits
        cell = {1: np.float32, 2: np.float64, 4: np.complex128}[per_word]
        return table.reshape(-1).view(cell)

    def unpack(self, data: NDArray[Any]) -> F32:
        """Decode packed bytes uint8 [..., n] into float32 [..., n * 8 // bits] (6-bit and scale formats: a code a
        byte)."""
        data = np.ascontiguousarray(data)
        if self.bits in (4, 8, 16) and data.shape[-1] % 2 == 0:
            cells: F32 = np.take(self._wide_cells, data.view(np.uint16)).view(np.float32)
            return cells
        if self.bits == 4:
            both: F32 = self.pairs[data].reshape(*data.shape[:-1], -1)
            return both
        if self.bits <= 8:
            return self.decode(data)
        return self.decode(data.view(np.uint16 if self.bits == 16 else np.uint32))

    def encode(self, values: NDArray[Any], saturate: bool = True) -> NDArray[np.uint32]:
        """Codes nearest to the values, ties to even; uint32 of the same shape.

        Out of range: the largest finite value when `saturate` (PTX ``.satfinite``) or when the format has no
        infinity or NaN, else infinity
        or NaN. NaN: the format's NaN, or its largest finite value where it has none (PTX ISA, cvt: ".e2m1x2 ... NaN
        input ... positive
        max"). Unsigned formats take magnitudes of zero or more.
        """
        x = np.asarray(values, dtype=np.float64)
        if self.name == "f16":
            with np.errstate(over="ignore"):
                half = x.astype(np.float16)
            if saturate:
                half = np.where(np.isinf(half), np.copysign(np.float16(65504), half), half)
            return half.view(np.uint16).astype(np.uint32)
        if self.name in ("bf16", "tf32", "f32"):
            drop = {"bf16": 16, "tf32": 13, "f32": 0}[self.name]
            code = round_to_f32_odd(x).view(np.uint32).astype(np.uint64)
            if drop:
                code = code + ((1 << (drop - 1)) - 1) + ((code >> np.uint64(drop)) & np.uint64(1))
            code = code >> np.uint64(drop)
            nan = {"bf16": 0x7FFF, "tf32": 0x3FFFF, "f32": 0x7FFFFFFF}[self.name]
            out = np.where(np.isnan(x), nan, code).astype(np.uint32)
            return out if self.name != "tf32" else out << np.uint32(13)
        finite = np.flatnonzero(
            np.isfinite(self.table[: 1 << (self.bits - (1 if self.signed and not self.integer else 0))])
        )
        if self.integer:
            least, most = float(self.table.min()), float(self.table.max())
            return (np.clip(np.rint(x), least, most).astype(np.int64) & ((1 << self.bits) - 1)).astype(np.uint32)
        ladder = self.table[finite].astype(np.float64)
        magnitude = np.where(np.isnan(x), 0.0, np.abs(x))
        above = np.clip(np.searchsorted(ladder, magnitude), 1, ladder.size - 1)
        low, high = ladder[above - 1], ladder[above]
        middle = (low + high) / 2
        upper = (magnitude > middle) | ((magnitude == middle) & (finite[above] % 2 == 0))
        code = np.where(upper, finite[above], finite[above - 1]).astype(np.uint32)
        if not saturate and self.specials != "none":
            step = ladder[-1] - ladder[-2]
            overflow = magnitude >= ladder[-1] + step / 2
            code = np.where(overflow, finite[-1] + 1, code).astype(np.uint32)
        if self.specials == "none":
            code = np.where(np.isnan(x), finite[-1], code).astype(np.uint32)
        else:
            code = np.where(np.isnan(x), (1 << (self.bits - (1 if self.signed else 0))) - 1, code).astype(np.uint32)
            if self.name == "ue8m0":
                code = np.where(np.isnan(x), 255, code).astype(np.uint32)
        if self.signed:
            negative = np.signbit(x) & ~np.isnan(x)
            code = code | (negative.astype(np.uint32) << np.uint32(self.bits - 1))
        return code.astype(np.uint32)


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format("e2m1", 4, 2, 1),
        Format("e2m3", 6, 2, 3),
        Format("e3m2", 6, 3, 2),
        Format("e4m3", 8, 4, 3, "nan_all_ones"),
        Format("e5m2", 8, 5, 2, "ieee"),
        # The scale formats are unsigned. Bit 7 of a ue4m3 byte is not part of the value.
        Format("ue4m3", 7, 4, 3, "nan_all_ones", signed=False),
        Format("ue8m0", 8, 8, 0, "nan_all_ones", signed=False),
        Format("s8", 8, 0, 0),
        Format("u8", 8, 0, 0, signed=False),
        Format("s4", 4, 0, 0),
        Format("u4", 4, 0, 0, signed=False),
        Format("f16", 16, 5, 10, "ieee"),
        Format("bf16", 16, 8, 7, "ieee"),
        Format("tf32", 32, 8, 10, "ieee"),
        Format("f32", 32, 8, 23, "ieee"),
    )
}


def element_format(name: str) -> Format:
    """The format called `name` in PTX; `UnitError` for another name."""
    if name not in FORMATS:
        raise UnitError(f"unknown element type .{name}", f"use one of {', '.join('.' + n for n in FORMATS)}")
    return FORMATS[name]


def round_to_f32_odd(x: F64) -> F32:
    """float64 to float32, rounding to odd: the last bit records that something was cut off, so that one more
    rounding is exact."""
    with np.errstate(over="ignore", invalid="ignore"):
        near = x.astype(np.float32)
        wide = near.astype(np.float64)
        # Step back toward zero where rounding went away from zero, then set the sticky bit.
        truncated = np.where(np.abs(wide) > np.abs(x), np.nextafter(near, np.float32(0)), near)
        inexact = (truncated.astype(np.float64) != x) & np.isfinite(x)
    bits = truncated.view(np.uint32) | inexact.astype(np.uint32)
    return np.where(np.isfinite(x), bits, near.view(np.uint32)).astype(np.uint32).view(np.float32)


def add_round_f32(a: F32, b: F64) -> F32:
    """fl32(a + b) with one rounding to nearest even.

    a: float32 array; b: float64 array of the same shape. The float64 sum may itself be rounded; where it then lies
    exactly between two
    float32 numbers the discarded part decides.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        total = b + a  # float32 widens exactly
        out = total.astype(np.float32)
        tie = (total.view(np.int64) & 0x1FFFFFFF) == 0x10000000
        if tie.any():
            where = np.flatnonzero(tie)
            s, x, y = total.reshape(-1)[where], a.reshape(-1)[where].astype(np.float64), b.reshape(-1)[where]
            # Knuth's two-sum: x + y == s + error exactly. An exact tie keeps the even result of astype.
            back = s - x
            error = (x - (s - back)) + (y - back)
            wrong = np.flatnonzero((error != 0) & np.isfinite(s))
            if wrong.size:
                toward = np.copysign(np.inf, error[wrong])
                out.reshape(-1)[where[wrong]] = np.nextafter(s[wrong], toward).astype(np.float32)
    return out
