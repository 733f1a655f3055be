"""Tensor maps: the arguments of cuTensorMapEncodeTiled, their validation, and a 128-byte encoding of the emulator's
own.

PTX ISA 5.5.8 "Tensor-map"; CUDA driver API, "Tensor Map Object Management" (rules of cuTensorMapEncodeTiled); PTX
ISA 9.7.9.28
"tensormap.replace". The real 128 bytes are opaque, so a kernel that looks into them cannot be emulated.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from nvfp4.emulator.units import swizzle as sw
from nvfp4.emulator.units.errors import UnitError
from nvfp4.emulator.units.swizzle import Swizzle

# In the order of tensormap.replace's .elemtype values (PTX ISA Table 33): name -> bits of an element in global memory.
ELEMENT_BITS: dict[str, int] = {
    "u8": 8,
    "u16": 16,
    "u32": 32,
    "s32": 32,
    "u64": 64,
    "s64": 64,
    "f16": 16,
    "f32": 32,
    "f32.ftz": 32,
    "f64": 64,
    "bf16": 16,
    "tf32": 32,
    "tf32.ftz": 32,
    "b4x16": 4,
    "b4x16_p64": 4,
    "b6x16_p32": 6,
}
ELEMENT_TYPES = tuple(ELEMENT_BITS)
# CUtensorMapDataType values of the driver API, which are in another order.
DRIVER_TYPES = (
    "u8", "u16", "u32", "s32", "u64", "s64", "f16", "f32", "f64", "bf16", "f32.ftz", "tf32", "tf32.ftz", "b4x16",
    "b4x16_p64", "b6x16_p32",
)  # fmt: skip
ALIASES = {
    "i32": "s32",
    "i64": "s64",
    "u4x16_align8": "b4x16",
    "u4x16_align16": "b4x16_p64",
    "u6x16_align16": "b6x16_p32",
}
PADDED = ("b4x16_p64", "b6x16_p32")
FLOATS = ("f16", "f32", "f32.ftz", "f64", "bf16", "tf32", "tf32.ftz")

# Swizzle mode values of tensormap.replace; mode 3 is refined by the atomicity: 16B, 32B, 32B + 8B flip, 64B.
_SWIZZLES = {
    0: (sw.NONE,),
    1: (sw.B32,),
    2: (sw.B64,),
    3: (sw.B128, sw.B128_ATOM32, sw.B128_ATOM32_FLIP8, sw.B128_ATOM64),
}
_SWIZZLE_OF_SPAN = {0: 0, 32: 1, 64: 2, 128: 3}
_MAGIC = b"TMAP"
# Magic, address, sizes - 1, strides (5 bytes each), box sizes - 1, element strides (4 bits each); rank, element type,
# interleave and swizzle mode, atomicity and fill mode. It fits in the first 64 bytes because real tensor maps do: CuTe
# DSL copies no more of them.
_LAYOUT = struct.Struct("<4sQ5I20s5B3s4B")
# Field -> (least value, bits, entries), as tensormap.replace names them.
_FIELDS = {
    "global_address": (0, 64, 1),
    "global_dim": (1, 32, 5),
    "global_stride": (0, 40, 4),
    "box_dim": (1, 8, 5),
    "element_stride": (0, 4, 5),
    "rank": (0, 8, 1),
    "elemtype": (0, 8, 1),
    "interleave_layout": (0, 4, 1),
    "swizzle_mode": (0, 4, 1),
    "swizzle_atomicity": (0, 4, 1),
    "fill_mode": (0, 4, 1),
}


def _store(fields: dict[str, list[int]]) -> bytes:
    """The 128 bytes with these fields, which are in range."""
    return _LAYOUT.pack(
        _MAGIC,
        fields["global_address"][0],
        *(n - 1 for n in fields["global_dim"]),
        b"".join(n.to_bytes(5, "little") for n in fields["global_stride"]),
        *(n - 1 for n in fields["box_dim"]),
        sum(n << 4 * i for i, n in enumerate(fields["element_stride"])).to_bytes(3, "little"),
        fields["rank"][0],
        fields["elemtype"][0],
        fields["interleave_layout"][0] | fields["swizzle_mode"][0] << 4,
        fields["swizzle_atomicity"][0] | fields["fill_mode"][0] << 4,
    ).ljust(128, b"\0")


def _load(blob: bytes) -> dict[str, list[int]]:
    """The fields of 64 bytes."""
    values = _LAYOUT.unpack_from(blob)
    strides, steps = values[7], int.from_bytes(values[13], "little")
    rank, kind, modes, rest = values[14:18]
    return {
        "global_address": [values[1]],
        "global_dim": [n + 1 for n in values[2:7]],
        "global_stride": [int.from_bytes(strides[5 * i : 5 * i + 5], "little") for i in range(4)],
        "box_dim": [n + 1 for n in values[8:13]],
        "element_stride": [steps >> 4 * i & 15 for i in range(5)],
        "rank": [rank],
        "elemtype": [kind],
        "interleave_layout": [modes & 15],
        "swizzle_mode": [modes >> 4],
        "swizzle_atomicity": [rest & 15],
        "fill_mode": [rest >> 4],
    }


@dataclass(frozen=True, eq=False)
class TensorMap:
    """A tiled tensor map.

    address: device address of element 0 (int), or an array or tensor that the engine replaces with its address
    (`resolved`).
    dtype: a name of `ELEMENT_TYPES` (aliases: i32, i64, u4x16_align8, u4x16_align16, u6x16_align16).
    shape: elements of each dimension, dimension 0 fastest. strides: bytes between neighbours in dimensions 1 and up.
    box: elements of one tile. element_strides: traversal strides (empty: all 1; entry 0 is ignored, as by the driver).
    swizzle: 0, 32, 64 or 128 bytes. atomicity: 16, 32 or 64 bytes of the 128-byte swizzle; flip8: the 32-byte +
    8-byte flip variant.
    interleave: 0, 16 or 32. nan_fill: OOB-NaN instead of zero fill. offset: bytes added to the address.
    """

    address: Any
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    element_strides: tuple[int, ...] = ()
    swizzle: int = 0
    atomicity: int = 16
    flip8: bool = False
    interleave: int = 0
    nan_fill: bool = False
    offset: int = 0

    def __str__(self) -> str:
        where = f"{self.address:#x}" if isinstance(self.address, int) else type(self.address).__name__
        return (
            f"TensorMap({self.dtype} shape {self.shape} strides {self.strides} box {self.box} "
            f"swizzle {self.swizzle_mode.name}, at {where}{f'+{self.offset}' if self.offset else ''})"
        )

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def element_type(self) -> str:
        """The canonical name of the element type."""
        return ALIASES.get(self.dtype, self.dtype)

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """Traversal stride of each dimension; 1 for dimension 0, whose entry hardware ignores without interleave."""
        given = self.element_strides or (1,) * self.rank
        return (1, *given[1:])

    @cached_property
    def swizzle_mode(self) -> Swizzle:
        """The address swizzle."""
        if self.swizzle == 128:
            return {16: sw.B128, 32: sw.B128_ATOM32_FLIP8 if self.flip8 else sw.B128_ATOM32, 64: sw.B128_ATOM64}[
                self.atomicity
            ]
        return {0: sw.NONE, 32: sw.B32, 64: sw.B64}[self.swizzle]

    def resolved(self, address: int) -> TensorMap:
        """The map with an integer device address (of the array; `offset` is still added)."""
        return replace(self, address=address + self.offset, offset=0)

    # ------------------------------------------------------------------------------------------------- geometry in
    # bytes

    @cached_property
    def bits(self) -> int:
        """Bits of an element in global memory."""
        return ELEMENT_BITS[self.element_type]

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one box row in global memory."""
        return self.box[0] * self.bits // 8

    @cached_property
    def shared_row_bytes(self) -> int:
        """Bytes of one box row in shared memory: 16 elements take 16 bytes in the padded types (PTX ISA 5.5.1.1)."""
        return self.box[0] if self.element_type in PADDED else self.row_bytes

    @cached_property
    def row_pitch(self) -> int:
        """Bytes from one box row to the next in shared memory.

        A swizzled tile gives every row the full width of the swizzle, also when the box is narrower (CUDA
        programming guide, TMA
        swizzle: "if the swizzle width exceeds the inner dimension, ensure that the shared memory is allocated to
        accommodate the full
        swizzle width").
        """
        return max(self.shared_row_bytes, self.swizzle)

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Elements that a box visits in each dimension: ceil(box / element stride)."""
        return tuple(-(-b // s) for b, s in zip(self.box, self.steps, strict=True))

    @cached_property
    def tile_rows(self) -> int:
        """Rows of the box: the product of the counts of dimensions 1 and up."""
        rows = 1
        for n in self.counts[1:]:
            rows *= n
        return rows

    @cached_property
    def tile_bytes(self) -> int:
        """What complete_tx counts: the bytes of the full box in shared memory, also where it is out of bounds."""
        return self.tile_rows * self.shared_row_bytes

    # ------------------------------------------------------------------------------------------------------- validation

    def validate(self) -> TensorMap:
        """Return self if cuTensorMapEncodeTiled would accept it; `UnitError` names the first argument that breaks a
        rule."""
        _ = self._valid
        return self

    @cached_property
    def _valid(self) -> bool:
        rank = self.rank
        kind = self.element_type
        if kind not in ELEMENT_BITS:
            raise UnitError(
                f"tensor map: unknown element type {self.dtype!r}", f"use one of {', '.join(ELEMENT_TYPES)}"
            )
        if not 1 <= rank <= 5:
            raise UnitError(f"tensor map: rank {rank}", "a tensor map has 1 to 5 dimensions")
        for name, got, want in (
            ("strides", self.strides, rank - 1),
            ("box", self.box, rank),
            ("element_strides", self.element_strides or (1,) * rank, rank),
        ):
            if len(got) != want:
                raise UnitError(f"tensor map: {name} has {len(got)} entries for rank {rank}", f"give {want}")
        padded = kind in PADDED
        if not isinstance(self.address, int):
            raise UnitError(
                "tensor map: the address is not resolved", "pass a device address, or let the engine resolve the array"
            )
        start = self.address + self.offset
        align = 32 if padded or self.interleave == 32 else 16
        if start % align:
            raise UnitError(
                f"tensor map: global address {start:#x} is not {align}-byte aligned",
                "align the tensor, or move the offset into the coordinates",
            )
        self._check_sizes(padded, align)
        self._check_swizzle(kind, padded)
        if self.nan_fill and kind not in FLOATS:
            raise UnitError(
                f"tensor map: NaN fill with element type {kind}", "NaN fill needs a floating-point element type"
            )
        return True

    def _check_sizes(self, padded: bool, align: int) -> None:
        for i, size in enumerate(self.shape):
            if not 1 <= size <= 1 << 32:
                raise UnitError(f"tensor map: size of dimension {i} is {size}", "sizes are 1 to 2**32 elements")
        if padded and self.shape[0] % 128:
            raise UnitError(
                f"tensor map: dimension 0 has {self.shape[0]} elements of a padded type", "it must be a multiple of 128"
            )
        if self.element_type == "b4x16" and self.shape[0] % 2:
            raise UnitError(
                f"tensor map: dimension 0 has {self.shape[0]} 4-bit elements", "it must be even: elements come in bytes"
            )
        for i, stride in enumerate(self.strides):
            if stride % align or not 0 <= stride < 1 << 40:
                raise UnitError(
                    f"tensor map: stride of dimension {i + 1} is {stride} bytes",
                    f"strides are multiples of {align} below 2**40",
                )
        for i, size in enumerate(self.box):
            if not 1 <= size <= 256:
                raise UnitError(
                    f"tensor map: box size of dimension {i} is {size}",
                    "box sizes are 1 to 256 elements; load a larger tile with several copies",
                )
        for i, step in enumerate(self.element_strides):
            if not 1 <= step <= 8:
                raise UnitError(f"tensor map: element stride of dimension {i} is {step}", "element strides are 1 to 8")
        if self.interleave == 0 and self.row_bytes % 16:
            raise UnitError(
                f"tensor map: a box row has {self.row_bytes} bytes ({self.box[0]} x {self.element_type})",
                "box[0] times the element size must be a multiple of 16 bytes",
            )
        if padded and self.box[0] != 128:
            raise UnitError(
                f"tensor map: box[0] is {self.box[0]} for type {self.element_type}", "padded types need box[0] = 128"
            )

    def _check_swizzle(self, kind: str, padded: bool) -> None:
        if self.interleave:
            raise UnitError(
                f"tensor map: interleave {self.interleave}B is not implemented", "use CU_TENSOR_MAP_INTERLEAVE_NONE"
            )
        if (
            self.swizzle not in _SWIZZLE_OF_SPAN
            or self.atomicity not in (16, 32, 64)
            or (self.flip8 and self.atomicity != 32)
        ):
            raise UnitError(
                f"tensor map: swizzle {self.swizzle} with atomicity {self.atomicity}",
                "swizzle is 0, 32, 64 or 128; atomicity 16, 32 or 64; the 8-byte flip needs 32",
            )
        if self.atomicity != 16 and self.swizzle != 128:
            raise UnitError(
                f"tensor map: atomicity {self.atomicity} with a {self.swizzle}-byte swizzle",
                "only the 128-byte swizzle has other atoms than 16 bytes",
            )
        if self.swizzle and self.shared_row_bytes > self.swizzle:
            raise UnitError(
                f"tensor map: a box row of {self.shared_row_bytes} bytes is wider than the {self.swizzle}-byte swizzle",
                f"make box[0] at most {self.swizzle * 8 // self.bits} elements, and copy wider tiles in several boxes",
            )
        if padded and (self.swizzle not in (0, 128) or self.flip8):
            raise UnitError(
                f"tensor map: {kind} with {self.swizzle_mode.name}",
                "padded types allow no swizzle or the 128-byte swizzles without flip",
            )

    # --------------------------------------------------------------------------------------------------------- encoding

    def encode(self) -> bytes:
        """The 128 bytes that stand for this map in kernel parameters and memory (the emulator's own format).
        Validates."""
        self.validate()
        return self._pack()

    def _pack(self) -> bytes:
        def fill(values: tuple[int, ...], n: int, rest: int) -> list[int]:
            return [*values, *([rest] * (n - len(values)))]

        atom = {16: 0, 32: 2 if self.flip8 else 1, 64: 3}[self.atomicity]
        return _store(
            {
                "global_address": [self.address + self.offset],
                "global_dim": fill(self.shape, 5, 1),
                "global_stride": fill(self.strides, 4, 0),
                "box_dim": fill(self.box, 5, 1),
                "element_stride": fill(self.steps, 5, 1),
                "rank": [self.rank],
                "elemtype": [ELEMENT_TYPES.index(self.element_type)],
                "interleave_layout": [self.interleave // 16],
                "swizzle_mode": [_SWIZZLE_OF_SPAN[self.swizzle]],
                "swizzle_atomicity": [atom],
                "fill_mode": [int(self.nan_fill)],
            }
        )

    @staticmethod
    def decode(blob: bytes) -> TensorMap:
        """The map that 128 bytes stand for, validated. Cached: the same bytes give the same object."""
        return _decode(bytes(blob[:64])).validate()


@lru_cache(maxsize=4096)
def _decode(blob: bytes) -> TensorMap:
    if len(blob) < 64 or blob[:4] != _MAGIC:
        raise UnitError(
            f"the bytes at the tensor-map address are not a tensor map (they begin {blob[:8].hex(' ')})",
            "pass a TensorMap as the kernel argument, or copy one there before tensormap.replace; check the address "
            "of the parameter",
        )
    fields = _load(blob)
    rank, kind, mode = fields["rank"][0], fields["elemtype"][0], fields["swizzle_mode"][0]
    atom, interleave = fields["swizzle_atomicity"][0], fields["interleave_layout"][0]
    if not 1 <= rank <= 5 or kind >= len(ELEMENT_TYPES) or mode not in _SWIZZLES or atom > 3 or interleave > 2:
        raise UnitError(
            f"tensor map with rank {rank}, element type {kind}, swizzle mode {mode}, atomicity {atom}",
            "tensormap.replace accepts the values of PTX ISA table 33 (96-byte swizzle is not implemented)",
        )
    return TensorMap(
        address=fields["global_address"][0],
        dtype=ELEMENT_TYPES[kind],
        shape=tuple(fields["global_dim"][:rank]),
        strides=tuple(fields["global_stride"][: rank - 1]),
        box=tuple(fields["box_dim"][:rank]),
        element_strides=tuple(fields["element_stride"][:rank]),
        swizzle=(0, 32, 64, 128)[mode],
        atomicity=(16, 32, 32, 64)[atom],
        flip8=atom == 2,
        interleave=16 * interleave,
        nan_fill=bool(fields["fill_mode"][0]),
    )


def replace_field(blob: bytes, field: str, value: int, ordinal: int = 0) -> bytes:
    """``tensormap.replace.tile.FIELD`` on 128 bytes: the new 128 bytes.

    field: as in PTX ("global_address", "rank", "box_dim", "global_dim", "global_stride", "element_stride", "elemtype",
    "interleave_layout", "swizzle_mode", "swizzle_atomicity", "fill_mode"). value: the operand (rank: one less than
    the rank).
    ordinal: the dimension, for global_stride 0 is the stride of dimension 1. The result is validated when it is
    used, since a sequence of
    replacements may pass through invalid states.
    """
    if len(blob) < 64 or bytes(blob[:4]) != _MAGIC:
        raise UnitError(
            "tensormap.replace on 128 bytes that are not a tensor map", "copy a valid tensor map there first"
        )
    if field not in _FIELDS:
        raise UnitError(
            f"tensormap.replace: unknown field .{field}", f"use one of {', '.join('.' + f for f in _FIELDS)}"
        )
    least, bits, entries = _FIELDS[field]
    if not 0 <= ordinal < entries:
        raise UnitError(f"tensormap.replace.{field}: ordinal {ordinal}", f"the ordinal is 0 to {entries - 1}")
    stored = value + 1 if field == "rank" else value
    if not least <= stored < least + (1 << bits):
        raise UnitError(f"tensormap.replace.{field}: value {value} does not fit", "see PTX ISA table 33 for the values")
    fields = _load(bytes(blob[:64]))
    fields[field][ordinal] = stored
    return _store(fields)
