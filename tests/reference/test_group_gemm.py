import pytest
import torch

from nvfp4 import reference
from nvfp4.errors import InputError

from .samples import activation, check, integers, operand


def test_lists() -> None:
    sizes = [(4, 5, 32), (0, 3, 16), (7, 2, 64)]
    a = [operand(m, k, seed=i, layout="tiled") for i, (m, _, k) in enumerate(sizes)]
    b = [operand(n, k, seed=9 + i) for i, (_, n, k) in enumerate(sizes)]
    got = reference.group_gemm(a, b)
    assert [tuple(part.value.shape) for part in got] == [(4, 5), (0, 3), (7, 2)]
    for part, ai, bi in zip(got, a, b, strict=True):
        check(part, integers(ai), integers(bi))
    assert reference.group_gemm([], []) == []


@pytest.mark.parametrize("layout", ["linear", "tiled"])
@pytest.mark.parametrize("ends", [[3, 3, 10], [0, 0, 0], [12, 12, 12], [1, 5, 12]])
def test_stacked(ends: list[int], layout: str) -> None:
    a = operand(12, 32, layout=layout, tensor_scale=2.0)
    b = operand(3, 5, 32, seed=1, layout=layout, tensor_scale=torch.tensor([1.0, 0.5, 4.0]))
    got = reference.group_gemm(a, b, offsets=torch.tensor(ends, dtype=torch.int32))
    assert got.value.shape == (12, 5)
    linear, start = a.to_layout("linear"), 0
    for group, end in enumerate(ends):
        part = reference.gemm(linear[start:end], b[group])
        check(part, integers(linear[start:end]), integers(b[group]))
        assert torch.equal(got.value[start:end], part.value)
        assert torch.equal(got.magnitude[start:end], part.magnitude)
        start = end
    assert not got.value[start:].any()


def test_stacked_activations() -> None:
    a, b = activation(6, 32, dtype=torch.bfloat16), operand(2, 5, 32)
    got = reference.group_gemm(a, b, offsets=torch.tensor([2, 6], dtype=torch.int32))
    assert torch.equal(got.value[:2], reference.gemm(a[:2], b[0]).value)
    assert torch.equal(got.value[2:], reference.gemm(a[2:], b[1]).value)


@pytest.mark.parametrize("layout", ["linear", "tiled"])
def test_rows(layout: str) -> None:
    a, b = operand(130, 32, layout=layout, tensor_scale=2.0), operand(2, 5, 32)
    rows = torch.tensor([129, 3, 3, 0, 64, -7], dtype=torch.int32)  # the last is of no group
    got = reference.group_gemm(a, b, offsets=torch.tensor([2, 5]), rows=rows)
    assert got.value.shape == (6, 5)
    linear = a.to_layout("linear")
    for i, row in enumerate(rows[:5].tolist()):
        part = reference.gemm(linear[row : row + 1], b[int(i >= 2)])
        assert torch.equal(got.value[i : i + 1], part.value)
        assert torch.equal(got.magnitude[i : i + 1], part.magnitude)
    assert not got.value[5].any()
    with pytest.raises(InputError, match=r"rows of a, 0 to 129.*-7"):
        reference.group_gemm(a, b, offsets=torch.tensor([2, 6]), rows=rows)


def test_rows_of_activations() -> None:
    a, b, rows = activation(6, 32, dtype=torch.bfloat16), operand(2, 5, 32), torch.tensor([5, 0, 5, 2])
    got = reference.group_gemm(a, b, offsets=torch.tensor([1, 4]), rows=rows)
    assert torch.equal(got.value[1:], reference.gemm(a[rows[1:]], b[1]).value)
    dual = reference.group_dual_gemm(a, b, b, offsets=torch.tensor([1, 4]), rows=rows)
    assert torch.equal(dual.value[1:], reference.dual_gemm(a[rows[1:]], b[1], b[1]).value)


def test_wrong_arguments() -> None:
    a, b = operand(6, 32), operand(2, 5, 32)
    with pytest.raises(InputError, match="need offsets"):
        reference.group_gemm(a, b)
    with pytest.raises(InputError, match="each of 2 groups"):
        reference.group_gemm(a, b, offsets=torch.tensor([6]))
    for ends in ([4, 2], [3, 7], [-1, 6]):
        with pytest.raises(InputError, match="ascending"):
            reference.group_gemm(a, b, offsets=torch.tensor(ends))
    with pytest.raises(InputError, match="1 groups"):
        reference.group_gemm([a], [])
    with pytest.raises(InputError, match="one form"):
        reference.group_gemm([a], [b[0]], offsets=torch.tensor([6]))
    with pytest.raises(InputError, match="one form"):
        reference.group_gemm([a], [b[0]], rows=torch.tensor([6]))  # type: ignore[call-overload]
