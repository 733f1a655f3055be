"""`Launch`: one kernel launch as data. Nothing here compiles, launches or touches a GPU.

The same Launch runs on a GPU (`executors.driver`) and in the emulator (`executors.emulated`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Kernel:
    """What is compiled: a file of `csrc/kernels`, its compile-time constants, and the target.

    Attributes:
        source: File name below ``csrc/kernels``, such as ``"sm80_gemm.cu"``.
        entry: Name of the ``extern "C"`` kernel.
        constants: (name, value) pairs, passed to the compiler as macro definitions.
        arch: Target, such as ``"sm_90a"``.
    """

    source: str
    entry: str
    constants: tuple[tuple[str, int | str], ...]
    arch: str

    def __str__(self) -> str:
        values = ", ".join(f"{name}={value}" for name, value in self.constants)
        return f"{self.entry}<{values}> [{self.source}, {self.arch}]"


@dataclass(frozen=True)
class Scalar:
    """A number passed by value. `ctype` is ``"i32" | "u32" | "i64" | "u64" | "f32"``."""

    ctype: str
    value: int | float


@dataclass(frozen=True, eq=False)
class Pointer:
    """The address of a tensor's first element; None is the null pointer."""

    tensor: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class PointerArray:
    """An array of addresses passed by value inside the parameters (``T* pointers[capacity]`` in a struct)."""

    tensors: tuple[torch.Tensor | None, ...]
    capacity: int


@dataclass(frozen=True)
class ScalarArray:
    """An array of numbers passed by value inside the parameters, padded with zeros to `capacity`."""

    ctype: str
    values: tuple[int | float, ...]
    capacity: int


@dataclass(frozen=True, eq=False)
class TensorMap:
    """The arguments of ``cuTensorMapEncodeTiled`` (CUDA driver API, "Tensor Map Object Management").

    Dimension 0 is the fastest. `strides` holds the byte strides of dimensions 1 and up. Passed by value as a
    64-byte aligned, 128-byte ``__grid_constant__ CUtensorMap``.

    Attributes:
        tensor: The tensor whose storage starts at the first element.
        dtype: ``"u8" | "u16" | "u32" | "i32" | "u64" | "i64" | "f16" | "bf16" | "f32" | "f64" | "u4x16_align8" |
            "u4x16_align16"``.
        shape: Sizes in elements.
        strides: Byte strides of dimensions 1..rank-1, multiples of 16.
        box: Elements of one tile in each dimension.
        element_strides: Traversal stride of each dimension, in elements; empty means all ones.
        swizzle: 0, 32, 64 or 128 bytes.
        l2_promotion: 0, 64, 128 or 256 bytes.
        nan_fill: Whether elements beyond the bounds read as NaN rather than zero.
        offset: Bytes from the tensor's first element to the address in the map.
    """

    tensor: torch.Tensor
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    element_strides: tuple[int, ...] = ()
    swizzle: int = 0
    l2_promotion: int = 128
    nan_fill: bool = False
    offset: int = 0


@dataclass(frozen=True, eq=False)
class TensorMapArray:
    """Tensor maps passed by value as ``CUtensorMap maps[capacity]`` (64-byte aligned)."""

    maps: tuple[TensorMap, ...]
    capacity: int


Argument = Scalar | Pointer | PointerArray | ScalarArray | TensorMap | TensorMapArray
"""One kernel parameter (or consecutive fields of a by-value struct, see `Launch.args`)."""


@dataclass(frozen=True, eq=False)
class Launch:
    """One kernel launch.

    Attributes:
        kernel: What to compile.
        grid, block, cluster: Sizes in x, y, z; the grid counts blocks, and is a multiple of the cluster.
        shared_bytes: Dynamic shared memory of a block.
        args: Kernel parameters in order.
        programmatic: Whether the kernel may start before the previous one in order has finished (programmatic dependent
            launch); it must then execute ``griddepcontrol.wait`` before it touches what that one writes.
    """

    kernel: Kernel
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    args: tuple[Argument, ...]
    cluster: tuple[int, int, int] = (1, 1, 1)
    shared_bytes: int = 0
    programmatic: bool = False

    def __str__(self) -> str:
        cluster = f", cluster {self.cluster}" if self.cluster != (1, 1, 1) else ""
        return f"{self.kernel} grid {self.grid}, block {self.block}{cluster}, shared {self.shared_bytes} B"


Launches = Sequence[Launch]
