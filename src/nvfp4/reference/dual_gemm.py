"""Fused dual GEMM, exact: silu(A B1^T) * (A B2^T)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nvfp4 import formats
from nvfp4.errors import InputError
from nvfp4.reference.exact import Exact, Operand
from nvfp4.reference.gemm import gemm
from nvfp4.tensor import NVFP4Tensor


@dataclass(frozen=True, eq=False)
class ExactDual:
    """The result of a dual GEMM and its two exact products.

    Attributes:
        value: float64 [M, N], silu(gate) * up; each element within a few 2^-53 of the true value, relatively.
        gate: A B1^T, exact.
        up: A B2^T, exact.
    """

    value: torch.Tensor
    gate: Exact
    up: Exact

    def rounded(self, dtype: torch.dtype) -> torch.Tensor:
        """`value` rounded once, to nearest even."""
        return formats.round_once(self.value, dtype)

    def error(self, gate_error: torch.Tensor, up_error: torch.Tensor) -> torch.Tensor:
        """How far silu(gate') * up' can be from `value` when gate' and up' are off by at most these: [M, N].

        ``|silu(g') - silu(g)| <= 1.1 |g' - g|``, because the derivative of SiLU lies within (-0.1, 1.1).
        """
        moved = 1.1 * gate_error
        return silu(self.gate.value).abs() * up_error + self.up.value.abs() * moved + moved * up_error


def silu(x: torch.Tensor) -> torch.Tensor:
    """x / (1 + exp(-x)), in the type of x."""
    return x / (1.0 + torch.exp(-x))


def dual_gemm(a: Operand, b1: NVFP4Tensor, b2: NVFP4Tensor) -> ExactDual:
    """``silu(a @ b1.T) * (a @ b2.T)``, SiLU in float64.

    Args:
        a: [M, K], NVFP4, float16 or bfloat16.
        b1, b2: [N, K], NVFP4.

    Raises:
        InputError: The shapes do not fit.
    """
    if tuple(b1.shape) != tuple(b2.shape):
        raise InputError(
            "reference.dual_gemm", "b2", f"the shape of b1, {b1.shape}", b2.shape, "Pass two equal shapes."
        )
    return joined(gemm(a, b1), gemm(a, b2))


def joined(gate: Exact, up: Exact) -> ExactDual:
    """silu(gate) * up of two exact products."""
    return ExactDual(silu(gate.value) * up.value, gate, up)
