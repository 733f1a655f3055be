"""nvfp4.group_dual_gemm: lists and stacked groups, on both ways into it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.ops.samples import DTYPES, operand, product, values, weights

import nvfp4
from nvfp4.tensor import NVFP4Tensor

pytestmark = pytest.mark.usefixtures("path")


def joined(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return gate / (1 + torch.exp(-gate)) * up


def close(result: torch.Tensor, expected: torch.Tensor) -> bool:
    """fp32 arithmetic after exact sums: a few ulp of fp32, and half an ulp of the result's type."""
    info = torch.finfo(result.dtype)
    bound = expected.abs() * (2**-21 + info.eps / 2) + info.smallest_normal
    return bool(((result.double() - expected).abs() <= bound).all())


@pytest.mark.parametrize("kind", ["nvfp4", "fp16", "bf16"])
def test_lists(kind: str) -> None:
    sizes = [(5, 20, 80), (0, 7, 32), (130, 9, 16), (3, 0, 64), (2, 3, 0), (1, 1, 16)]
    a = [operand(kind, m, k, seed=i) for i, (m, _, k) in enumerate(sizes)]
    b1, b2 = (
        [weights(n, k, layout="tiled", scale=scale, seed=seed + i) for i, (_, n, k) in enumerate(sizes)]
        for scale, seed in ((0.03125, 9), (4.0, 29))
    )
    results = nvfp4.group_dual_gemm(a, b1, b2)
    assert [tuple(result.shape) for result in results] == [(m, n) for m, n, _ in sizes]
    for result, x, gate, up in zip(results, a, b1, b2, strict=True):
        assert close(result, joined(product(x, gate), product(x, up)))
    outs = [torch.full_like(result, float("nan")) for result in results]
    again = nvfp4.group_dual_gemm(a, b1, b2, out=outs)
    assert all(x is y for x, y in zip(again, outs, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(again, results, strict=True))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("out_dtype", DTYPES)
@pytest.mark.parametrize("layout", ["linear", "tiled"])
@pytest.mark.parametrize("kind", ["nvfp4", "fp16", "bf16"])
def test_stacked(kind: str, layout: str, out_dtype: torch.dtype, device: str) -> None:
    a = operand(kind, 150, 80, layout=layout).to(device)
    b1, b2 = (
        weights(5, 20, 80, layout=layout, scale=scale, seed=seed, device=device)
        for scale, seed in ((0.03125, 1), (4.0, 2))
    )
    ends = [3, 3, 131, 140, 140]
    offsets = torch.tensor(ends, dtype=torch.int32, device=device)
    result = nvfp4.group_dual_gemm(a, b1, b2, offsets=offsets, out_dtype=out_dtype)
    for group, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
        rows = values(a)[begin:end]
        assert close(result[begin:end], joined(rows @ values(b1[group]).T, rows @ values(b2[group]).T))
    out = torch.full_like(result, 7.0)
    nvfp4.group_dual_gemm(a, b1, b2, offsets=offsets, out_dtype=out_dtype, out=out)
    assert torch.equal(out[:140], result[:140])
    assert bool((out[140:] == 7).all()), "rows beyond the last group were touched"


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("layout", ["linear", "tiled"])
@pytest.mark.parametrize("kind", ["nvfp4", "fp16", "bf16"])
def test_rows_by_index(kind: str, layout: str, device: str) -> None:
    a = operand(kind, 30, 80, layout=layout).to(device)
    b1, b2 = (weights(3, 20, 80, layout=layout, scale=0.0625, seed=seed, device=device) for seed in (1, 2))
    offsets = torch.tensor([40, 40, 50], dtype=torch.int32, device=device)
    rows = torch.randint(0, 30, (50,), generator=torch.Generator().manual_seed(4)).int().to(device)
    result = nvfp4.group_dual_gemm(a, b1, b2, offsets=offsets, rows=rows, out_dtype=torch.float32)
    chosen = values(a)[rows.long()]
    for group, (begin, end) in ((0, (0, 40)), (2, (40, 50))):
        gate, up = (chosen[begin:end] @ values(b[group]).T for b in (b1, b2))
        assert close(result[begin:end], joined(gate, up))


def test_every_expert_has_its_own_tensor_scales() -> None:
    a = operand("fp16", 9, 32)
    plain = [weights(3, 8, 32, seed=seed) for seed in (1, 2)]
    scales = [torch.tensor([0.125, 0.0625, 0.25]), torch.tensor([2.0, 0.5, 8.0])]
    b1, b2 = (NVFP4Tensor(b.codes, b.scales, scale) for b, scale in zip(plain, scales, strict=True))
    offsets = torch.tensor([2, 5, 9], dtype=torch.int32)
    result = nvfp4.group_dual_gemm(a, b1, b2, offsets=offsets, out_dtype=torch.float32)
    for group, (begin, end) in enumerate(((0, 2), (2, 5), (5, 9))):
        gate, up = (product(a[begin:end], b[group]) * float(s[group]) for b, s in zip(plain, scales, strict=True))
        assert close(result[begin:end], joined(gate, up))


def test_a_down_projection_takes_the_same_offsets() -> None:
    """The gated MLP of every expert, from two calls."""
    x, offsets = operand("bf16", 12, 64), torch.tensor([4, 4, 12], dtype=torch.int32)
    gate, up = weights(3, 32, 64, scale=0.03125, seed=1), weights(3, 32, 64, scale=0.03125, seed=2)
    down = weights(3, 64, 32, seed=3)
    hidden = nvfp4.group_dual_gemm(x, gate, up, offsets=offsets, out_dtype=torch.bfloat16)
    result = nvfp4.group_gemm(hidden, down, offsets=offsets, out_dtype=torch.float32)
    for group, (begin, end) in enumerate(((0, 4), (4, 4), (4, 12))):
        alone = nvfp4.dual_gemm(x[begin:end], gate[group], up[group], out_dtype=torch.bfloat16)
        assert torch.equal(hidden[begin:end], alone)
        want = alone.double() @ values(down[group]).T
        torch.testing.assert_close(result[begin:end].double(), want, rtol=1e-5, atol=1e-5)


def test_the_example_of_the_documentation() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "mixtures.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    x, weight = operand("bf16", 7, 64), torch.rand(7, 2, generator=torch.Generator().manual_seed(3))
    chosen = torch.tensor([[0, 2], [2, 3], [3, 0], [0, 3], [2, 0], [3, 2], [0, 2]])  # nobody goes to expert 1
    gate, up = (weights(4, 32, 64, scale=0.0625, seed=seed) for seed in (1, 2))
    down = weights(4, 64, 32, scale=0.125, seed=3)
    result = names["experts"](x, chosen, weight, gate, up, down)  # type: ignore[operator]
    want = torch.zeros(7, 64, dtype=torch.float64)
    for token in range(7):
        for place in range(2):
            expert = int(chosen[token, place])
            row = x[token : token + 1]
            hidden = joined(product(row, gate[expert]), product(row, up[expert])).bfloat16()
            want[token] += float(weight[token, place]) * product(hidden, down[expert])[0]
    torch.testing.assert_close(result.double(), want, rtol=2e-2, atol=1e-2 * float(want.abs().max()))
