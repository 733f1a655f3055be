import pytest
import torch

from nvfp4 import reference
from nvfp4.errors import InputError
from nvfp4.tensor import NVFP4Tensor

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


def test_a_bias() -> None:
    a = NVFP4Tensor(torch.full((3, 8), 0x22, dtype=torch.uint8), torch.full((3, 1), 0x38, dtype=torch.uint8))  # ones
    x = torch.stack([torch.ones(16), torch.zeros(16)]).half()
    got = reference.gemv(a, x, torch.tensor([-16.0, 0.125, 2.0**-60]))
    assert got.value.tolist() == [[0.0, 16.125, 16.0], [-16.0, 0.125, 2.0**-60]]
    assert got.residual.tolist() == [[0.0, 0.0, 2.0**-60], [0.0, 0.0, 0.0]]
    assert got.magnitude.tolist() == [[32.0, 16.125, 16 + 2.0**-60], [16.0, 0.125, 2.0**-60]]
    # One sum is rounded when fp32 adds the bias to it.
    assert got.sums_exact.tolist() == [[True, True, False], [True, True, True]]
