"""A bundle's kernels in the emulator: the bundle's own sources, compiled by the bundle to PTX, on CPU tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch

from nvfp4 import emulator
from nvfp4.errors import InputError
from nvfp4.executors import emulated
from nvfp4.executors.launch import (
    Argument,
    Kernel,
    Launch,
    Pointer,
    PointerArray,
    ScalarArray,
    TensorMap,
    TensorMapArray,
)


def _at(tensors: Sequence[torch.Tensor], place: tuple[int, int] | None) -> torch.Tensor | None:
    """The memory that a place of the bundle names (see ``runtime.py``)."""
    if place is None:
        return None
    number, offset = place
    tensor = tensors[number]
    if offset == 0:
        return tensor
    flat = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    start = tensor.storage_offset() * tensor.element_size() + offset
    return flat[start:]


def _map(tensors: Sequence[torch.Tensor], description: Any) -> TensorMap:
    (number, offset), dtype, shape, strides, box, steps, swizzle, promotion, nan_fill = description
    return TensorMap(
        tensors[number],
        dtype,
        shape,
        strides,
        box,
        steps,
        swizzle=swizzle,
        l2_promotion=promotion,
        nan_fill=nan_fill,
        offset=offset,
    )


def _argument(tensors: Sequence[torch.Tensor], argument: Any) -> Argument:
    kind, *rest = argument
    if kind == "p":
        return Pointer(_at(tensors, rest[0]))
    if kind == "ps":
        return PointerArray(tuple(_at(tensors, place) for place in rest[1]), rest[0])
    if kind == "s":
        return ScalarArray(*rest)
    return TensorMapArray(tuple(_map(tensors, description) for description in rest[1]), rest[0])


def executor(module: ModuleType) -> Callable[[list[Any], list[torch.Tensor]], None]:
    """What runs the steps of the bundle `module` in the emulator, with every check."""

    @functools.cache
    def compiled(name: str) -> emulator.Module:
        code: bytes = module.compile_kernel(name, "ptx")
        return emulator.Module(code.rstrip(b"\0"), allow_unsupported=True)

    def run(steps: list[Any], tensors: list[torch.Tensor]) -> None:
        for step in steps:
            _, name, grid, block, cluster, shared_bytes, programmatic, arguments = step
            source, entry, constants = module.KERNELS[name]
            kernel = Kernel(source, entry, tuple(constants.items()), module.ARCH)
            args = tuple(_argument(tensors, argument) for argument in arguments)
            launch = Launch(kernel, grid, block, args, cluster, shared_bytes, programmatic)
            emulated.run_in(compiled(name), launch)

    return run


def attach(module: ModuleType) -> None:
    """Make the bundle `module` run in the emulator.

    Raises:
        InputError: It is no bundle of ours.
    """
    if not hasattr(module, "EXECUTOR") or not hasattr(module, "compile_kernel"):
        remedy = "Only bundles made by `nvfp4 contest bundle` can be emulated; evaluate others on a GPU."
        raise InputError("contest eval", "--emulate", "a bundle of ours", "another submission", remedy)
    module.__dict__["EXECUTOR"] = executor(module)
