"""tcgen05.cp: shared memory to tensor memory (PTX ISA 9.7.16.9.2), with the decompression of 9.7.16.9.1.

The source is a K-major matrix of rows of 128 or 256 bits that a shared-memory descriptor lays out; row r goes to
tensor-memory lanes

    128x256b, 128x128b     r
    4x256b                 32 r                (one lane in each quarter: it refreshes what tcgen05.shift leaves)
    64x128b warpx2::02_13  r, r + 64
    64x128b warpx2::01_23  (r % 32) + 64 (r / 32), and the same + 32
    32x128b warpx4         r, r + 32, r + 64, r + 96

counted from the lane of the destination address (the maps of the UTCCP traits in cute/atom/copy_traits_sm100.hpp).
With cta_group::2
each CTA of the pair copies from its own shared memory, at the address in the descriptor, to its own tensor memory:
the way CUTLASS's
block-scaled mainloop, where only the leader issues, fills each CTA's own scale factors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from nvfp4.emulator.runtime.native import runtime
from nvfp4.emulator.units.access import Access, Spans, rectangles
from nvfp4.emulator.units.errors import UnitError
from nvfp4.emulator.units.operand import Operand, operand, parse_sm100, unpack_six
from nvfp4.emulator.units.tmem import TensorMemory, check_rectangles, split_address

U8 = NDArray[np.uint8]

# shape -> rows, bits of a row, multicast qualifiers
_SHAPES: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "128x256b": (128, 256, ("",)),
    "4x256b": (4, 256, ("",)),
    "128x128b": (128, 128, ("",)),
    "64x128b": (64, 128, ("warpx2::02_13", "warpx2::01_23")),
    "32x128b": (32, 128, ("warpx4",)),
}
# Where a decompressed element sits in its 8-bit container (PTX ISA 9.7.14.5.14, packing of the f8f6f4 kinds): E2M1
# in the middle four bits,
# 6-bit types in the low six.
E2M1_SHIFT = 2


def _lanes(shape: str, multicast: str) -> NDArray[np.intp]:
    """Destination lanes [copies, rows]."""
    rows = np.arange(_SHAPES[shape][0])
    if shape == "4x256b":
        return (32 * rows)[None, :].astype(np.intp)
    if multicast == "warpx2::02_13":
        return np.stack((rows, rows + 64)).astype(np.intp)
    if multicast == "warpx2::01_23":
        base = rows % 32 + 64 * (rows // 32)
        return np.stack((base, base + 32)).astype(np.intp)
    if multicast == "warpx4":
        return np.stack([rows + 32 * q for q in range(4)]).astype(np.intp)
    return rows[None, :].astype(np.intp)


@dataclass(frozen=True, eq=False)
class CpPlan:
    """One issued tcgen05.cp."""

    shape: str
    multicast: str
    source_format: str
    group: int
    address: int
    source: Operand

    @cached_property
    def _where(self) -> tuple[NDArray[np.intp], int, int]:
        lane, column = split_address(self.address)
        return _lanes(self.shape, self.multicast) + lane, column, column + _SHAPES[self.shape][1] // 32

    @cached_property
    def spans(self) -> Spans:
        """Tensor-memory rectangles that are written, in each CTA of the group."""
        lanes, c0, c1 = self._where
        used = np.unique(lanes)
        cuts = np.flatnonzero(np.diff(used) > 1) + 1
        return rectangles((int(run[0]), int(run[-1]) + 1, c0, c1) for run in np.split(used, cuts))

    @cached_property
    def accesses(self) -> tuple[Access, ...]:
        """Shared reads and tensor-memory writes of each CTA of the group."""
        out = []
        for cta in range(self.group):
            out.append(Access("shared", cta, False, "tcgen05.cp source", self.source.spans))
            out.append(Access("tensor", cta, True, "tcgen05.cp destination", self.spans))
        return tuple(out)

    def run(self, smems: Sequence[U8], tmems: Sequence[TensorMemory]) -> None:
        """Copy in each CTA of the group."""
        self.bind(smems, tmems)()

    def bind(self, smems: Sequence[U8], tmems: Sequence[TensorMemory]) -> Callable[[], None]:
        """The copy between these memories, to be carried out any number of times."""
        lanes, c0, _ = self._where
        spans = self.source.spans
        if self.source_format or int(spans[0, 0]) < 0 or any(int(spans[-1, 1]) > smem.size for smem in smems):
            return lambda: self.run_numpy(smems, tmems)
        call = runtime().function("tensor_copy")
        chunks = np.ascontiguousarray(self.source.chunk_addresses >> 4, np.int64)
        to = np.ascontiguousarray(lanes, np.int64)
        fixed = (int(chunks.ctypes.data), *chunks.shape, int(to.ctypes.data), len(to))
        places = [
            (smem.ctypes.data, *fixed, tmem.words[:, c0:].ctypes.data, tmem.init[:, c0:].ctypes.data)
            for smem, tmem in zip(smems, tmems, strict=True)
        ]

        def run(held: object = (chunks, to, smems, tmems)) -> None:
            del held  # as long as the function lives
            for place in places:
                call(*place)

        return run

    def run_numpy(self, smems: Sequence[U8], tmems: Sequence[TensorMemory]) -> None:
        """`run`, in NumPy, with decompression."""
        lanes, c0, c1 = self._where
        for smem, tmem in zip(smems, tmems, strict=True):
            words = self._expand(self.source.fetch(smem)).view(np.uint32)
            for copy in lanes:
                if copy[-1] - copy[0] == copy.size - 1:
                    tmem.words[copy[0] : copy[-1] + 1, c0:c1] = words
                else:
                    tmem.words[copy, c0:c1] = words
            for l0, l1, _, _ in self.spans:
                tmem.init[l0:l1, c0:c1] = True

    def _expand(self, raw: U8) -> U8:
        if not self.source_format:
            return raw
        cells = raw.reshape(raw.shape[0], -1, 16)
        if self.source_format == "b4x16_p64":
            packed = cells[..., :8]
            out = np.empty(cells.shape, dtype=np.uint8)
            out[..., 0::2] = (packed & 15) << E2M1_SHIFT
            out[..., 1::2] = (packed >> 4) << E2M1_SHIFT
        else:
            out = unpack_six(np.ascontiguousarray(cells[..., :12]))
        return np.ascontiguousarray(out).reshape(raw.shape)


@lru_cache(maxsize=4096)
def plan_cp(shape: str, multicast: str, group: int, address: int, desc: int, source_format: str = "") -> CpPlan:
    """``tcgen05.cp.cta_group::GROUP.SHAPE{.MULTICAST}{.b8x16.SOURCE_FORMAT} [address], desc``.

    shape, multicast ("", "warpx2::02_13", "warpx2::01_23", "warpx4") and source_format ("", "b4x16_p64",
    "b6x16_p32") without dots.
    """
    if shape not in _SHAPES:
        raise UnitError(f"tcgen05.cp shape .{shape}", f"shapes are {', '.join('.' + s for s in _SHAPES)}")
    rows, bits, casts = _SHAPES[shape]
    if multicast not in casts:
        raise UnitError(
            f"tcgen05.cp.{shape} with multicast .{multicast or '(none)'}",
            f"it takes {' or '.join('.' + c if c else 'no multicast' for c in casts)}",
        )
    if source_format not in ("", "b4x16_p64", "b6x16_p32"):
        raise UnitError(f"tcgen05.cp source format .{source_format}", "formats are .b4x16_p64 and .b6x16_p32")
    source = operand(parse_sm100(desc & ((1 << 64) - 1)), rows, bits // 8, "u8")
    plan = CpPlan(shape, multicast, source_format, group, address, source)
    check_rectangles(plan.spans, f"tcgen05.cp.{shape} to address {address:#x}")
    return plan
