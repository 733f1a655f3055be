"""The tensors of a call as a flat list, for backends whose work is Launches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from nvfp4 import executors
from nvfp4.backends.base import Operand, Operands
from nvfp4.executors.launch import Launch, Pointer
from nvfp4.executors.program import Program, aliased
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


def flatten(operands: Operands) -> list[torch.Tensor | None]:
    """All tensors of a call: three of each operand as in `Parts`, the results, and the offsets if it has some."""
    tensors: list[torch.Tensor | None] = []
    for operand in operands.a + operands.b:
        part = parts(operand)
        tensors += (part.data, part.scales, part.tensor_scale)
    tensors += operands.out
    if operands.offsets is not None:
        tensors.append(operands.offsets)
    return tensors


def addresses(operands: Operands) -> list[int]:
    """The addresses of `flatten`, 0 for None; written out, because every call on a GPU does this."""
    found: list[int] = []
    for x in operands.a + operands.b:
        if isinstance(x, NVFP4Tensor):
            scale = x.tensor_scale
            found += (x.codes.data_ptr(), x.scales.data_ptr(), 0 if scale is None else scale.data_ptr())
        else:
            found += (x.data_ptr(), 0, 0)
    for out in operands.out:
        found.append(out.data_ptr())
    if operands.offsets is not None:
        found.append(operands.offsets.data_ptr())
    return found


def repeated(
    build: Callable[[Operands, Sequence[torch.Tensor]], Sequence[Launch]],
    scratch: Callable[[Operands], Sequence[torch.Tensor]] | None = None,
) -> Callable[[Operands], None]:
    """A computation that builds its launches at the first call, and from then on only passes addresses.

    Args:
        build: Gives the launches for some operands and the tensors of `scratch`. All calls have operands of the same
            shapes, formats, device and number of tensor scales, contiguous and 16-byte aligned. On the CPU the
            launches are built, and run in the emulator, at every call.
        scratch: Memory that the launches need beside the operands. Called for every call: what torch allocates belongs
            to the current queue or graph, so that calls in several queues do not share it.
    """
    program: Program | None = None

    def run(operands: Operands) -> None:
        nonlocal program
        extra = scratch(operands) if scratch is not None else ()
        if program is not None:
            program([*addresses(operands), *(tensor.data_ptr() for tensor in extra)] if extra else addresses(operands))
            return
        launches = build(operands, extra)
        executor = executors.choose(operands.out[0].device)
        tensors = [*flatten(operands), *extra]
        if executor.name == "driver" and not aliased(tensors):
            program = Program(launches, tensors)
            program([0 if tensor is None else tensor.data_ptr() for tensor in tensors])
        else:  # The CPU; or such as gemm(a, a), which is right, but tells nothing about other operands.
            executor.run(launches)

    return run
