"""The tensors of a call as a flat list, for backends whose work is Launches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nvfp4 import executors
from nvfp4.backends.base import Operand, Operands, Repeating, Steady
from nvfp4.executors.launch import Launch, Pointer
from nvfp4.executors.program import Program, aliased
from nvfp4.executors.scratch import Scratch
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

    return Operands(fix(operands.a), fix(operands.b), operands.out, operands.offsets, operands.bias, operands.rows)


def _is_aligned(x: torch.Tensor) -> bool:
    return x.is_contiguous() and x.data_ptr() % _ALIGNMENT == 0


def _copy(x: torch.Tensor) -> torch.Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device).copy_(x)


def flatten(operands: Operands) -> list[torch.Tensor | None]:
    """All tensors of a call: of each side the data, the scales, the tensor scales; the results; then what there is of
    offsets, bias and rows.

    Each kind lies together, because kernels take the groups of a list as arrays.
    """
    tensors: list[torch.Tensor | None] = []
    for side in (operands.a, operands.b):
        taken = [parts(operand) for operand in side]
        tensors += [part.data for part in taken]
        tensors += [part.scales for part in taken]
        tensors += [part.tensor_scale for part in taken]
    tensors += operands.out
    if operands.offsets is not None:
        tensors.append(operands.offsets)
    if operands.bias is not None:
        tensors.append(operands.bias)
    if operands.rows is not None:
        tensors.append(operands.rows)
    return tensors


def addresses(operands: Operands) -> list[int]:
    """The addresses of `flatten`, 0 for None; written out, because every eager call does this."""
    a, b, out = operands.a, operands.b, operands.out
    first, second = a[0], b[0]
    # A tensor is nothing else: to ask a tensor whether it is something else takes as long as three addresses.
    if len(a) > 1:
        found = _of_groups(a)
    elif type(first) is torch.Tensor or not isinstance(first, NVFP4Tensor):
        found = [first.data_ptr(), 0, 0]
    else:
        scale = first.tensor_scale
        found = [first.codes.data_ptr(), first.scales.data_ptr(), 0 if scale is None else scale.data_ptr()]
    if len(b) > 1:
        found += _of_groups(b)
    elif type(second) is torch.Tensor or not isinstance(second, NVFP4Tensor):
        found += (second.data_ptr(), 0, 0)
    else:
        scale = second.tensor_scale
        found += (second.codes.data_ptr(), second.scales.data_ptr(), 0 if scale is None else scale.data_ptr())
    if len(out) == 1:
        found.append(out[0].data_ptr())
    else:
        found += [each.data_ptr() for each in out]
    if operands.offsets is not None:
        found.append(operands.offsets.data_ptr())
    if operands.bias is not None:
        found.append(operands.bias.data_ptr())
    if operands.rows is not None:
        found.append(operands.rows.data_ptr())
    return found


def _of_groups(side: tuple[Any, ...]) -> list[int]:
    """The addresses of all data, then of all scales, then of all tensor scales."""
    nothing = [0] * len(side)
    # All of a side have one format.
    first = side[0]
    if not isinstance(first, NVFP4Tensor):
        return [*[x.data_ptr() for x in side], *nothing, *nothing]
    found = [x.codes.data_ptr() for x in side]
    found += [x.scales.data_ptr() for x in side]
    found += nothing if first.tensor_scale is None else [x.tensor_scale.data_ptr() for x in side]
    return found


Addresses = Callable[[Operands], Sequence[int]]


def addresses_like(operands: Operands) -> Addresses:
    """`addresses` for operands of the same formats, of which the same are there: two thirds of the time."""
    if len(operands.out) > 1:
        return addresses
    sides = [[parts(operand) for operand in side] for side in (operands.a, operands.b)]
    formats = [tuple([(x.scales is not None, x.tensor_scale is not None) for x in side]) for side in sides]
    return _written(*formats, *[x is not None for x in (operands.offsets, operands.bias, operands.rows)])


_Formats = tuple[tuple[bool, bool], ...]
"""For each operand of a side, whether it is an NVFP4Tensor, and whether it has a tensor scale."""


@functools.cache
def _written(a: _Formats, b: _Formats, offsets: bool, bias: bool, rows: bool) -> Addresses:
    """`addresses_like`, as source; the last three are whether there are such."""
    names = [f"a{i}" for i in range(len(a))], [f"b{i}" for i in range(len(b))]
    found = []
    for side, formats in zip(names, (a, b), strict=True):
        kinds = list(zip(side, formats, strict=True))
        found += [f"{x}.codes.data_ptr()" if nvfp4 else f"{x}.data_ptr()" for x, (nvfp4, _) in kinds]
        found += [f"{x}.scales.data_ptr()" if nvfp4 else "0" for x, (nvfp4, _) in kinds]
        found += [f"{x}.tensor_scale.data_ptr()" if scaled else "0" for x, (_, scaled) in kinds]
    found.append("operands.out[0].data_ptr()")
    after = (("offsets", offsets), ("bias", bias), ("rows", rows))
    found += [f"operands.{name}.data_ptr()" for name, there in after if there]
    return defined(
        "addresses",
        "def addresses(operands):",
        *[f" {', '.join(side)}, = operands.{name}" for side, name in zip(names, "ab", strict=True)],
        f" return ({', '.join(found)})",
    )


def defined(name: str, *lines: str) -> Callable[..., Any]:
    """The function `name` of a source, which has for each argument what a loop over arguments would do."""
    made: dict[str, Any] = {}
    exec("\n".join(lines), made)
    function: Callable[..., Any] = made[name]
    return function


_Build = Callable[[Operands, Sequence[torch.Tensor]], Sequence[Launch]]


def repeated(build: _Build, scratch: Callable[[Operands], Scratch | None] | None = None) -> Repeating:
    """A computation that builds its launches at the first call, and from then on only passes addresses.

    Args:
        build: Gives the launches for some operands and the tensors of `scratch`. All calls have operands of the same
            shapes, formats, device and number of tensor scales, contiguous and 16-byte aligned. On the CPU the
            launches are built, and run in the emulator, at every call.
        scratch: Memory that the launches need beside the operands, the same for all calls; None where they need none.
    """
    return _Repeated(build, scratch)


class _Repeated:
    """See `repeated`."""

    __slots__ = ("_addresses", "_build", "_program", "_scratch")

    def __init__(self, build: _Build, scratch: Callable[[Operands], Scratch | None] | None) -> None:
        self._build, self._scratch = build, scratch
        self._program: Program | None = None
        self._addresses: Addresses = addresses

    def __call__(self, operands: Operands) -> None:
        program = self._program
        if program is not None:
            program.run(operands.addresses or self._addresses(operands))
            return
        device = operands.out[0].device
        needed = self._scratch(operands) if self._scratch is not None else None
        extra = needed.allocate(device) if needed is not None else ()
        launches = self._build(operands, extra)
        executor = executors.choose(device)
        tensors = flatten(operands)
        if executor.name == "driver" and not aliased(tensors):
            self._addresses = addresses_like(operands)
            self._program = Program(launches, tensors, needed, extra)
            self._program.run(addresses(operands))
        else:  # The CPU; or such as gemm(a, a), which is right, but tells nothing about other operands.
            executor.run(launches)

    def again(self, tensors: Sequence[Any], addresses: Sequence[int]) -> bool:
        """See `Repeating`."""
        program = self._program
        if program is None:
            return False
        program.run(addresses)
        return True

    def steady(self, tensors: Sequence[Any]) -> Steady | None:
        """See `Repeating`."""
        return None if self._program is None else Steady(self._program.run)
