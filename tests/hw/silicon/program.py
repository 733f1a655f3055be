"""What a silicon program is: CUDA C++ with inline PTX, seeded inputs, named outputs.

The same `Program` runs on a GPU (`gpu.run`, which records) and in the emulator (`emulated.run`, which the tests hold
to the
recording). Inputs come from a generator of our own, so that no library's random stream decides what was recorded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def words(seed: str, count: int) -> NDArray[np.uint64]:
    """`count` 64-bit words of SplitMix64 (Steele, Lea, Flood 2014), seeded by the text `seed`."""
    start = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "little")
    with np.errstate(over="ignore"):
        x = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(start)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def random_bytes(seed: str, count: int) -> NDArray[np.uint8]:
    """`count` uniform bytes."""
    return words(seed, -(-count // 8)).view(np.uint8)[:count].copy()


@dataclass(frozen=True)
class In:
    """A buffer that the kernel reads (and may change); `name` of `Program.inputs`."""

    name: str


@dataclass(frozen=True)
class Out:
    """A buffer that the kernel writes: filled with 0xCD bytes before the launch, recorded after it."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Map:
    """A tensor map over the buffer `name` (an In or an Out); the fields are those of ``cuTensorMapEncodeTiled``."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    element_strides: tuple[int, ...] = ()
    swizzle: int = 0
    nan_fill: bool = False
    offset: int = 0


@dataclass(frozen=True)
class Int:
    """A 32-bit number."""

    value: int


Argument = In | Out | Map | Int


@dataclass(frozen=True)
class Approximate:
    """Recorded and emulated results may differ: both must lie within `bound` of the exact result.

    Attributes:
        exact: The function in float64, of the operand arrays (already decoded to float64).
        bound: Greatest absolute error allowed, of (operands[0], exact result).
        source: Where the bound is documented.
        domain: Lanes that the bound speaks of; others must agree bit for bit only where the recording is not finite.
    """

    exact: Callable[..., Array]
    bound: Callable[[Array, Array], Array]
    source: str
    domain: Callable[[Array], Array] | None = None


@dataclass(frozen=True)
class Row:
    """One instruction among the rows of an output: its text, the operands that it was given, and how it is judged.

    `defined`: lanes whose operands the ISA allows; the others are recorded, but not compared. None: all.
    """

    text: str
    out: str
    index: int
    operands: tuple[tuple[str, Array], ...] = ()
    rule: Approximate | None = None
    out_type: str = ""
    defined: Array | None = None


@dataclass(frozen=True, eq=False)
class Program:
    """One kernel launch whose outputs are recorded.

    Attributes:
        name: Unique, ``class/what``.
        klass: The instruction class, a line of the evidence table.
        covers: The opcodes that it is there for, for the table.
        source: CUDA C++ text; the entry is ``extern "C" __global__ void kernel(...)``.
        inputs: Arrays by name.
        args: The kernel's parameters in order.
        rows: What the rows of the outputs are, where each is an instruction of its own.
        inexact: For sums whose rounding the ISA leaves open: names the accumulation model by which they are judged.
    """

    name: str
    klass: str
    covers: tuple[str, ...]
    source: str
    args: tuple[Argument, ...]
    inputs: Mapping[str, Array] = field(default_factory=dict)
    grid: tuple[int, int, int] = (1, 1, 1)
    block: tuple[int, int, int] = (32, 1, 1)
    cluster: tuple[int, int, int] = (1, 1, 1)
    shared_bytes: int = 0
    arch: str = "sm_90a"
    rows: tuple[Row, ...] = ()
    recorded_inputs: tuple[str, ...] = ()
    inexact: str = ""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the buffers that are recorded."""
        return tuple(a.name for a in self.args if isinstance(a, Out)) + self.recorded_inputs

    def buffers(self) -> dict[str, Array]:
        """Fresh arrays of all buffers, outputs poisoned."""
        found = {name: np.ascontiguousarray(array).copy() for name, array in self.inputs.items()}
        for a in self.args:
            if isinstance(a, Out):
                array = np.empty(a.shape, a.dtype)
                array.view(np.uint8).reshape(-1)[:] = 0xCD
                found[a.name] = array
        return found

    def digest(self) -> str:
        """Changes when anything that decides the recording does."""
        launch = [self.grid, self.block, self.cluster, self.shared_bytes, self.arch, [repr(a) for a in self.args]]
        h = hashlib.sha256(json.dumps([self.source, launch]).encode())
        for name, array in sorted(self.inputs.items()):
            h.update(name.encode() + str(array.dtype).encode() + np.ascontiguousarray(array).tobytes())
        return h.hexdigest()[:16]


PRELUDE = """
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
typedef signed char s8; typedef short s16; typedef int s32; typedef long long s64;
__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
struct alignas(64) Map { u64 opaque[16]; };
"""
