import math

import pytest
import torch

from nvfp4 import reference
from nvfp4.errors import InputError
from nvfp4.reference.dual_gemm import silu

from .samples import activation, check, integers, operand


def small(rows: int, k: int, seed: int) -> torch.Tensor:
    """Operands whose products stay where SiLU is interesting."""
    return operand(rows, k, seed=seed, low=0x20, high=0x28, layout="tiled")


def test_value_and_both_products() -> None:
    a, b1, b2 = small(5, 64, 0), small(6, 64, 1), small(6, 64, 2)
    got = reference.dual_gemm(a, b1, b2)
    check(got.gate, integers(a), integers(b1))
    check(got.up, integers(a), integers(b2))
    for i in range(5):
        for j in range(6):
            gate, up = float(got.gate.value[i, j]), float(got.up.value[i, j])
            assert float(got.value[i, j]) == pytest.approx(gate / (1 + math.exp(-gate)) * up, rel=1e-14)
    assert got.rounded(torch.float16).dtype == torch.float16


def test_activations_and_gate_order() -> None:
    a, b1, b2 = activation(3, 32, dtype=torch.float16), small(4, 32, 1), small(4, 32, 2)
    got, swapped = reference.dual_gemm(a, b1, b2), reference.dual_gemm(a, b2, b1)
    assert torch.equal(got.gate.value, swapped.up.value)
    assert not torch.equal(got.value, swapped.value)


def test_silu_far_out() -> None:
    x = torch.tensor([-1e4, -800.0, -30.0, 0.0, 30.0, 1e4], dtype=torch.float64)
    got = silu(x)
    assert bool(torch.isfinite(got).all())
    assert got[0] == 0
    assert got[-1] == 1e4
    assert got[2].item() == pytest.approx(-30 * math.exp(-30), rel=1e-12)


def test_error_bounds_what_errors_of_the_products_can_do() -> None:
    got = reference.dual_gemm(small(8, 64, 0), small(9, 64, 1), small(9, 64, 2))
    generator = torch.Generator().manual_seed(3)
    for size in (1e-6, 1e-2, 3.0):
        bound = torch.full_like(got.value, size)
        allowed = got.error(bound, 2 * bound)
        for _ in range(50):
            gate = got.gate.value + size * (2 * torch.rand(bound.shape, generator=generator, dtype=torch.float64) - 1)
            up = got.up.value + 2 * size * (2 * torch.rand(bound.shape, generator=generator, dtype=torch.float64) - 1)
            assert bool(((silu(gate) * up - got.value).abs() <= allowed * (1 + 1e-9)).all())
        assert bool((allowed <= 8 * (size + size * size) * (1 + got.gate.value.abs() + got.up.value.abs())).all())


def test_shapes_are_checked() -> None:
    with pytest.raises(InputError, match="b2"):
        reference.dual_gemm(small(4, 32, 0), small(4, 32, 1), small(5, 32, 2))
