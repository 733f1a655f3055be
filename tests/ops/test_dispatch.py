"""What the operations share: empty sizes, and calls that are prepared once."""

from __future__ import annotations

import pytest
import torch
from tests.ops.samples import weights

import nvfp4
from nvfp4.ops import _dispatch

pytestmark = pytest.mark.usefixtures("path")


def kept() -> int:
    """Calls that are prepared."""
    return sum(map(len, _dispatch.caches))


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


def test_a_call_of_the_same_shapes_is_prepared_once(path: str) -> None:
    a, b = weights(4, 64), weights(8, 64)
    nvfp4.gemm(a, b)
    count = kept()
    nvfp4.gemm(weights(4, 64, seed=5), weights(8, 64, seed=6))
    assert kept() == count
    for other in (weights(8, 64, layout="tiled"), weights(8, 64, scale=1.0), weights(9, 64)):
        nvfp4.gemm(a, other)
        count += 1
        assert kept() == count


def test_prepared_calls_do_not_grow_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "_LIMIT", 4)
    for n in range(1, 12):
        nvfp4.gemm(weights(1, 16), weights(n, 16))
        assert 1 <= kept() <= 4


def test_calls_from_many_threads_agree() -> None:
    from concurrent.futures import ThreadPoolExecutor

    a = [weights(m, 64, seed=m) for m in range(1, 9)]
    b = weights(20, 64)
    expected = [nvfp4.gemm(x, b) for x in a]
    _dispatch.clear()
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: nvfp4.gemm(a[i % 8], b), range(160)))
    assert all(torch.equal(result, expected[i % 8]) for i, result in enumerate(results))
