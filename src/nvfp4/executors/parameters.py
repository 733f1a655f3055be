"""Kernel parameters as bytes: where each argument of a Launch lies, and which parts are addresses.

Each `Argument` is a kernel parameter of its own; the driver is given the address of each (``kernelParams``), so they
may lie in any order, and a parameter that launches have in common may lie in one place for all of them. `share` finds
such places: then one assignment writes all addresses that change from call to call.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from nvfp4.errors import InputError
from nvfp4.executors.launch import (
    Argument,
    Pointer,
    PointerArray,
    Scalar,
    ScalarArray,
    TensorMap,
    TensorMapArray,
)

_CODES = {"i32": "i", "u32": "I", "i64": "q", "u64": "Q", "f32": "f"}

TENSOR_MAP_BYTES = 128
TENSOR_MAP_ALIGNMENT = 64


@dataclass(frozen=True)
class MapSlot:
    """A tensor map among the parameters.

    Attributes:
        offset: Where its 128 bytes lie in the block.
        map: What to encode; its tensor only says where the memory was when the launch was prepared.
    """

    offset: int
    map: TensorMap


@dataclass(frozen=True)
class AddressRun:
    """A parameter that holds addresses.

    Attributes:
        parameter: Its position in the kernel's signature.
        count: Addresses.
        capacity: Addresses that there is room for; those beyond `count` are null.
    """

    parameter: int
    count: int
    capacity: int


@dataclass(frozen=True)
class ParameterBlock:
    """The parameters of a launch.

    Attributes:
        data: The block, with scalars filled in, and zeros for addresses and tensor maps.
        offsets: Where each parameter starts, in the order of the kernel's signature.
        runs: The parameters that hold addresses.
        maps: The tensor maps.
    """

    data: bytes
    offsets: tuple[int, ...]
    runs: tuple[AddressRun, ...]
    maps: tuple[MapSlot, ...]


def pack_scalars(ctype: str, values: tuple[int | float, ...], capacity: int) -> bytes:
    """`values` as C numbers of `ctype`, padded with zeros to `capacity`.

    Raises:
        InputError: Unknown type, a value that it cannot hold, or more values than `capacity`.
    """
    if ctype not in _CODES:
        raise InputError("launch", "ctype", "one of " + ", ".join(_CODES), repr(ctype), "Use a listed type.")
    if len(values) > capacity:
        raise InputError("launch", "values", f"at most {capacity}", len(values), "Raise the capacity.")
    try:
        data = struct.pack(f"={len(values)}{_CODES[ctype]}", *values)
    except struct.error as error:
        raise InputError("launch", "values", f"numbers that fit {ctype}", values, str(error)) from None
    return data.ljust(capacity * struct.calcsize(_CODES[ctype]), b"\0")


def _align(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def build(args: tuple[Argument, ...]) -> ParameterBlock:
    """Lay out `args`: addresses, then tensor maps, then numbers."""
    offsets = [0] * len(args)
    runs: list[AddressRun] = []
    end = 0
    for i, argument in enumerate(args):
        if isinstance(argument, (Pointer, PointerArray)):
            count = 1 if isinstance(argument, Pointer) else len(argument.tensors)
            capacity = 1 if isinstance(argument, Pointer) else argument.capacity
            if count > capacity:
                raise InputError("launch", "tensors", f"at most {capacity}", count, "Raise the capacity.")
            offsets[i] = end
            runs.append(AddressRun(i, count, capacity))
            end += 8 * capacity

    maps: list[MapSlot] = []
    for i, argument in enumerate(args):
        if isinstance(argument, (TensorMap, TensorMapArray)):
            values = (argument,) if isinstance(argument, TensorMap) else argument.maps
            capacity = 1 if isinstance(argument, TensorMap) else argument.capacity
            if len(values) > capacity:
                raise InputError("launch", "maps", f"at most {capacity}", len(values), "Raise the capacity.")
            offsets[i] = end = _align(end, TENSOR_MAP_ALIGNMENT)
            maps += [MapSlot(end + TENSOR_MAP_BYTES * j, value) for j, value in enumerate(values)]
            end += TENSOR_MAP_BYTES * capacity

    numbers = bytearray(end)
    for i, argument in enumerate(args):
        if isinstance(argument, (Scalar, ScalarArray)):
            value = (argument.value,) if isinstance(argument, Scalar) else argument.values
            data = pack_scalars(argument.ctype, value, 1 if isinstance(argument, Scalar) else argument.capacity)
            numbers += bytes(_align(len(numbers), 8) - len(numbers))
            offsets[i] = len(numbers)
            numbers += data
    return ParameterBlock(bytes(numbers), tuple(offsets), tuple(runs), tuple(maps))


def tensors(args: tuple[Argument, ...]) -> tuple[torch.Tensor | None, ...]:
    """The tensors whose addresses go into the block: of each pointer in order, then of each map; None is null."""
    pointers: list[torch.Tensor | None] = []
    maps: list[torch.Tensor | None] = []
    for argument in args:
        if isinstance(argument, Pointer):
            pointers.append(argument.tensor)
        elif isinstance(argument, PointerArray):
            pointers += argument.tensors
        elif isinstance(argument, TensorMap):
            maps.append(argument.tensor)
        elif isinstance(argument, TensorMapArray):
            maps += (map.tensor for map in argument.maps)
    return (*pointers, *maps)


@dataclass(frozen=True)
class AddressTable:
    """One array of words from which all launches of a call take their addresses.

    It has three parts: words that are always null; the addresses that a call brings, in their order; and those that a
    launch wants in another order once more.

    Attributes:
        nulls: How many words stay null.
        count: Addresses that a call brings.
        copies: For each word of the last part, which address of the call it repeats; None is null.
        starts: For each launch, the word at which each of its `ParameterBlock.runs` starts.
    """

    nulls: int
    count: int
    copies: tuple[int | None, ...]
    starts: tuple[tuple[int, ...], ...]


Sources = Sequence[int | None]
"""For each address of a launch, in the order of `tensors`, which address of a call it is; None is null."""


def share(blocks: Sequence[ParameterBlock], sources: Sequence[Sources], count: int) -> AddressTable:
    """Find a place for every address of some launches, given which of the `count` addresses of a call each takes."""
    wanted = [list(_wanted(block.runs, source)) for block, source in zip(blocks, sources, strict=True)]
    # The driver reads all of the capacity, which must be null beyond the addresses.
    nulls = max((len(run) for runs in wanted for run in runs if not any(x is not None for x in run)), default=0)
    copies: list[int | None] = []

    def place(run: list[int | None]) -> int:
        first = run[0]
        if all(x is None for x in run):
            return 0
        if first is not None and run == list(range(first, first + len(run))):
            return nulls + first
        copies.extend(run)
        return nulls + count + len(copies) - len(run)

    starts = tuple(tuple(place(run) for run in runs) for runs in wanted)
    return AddressTable(nulls, count, tuple(copies), starts)


def _wanted(runs: Sequence[AddressRun], source: Sources) -> Iterator[list[int | None]]:
    """The addresses that each parameter wants, as many as it has room for."""
    begin = 0
    for run in runs:
        yield [*source[begin : begin + run.count], *[None] * (run.capacity - run.count)]
        begin += run.count
