"""Operands for the tests of the reference, and sums of products in rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import torch

from nvfp4.reference.exact import Exact
from nvfp4.tensor import NVFP4Tensor


def operand(
    *shape: int,
    seed: int = 0,
    low: int = 0,
    high: int = 0x7F,
    layout: str = "linear",
    tensor_scale: torch.Tensor | float | None = None,
) -> NVFP4Tensor:
    """Random codes of both signs; scale bytes from `low` up to `high`, exclusive."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 256, (*shape[:-1], shape[-1] // 2), dtype=torch.uint8, generator=generator)
    scales = torch.randint(low, high, (*shape[:-1], shape[-1] // 16), dtype=torch.uint8, generator=generator)
    return NVFP4Tensor(codes, scales, tensor_scale).to_layout(layout)


def activation(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Values of very different sizes: every exponent of float16 occurs."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    return (x * torch.exp2(torch.randint(-14, 14, shape, generator=generator).float())).to(dtype)


UNIT = 200
"""Numbers are held as integers times 2^-UNIT: Python multiplies integers faster than fractions."""


def _integer(value: float) -> int:
    numerator, denominator = value.as_integer_ratio()
    quotient, rest = divmod(numerator << UNIT, denominator)
    assert rest == 0
    return quotient


def integers(x: NVFP4Tensor | torch.Tensor) -> list[list[int]]:
    """A matrix in units of 2^-UNIT, exactly, tensor scale included."""
    if isinstance(x, NVFP4Tensor):
        scale = Fraction(float(x.tensor_scale)) if x.tensor_scale is not None else Fraction(1)
        plain = NVFP4Tensor(x.codes, x.scales, scale_layout=x.scale_layout).dequantize(torch.float64)
        scaled = [[_integer(value) * scale for value in row] for row in plain.tolist()]
        assert all(value.denominator == 1 for row in scaled for value in row)
        return [[value.numerator for value in row] for row in scaled]
    return [[_integer(value) for value in row] for row in x.double().tolist()]


def check(got: Exact, left: list[list[int]], right: list[list[int]], *, bits: int | None = None) -> None:
    """Every element of `got` [M, N] is the sum of products; exactly, or to 2^-bits of the sum of absolute products."""
    assert got.value.shape == got.residual.shape == got.magnitude.shape == got.sums_exact.shape
    assert tuple(got.value.shape) == (len(left), len(right))
    for i, row in enumerate(left):
        for j, column in enumerate(right):
            terms = [x * y for x, y in zip(row, column, strict=True)]
            exact, absolute = Fraction(sum(terms), 1 << 2 * UNIT), Fraction(sum(map(abs, terms)), 1 << 2 * UNIT)
            value, residual = float(got.value[i, j]), float(got.residual[i, j])
            error = abs(Fraction(value) + Fraction(residual) - exact)
            assert error <= (absolute / 2**bits if bits is not None else 0)
            if bits is None:
                assert value == float(exact)  # rounded once, to nearest even
            assert abs(Fraction(float(got.magnitude[i, j])) - absolute) <= absolute / 2**40
