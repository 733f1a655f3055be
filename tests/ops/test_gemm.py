"""nvfp4.gemm: values, types, batches, on both ways into it."""

from __future__ import annotations

import pytest
import torch
from tests.ops.samples import DTYPES, activations, operand, product, weights

import nvfp4
from nvfp4.tensor import NVFP4Tensor

pytestmark = pytest.mark.usefixtures("path")


@pytest.mark.parametrize("out_dtype", DTYPES)
@pytest.mark.parametrize("layout", ["linear", "tiled"])
@pytest.mark.parametrize("kind", ["nvfp4", "fp16", "bf16"])
@pytest.mark.parametrize("batch", [(), (3,), (1,)])
def test_gemm(batch: tuple[int, ...], kind: str, layout: str, out_dtype: torch.dtype) -> None:
    a = operand(kind, *batch, 5, 80, layout=layout)
    b = weights(*batch, 140, 80, layout=layout, scale=2.0, seed=1)
    result = nvfp4.gemm(a, b, out_dtype=out_dtype)
    assert result.dtype == out_dtype
    assert torch.equal(result, product(a, b).to(out_dtype))
    out = torch.full_like(result, float("nan"))
    assert nvfp4.gemm(a, b, out_dtype=out_dtype, out=out) is out
    assert torch.equal(out, result)


@pytest.mark.parametrize("shift", [1, 3])
def test_operands_that_are_not_aligned_are_copied(shift: int) -> None:
    b = weights(20, 64)
    memory = torch.empty(5 * 64 + shift, dtype=torch.float16)
    a = memory[shift:].view(5, 64).copy_(activations(5, 64))
    assert a.data_ptr() % 16
    out = torch.empty(5 * 20 + shift, dtype=torch.float16)[shift:].view(5, 20)
    assert torch.equal(nvfp4.gemm(a, b, out=out), nvfp4.gemm(a.clone(), b))


def test_the_largest_scales_do_not_overflow_an_intermediate() -> None:
    k = 64
    codes = torch.full((2, k // 2), 0x77, dtype=torch.uint8)  # 6, 6
    scales = torch.full((2, k // 16), 448.0).to(torch.float8_e4m3fn)
    x = NVFP4Tensor(codes, scales)
    result = nvfp4.gemm(x, x, out_dtype=torch.float32)
    assert result.tolist() == [[k * (6 * 448.0) ** 2] * 2] * 2
