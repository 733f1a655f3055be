"""The tensors of a call as a flat list, for backends whose work is Launches."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nvfp4.backends.base import Operand, Operands
from nvfp4.executors.launch import Pointer
from nvfp4.tensor import NVFP4Tensor

_ALIGNMENT = 16


@dataclass(frozen=True, eq=False)
class Parts:
    """One operand as kernels take it.

    Attributes:
        data: Codes, or activations.
        scales: Block scales; None for activations.
        tensor_scale: None when there is none.
        tensor_stride: 1 when `tensor_scale` has a value for each matrix, 0 when one serves all.
    """

    data: torch.Tensor
    scales: torch.Tensor | None
    tensor_scale: torch.Tensor | None
    tensor_stride: int

    def pointers(self) -> tuple[Pointer, Pointer, Pointer]:
        """Addresses of data, scales and tensor scale."""
        return Pointer(self.data), Pointer(self.scales), Pointer(self.tensor_scale)


def parts(operand: Operand) -> Parts:
    """`operand` taken apart. Nothing is copied."""
    if isinstance(operand, NVFP4Tensor):
        scale = operand.tensor_scale
        return Parts(operand.codes, operand.scales, scale, 1 if scale is not None and scale.dim() else 0)
    return Parts(operand, None, None, 0)


def aligned(operands: Operands) -> Operands:
    """`operands` with activations contiguous and 16-byte aligned, which kernels rely on; copies those that are not.

    Codes and scales of an NVFP4Tensor always are.
    """
    activations = operands.a + operands.b
    if all(isinstance(x, NVFP4Tensor) or _is_aligned(x) for x in activations):
        return operands

    def fix(values: tuple[Operand, ...]) -> tuple[Operand, ...]:
        return tuple(x if isinstance(x, NVFP4Tensor) or _is_aligned(x) else _copy(x) for x in values)

    return Operands(fix(operands.a), fix(operands.b), operands.out, operands.offsets)


def _is_aligned(x: torch.Tensor) -> bool:
    return x.is_contiguous() and x.data_ptr() % _ALIGNMENT == 0


def _copy(x: torch.Tensor) -> torch.Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device).copy_(x)


def flatten(operands: Operands) -> tuple[list[torch.Tensor | None], tuple[int, ...]]:
    """All tensors of a call in a fixed order, and what decides launches beside the Problem: strides of tensor scales."""
    tensors: list[torch.Tensor | None] = []
    strides: list[int] = []
    for operand in operands.a + operands.b:
        if isinstance(operand, NVFP4Tensor):
            scale = operand.tensor_scale
            tensors += (operand.codes, operand.scales, scale)
            strides.append(scale.dim() if scale is not None else 0)
        else:
            tensors.append(operand)
    tensors += operands.out
    tensors.append(operands.offsets)
    return tensors, tuple(strides)
