"""Exact sums of products, with BLAS: the arithmetic under every reference operation.

Why float64 matrix products can be exact
----------------------------------------
A decoded NVFP4 value is ``n * 2^-10`` with an integer ``|n| <= 6 * 448 * 2^10 < 2^21.4``: a code is a multiple of 2^-1,
an E4M3 scale a multiple of 2^-9. Two of them multiply to an integer below 2^42.8 times 2^-20, and K of these sum to
less than ``K * 2^42.8``: too much for the 53 bits of float64 from K = 1171 on. So one operand is cut into slices,
each row on its own power-of-two grid (as Ozaki, Ogita, Oishi and Rump do in "Error-free transformations of matrix
multiplication", 2012). With b the bits of the widest row of the other operand (largest magnitude over the weight of
the lowest set bit), a slice is at most w bits wide, where

    w = 53 - b - ceil(log2 K)       hence      K * 2^w * 2^b <= 2^53

Every partial sum, in any order, is then an integer of at most 53 bits times one power of two for each output element,
so float64 arithmetic rounds nothing, whatever order and fused operations the BLAS uses. For NVFP4 two slices are enough
up to K = 2^20. fp16 activations (40 bits from 2^-24 to 65504) take up to four, bf16 as many as its exponents demand.

The slices' sums are added with error-free transformations to a pair (value, residual). All are multiples of one unit,
and the pair has room for 106 bits of it. NVFP4 and fp16 need at most 22 + 40 + 20, so the pair is the exact sum. For
bf16 it is the exact sum as long as a row's largest and smallest bits are within 2^60 of each other; beyond, its error
is below 2^-100 of the sum of absolute products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from nvfp4 import formats
from nvfp4.errors import InputError
from nvfp4.tensor import NVFP4Tensor

Operand = NVFP4Tensor | torch.Tensor
"""NVFP4, or fp16 or bf16 activations."""

# Elements decoded to float64 at a time: 64 MiB of the matrix that is streamed, 128 MiB of the one that is kept.
_RIGHT_CHUNK = 1 << 23
_LEFT_CHUNK = 1 << 24

MAX_K = 1 << 24
"""Longest row: beyond it the slices would become narrower than 7 bits."""


@dataclass(frozen=True, eq=False)
class Exact:
    """Sums of products, known exactly, and what is needed to judge an fp32 computation of them.

    Attributes:
        value: float64. The exact result (tensor scales included) rounded to float64.
        residual: float64. What rounding left: `value` + `residual` is the exact result; with tensor scales, it is
            within 2^-104 of it, relatively.
        magnitude: float64. Sum of the absolute products, times the tensor scales; relative error below K * 2^-53.
        sums_exact: bool. Every order of fp32 summation of the products gives their exact sum: all products are
            multiples of one power of two (the lowest set bit of the two rows), and the sum of their magnitudes is less
            than 2^24 of it. Tensor scales are applied after that sum, and may round.
    """

    value: torch.Tensor
    residual: torch.Tensor
    magnitude: torch.Tensor
    sums_exact: torch.Tensor

    def rounded(self, dtype: torch.dtype) -> torch.Tensor:
        """The exact result rounded once, to nearest even, to float16, bfloat16, float32 or float64."""
        return formats.round_once(self.value, dtype, self.residual)

    def reshape(self, *shape: int) -> Exact:
        """The same numbers in another shape."""
        return Exact(*(part.reshape(shape) for part in self._parts()))

    def plus(self, addend: torch.Tensor) -> Exact:
        """With float64 `addend`, values of fp32, added to every row, as in fp32 it is added to what these sums became.

        `sums_exact` stays where the sum and what it becomes are values of fp32, so that this addition rounds nothing.
        """
        value, error = two_sum(self.value, addend.expand_as(self.value))
        value, residual = two_sum(value, error + self.residual)
        kept = (self.residual == 0) & (residual == 0) & _is_fp32(self.value) & _is_fp32(value)
        return Exact(value, residual, self.magnitude + addend.abs(), self.sums_exact & kept)

    def _parts(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.value, self.residual, self.magnitude, self.sums_exact

    @staticmethod
    def empty(shape: tuple[int, ...], device: torch.device) -> Exact:
        """Sums of nothing: zeros of `shape`, to be filled."""
        value, residual, magnitude = (torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(3))
        return Exact(value, residual, magnitude, torch.ones(shape, dtype=torch.bool, device=device))

    def fill(self, index: tuple[slice | int, ...], source: Exact) -> None:
        """Write `source` into the part of these tensors that `index` selects."""
        for mine, theirs in zip(self._parts(), source._parts(), strict=True):
            mine[index] = theirs


class Rows:
    """A matrix [rows, K] that is decoded to float64 a block of rows at a time. Tensor scales are left out.

    Args:
        operand: [rows, K], or [L, rows, K] with `batch` the matrix to read.
        batch: Which matrix of a batch; 0 for a single one.
    """

    def __init__(self, operand: Operand, batch: int = 0) -> None:
        self.scale: torch.Tensor | None = None
        self._scales: torch.Tensor | None = None
        if isinstance(operand, NVFP4Tensor):
            one = operand[batch] if operand.ndim == 3 else operand
            self._data = one.codes
            self._scales = one.linear_scales()
            self.scale = one.tensor_scale
            self.rows, self.k = one.rows, one.k
        else:
            self._data = operand[batch] if operand.dim() == 3 else operand
            self.rows, self.k = self._data.shape
        self.device = self._data.device

    def values(self, begin: int, end: int) -> torch.Tensor:
        """float64 [end - begin, K], exact."""
        if self._scales is None:
            return self._data[begin:end].double()
        # A code times a scale has at most six bits: exact in float32, and half the memory traffic there.
        values = formats.decode_e2m1(self._data[begin:end])
        scales = formats.decode_e4m3(self._scales[begin:end])
        values.view(*scales.shape, formats.BLOCK).mul_(scales.unsqueeze(-1))
        return values.double()

    def lowest_bits(self, begin: int, end: int) -> torch.Tensor:
        """float64 [end - begin]: the weight of the lowest set bit of any element of a row; infinity for zeros."""
        if self._scales is None:
            return lowest_set_bit(self._data[begin:end].double()).amin(dim=1)
        # The lowest set bit of a product is the product of the lowest set bits.
        codes = self._data[begin:end]
        table = _pair_lowest_bits(codes.device)
        bits = formats.look_up(table, codes).view(codes.shape[0], -1, formats.BLOCK // 2).amin(dim=2)
        scales = lowest_set_bit(formats.decode_e4m3(self._scales[begin:end], torch.float64))
        return (bits.double() * scales).amin(dim=1)


def _is_fp32(values: torch.Tensor) -> torch.Tensor:
    return values.float().double() == values


def lowest_set_bit(values: torch.Tensor) -> torch.Tensor:
    """The weight of the lowest set bit of each float64 value of at most 32 significant bits; infinity for zero."""
    mantissa, exponent = torch.frexp(values)
    integer = (mantissa * 2.0**32).to(torch.int64)
    lowest = (integer & -integer).double() * power_of_two(exponent - 32)
    return torch.where(values == 0, math.inf, lowest)


def power_of_two(exponent: torch.Tensor) -> torch.Tensor:
    """2^exponent as float64, for integers within -1022..1023. Made of bits: no device rounds it."""
    return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)


def _pair_lowest_bits(device: torch.device) -> torch.Tensor:
    """For each byte of two codes, the smaller of their lowest set bits, float32 [256]; infinity for two zeros."""
    magnitudes = torch.tensor(formats.E2M1_MAGNITUDES, dtype=torch.float64)
    bits = lowest_set_bit(magnitudes).float().repeat(2)
    byte = torch.arange(256)
    return torch.minimum(bits[byte & 15], bits[byte >> 4]).to(device)


def two_sum(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """a + b rounded, and its rounding error, exactly (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def two_product(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """a * b rounded, and its rounding error, exactly (Dekker; |a|, |b| below 2^970)."""

    def split(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scaled = x * (2.0**27 + 1)
        high = scaled - (scaled - x)
        return high, x - high

    product = a * b
    (a1, a0), (b1, b0) = split(a), split(b)
    return product, a0 * b0 - (((product - a1 * b1) - a0 * b1) - a1 * b0)


def _bits(largest: torch.Tensor, lowest: torch.Tensor) -> int:
    """Bits b such that every row's magnitudes are at most 2^b times its lowest set bit."""
    ratio = largest / lowest  # 0 / infinity for rows of zeros
    widest = float(ratio.max()) if ratio.numel() else 0.0
    return math.ceil(math.log2(widest)) if widest > 1 else 0


def _slices(values: torch.Tensor, largest: torch.Tensor, width: int, bits: int) -> list[torch.Tensor]:
    """Parts that sum to `values`, each row an integer of magnitude at most 2^width times a power of two.

    Args:
        values: float64 [rows, K].
        largest: float64 [rows]: the largest magnitudes.
        width: Bits of a slice.
        bits: Bits of the widest row.
    """
    if bits <= width:
        return [values]
    exponent = torch.frexp(largest).exponent.unsqueeze(1)  # largest <= 2^exponent
    parts: list[torch.Tensor] = []
    rest = values
    while bool(rest.any()):
        unit = power_of_two(exponent - width)
        part = torch.round(rest / unit) * unit
        parts.append(part)
        rest = rest - part
        exponent = exponent - width - 1  # what is left is at most half a unit
    return parts or [values]


def products(left: Rows, right: Rows) -> Exact:
    """Exact ``left [M, K] @ right [N, K].T``, tensor scales included: [M, N].

    `right` is streamed in blocks, so that it may be far larger than memory allows in float64; it must be NVFP4.
    """
    m, n, k = left.rows, right.rows, left.k
    if right.k != k:
        raise InputError("reference", "k", f"equal K, {k}", right.k, "Multiply operands with the same K.")
    if k > MAX_K:
        raise InputError("reference", "k", f"at most {MAX_K}", k, "Split K, and add the parts.")
    out = Exact.empty((m, n), left.device)
    if k == 0:
        return out
    left_step = max(1, _LEFT_CHUNK // k)
    right_step = max(1, _RIGHT_CHUNK // k)
    for i in range(0, m, left_step):
        rows = slice(i, min(i + left_step, m))
        a = left.values(rows.start, rows.stop)
        a_abs = a.abs()
        a_largest, a_lowest = a_abs.amax(dim=1), left.lowest_bits(rows.start, rows.stop)
        a_bits = _bits(a_largest, a_lowest)
        parts: dict[int, list[torch.Tensor]] = {}
        for j in range(0, n, right_step):
            columns = slice(j, min(j + right_step, n))
            b = right.values(columns.start, columns.stop)
            b_lowest = right.lowest_bits(columns.start, columns.stop)
            b_abs = b.abs()
            width = 53 - math.ceil(math.log2(k)) - _bits(b_abs.amax(dim=1), b_lowest)
            if width not in parts:
                parts = {width: _slices(a, a_largest, width, a_bits)}
            value, residual = _sum([part @ b.T for part in parts[width]])
            magnitude = a_abs @ b_abs.T
            exact = _exact_in_fp32(magnitude, a_lowest, b_lowest)
            out.fill((rows, columns), Exact(value, residual, magnitude, exact))
    return _scaled(out, left.scale, right.scale)


def _sum(terms: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of `terms` as a normalised pair (value, residual)."""
    value, residual = terms[0], torch.zeros_like(terms[0])
    for term in terms[1:]:
        value, error = two_sum(value, term)
        residual = residual + error
    return two_sum(value, residual)


def _exact_in_fp32(magnitude: torch.Tensor, a_lowest: torch.Tensor, b_lowest: torch.Tensor) -> torch.Tensor:
    """Whether every partial sum is an integer below 2^24 times one unit, and within the range of fp32."""
    unit = a_lowest.unsqueeze(1) * b_lowest.unsqueeze(0)
    # One less than 2^24, for the rounding errors of `magnitude` itself.
    return (magnitude <= unit * (2.0**24 - 1)) & (magnitude < 2.0**127) & (unit >= 2.0**-149)


def _scaled(sums: Exact, left: torch.Tensor | None, right: torch.Tensor | None) -> Exact:
    """`sums` times the tensor scales, whose product is exact in float64."""
    factors = [scale.double() for scale in (left, right) if scale is not None]
    if not factors:
        return sums
    scale = factors[0] if len(factors) == 1 else factors[0] * factors[1]
    product, error = two_product(sums.value, scale)
    value, residual = two_sum(product, error + sums.residual * scale)
    return Exact(value, residual, sums.magnitude * scale.abs(), sums.sums_exact)
