"""Grouped dual GEMM, exact: silu(A B1^T) * (A B2^T) for each group, as lists or with the ends of stacked groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, overload

import torch

from nvfp4.errors import InputError
from nvfp4.reference.dual_gemm import ExactDual, joined
from nvfp4.reference.exact import Exact, Operand
from nvfp4.reference.group_gemm import group_gemm
from nvfp4.tensor import NVFP4Tensor

_OP = "reference.group_dual_gemm"


@overload
def group_dual_gemm(
    a: Operand, b1: NVFP4Tensor, b2: NVFP4Tensor, *, offsets: torch.Tensor, rows: torch.Tensor | None = None
) -> ExactDual: ...


@overload
def group_dual_gemm(
    a: Sequence[Operand],
    b1: Sequence[NVFP4Tensor],
    b2: Sequence[NVFP4Tensor],
    *,
    offsets: None = None,
    rows: None = None,
) -> list[ExactDual]: ...


def group_dual_gemm(
    a: Operand | Sequence[Operand],
    b1: NVFP4Tensor | Sequence[NVFP4Tensor],
    b2: NVFP4Tensor | Sequence[NVFP4Tensor],
    *,
    offsets: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
) -> ExactDual | list[ExactDual]:
    """``silu(a_i @ b1_i.T) * (a_i @ b2_i.T)`` for every group, SiLU in float64.

    The forms are those of `group_gemm`: lists, or `a` [T, K] with NVFP4 `b1`, `b2` [G, N, K] and `offsets` int32 [G],
    whose one result has zeros in the rows beyond the last end; with `rows` int32 [T], `a` is [R, K].

    Raises:
        InputError: The forms are mixed, or lengths or shapes do not fit.
    """
    if isinstance(b1, NVFP4Tensor) != isinstance(b2, NVFP4Tensor):
        raise InputError(_OP, "b2", "the form of b1", type(b2).__name__, "Pass two lists, or two stacked tensors.")
    # group_gemm tells mixed forms apart.
    gate, up = (cast("Any", group_gemm)(a, b, offsets=offsets, rows=rows) for b in (b1, b2))
    if isinstance(gate, Exact):
        _equal(gate, up)
        return joined(gate, up)
    if len(gate) != len(up):
        raise InputError(_OP, "b2", f"{len(gate)} groups, as b1", f"{len(up)} groups", "Pass one for each group.")
    for one, other in zip(gate, up, strict=True):
        _equal(one, other)
    return [joined(one, other) for one, other in zip(gate, up, strict=True)]


def _equal(gate: Exact, up: Exact) -> None:
    if gate.value.shape != up.value.shape:
        got = f"products {tuple(gate.value.shape)} and {tuple(up.value.shape)}"
        raise InputError(_OP, "b2", "the shape of b1", got, "Pass two equal shapes.")
