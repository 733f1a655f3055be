"""Syntax tree of a PTX module: names are already resolved to unique ones, scopes are flattened."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

__all__ = [
    "Bracket",
    "Entry",
    "Function",
    "Imm",
    "Instruction",
    "Label",
    "Location",
    "Negated",
    "Operand",
    "Pair",
    "PtxModule",
    "Reg",
    "Sink",
    "Sym",
    "Variable",
    "Vec",
    "type_bits",
]

_BITS = re.compile(r"[busf](8|16|32|64|128)")


@lru_cache(maxsize=1024)
def type_bits(name: str) -> int:
    """Width in bits of one element of a PTX type name without its dot (``f16x2`` is 32, ``pred`` is 1)."""
    if name == "pred":
        return 1
    if name in {"e4m3", "e5m2", "ue8m0", "ue4m3"}:
        return 8
    if name in {"e4m3x2", "e5m2x2", "ue8m0x2", "s2f6x2"}:
        return 16
    if name in {"e2m1x2"}:
        return 8
    if name in {"e2m3x2", "e3m2x2"}:
        return 16
    if name in {"e4m3x4", "e5m2x4", "e2m3x4", "e3m2x4"}:
        return 32
    if name == "e2m1x4":
        return 16
    if name == "tf32":
        return 32
    if name in {"bf16"}:
        return 16
    if name in {"bf16x2", "f16x2", "s16x2", "u16x2"}:
        return 32
    if name == "f32x2":
        return 64
    match = _BITS.fullmatch(name)
    if match is None:
        raise KeyError(name)
    return int(match.group(1))


@dataclass(frozen=True)
class Location:
    """A CUDA (or Triton, CuTe) source position from ``.loc``."""

    file: int
    line: int
    column: int


@dataclass(frozen=True)
class Reg:
    """A virtual or special register."""

    name: str


@dataclass(frozen=True)
class Imm:
    """A literal; ``value`` is an integer, or a float for decimal and ``0f``/``0d`` literals."""

    value: int | float
    is_float: bool = False


@dataclass(frozen=True)
class Sym:
    """The address of a variable, plus a byte offset."""

    name: str
    offset: int = 0


@dataclass(frozen=True)
class Label:
    """A branch target or a function name."""

    name: str


@dataclass(frozen=True)
class Vec:
    """``{a, b, ...}``."""

    items: tuple[Operand, ...]


@dataclass(frozen=True)
class Bracket:
    """``[base + offset, more...]``: an address, with coordinates for tensor copies."""

    base: Operand
    offset: int
    more: tuple[Operand, ...] = ()


@dataclass(frozen=True)
class Negated:
    """``!p``."""

    inner: Operand


@dataclass(frozen=True)
class Pair:
    """``d|p``: two destinations."""

    first: Operand
    second: Operand


@dataclass(frozen=True)
class Sink:
    """``_``: a result that nobody wants."""


Operand = Reg | Imm | Sym | Label | Vec | Bracket | Negated | Pair | Sink


@dataclass
class Instruction:
    """One instruction with its guard; ``parts`` is the opcode split at the dots."""

    opcode: str
    parts: tuple[str, ...]
    operands: tuple[Operand, ...]
    line: int
    loc: Location | None
    guard: str | None = None
    guard_negated: bool = False
    text: str = ""
    # What it reads and writes (compile/effects.py), once somebody has asked: every pass over a kernel does.
    effects: tuple[list[str], list[str]] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def base(self) -> str:
        """The part of the opcode before the first dot."""
        return self.parts[0]

    def has(self, modifier: str) -> bool:
        """Whether the opcode carries ``.modifier``."""
        return modifier in self.parts


@dataclass
class Variable:
    """A declared variable; ``size`` in bytes, zero for ``extern .shared x[]``."""

    name: str
    space: str
    type: str
    align: int
    size: int
    line: int
    initial: bytes | None = None
    relocations: tuple[tuple[int, str, int], ...] = ()
    count: int = 1


@dataclass
class Function:
    """A body: instructions interleaved with labels, and what it declares."""

    name: str
    parameters: list[Variable]
    returns: list[Variable]
    body: list[Instruction | Label] = field(default_factory=list)
    registers: dict[str, str] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    branch_targets: dict[str, tuple[str, ...]] = field(default_factory=dict)
    directives: dict[str, tuple[int, ...]] = field(default_factory=dict)
    line: int = 0
    has_body: bool = True


Entry = Function


@dataclass
class PtxModule:
    """A parsed module."""

    version: str
    target: str
    entries: dict[str, Entry]
    functions: dict[str, Function]
    variables: dict[str, Variable]
    files: dict[int, str]
    lines: list[str]

    @property
    def arch(self) -> int:
        """The number in ``sm_90a``: 90."""
        match = re.search(r"sm_(\d+)", self.target)
        return int(match.group(1)) if match else 80
