"""Matrix operands in shared memory: descriptors and the addresses that they stand for.

PTX ISA 9.7.15.5.1.2 (wgmma) and 9.7.16.3, 9.7.16.4.1, 9.7.16.10.6 (tcgen05). Everything happens in units of 16 bytes
("chunks"):

    K-major    a chunk holds consecutive K elements of one row; address(row, c) =
                 no swizzle   start + (row % 8) * 16 + (row // 8) * SBO + c * LBO
                 swizzled     start + (row % 8) * S  + (row // 8) * SBO + c * 16              (S: swizzle span in bytes)
    MN-major   a chunk holds consecutive M (or N) elements of one k; address(j, k) =
                 no swizzle   start + j * SBO + (k % 8) * 16 + (k // 8) * LBO
                 swizzled     start + (j % P) * 16 + (j // P) * LBO + (k % A) * S + (k // A) * SBO
                              (P = S / 16 chunks a line; A = 8 lines an atom, 4 with 32-byte swizzle atoms)

and then the swizzle permutes address bits, counted from `base offset` 128-byte lines. These are the canonical
layouts of ISA 9.7.16.3.3
(and of cute/arch/mma_sm100_desc.hpp) with the modes written out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvfp4.emulator.units import swizzle as sw
from nvfp4.emulator.units.access import Spans, intervals_of_chunks
from nvfp4.emulator.units.errors import UnitError
from nvfp4.emulator.units.numerics import F32, FORMATS, Format
from nvfp4.emulator.units.swizzle import Swizzle

U8 = NDArray[np.uint8]


@dataclass(frozen=True)
class MatrixDescriptor:
    """A decoded shared-memory matrix descriptor. Offsets in bytes; `base_offset` in 128-byte lines."""

    start: int
    leading: int
    stride: int
    base_offset: int
    swizzle: Swizzle

    def __str__(self) -> str:
        return (
            f"descriptor(start {self.start:#x}, LBO {self.leading}, SBO {self.stride}, base offset {self.base_offset}, "
            f"{self.swizzle.name})"
        )


def _fields(desc: int) -> tuple[int, int, int, int]:
    return (desc & 0x3FFF) << 4, ((desc >> 16) & 0x3FFF) << 4, ((desc >> 32) & 0x3FFF) << 4, (desc >> 49) & 7


@lru_cache(maxsize=8192)
def parse_sm90(desc: int) -> MatrixDescriptor:
    """The 64-bit descriptor of wgmma (PTX ISA 9.7.15.5.1.2.2)."""
    stray = desc & 0x3FF1C000C000C000
    if stray:
        raise UnitError(
            f"wgmma matrix descriptor {desc:#018x} has reserved bits {stray:#x} set",
            "encode addresses and offsets as (x & 0x3FFFF) >> 4, and set only bits 0-13, 16-29, 32-45, 49-51, 62-63",
        )
    mode = (sw.NONE, sw.B128, sw.B64, sw.B32)[desc >> 62]
    start, leading, stride, base = _fields(desc)
    return MatrixDescriptor(start, leading, stride, base, mode)


_SM100_MODES = {0: sw.NONE, 1: sw.B128_ATOM32, 2: sw.B128, 4: sw.B64, 6: sw.B32}


@lru_cache(maxsize=8192)
def parse_sm100(desc: int) -> MatrixDescriptor:
    """The 64-bit descriptor of tcgen05 (PTX ISA 9.7.16.4.1, table 40)."""
    version = (desc >> 46) & 7
    if version != 1:
        raise UnitError(
            f"tcgen05 matrix descriptor {desc:#018x} has bits 46-48 = {version:#05b}",
            "they must be 0b001 (table 40); this looks like a Hopper descriptor"
            if version == 0
            else "they must be 0b001",
        )
    if (desc >> 52) & 1:
        raise UnitError(
            f"tcgen05 matrix descriptor {desc:#018x} uses the absolute leading-dimension mode (bit 52)",
            "that mode exists on sm_103a only; use byte offsets",
        )
    stray = desc & 0x1FE00000C000C000
    if stray:
        raise UnitError(
            f"tcgen05 matrix descriptor {desc:#018x} has reserved bits {stray:#x} set",
            "encode addresses and offsets as (x & 0x3FFFF) >> 4; bits 14-15, 30-31 and 53-60 are zero",
        )
    mode = desc >> 61
    if mode not in _SM100_MODES:
        raise UnitError(
            f"tcgen05 matrix descriptor {desc:#018x} has swizzle mode {mode}",
            "modes are 0 none, 1 128B with 32B atoms, 2 128B, 4 64B, 6 32B",
        )
    start, leading, stride, base = _fields(desc)
    return MatrixDescriptor(start, leading, stride, base, _SM100_MODES[mode])


@dataclass(frozen=True)
class Operand:
    """One matrix operand of an MMA in shared memory.

    layout: its descriptor; rows: M or N; k: elements along K; fmt: the element format; mn_major: transposed storage;
    padded: 4- and 6-bit
    elements stored 16 to a 16-byte chunk with padding behind them (PTX ISA 9.7.16.10.4.4), as the f8f6f4 kinds want.
    """

    layout: MatrixDescriptor
    rows: int
    k: int
    fmt: Format
    mn_major: bool = False
    padded: bool = False

    @property
    def container_bits(self) -> int:
        """Bits that one element occupies in shared memory, padding included."""
        return 8 if self.padded else self.fmt.bits

    @cached_property
    def chunk_addresses(self) -> NDArray[np.int64]:
        """Shared byte address of every chunk: [rows, K chunks] (K-major) or [K, MN chunks] (MN-major)."""
        d = self.layout
        per_chunk = 128 // self.container_bits
        span = d.swizzle.span
        swizzled = bool(d.swizzle.bits)
        if not self.mn_major:
            r = np.arange(self.rows, dtype=np.int64)[:, None]
            c = np.arange(self.k // per_chunk, dtype=np.int64)[None, :]
            linear = (r % 8) * span + (r // 8) * d.stride + c * (16 if swizzled else d.leading)
        else:
            k = np.arange(self.k, dtype=np.int64)[:, None]
            j = np.arange(-(-self.rows // per_chunk), dtype=np.int64)[None, :]
            if swizzled:
                per_line = span // 16
                lines = 4 if d.swizzle.base == 5 else 8
                linear = (
                    (j % per_line) * 16 + (j // per_line) * d.leading + (k % lines) * span + (k // lines) * d.stride
                )
            else:
                linear = j * d.stride + (k % 8) * 16 + (k // 8) * d.leading
        shift = d.base_offset << 7
        return d.swizzle.apply(linear + (d.start - shift)) + shift

    @cached_property
    def chunks(self) -> NDArray[np.intp]:
        """`chunk_addresses` as flat indices of 16-byte cells."""
        return (self.chunk_addresses.reshape(-1) >> 4).astype(np.intp)

    @cached_property
    def spans(self) -> Spans:
        """Shared bytes that the operand occupies, sorted disjoint intervals [n, 2]."""
        return intervals_of_chunks(self.chunk_addresses, 16)

    def fetch(self, smem: U8) -> U8:
        """The operand's chunks as bytes: uint8 [rows, K bytes] (K-major) or [K, MN bytes] (MN-major)."""
        end = int(self.spans[-1, 1])
        if end > smem.size or int(self.spans[0, 0]) < 0:
            raise UnitError(
                f"{self.layout} of a {self.rows} x {self.k} {self.fmt.name} operand reaches shared address "
                f"{end - 1:#x}, "
                f"beyond the {smem.size:#x} bytes of the CTA",
                "check start address, leading and stride byte offsets",
            )
        cells = smem[: smem.size & ~15].view(np.complex128)
        flat: U8 = np.take(cells, self.chunks).view(np.uint8)
        return flat.reshape(self.chunk_addresses.shape[0], -1)

    def values(self, smem: U8) -> F32:
        """The operand as float32 [rows, k], K fastest in the logical sense (MN-major operands come back as a
        transposed view)."""
        raw = self.fetch(smem)
        data: F32
        if self.padded and self.fmt.bits < 8:
            data = unpack_padded(raw, self.fmt)
        else:
            data = self.fmt.unpack(raw)
        return data[:, : self.rows].T if self.mn_major else data


def unpack_padded(raw: U8, fmt: Format) -> F32:
    """Decode chunks of 16 packed 4- or 6-bit codes followed by padding: uint8 [..., 16 n] -> float32 [..., 16 n]."""
    cells = raw.reshape(*raw.shape[:-1], -1, 16)
    if fmt.bits == 4:
        return fmt.unpack(np.ascontiguousarray(cells[..., :8])).reshape(raw.shape)
    return fmt.decode(unpack_six(cells[..., :12])).reshape(raw.shape)


def unpack_six(data: NDArray[Any]) -> U8:
    """Contiguous 6-bit codes, uint8 [..., 3 n] bytes -> uint8 [..., 4 n] codes, low bits first."""
    b = data.reshape(*data.shape[:-1], -1, 3).astype(np.uint32)
    word = b[..., 0] | b[..., 1] << 8 | b[..., 2] << 16
    out = np.stack([(word >> shift) & 63 for shift in (0, 6, 12, 18)], axis=-1).astype(np.uint8)
    return out.reshape(*data.shape[:-1], -1)


@lru_cache(maxsize=4096)
def operand(
    layout: MatrixDescriptor, rows: int, k: int, fmt: str, mn_major: bool = False, padded: bool = False
) -> Operand:
    """The cached `Operand` (its address plan is computed once for each descriptor). Checks what the layout can hold."""
    element = FORMATS[fmt]
    bits = 8 if padded else element.bits
    if mn_major and bits < 8:
        raise UnitError(f"transposed {fmt} operand", "4-bit operands are K-major only (PTX ISA table 51)")
    if mn_major and padded and element.bits < 8:
        raise UnitError(
            f"transposed {fmt} operand", "only 8-, 16- and 32-bit elements can be MN-major (PTX ISA table 54)"
        )
    if mn_major and (bits == 32) != (layout.swizzle is sw.B128_ATOM32):
        raise UnitError(
            f"MN-major {fmt} operand with {layout.swizzle.name}",
            "32-bit elements need the 128-byte swizzle with 32-byte atoms when transposed, and only they take it "
            "(table 54)",
        )
    return Operand(layout, rows, k, element, mn_major, padded)
