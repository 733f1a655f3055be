"""Scalar types, pointers and structs shared by Python (as NumPy dtypes) and native code (as LLVM types and byte
offsets)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

__all__ = [
    "BOOL",
    "SCALARS",
    "Field",
    "Pointer",
    "Scalar",
    "StructType",
    "Type",
    "Vector",
    "alignment",
    "parse_type",
    "struct",
]


@dataclass(frozen=True)
class Scalar:
    """A machine number: LLVM name, width in bits, signedness, and whether it is floating point."""

    name: str
    llvm: str
    bits: int
    signed: bool
    floating: bool = False

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return max(1, self.bits // 8)


SCALARS: dict[str, Scalar] = {
    name: Scalar(name, llvm, bits, signed, floating)
    for name, llvm, bits, signed, floating in (
        ("u8", "i8", 8, False, False),
        ("i8", "i8", 8, True, False),
        ("u16", "i16", 16, False, False),
        ("i16", "i16", 16, True, False),
        ("u32", "i32", 32, False, False),
        ("i32", "i32", 32, True, False),
        ("u64", "i64", 64, False, False),
        ("i64", "i64", 64, True, False),
        ("f16", "half", 16, True, True),
        ("f32", "float", 32, True, True),
        ("f64", "double", 64, True, True),
    )
}
BOOL = Scalar("bool", "i1", 1, False)


@dataclass(frozen=True)
class Vector:
    """``count`` numbers side by side: a SIMD value."""

    of: Scalar
    count: int

    @property
    def llvm(self) -> str:
        """LLVM type."""
        return f"<{self.count} x {self.of.llvm}>"

    @property
    def bits(self) -> int:
        """Width of one element."""
        return self.of.bits

    @property
    def signed(self) -> bool:
        """Signedness of the elements."""
        return self.of.signed

    @property
    def floating(self) -> bool:
        """Whether the elements are floating point."""
        return self.of.floating

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return self.of.size * self.count


@dataclass(frozen=True)
class Pointer:
    """A typed pointer."""

    to: Type

    llvm = "ptr"
    size = 8


@dataclass(frozen=True)
class Field:
    """A struct member; ``count`` above one makes it an inline array."""

    name: str
    type: Type
    offset: int
    count: int


@dataclass(frozen=True)
class StructType:
    """A C-like struct with natural alignment; ``dtype`` is its NumPy twin."""

    name: str
    fields: dict[str, Field]
    size: int

    llvm = "i8"

    def __hash__(self) -> int:
        return hash(self.name)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy structured dtype with the same layout."""
        names, formats, offsets = [], [], []
        for field in self.fields.values():
            code = "u8" if isinstance(field.type, Pointer) else _numpy_code(field.type)
            names.append(field.name)
            formats.append((code, (field.count,)) if field.count > 1 else code)
            offsets.append(field.offset)
        return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": self.size})


Type = Scalar | Vector | Pointer | StructType


def alignment(kind: Type) -> int:
    """Bytes that a value in memory is aligned to: vectors like their elements."""
    return kind.of.size if isinstance(kind, Vector) else kind.size


def _numpy_code(kind: Type) -> str:
    assert isinstance(kind, Scalar)
    return kind.name[0] + str(kind.size)


_STRUCTS: dict[str, StructType] = {}


def parse_type(text: str) -> Type:
    """``u32``, ``V[u32, 16]`` (vector), ``P[u8]`` (pointer) or the name of a struct."""
    text = text.strip()
    if text in SCALARS:
        return SCALARS[text]
    if text == "bool":
        return BOOL
    if text.startswith("P[") and text.endswith("]"):
        return Pointer(parse_type(text[2:-1]))
    if text.startswith("V[") and text.endswith("]"):
        of, count = text[2:-1].split(",")
        return Vector(SCALARS[of.strip()], int(count))
    if text in _STRUCTS:
        return _STRUCTS[text]
    raise TypeError(f"unknown native type {text!r}")


def struct(name: str, definition: str) -> StructType:
    """Define a struct from lines ``field: type`` or ``field: type[count]``; ``#`` starts a comment."""
    fields: dict[str, Field] = {}
    offset, biggest = 0, 1
    for line in definition.splitlines():
        line = line.split("#")[0].strip()
        if not line:
            continue
        field, kind_text = (part.strip() for part in line.split(":"))
        count = 1
        if not kind_text.startswith("P[") and "[" in kind_text:
            kind_text, number = kind_text[:-1].split("[")
            count = int(number)
        kind = parse_type(kind_text)
        size = kind.size
        align = 8 if isinstance(kind, StructType) else size
        offset = -(-offset // align) * align
        fields[field] = Field(field, kind, offset, count)
        offset += size * count
        biggest = max(biggest, align)
    made = StructType(name, fields, -(-offset // biggest) * biggest)
    _STRUCTS[name] = made
    return made
