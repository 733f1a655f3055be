"""Values and shapes of the four operations, on both ways into them, at ordinary and at empty sizes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tests.ops.samples import activations, values, weights

import nvfp4
from nvfp4.ops import _dispatch
from nvfp4.tensor import NVFP4Tensor

DTYPES = [torch.float16, torch.bfloat16, torch.float32]


@pytest.fixture(params=["direct", "dispatcher"], autouse=True)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both ways into an operation have to agree in everything."""
    _dispatch.clear()
    if request.param == "dispatcher":
        monkeypatch.setattr(_dispatch, "_direct", lambda: False)
    yield request.param
    _dispatch.clear()


def operand(kind: str, *shape: int, layout: str = "linear", seed: int = 0) -> NVFP4Tensor | torch.Tensor:
    if kind == "nvfp4":
        return weights(*shape, layout=layout, scale=0.25, seed=seed)
    return activations(*shape, dtype=torch.float16 if kind == "fp16" else torch.bfloat16, seed=seed)


def product(a: NVFP4Tensor | torch.Tensor, b: NVFP4Tensor) -> torch.Tensor:
    return values(a) @ values(b).transpose(-1, -2)


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


@pytest.mark.parametrize("layout", ["linear", "tiled"])
@pytest.mark.parametrize("kind", ["nvfp4", "fp16", "bf16"])
def test_group_gemm_stacked(kind: str, layout: str) -> None:
    a, b = operand(kind, 150, 80, layout=layout), weights(5, 20, 80, layout=layout, scale=0.5, seed=1)
    ends = [3, 3, 131, 140, 140]
    offsets = torch.tensor(ends, dtype=torch.int32)
    expected = torch.zeros(150, 20, dtype=torch.float64)
    for group, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
        expected[begin:end] = values(a)[begin:end] @ values(b[group]).T
    result = nvfp4.group_gemm(a, b, offsets=offsets, out_dtype=torch.float32)
    assert torch.equal(result.double(), expected)
    out = torch.full_like(result, 7.0)
    nvfp4.group_gemm(a, b, offsets=offsets, out_dtype=torch.float32, out=out)
    assert torch.equal(out[:140], result[:140])
    assert bool((out[140:] == 7).all()), "rows beyond the last group were touched"


@pytest.mark.parametrize(("m", "n"), [(0, 8), (8, 0), (0, 0)])
def test_nothing_to_compute(m: int, n: int) -> None:
    for layout in ("linear", "tiled"):
        a, b = weights(m, 64, layout=layout), weights(n, 64, layout=layout)
        assert nvfp4.gemm(a, b).shape == (m, n)
        assert nvfp4.dual_gemm(a, b, b).shape == (m, n)
        assert nvfp4.gemv(b, a).shape == (m, n)
    assert nvfp4.gemm(weights(0, 8, 64), weights(0, 8, 64)).shape == (0, 8, 8)
    experts = weights(2, n, 64)
    assert nvfp4.group_gemm(a, experts, offsets=torch.tensor([0, m], dtype=torch.int32)).shape == (m, n)
    assert [x.shape for x in nvfp4.group_gemm([a], [b])] == [(m, n)]


def test_sums_of_nothing_are_zero() -> None:
    a, b = weights(3, 0), weights(4, 0)
    out = torch.full((3, 4), float("nan"), dtype=torch.float16)
    assert torch.equal(nvfp4.gemm(a, b, out=out), torch.zeros_like(out))
    assert torch.equal(nvfp4.gemv(b, a), torch.zeros_like(out))
    experts, offsets = weights(2, 4, 0), torch.tensor([1, 2], dtype=torch.int32)
    rows = nvfp4.group_gemm(a, experts, offsets=offsets, out=torch.full_like(out, 7))
    assert torch.equal(rows, torch.tensor([0, 0, 7]).half().unsqueeze(1).expand(3, 4))


def test_a_backend_that_does_not_exist_is_an_error_even_with_nothing_to_do() -> None:
    with pytest.raises(nvfp4.InputError, match="backend"):
        nvfp4.gemm(weights(0, 64), weights(4, 64), backend="cutlass")


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


def test_a_call_of_the_same_shapes_is_prepared_once(path: str) -> None:
    a, b = weights(4, 64), weights(8, 64)
    nvfp4.gemm(a, b)
    count = len(_dispatch._prepared)
    nvfp4.gemm(weights(4, 64, seed=5), weights(8, 64, seed=6))
    assert len(_dispatch._prepared) == count
    for other in (weights(8, 64, layout="tiled"), weights(8, 64, scale=1.0), weights(9, 64)):
        nvfp4.gemm(a, other)
        count += 1
        assert len(_dispatch._prepared) == count


def test_prepared_calls_do_not_grow_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "_LIMIT", 4)
    for n in range(1, 12):
        nvfp4.gemm(weights(1, 16), weights(n, 16))
        assert len(_dispatch._prepared) <= 4
