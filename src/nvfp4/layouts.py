"""How block scales lie in memory. A layout is a frozen value that owns its `pack`, `unpack`, `offset` and shape.

Logically the scales are a matrix [rows, blocks], blocks = K/16, or a batch of them [L, rows, blocks].

`LINEAR` stores just that. `TILED` is what cuBLAS and ``tcgen05`` want: tiles of 128 rows by 4 blocks, 512 bytes each,
one after another along K, then along rows (cuBLAS documentation, "1D Block Scaling Factors Layout")::

    byte of (r, j) in its tile   =  (r % 32) * 16  +  ((r % 128) // 32) * 4  +  j % 4

                 byte 0..3           4..7            8..11           12..15
    line 0    r 0,  j 0..3      r 32, j 0..3    r 64, j 0..3    r 96,  j 0..3
    line 1    r 1,  j 0..3      r 33, j 0..3    r 65, j 0..3    r 97,  j 0..3
     ...
    line 31   r 31, j 0..3      r 63, j 0..3    r 95, j 0..3    r 127, j 0..3

`CONTEST` is the same storage seen through the GPU MODE contest's 6-D view [32, 4, rest_m, 4, rest_k, L].

Padding: sizes that do not fill a tile are padded with zero bytes when packed. What a reader finds in the padding is
ignored, and may be anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from nvfp4.errors import InputError

TILE_ROWS = 128
"""Rows of a scale tile."""

TILE_BLOCKS = 4
"""Blocks along K (64 elements) of a scale tile."""

TILE_BYTES = TILE_ROWS * TILE_BLOCKS
"""Bytes of a scale tile."""


def _ceil(value: int, unit: int) -> int:
    return -(-value // unit)


def _check_sizes(op: str, rows: int, blocks: int) -> None:
    if rows < 0 or blocks < 0:
        raise InputError(op, "rows, blocks", "sizes of at least 0", (rows, blocks), "Pass the logical sizes.")


def _check_matrix(op: str, scales: torch.Tensor) -> None:
    if scales.dim() < 2:
        raise InputError(op, "scales", "[..., rows, K/16]", tuple(scales.shape), "Pass a matrix of block scales.")


def _check_storage(op: str, storage: torch.Tensor, expected: tuple[int, ...]) -> None:
    if tuple(storage.shape) != expected:
        raise InputError(op, "storage", expected, tuple(storage.shape), "Pass the storage that `pack` makes.")


@dataclass(frozen=True)
class Linear:
    """Row-major [..., rows, blocks]."""

    name: ClassVar[str] = "linear"

    def storage_shape(self, rows: int, blocks: int, batch: Sequence[int] = ()) -> tuple[int, ...]:
        """Shape of the storage of `rows` x `blocks` scales."""
        _check_sizes("Linear.storage_shape", rows, blocks)
        return (*batch, rows, blocks)

    def offset(self, row: int, block: int, rows: int, blocks: int, batch: int = 0) -> int:
        """Byte at which the scale of (batch, row, block) lies."""
        _check_element("Linear.offset", row, block, rows, blocks)
        return (batch * rows + row) * blocks + block

    def pack(self, scales: torch.Tensor) -> torch.Tensor:
        """Storage of linear `scales` [..., rows, blocks]: themselves, made contiguous."""
        _check_matrix("Linear.pack", scales)
        return scales.contiguous()

    def unpack(self, storage: torch.Tensor, rows: int, blocks: int) -> torch.Tensor:
        """Linear scales [..., rows, blocks] of `storage`."""
        _check_storage("Linear.unpack", storage, self.storage_shape(rows, blocks, tuple(storage.shape[:-2])))
        return storage.contiguous()


@dataclass(frozen=True)
class Tiled:
    """128x4 tiles: [..., ceil(rows/128), ceil(blocks/4), 32, 4, 4].

    The last five indices are r//128, j//4, r%32, r%128//32, j%4.
    """

    name: ClassVar[str] = "tiled"

    def storage_shape(self, rows: int, blocks: int, batch: Sequence[int] = ()) -> tuple[int, ...]:
        """Shape of the storage of `rows` x `blocks` scales, padding included."""
        _check_sizes("Tiled.storage_shape", rows, blocks)
        return (*batch, _ceil(rows, TILE_ROWS), _ceil(blocks, TILE_BLOCKS), 32, 4, 4)

    def offset(self, row: int, block: int, rows: int, blocks: int, batch: int = 0) -> int:
        """Byte at which the scale of (batch, row, block) lies."""
        _check_element("Tiled.offset", row, block, rows, blocks)
        columns = _ceil(blocks, TILE_BLOCKS)
        tile = (batch * _ceil(rows, TILE_ROWS) + row // TILE_ROWS) * columns + block // TILE_BLOCKS
        return tile * TILE_BYTES + row % 32 * 16 + row % TILE_ROWS // 32 * 4 + block % TILE_BLOCKS

    def pack(self, scales: torch.Tensor) -> torch.Tensor:
        """Tiled storage of linear `scales` [..., rows, blocks] (any one-byte type); the padding is zero bytes."""
        _check_matrix("Tiled.pack", scales)
        batch, rows, blocks = tuple(scales.shape[:-2]), scales.shape[-2], scales.shape[-1]
        tile_rows, columns = _ceil(rows, TILE_ROWS), _ceil(blocks, TILE_BLOCKS)
        # Bytes, because padding must be the zero byte and few operators exist for float8.
        data = scales.view(torch.uint8) if scales.dtype != torch.uint8 else scales
        if (rows, blocks) != (tile_rows * TILE_ROWS, columns * TILE_BLOCKS):
            padded = data.new_zeros((*batch, tile_rows * TILE_ROWS, columns * TILE_BLOCKS))
            padded[..., :rows, :blocks] = data
            data = padded
        tiles = data.reshape(*batch, tile_rows, 4, 32, columns, 4)
        return tiles.movedim(-2, -4).transpose(-2, -3).contiguous().view(scales.dtype)

    def unpack(self, storage: torch.Tensor, rows: int, blocks: int) -> torch.Tensor:
        """Linear scales [..., rows, blocks] of tiled `storage`; the padding is not read."""
        _check_storage("Tiled.unpack", storage, self.storage_shape(rows, blocks, tuple(storage.shape[:-5])))
        data = storage.view(torch.uint8) if storage.dtype != torch.uint8 else storage
        *batch, tile_rows, columns, _, _, _ = data.shape
        matrix = data.transpose(-2, -3).movedim(-4, -2).reshape(*batch, tile_rows * TILE_ROWS, columns * TILE_BLOCKS)
        return matrix[..., :rows, :blocks].contiguous().view(storage.dtype)


@dataclass(frozen=True)
class Contest:
    """The contest's view [32, 4, rest_m, 4, rest_k, L] of tiled storage [L, rest_m, rest_k, 32, 4, 4].

    Only the order of the indices differs from `TILED`: the bytes are the same, so `view` and `tiled` copy nothing.
    """

    name: ClassVar[str] = "contest"

    def storage_shape(self, rows: int, blocks: int, batch: Sequence[int] = (1,)) -> tuple[int, ...]:
        """Shape of the view of `rows` x `blocks` scales; `batch` is one number, L."""
        (count,) = batch
        _, rest_m, rest_k, _, _, _ = TILED.storage_shape(rows, blocks, (count,))
        return (32, 4, rest_m, 4, rest_k, count)

    def offset(self, row: int, block: int, rows: int, blocks: int, batch: int = 0) -> int:
        """Byte at which the scale of (batch, row, block) lies: that of the tiled storage."""
        return TILED.offset(row, block, rows, blocks, batch)

    def pack(self, scales: torch.Tensor) -> torch.Tensor:
        """The 6-D view of linear `scales` [L, rows, blocks] or [rows, blocks] (then L is 1)."""
        _check_matrix("Contest.pack", scales)
        if scales.dim() > 3:
            raise InputError("Contest.pack", "scales", "[L, rows, K/16]", tuple(scales.shape), "Flatten the batch.")
        return self.view(TILED.pack(scales if scales.dim() == 3 else scales[None]))

    def unpack(self, storage: torch.Tensor, rows: int, blocks: int) -> torch.Tensor:
        """Linear scales [L, rows, blocks] of a 6-D view of any strides."""
        return TILED.unpack(self.tiled(storage), rows, blocks)

    def view(self, tiled: torch.Tensor) -> torch.Tensor:
        """The 6-D view of tiled storage [L, rest_m, rest_k, 32, 4, 4]."""
        if tiled.dim() != 6 or tuple(tiled.shape[3:]) != (32, 4, 4):
            raise InputError(
                "Contest.view", "tiled", "[L, rest_m, rest_k, 32, 4, 4]", tuple(tiled.shape), "Pack with TILED first."
            )
        return tiled.permute(3, 4, 1, 5, 2, 0)

    def tiled(self, storage: torch.Tensor) -> torch.Tensor:
        """Tiled storage [L, rest_m, rest_k, 32, 4, 4] of a 6-D view: a view of the same bytes."""
        shape = tuple(storage.shape)
        if storage.dim() != 6 or (shape[0], shape[1], shape[3]) != (32, 4, 4):
            expected = "[32, 4, rest_m, 4, rest_k, L]"
            raise InputError("Contest.tiled", "storage", expected, shape, "Pass the contest's permuted scale tensor.")
        return storage.permute(5, 2, 4, 0, 1, 3)


def _check_element(op: str, row: int, block: int, rows: int, blocks: int) -> None:
    _check_sizes(op, rows, blocks)
    if not (0 <= row < rows and 0 <= block < blocks):
        raise InputError(op, "row, block", f"below {(rows, blocks)}", (row, block), "Index scales that exist.")


LINEAR = Linear()
TILED = Tiled()
CONTEST = Contest()

Layout = Linear | Tiled | Contest


def by_name(name: str) -> Linear | Tiled:
    """The layout that `NVFP4Tensor.scale_layout` names: ``"linear"`` or ``"tiled"``."""
    if name == "linear":
        return LINEAR
    if name == "tiled":
        return TILED
    raise InputError("layouts.by_name", "name", "'linear' or 'tiled'", repr(name), "Name one of the two.")
