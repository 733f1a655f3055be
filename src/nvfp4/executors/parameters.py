"""Kernel parameters as bytes: where each argument of a Launch lies, and which parts are addresses.

Each `Argument` is a kernel parameter of its own; the driver is given the address of each (``kernelParams``), so they
may lie in any order. Addresses come first and together, so that one ``struct.pack_into`` writes all that change from
call to call.
"""

from __future__ import annotations

import ctypes
import functools
import operator
import struct
from collections.abc import Callable, Sequence
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
class ParameterBlock:
    """The parameters of a launch.

    Attributes:
        data: The block, with scalars filled in, and zeros for addresses and tensor maps.
        offsets: Where each parameter starts, in the order of the kernel's signature.
        pointers: How many addresses there are, not counting those of tensor maps.
        addresses: Writes the addresses of the pointers, in order, to the start of the block.
        maps: The tensor maps.
    """

    data: bytes
    offsets: tuple[int, ...]
    pointers: int
    addresses: struct.Struct
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
    code, end, pointers = "=", 0, 0
    for i, argument in enumerate(args):
        if isinstance(argument, (Pointer, PointerArray)):
            count = 1 if isinstance(argument, Pointer) else len(argument.tensors)
            capacity = 1 if isinstance(argument, Pointer) else argument.capacity
            if count > capacity:
                raise InputError("launch", "tensors", f"at most {capacity}", count, "Raise the capacity.")
            offsets[i] = end
            code += f"{count}Q{8 * (capacity - count)}x"
            end += 8 * capacity
            pointers += count

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
    return ParameterBlock(bytes(numbers), tuple(offsets), pointers, struct.Struct(code), tuple(maps))


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


def writer(block: ParameterBlock, memory: ctypes.Array[ctypes.c_char], start: int) -> Callable[[Sequence[int]], None]:
    """What writes the addresses of a call, as many as `ParameterBlock.pointers`, to the block at `memory` + `start`."""
    if block.addresses.size == 8 * block.pointers:
        # Without gaps a slice of an array takes them: 0.2 us less than packing.
        words = (ctypes.c_uint64 * block.pointers).from_buffer(memory, start)
        return functools.partial(operator.setitem, words, slice(None))
    pack = block.addresses.pack_into
    return lambda addresses: pack(memory, start, *addresses)
