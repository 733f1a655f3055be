"""nvfp4.gemv: values and every form of its vectors, on both ways into it."""

from __future__ import annotations

import pytest
import torch
from tests.ops.samples import operand, product, weights

import nvfp4
from nvfp4.tensor import NVFP4Tensor

pytestmark = pytest.mark.usefixtures("path")


@pytest.mark.parametrize("kind", ["nvfp4", "fp16", "bf16"])
@pytest.mark.parametrize("layout", ["linear", "tiled"])
@pytest.mark.parametrize("rows", [1, 2, 16])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_gemv(batch: tuple[int, ...], rows: int, layout: str, kind: str) -> None:
    a = weights(*batch, 140, 80, layout=layout, scale=2.0)
    x = operand(kind, *batch, rows, 80, layout=layout, seed=1)
    result = nvfp4.gemv(a, x, out_dtype=torch.float32)
    assert torch.equal(result.double(), product(x, a))


@pytest.mark.parametrize("kind", ["nvfp4", "fp16"])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_gemv_without_a_dimension_for_vectors(batch: tuple[int, ...], kind: str) -> None:
    a = weights(*batch, 140, 80, layout="tiled")
    rows = operand(kind, *batch, 1, 80, seed=1)
    if isinstance(rows, torch.Tensor):
        x = rows.squeeze(-2)
    elif batch:
        x = NVFP4Tensor(rows.codes.squeeze(-2), rows.scales.squeeze(-2), rows.tensor_scale)
    else:
        pytest.skip("an NVFP4Tensor always has rows")
    expected = nvfp4.gemv(a, rows).squeeze(-2)
    result = nvfp4.gemv(a, x)
    assert result.shape == (*batch, 140)
    assert torch.equal(result, expected)
    out = torch.empty_like(result)
    assert nvfp4.gemv(a, x, out=out) is out
    assert torch.equal(out, expected)
