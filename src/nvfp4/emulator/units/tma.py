"""Tensor copies between global and shared memory: cp.async.bulk.tensor and cp.reduce.async.bulk.tensor, tiled modes.

PTX ISA 5.5.1 to 5.5.8 (tensors), 9.7.9.27.1.2 (copy), 9.7.9.27.1.3 (reduce). A copy is planned when it is issued and
run when it takes
effect. The box lies in shared memory row by row (dimension 0 fastest), `TensorMap.row_pitch` bytes apart, and every
16-byte chunk
moves to the address that the swizzle gives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvfp4.emulator.units.access import Access, Spans, intervals_of_chunks
from nvfp4.emulator.units.errors import UnitError
from nvfp4.emulator.units.numerics import FORMATS
from nvfp4.emulator.units.reduction import bulk_reduce, check_reduction, combine, storage
from nvfp4.emulator.units.swizzle import Swizzle
from nvfp4.emulator.units.tensormap import PADDED, TensorMap, replace_field

__all__ = ["TensorMap", "TilePlan", "bulk_reduce", "plan_load", "plan_store", "replace_field"]

U8 = NDArray[np.uint8]
TILE = "tile"
GATHER4 = "tile::gather4"
SCATTER4 = "tile::scatter4"

# The "OOB-NaN" of each floating-point type. PTX ISA 5.5.3.3 leaves the bits open; an H200 fills with the 16-bit word
# 0x7ff7 whatever the type is (recorded for f16, bf16, f32 and f64 in tests/hw/silicon/vectors).
OOB_NAN: dict[str, int] = {
    "f16": 0x7FF7, "bf16": 0x7FF7, "f32": 0x7FF77FF7, "f32.ftz": 0x7FF77FF7, "tf32": 0x7FF77FF7, "tf32.ftz": 0x7FF77FF7,
    "f64": 0x7FF77FF77FF77FF7,
}  # fmt: skip
# Tensor copies work on granules of 16 bytes in global memory. Recorded on an H200, and in no document: a box whose
# first byte is no multiple of them is an illegal instruction, and a store fills the last granule of a row, though the
# tensor ends within it.
GRANULE = 16
SHARED_ALIGN = 128  # CUDA programming guide, alignment of multi-dimensional bulk copies


@lru_cache(maxsize=1024)
def _chunks(mode: Swizzle, rows: int, row_bytes: int, pitch: int, phase: int) -> NDArray[np.intp]:
    """Where the 16-byte (8-byte with flip) chunks of a tile go, as chunk offsets from the tile's first byte.

    phase: the tile's shared address modulo the swizzle's repeat. Order: row by row, chunk by chunk.
    """
    size = 8 if mode.flip8 else 16
    linear = np.arange(rows)[:, None] * pitch + np.arange(0, row_bytes, size)[None, :]
    return ((mode.apply(linear + phase) - phase) // size).reshape(-1).astype(np.intp)


@lru_cache(maxsize=1024)
def _gather(mode: Swizzle, rows: int, pitch: int, phase: int) -> NDArray[np.intp] | None:
    """For full-width rows the inverse permutation of `_chunks`: physical chunk -> linear chunk; None when it is the
    identity."""
    forward = _chunks(mode, rows, pitch, pitch, phase)
    if np.array_equal(forward, np.arange(forward.size)):
        return None
    inverse = np.empty_like(forward)
    inverse[forward] = np.arange(forward.size)
    return inverse


def _cells(data: U8, size: int) -> NDArray[Any]:
    """Contiguous bytes as 16- or 8-byte cells (numbers, so that NumPy moves them fast; never computed with)."""
    return data.view(np.complex128 if size == 16 else np.float64)


@dataclass(frozen=True, eq=False)
class TilePlan:
    """One tensor copy: `tmap` at `coords` to or from `smem_addr`.

    store: shared to global. op: None, or the reduction of a reducing store. rows: None, or the four row coordinates
    of gather4 / scatter4.
    """

    tmap: TensorMap
    coords: tuple[int, ...]
    smem_addr: int
    store: bool
    op: str | None = None
    rows: tuple[int, ...] | None = None

    @property
    def tx_bytes(self) -> int:
        """Bytes that complete_tx counts (loads), the full box also where it is out of bounds."""
        return self.tmap.tile_bytes * (len(self.rows) if self.rows else 1)

    @cached_property
    def _ranges(self) -> tuple[tuple[int, int], ...]:
        """Per dimension the half-open range of box positions that lie inside the tensor."""
        out: list[tuple[int, int]] = []
        for c, n, size, step in zip(self.coords, self.tmap.counts, self.tmap.shape, self.tmap.steps, strict=True):
            low = 0 if c >= 0 else -(c // step)
            if self.store and not out:
                # A map starts at a granule, and so does its first row: the tensor as a store sees it.
                size = -(-size * self.tmap.bits // (8 * GRANULE)) * (8 * GRANULE) // self.tmap.bits
            high = n if c + (n - 1) * step < size else max(0, -(-(size - c) // step))
            out.append((min(low, n), max(min(high, n), min(low, n))))
        return tuple(out)

    @cached_property
    def _inside(self) -> bool:
        return all(low == 0 and high == n for (low, high), n in zip(self._ranges, self.tmap.counts, strict=True))

    @cached_property
    def _empty(self) -> bool:
        return any(low == high for low, high in self._ranges)

    @cached_property
    def _slices(self) -> tuple[slice, ...]:
        """The in-bounds part of a box [slowest dimension, ..., bytes of a row]."""
        low0, high0 = (r * self.tmap.bits // 8 for r in self._ranges[0])
        return (*(slice(low, high) for low, high in reversed(self._ranges[1:])), slice(low0, high0))

    @cached_property
    def _view(self) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        """(address, shape, strides) of the in-bounds bytes, slowest dimension first, the last one bytes of a row."""
        t = self.tmap
        low0, high0 = self._ranges[0]
        address = t.address + (self.coords[0] + low0) * t.bits // 8
        shape = [(high0 - low0) * t.bits // 8]
        strides = [1]
        for i in range(1, t.rank):
            low, high = self._ranges[i]
            address += (self.coords[i] + low * t.steps[i]) * t.strides[i - 1]
            shape.append(high - low)
            strides.append(t.strides[i - 1] * t.steps[i])
        return address, tuple(reversed(shape)), tuple(reversed(strides))

    @cached_property
    def global_span(self) -> tuple[int, int] | None:
        """(lowest, highest + 1) device address that the copy touches; None when the box is wholly out of bounds."""
        if self.rows:
            spans = [s for s in (p.global_span for p in self._parts) if s]
            return (min(s[0] for s in spans), max(s[1] for s in spans)) if spans else None
        if self._empty:
            return None
        address, shape, strides = self._view
        return address, address + 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))

    @cached_property
    def _parts(self) -> tuple[TilePlan, ...]:
        """gather4 / scatter4 as four copies of one row each (PTX ISA 5.5.3.4)."""
        assert self.rows is not None
        pitch = self.tmap.row_pitch
        return tuple(
            TilePlan(self.tmap, (self.coords[0], row), self.smem_addr + i * pitch, self.store, self.op)
            for i, row in enumerate(self.rows)
        )

    # --------------------------------------------------------------------------------------------------------- accesses

    @property
    def shared_access(self) -> Access:
        """The tile in shared memory. Padding of the packed types counts as written."""
        t = self.tmap
        rows = len(self.rows) if self.rows else t.tile_rows
        return _shared_access(t.swizzle_mode, rows, t.shared_row_bytes, t.row_pitch, self.smem_addr, not self.store)

    @cached_property
    def global_spans(self) -> Spans:
        """Global bytes, [n, 2], sorted and disjoint."""
        if self.rows:
            parts = [p.global_spans for p in self._parts]
            merged = np.unique(np.concatenate(parts), axis=0) if parts else np.empty((0, 2), dtype=np.int64)
            return merged.astype(np.int64)
        if self._empty:
            return np.empty((0, 2), dtype=np.int64)
        address, shape, strides = self._view
        starts = np.array([address], dtype=np.int64)
        disjoint, reach = True, shape[-1]
        for n, s in zip(shape[-2::-1], strides[-2::-1], strict=True):
            # From the fastest dimension out: rows stay sorted and apart as long as every stride clears what lies
            # inside it.
            disjoint = disjoint and (n == 1 or s > reach)
            reach += (n - 1) * s
        for n, s in zip(shape[:-1], strides[:-1], strict=True):
            starts = (starts[:, None] + np.arange(n, dtype=np.int64) * s).reshape(-1)
        if disjoint:
            return np.stack((starts, starts + shape[-1]), axis=1)
        return intervals_of_chunks(starts, shape[-1])

    @property
    def accesses(self) -> tuple[Access, ...]:
        """The shared and the global access, in this order."""
        what = "tensor copy"
        out = [self.shared_access, Access("global", 0, self.store, what, self.global_spans)]
        if self.op:
            out.append(Access("global", 0, False, what, self.global_spans))
        return tuple(out)

    # -------------------------------------------------------------------------------------------------------------- run

    def run(self, smem: U8, gmem: U8, gmem_base: int) -> None:
        """Move the bytes. smem: the CTA's shared memory; gmem: a buffer whose byte 0 has device address `gmem_base`."""
        if self.rows:
            for part in self._parts:
                part.run(smem, gmem, gmem_base)
        elif self.store:
            self._store(smem, gmem, gmem_base)
        else:
            self._load(smem, gmem, gmem_base)

    def _global(self, gmem: U8, gmem_base: int) -> U8:
        address, shape, strides = self._view
        offset = address - gmem_base
        span = self.global_span
        if offset < 0 or (span is not None and span[1] - gmem_base > gmem.size):
            raise UnitError(
                f"tensor copy touches device bytes {address:#x} to {span[1] if span else address:#x}, outside the "
                f"buffer at {gmem_base:#x} of {gmem.size} bytes",
                "make shape and strides of the tensor map agree with the allocation",
            )
        view: U8 = np.ndarray(shape, np.uint8, buffer=gmem, offset=offset, strides=strides)
        return view

    def _linear(self, gmem: U8, gmem_base: int) -> U8:
        """The box as contiguous rows [rows, shared_row_bytes], filled where out of bounds."""
        t = self.tmap
        kind = t.element_type
        convert = kind.startswith("tf32")
        if self._inside:
            box = np.ascontiguousarray(self._global(gmem, gmem_base)).reshape(t.tile_rows, t.row_bytes)
            box = _to_tf32(box) if convert else box
        else:
            full = _fill(t).copy()
            if not self._empty:
                part = self._global(gmem, gmem_base)
                full[self._slices] = _to_tf32(np.ascontiguousarray(part)) if convert else part
            box = full.reshape(t.tile_rows, t.row_bytes)
        if kind not in PADDED:
            return box
        data = t.row_bytes // (t.box[0] // 16)
        out = np.zeros((t.tile_rows, t.box[0] // 16, 16), dtype=np.uint8)
        out[:, :, :data] = box.reshape(t.tile_rows, -1, data)
        return out.reshape(t.tile_rows, t.box[0])

    def _load(self, smem: U8, gmem: U8, gmem_base: int) -> None:
        t = self.tmap
        mode, rows, width, pitch = t.swizzle_mode, t.tile_rows, t.shared_row_bytes, t.row_pitch
        box = self._linear(gmem, gmem_base).reshape(-1)
        phase = self.smem_addr % mode.repeat
        size = 8 if mode.flip8 else 16
        if width == pitch:
            target = smem[self.smem_addr : self.smem_addr + box.size]
            order = _gather(mode, rows, pitch, phase) if mode.bits else None
            if order is None:
                target[:] = box
            elif self.smem_addr % 16 == 0 and _aligned(smem):
                np.take(_cells(box, size), order, out=_cells(target, size), mode="clip")
            else:
                target[:] = _cells(box, size)[order].view(np.uint8)
            return
        where = _chunks(mode, rows, width, pitch, phase)
        region = smem[self.smem_addr : self.smem_addr + rows * pitch].reshape(-1, size)
        region[where] = box.reshape(-1, size)

    def _tile(self, smem: U8) -> U8:
        """The tile read out of shared memory as rows [rows, shared_row_bytes]."""
        t = self.tmap
        mode, rows, width, pitch = t.swizzle_mode, t.tile_rows, t.shared_row_bytes, t.row_pitch
        size = 8 if mode.flip8 else 16
        region = smem[self.smem_addr : self.smem_addr + rows * pitch]
        if not mode.bits:
            return region.reshape(rows, pitch)[:, :width]
        where = _chunks(mode, rows, width, pitch, self.smem_addr % mode.repeat)
        return region.reshape(-1, size)[where].reshape(rows, width)

    def _store(self, smem: U8, gmem: U8, gmem_base: int) -> None:
        if self._empty:
            return
        t = self.tmap
        tile = self._tile(smem)
        if t.element_type == "b6x16_p32":
            tile = _pack_six_bits(tile)
        box = tile.reshape(*reversed(t.counts[1:]), t.row_bytes)
        source = box[self._slices]
        target = self._global(gmem, gmem_base)
        if self.op is None:
            target[...] = source
            return
        dtype = storage(t.element_type)
        new = np.ascontiguousarray(source).view(dtype)
        old = np.ascontiguousarray(target).view(dtype)
        target[...] = np.ascontiguousarray(combine(self.op, t.element_type, old, new)).view(np.uint8)


@lru_cache(maxsize=1024)
def _shared_access(mode: Swizzle, rows: int, width: int, pitch: int, address: int, write: bool) -> Access:
    if width == pitch:
        spans = np.array([[address, address + rows * pitch]], dtype=np.int64)
    else:
        size = 8 if mode.flip8 else 16
        spans = intervals_of_chunks(_chunks(mode, rows, width, pitch, address % mode.repeat) * size + address, size)
    return Access("shared", 0, write, "tensor copy", spans)


def _aligned(smem: U8) -> bool:
    return smem.ctypes.data % 16 == 0


@lru_cache(maxsize=256)
def _fill_block(kind: str, nan_fill: bool, shape: tuple[int, ...]) -> U8:
    block = np.zeros(shape, dtype=np.uint8)
    if nan_fill:
        width = {"f16": 2, "bf16": 2, "f64": 8}.get(kind, 4)
        block[...] = np.tile(np.frombuffer(OOB_NAN[kind].to_bytes(width, "little"), np.uint8), shape[-1] // width)
    return block


def _fill(t: TensorMap) -> U8:
    """A box of out-of-bounds fill, slowest dimension first."""
    return _fill_block(t.element_type, t.nan_fill, (*reversed(t.counts[1:]), t.row_bytes))


def _to_tf32(box: U8) -> U8:
    """What a load of type tf32 does to elements in bounds: it rounds them to nearest even. Loads flush nothing, also
    with .ftz, and leave the fill alone (recorded on an H200)."""
    rounded = FORMATS["tf32"].encode(box.view(np.float32).astype(np.float64), saturate=False)
    return np.ascontiguousarray(rounded).view(np.uint8).reshape(box.shape)


def _pack_six_bits(tile: U8) -> U8:
    """b6p2x16 stores: 16 bytes that hold 6-bit codes become 12 bytes of contiguous bits (PTX ISA 5.5.1.1)."""
    codes = (tile.reshape(-1, 4) & 0x3F).astype(np.uint32)
    words = codes[:, 0] | codes[:, 1] << 6 | codes[:, 2] << 12 | codes[:, 3] << 18
    return np.ascontiguousarray(words).view(np.uint8).reshape(-1, 4)[:, :3].reshape(tile.shape[0], -1)


def _plan(tmap: TensorMap, coords: Sequence[int], smem_addr: int, mode: str, store: bool, op: str | None) -> TilePlan:
    tmap.validate()
    kind = tmap.element_type
    where = tuple(int(c) for c in coords)
    rows: tuple[int, ...] | None = None
    if mode in (GATHER4, SCATTER4):
        if (mode == SCATTER4) != store:
            raise UnitError(f".{mode} on a {'store' if store else 'load'}", "gather4 loads and scatter4 stores")
        if tmap.rank != 2 or tmap.box[1] != 1 or len(where) != 5:
            raise UnitError(
                f".{mode} with rank {tmap.rank}, box {tmap.box} and {len(where)} coordinates",
                "it needs a 2-dimensional map with box[1] = 1 and five coordinates {column, row0..row3}",
            )
        rows, where = where[1:], (where[0], where[1])
    elif mode != TILE:
        raise UnitError(
            f"load mode .{mode} is not implemented",
            "only .tile, .tile::gather4 and .tile::scatter4 are; express im2col with a tiled map",
        )
    elif len(where) != tmap.rank:
        raise UnitError(
            f"tensor copy with {len(where)} coordinates for a map of rank {tmap.rank}",
            "use the instruction form .Nd that matches the map",
        )
    if smem_addr % SHARED_ALIGN:
        raise UnitError(
            f"tensor copy at shared address {smem_addr:#x}",
            f"the shared-memory tile must be {SHARED_ALIGN}-byte aligned",
        )
    if kind in PADDED and where[0] % 128:
        raise UnitError(
            f"tensor copy of type {kind} at coordinate 0 = {where[0]}", "the first coordinate must be a multiple of 128"
        )
    if kind == "b4x16" and where[0] % 2:
        raise UnitError(
            f"tensor copy of 4-bit elements at coordinate 0 = {where[0]}", "the first coordinate must be even"
        )
    if where[0] * tmap.bits % (8 * GRANULE):
        raise UnitError(
            f"tensor copy at coordinate 0 = {where[0]} of {tmap.bits}-bit elements",
            f"the box must start at a multiple of {GRANULE} bytes (an H200 reports an illegal instruction)",
        )
    if store:
        if min((*where, *(rows or ()))) < 0:
            raise UnitError(
                f"tensor store at coordinates {tuple(coords)}",
                "stores need non-negative coordinates (PTX ISA 9.7.9.27.1.1)",
            )
        if kind == "b4x16_p64":
            raise UnitError("tensor store of type b4x16_p64", "only loads take it; store with type b4x16")
    if op is not None:
        check_reduction(op, kind)
    return TilePlan(tmap, where, smem_addr, store, op, rows)


def plan_load(tmap: TensorMap, coords: Sequence[int], smem_addr: int, mode: str = TILE) -> TilePlan:
    """A global-to-shared tensor copy.

    coords: signed, dimension 0 first (gather4: column and four rows); smem_addr: shared address of the tile; mode:
    "tile" or
    "tile::gather4". `UnitError` for what the ISA forbids.
    """
    return _plan(tmap, coords, smem_addr, mode, store=False, op=None)


def plan_store(
    tmap: TensorMap, coords: Sequence[int], smem_addr: int, op: str | None = None, mode: str = TILE
) -> TilePlan:
    """A shared-to-global tensor copy, or with `op` ("add", "min", "max", "inc", "dec", "and", "or", "xor") a
    reduction."""
    return _plan(tmap, coords, smem_addr, mode, store=True, op=op)
