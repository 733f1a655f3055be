import pytest
import torch

from nvfp4 import reference
from nvfp4.errors import InputError

from .samples import activation, check, integers, operand

DTYPES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_vector(dtype: torch.dtype) -> None:
    a, x = operand(9, 64, tensor_scale=0.5), activation(64, dtype=dtype)
    got = reference.gemv(a, x)
    assert got.value.shape == (9,)
    check(got.reshape(1, 9), integers(x[None]), integers(a), bits=100)


@pytest.mark.parametrize("layout", ["linear", "tiled"])
def test_vectors_of_one_matrix(layout: str) -> None:
    a, x = operand(9, 64, layout=layout), operand(3, 64, seed=1, layout=layout)
    check(reference.gemv(a, x), integers(x), integers(a))
    dense = activation(16, 64, dtype=torch.float16)
    check(reference.gemv(a, dense), integers(dense), integers(a))


@pytest.mark.parametrize("layout", ["linear", "tiled"])
def test_one_vector_for_each_matrix(layout: str) -> None:
    scales = torch.tensor([1.0, 2.0, 0.5])
    a = operand(3, 9, 64, layout=layout, tensor_scale=scales)
    x = operand(3, 64, seed=1, layout=layout, tensor_scale=4.0)
    dense = activation(3, 64, dtype=torch.bfloat16)
    got, got_dense = reference.gemv(a, x), reference.gemv(a, dense)
    assert got.value.shape == got_dense.value.shape == (3, 9)
    linear = x.to_layout("linear")
    for i in range(3):
        check(reference.gemv(a[i], linear[i]), integers(linear[i]), integers(a[i]))
        assert torch.equal(got.value[i], reference.gemv(a[i], linear[i]).value[0])
        assert torch.equal(got_dense.value[i], reference.gemv(a[i], dense[i]).value)


def test_vectors_of_each_matrix() -> None:
    a, x = operand(2, 9, 64), operand(2, 4, 64, seed=1)
    got = reference.gemv(a, x)
    assert got.value.shape == (2, 4, 9)
    for i in range(2):
        check(reference.gemv(a[i], x[i]), integers(x[i]), integers(a[i]))
        assert torch.equal(got.value[i], reference.gemv(a[i], x[i]).value)


def test_shapes_are_checked() -> None:
    one, batch = operand(4, 32), operand(2, 4, 32)
    half = torch.zeros(1, dtype=torch.float16)
    with pytest.raises(InputError, match="one matrix"):
        reference.gemv(one, batch)
    with pytest.raises(InputError, match="batch of 2"):
        reference.gemv(batch, half.expand(32))
    with pytest.raises(InputError, match="batch of 2"):
        reference.gemv(batch, half.expand(3, 32))
    with pytest.raises(InputError, match="equal K"):
        reference.gemv(one, half.expand(48))
