"""nvfp4.dual_gemm: values, on both ways into it."""

from __future__ import annotations

import pytest
import torch
from tests.ops.samples import DTYPES, operand, product, weights

import nvfp4

pytestmark = pytest.mark.usefixtures("path")


@pytest.mark.parametrize("out_dtype", DTYPES)
@pytest.mark.parametrize("kind", ["nvfp4", "fp16", "bf16"])
def test_dual_gemm(kind: str, out_dtype: torch.dtype) -> None:
    a = operand(kind, 5, 80)
    b1, b2 = (weights(140, 80, layout="tiled", scale=scale, seed=i) for i, scale in ((1, 0.03125), (2, 4.0)))
    result = nvfp4.dual_gemm(a, b1, b2, out_dtype=out_dtype)
    gate, up = product(a, b1), product(a, b2)
    expected = gate / (1 + torch.exp(-gate)) * up
    # fp32 arithmetic after exact sums: a few ulp of fp32, and half an ulp of the result's type.
    bound = expected.abs() * (2**-21 + torch.finfo(out_dtype).eps / 2) + torch.finfo(out_dtype).smallest_normal
    assert bool(((result.double() - expected).abs() <= bound).all())
