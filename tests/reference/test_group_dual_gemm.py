import pytest
import torch

from nvfp4 import reference
from nvfp4.errors import InputError

from .samples import activation, check, integers, operand


def test_lists() -> None:
    sizes = [(4, 5, 32), (0, 3, 16), (7, 2, 64)]
    a = [operand(m, k, seed=i, layout="tiled") for i, (m, _, k) in enumerate(sizes)]
    b1, b2 = ([operand(n, k, seed=seed + i) for i, (_, n, k) in enumerate(sizes)] for seed in (9, 19))
    got = reference.group_dual_gemm(a, b1, b2)
    assert [tuple(part.value.shape) for part in got] == [(4, 5), (0, 3), (7, 2)]
    for part, x, gate, up in zip(got, a, b1, b2, strict=True):
        check(part.gate, integers(x), integers(gate))
        check(part.up, integers(x), integers(up))
        assert torch.equal(part.value, reference.dual_gemm(x, gate, up).value)
    assert reference.group_dual_gemm([], [], []) == []


@pytest.mark.parametrize("ends", [[3, 3, 10], [0, 0, 0], [12, 12, 12], [1, 5, 12]])
def test_stacked(ends: list[int]) -> None:
    a = activation(12, 32, dtype=torch.bfloat16)
    b1 = operand(3, 5, 32, seed=1, low=0x20, high=0x28, tensor_scale=torch.tensor([1.0, 0.5, 4.0]))
    b2 = operand(3, 5, 32, seed=2, low=0x20, high=0x28, tensor_scale=torch.tensor([2.0, 0.25, 1.0]))
    got = reference.group_dual_gemm(a, b1, b2, offsets=torch.tensor(ends, dtype=torch.int32))
    assert got.value.shape == (12, 5)
    start = 0
    for group, end in enumerate(ends):
        part = reference.dual_gemm(a[start:end], b1[group], b2[group])
        assert torch.equal(got.value[start:end], part.value)
        assert torch.equal(got.gate.value[start:end], part.gate.value)
        assert torch.equal(got.up.magnitude[start:end], part.up.magnitude)
        start = end
    assert not got.value[start:].any()


def test_wrong_arguments() -> None:
    a, b = operand(6, 32), operand(2, 5, 32)
    offsets = torch.tensor([2, 6])
    with pytest.raises(InputError, match="need offsets"):
        reference.group_dual_gemm(a, b, b)  # type: ignore[call-overload]
    with pytest.raises(InputError, match="the form of b1"):
        reference.group_dual_gemm(a, b, [b[0]], offsets=offsets)  # type: ignore[call-overload]
    with pytest.raises(InputError, match="the shape of b1"):
        reference.group_dual_gemm(a, b, operand(2, 4, 32), offsets=offsets)
    with pytest.raises(InputError, match="the shape of b1"):
        reference.group_dual_gemm([a], [b[0]], [operand(4, 32)])
    with pytest.raises(InputError, match="groups"):
        reference.group_dual_gemm([a, a], [b[0], b[0]], [b[0]])
