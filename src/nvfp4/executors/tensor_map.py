"""Tensor maps encoded by the driver (``cuTensorMapEncodeTiled``)."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import TypeVar

from nvfp4.errors import InputError, LaunchError
from nvfp4.executors import libcuda
from nvfp4.executors.launch import TensorMap
from nvfp4.executors.parameters import TENSOR_MAP_ALIGNMENT, TENSOR_MAP_BYTES

# CUtensorMapDataType of cuda.h.
_DTYPES = {
    "u8": 0,
    "u16": 1,
    "u32": 2,
    "i32": 3,
    "u64": 4,
    "i64": 5,
    "f16": 6,
    "f32": 7,
    "f64": 8,
    "bf16": 9,
    "u4x16_align8": 13,
    "u4x16_align16": 14,
}
_SWIZZLES = {0: 0, 32: 1, 64: 2, 128: 3}
_PROMOTIONS = {0: 0, 64: 1, 128: 2, 256: 3}


_Key = TypeVar("_Key", int, str)


def _code(table: Mapping[_Key, int], field: str, value: _Key) -> int:
    if value not in table:
        raise InputError("TensorMap", field, "one of " + ", ".join(map(str, table)), value, "Use a listed value.")
    return table[value]


def encode(map: TensorMap, address: int) -> bytes:
    """The 128 bytes of `map` for memory at `address` (before `TensorMap.offset`).

    Raises:
        LaunchError: The driver rejects the map; the message has every argument.
        InputError: An unknown dtype, swizzle or promotion.
    """
    rank = len(map.shape)
    buffer = ctypes.create_string_buffer(TENSOR_MAP_BYTES + TENSOR_MAP_ALIGNMENT)
    start = -ctypes.addressof(buffer) % TENSOR_MAP_ALIGNMENT
    status = libcuda.library().cuTensorMapEncodeTiled(
        ctypes.addressof(buffer) + start,
        _code(_DTYPES, "dtype", map.dtype),
        rank,
        address + map.offset,
        (ctypes.c_uint64 * rank)(*map.shape),
        (ctypes.c_uint64 * max(rank - 1, 1))(*map.strides),
        (ctypes.c_uint32 * rank)(*map.box),
        (ctypes.c_uint32 * rank)(*(map.element_strides or (1,) * rank)),
        0,  # no interleaving
        _code(_SWIZZLES, "swizzle", map.swizzle),
        _code(_PROMOTIONS, "l2_promotion", map.l2_promotion),
        1 if map.nan_fill else 0,
    )
    if status != libcuda.SUCCESS:
        raise LaunchError(
            f"cuTensorMapEncodeTiled: {libcuda.error_text(status)}: address {address:#x} + {map.offset}, {map.dtype}, "
            f"shape {map.shape}, strides {map.strides}, box {map.box}, element strides {map.element_strides}, swizzle "
            f"{map.swizzle}. Addresses and strides are multiples of 16 bytes; a box has at most 256 elements a "
            "side, and its rows fit the swizzle."
        )
    return buffer.raw[start : start + TENSOR_MAP_BYTES]
