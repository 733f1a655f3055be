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


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("layout", ["linear", "tiled"])
@pytest.mark.parametrize("kind", ["nvfp4", "fp16", "bf16"])
@pytest.mark.parametrize("tokens", [1, 40, 300])
def test_rows_by_index(kind: str, layout: str, tokens: int, device: str) -> None:
    """Some rows several times, others never, in any order; more of them than the operand has, or fewer."""
    a = operand(kind, tokens, 80, layout=layout).to(device)
    b = weights(5, 20, 80, layout=layout, scale=0.5, seed=1).to(device)
    ends = [3, 3, 131, 140, 140]
    offsets = torch.tensor(ends, dtype=torch.int32, device=device)
    rows = torch.randint(0, tokens, (150,), generator=torch.Generator().manual_seed(tokens)).int()
    rows[140:] = torch.tensor([-1, tokens, -(2**31), 2**31 - 1, 0]).repeat(2)  # of no group: nobody's business
    rows = rows.to(device)
    expected = torch.zeros(140, 20, dtype=torch.float64, device=device)
    chosen = values(a)[rows[:140].long()]
    for group, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
        expected[begin:end] = chosen[begin:end] @ values(b[group]).T
    result = nvfp4.group_gemm(a, b, offsets=offsets, rows=rows, out_dtype=torch.float32)
    assert result.shape == (150, 20)
    assert torch.equal(result[:140].double(), expected)
    out = torch.full_like(result, 7.0)
    nvfp4.group_gemm(a, b, offsets=offsets, rows=rows, out_dtype=torch.float32, out=out)
    assert torch.equal(out[:140], result[:140])
    assert bool((out[140:] == 7).all()), "rows beyond the last group were touched"


def test_another_index_is_another_result() -> None:
    """Calls that differ in the index alone, in its length, or in whether there is one."""
    a, b = operand("fp16", 6, 64), weights(2, 20, 64)
    offsets = torch.tensor([2, 4], dtype=torch.int32)
    for _ in range(2):
        for rows in ([5, 0, 3, 3], [0, 1, 2, 3], [1, 1, 4, 5, 0], None):
            index = None if rows is None else torch.tensor(rows, dtype=torch.int32)
            result = nvfp4.group_gemm(a, b, offsets=offsets, rows=index, out_dtype=torch.float32)
            chosen = a if rows is None else a[rows]
            assert torch.equal(result[:2].double(), product(chosen[:2], b[0]))
            assert torch.equal(result[2:4].double(), product(chosen[2:4], b[1]))


def test_no_rows_of_no_tokens() -> None:
    b, offsets, none = weights(2, 20, 64), torch.zeros(2, dtype=torch.int32), torch.zeros(0, dtype=torch.int32)
    for tokens in (0, 3):
        result = nvfp4.group_gemm(operand("fp16", tokens, 64), b, offsets=offsets, rows=none)
        assert result.shape == (0, 20)


def test_an_index_is_no_place_for_results() -> None:
    memory = torch.zeros(64, dtype=torch.int32)
    x, b, offsets = operand("fp16", 6, 64), weights(2, 4, 64), torch.tensor([2, 4], dtype=torch.int32)
    with pytest.raises(nvfp4.InputError, match="apart from `rows`"):
        nvfp4.group_gemm(x, b, offsets=offsets, rows=memory[:4], out=memory[:8].view(torch.float16).view(4, 4))


@pytest.mark.gpu
def test_an_index_may_change_between_replays_of_a_graph() -> None:
    a = operand("bf16", 40, 128).cuda()
    b = weights(4, 64, 128, device="cuda")
    offsets = torch.tensor([5, 9, 9, 30], dtype=torch.int32, device="cuda")
    rows = torch.zeros(30, dtype=torch.int32, device="cuda")
    nvfp4.group_gemm(a, b, offsets=offsets, rows=rows, out_dtype=torch.float32)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = nvfp4.group_gemm(a, b, offsets=offsets, rows=rows, out_dtype=torch.float32)
    for seed in (1, 2):
        rows.copy_(torch.randint(0, 40, (30,), generator=torch.Generator().manual_seed(seed)).int())
        graph.replay()
        expected = nvfp4.group_gemm(a[rows], b, offsets=offsets, out_dtype=torch.float32)
        assert torch.equal(result, expected)
