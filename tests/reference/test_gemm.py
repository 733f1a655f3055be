import pytest
import torch

from nvfp4 import reference
from nvfp4.errors import InputError

from .samples import activation, check, integers, operand


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 16), (5, 7, 48), (130, 3, 64)])
@pytest.mark.parametrize("layout", ["linear", "tiled"])
def test_one_matrix(m: int, n: int, k: int, layout: str) -> None:
    a, b = operand(m, k, layout=layout), operand(n, k, seed=1, layout=layout)
    check(reference.gemm(a, b), integers(a), integers(b))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_activations(dtype: torch.dtype) -> None:
    a, b = activation(4, 64, dtype=dtype), operand(5, 64)
    check(reference.gemm(a, b), integers(a), integers(b))


def test_batches_with_a_scale_for_each_matrix() -> None:
    a = operand(3, 4, 32, tensor_scale=torch.tensor([0.5, 1.0, 3.0]))
    b = operand(3, 5, 32, seed=1, tensor_scale=2.0, layout="tiled")
    got = reference.gemm(a, b)
    assert got.value.shape == (3, 4, 5)
    for i in range(3):
        part = reference.gemm(a[i], b[i])
        check(part, integers(a[i]), integers(b[i]))
        assert torch.equal(got.value[i], part.value)
        assert torch.equal(got.magnitude[i], part.magnitude)
        assert torch.equal(got.sums_exact[i], part.sums_exact)
    dense = activation(3, 4, 32, dtype=torch.float16)
    assert torch.equal(reference.gemm(dense, b).value[2], reference.gemm(dense[2], b[2]).value)


def test_empty() -> None:
    assert reference.gemm(operand(0, 32), operand(4, 32)).value.shape == (0, 4)
    assert reference.gemm(operand(0, 2, 32), operand(0, 4, 32)).value.shape == (0, 2, 4)


def test_shapes_are_checked() -> None:
    for a, b in (((2, 32), (3, 2, 32)), ((2, 3, 32), (3, 3, 32)), ((2, 32), (2, 48))):
        with pytest.raises(InputError):
            reference.gemm(operand(*a), operand(*b))
