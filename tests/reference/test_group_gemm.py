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
