"""nvfp4.group_gemm: lists and stacked groups, on both ways into it."""

from __future__ import annotations

import pytest
import torch
from tests.ops.samples import operand, product, values, weights

import nvfp4

pytestmark = pytest.mark.usefixtures("path")


@pytest.mark.parametrize("kind", ["nvfp4", "fp16", "bf16"])
def test_group_gemm_lists(kind: str) -> None:
    sizes = [(5, 20, 80), (0, 7, 32), (130, 9, 16), (3, 0, 64), (2, 3, 0), (1, 1, 16)]
    a = [operand(kind, m, k, seed=i) for i, (m, _, k) in enumerate(sizes)]
    b = [weights(n, k, layout="tiled", seed=9 + i) for i, (_, n, k) in enumerate(sizes)]
    results = nvfp4.group_gemm(a, b)
    assert [tuple(result.shape) for result in results] == [(m, n) for m, n, _ in sizes]
    for result, left, right in zip(results, a, b, strict=True):
        assert torch.equal(result, product(left, right).half())
    outs = [torch.full_like(result, float("nan")) for result in results]
    again = nvfp4.group_gemm(a, b, out=outs)
    assert all(x is y for x, y in zip(again, outs, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(again, results, strict=True))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("layout", ["linear", "tiled"])
@pytest.mark.parametrize("kind", ["nvfp4", "fp16", "bf16"])
def test_group_gemm_stacked(kind: str, layout: str, device: str) -> None:
    a = operand(kind, 150, 80, layout=layout).to(device)
    b = weights(5, 20, 80, layout=layout, scale=0.5, seed=1).to(device)
    ends = [3, 3, 131, 140, 140]
    offsets = torch.tensor(ends, dtype=torch.int32, device=device)
    expected = torch.zeros(150, 20, dtype=torch.float64, device=device)
    for group, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
        expected[begin:end] = values(a)[begin:end] @ values(b[group]).T
    result = nvfp4.group_gemm(a, b, offsets=offsets, out_dtype=torch.float32)
    assert torch.equal(result[:140].double(), expected[:140])
    out = torch.full_like(result, 7.0)
    nvfp4.group_gemm(a, b, offsets=offsets, out_dtype=torch.float32, out=out)
    assert torch.equal(out[:140], result[:140])
    assert bool((out[140:] == 7).all()), "rows beyond the last group were touched"
