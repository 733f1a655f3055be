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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_bias_is_added_before_the_rounding(batch: tuple[int, ...], rows: int, dtype: torch.dtype) -> None:
    a = weights(*batch, 140, 80, layout="linear", scale=2.0)
    x = operand("fp16", *batch, rows, 80, seed=1)
    bias = (torch.arange(140) / 8 - 7).to(dtype)
    exact = product(x, a) + bias.double()
    assert torch.equal(nvfp4.gemv(a, x, bias=bias, out_dtype=torch.float32).double(), exact)
    half = nvfp4.gemv(a, x, bias=bias)
    assert torch.equal(half, exact.half())
    out = torch.empty_like(half)
    assert nvfp4.gemv(a, x, bias=bias, out=out) is out
    assert torch.equal(out, half)
    # A call without it is another kind of call.
    assert torch.equal(nvfp4.gemv(a, x, out_dtype=torch.float32).double(), product(x, a))


def test_a_sum_with_bias_is_rounded_once() -> None:
    ones = NVFP4Tensor(torch.full((1, 8), 0x22, dtype=torch.uint8), torch.full((1, 1), 0x38, dtype=torch.uint8))
    x = torch.zeros(16).half()
    x[0], x[1] = 2048, 1
    assert nvfp4.gemv(ones, x).item() == 2048  # 2049 lies between two values of fp16
    assert nvfp4.gemv(ones, x, bias=torch.ones(1)).item() == 2050


def test_without_products_the_bias_remains() -> None:
    a = NVFP4Tensor(torch.zeros(3, 0, dtype=torch.uint8), torch.zeros(3, 0, dtype=torch.uint8))
    bias = torch.tensor([1.0, 2.0, 3.0])
    assert torch.equal(nvfp4.gemv(a, torch.zeros(2, 0).half(), bias=bias), bias.half().expand(2, 3))
