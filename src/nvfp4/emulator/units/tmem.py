"""Tensor memory: storage, allocation, and its loads, stores and shifts (PTX ISA 9.7.16.1, 9.7.16.7, 9.7.16.8,
9.7.16.9.3).

Where a thread's register lies, `.num` = n repeats along columns (figures 183 to 187; the same maps as
cute/atom/copy_traits_sm100.hpp):

    shape     thread t, register r                    lane                 column
    32x32b                                            t                    r
    16x64b                                            t / 4 + 8 (t % 2)    2 r + (t / 2) % 2
    16x128b   r = h + 2 rep                           t / 4 + 8 h          4 rep + t % 4
    16x256b   r = e + 2 h + 4 rep                     t / 4 + 8 h          8 rep + 2 (t % 4) + e
    16x32bx2                                          t % 16               r + (t / 16) * half split offset
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvfp4.emulator.units.access import Access, Spans, rectangles
from nvfp4.emulator.units.errors import UnitError

LANES = 128
COLUMNS = 512
U32 = NDArray[np.uint32]


def split_address(address: int) -> tuple[int, int]:
    """(lane, column) of a tensor-memory address (PTX ISA 9.7.16.1.1)."""
    return (address >> 16) & 0xFFFF, address & 0xFFFF


class TensorMemory:
    """The tensor memory of one CTA.

    words: uint32 [128, 512]; init: bool [128, 512], which words were written since their columns were allocated;
    owner: int64 [512],
    first column of the allocation that a column belongs to, or -1.
    """

    def __init__(self) -> None:
        self.words: U32 = np.zeros((LANES, COLUMNS), dtype=np.uint32)
        self.init = np.zeros((LANES, COLUMNS), dtype=np.bool_)
        self.owner = np.full(COLUMNS, -1, dtype=np.int64)
        self.sizes: dict[int, int] = {}
        self.relinquished = False
        self._last = COLUMNS
        self.layout: tuple[tuple[int, int], ...] = ()  # first column and number of columns of every allocation

    def reset(self) -> None:
        """Back to nothing allocated, nothing written; the arrays stay where they are."""
        self.words.fill(0)
        self.init.fill(False)
        self.owner.fill(-1)
        self.sizes.clear()
        self.relinquished = False
        self._last = COLUMNS
        self.layout = ()

    def allocate(self, columns: int) -> int | None:
        """Address of `columns` newly allocated columns, or None when there is no room now (tcgen05.alloc blocks then).

        `UnitError` for a size that is not a power of two in [32, 512], a size larger than an earlier one, or after
        relinquishing.
        """
        check_columns(columns, "tcgen05.alloc")
        if self.relinquished:
            raise UnitError(
                "tcgen05.alloc after tcgen05.relinquish_alloc_permit", "allocate before giving up the permit"
            )
        if columns > self._last:
            raise UnitError(
                f"tcgen05.alloc of {columns} columns after one of {self._last}",
                "the number of columns must not increase from one allocation to the next (PTX ISA 9.7.16.7.1)",
            )
        free: NDArray[np.bool_] = np.all((self.owner < 0).reshape(-1, 32), axis=1)
        need = columns // 32
        for first in range(free.size - need + 1):
            if free[first : first + need].all():
                start = first * 32
                self.owner[start : start + columns] = start
                self.init[:, start : start + columns] = False
                self.sizes[start] = columns
                self._last = columns
                self.layout = tuple(self.sizes.items())
                return start
        return None

    def check_deallocate(self, address: int, columns: int) -> int:
        """First column of the allocation that `tcgen05.dealloc address, columns` frees; `UnitError` if it is not
        one."""
        check_columns(columns, "tcgen05.dealloc")
        lane, column = split_address(address)
        if lane or column not in self.sizes:
            held = ", ".join(f"{n} columns at {c:#x}" for c, n in sorted(self.sizes.items())) or "none"
            raise UnitError(
                f"tcgen05.dealloc of address {address:#x}, which is not an allocation (allocated: {held})",
                "pass the address that tcgen05.alloc stored, once",
            )
        if self.sizes[column] != columns:
            raise UnitError(
                f"tcgen05.dealloc of {columns} columns at {address:#x}, where {self.sizes[column]} were allocated",
                "free the number of columns that was allocated",
            )
        return column

    def deallocate(self, address: int, columns: int) -> None:
        """Free an allocation (see `check_deallocate`)."""
        column = self.check_deallocate(address, columns)
        del self.sizes[column]
        self.layout = tuple(self.sizes.items())
        self.owner[column : column + columns] = -1
        self.init[:, column : column + columns] = False

    def relinquish(self) -> None:
        """tcgen05.relinquish_alloc_permit: no more allocations by this CTA."""
        self.relinquished = True

    def check_allocated(self, spans: Spans, what: str) -> None:
        """`UnitError` unless all columns of the rectangles [n, 4] are allocated."""
        for _, _, c0, c1 in spans:
            missing = np.flatnonzero(self.owner[c0:c1] < 0)
            if missing.size:
                held = ", ".join(f"[{c}, {c + n})" for c, n in sorted(self.sizes.items())) or "none"
                raise UnitError(
                    f"{what} uses tensor-memory columns [{c0}, {c1}), of which column {c0 + missing[0]} is not "
                    "allocated "
                    f"(allocated: {held})",
                    "allocate enough columns, and use the address that tcgen05.alloc stored",
                )

    def uninitialised(self, spans: Spans) -> tuple[int, int] | None:
        """(lane, column) of the first word of the rectangles that was never written, or None."""
        for l0, l1, c0, c1 in spans:
            block = self.init[l0:l1, c0:c1]
            if not block.all():
                lane, column = np.argwhere(~block)[0]
                return int(l0 + lane), int(c0 + column)
        return None


def check_columns(columns: int, what: str) -> None:
    """`UnitError` unless `columns` is a power of two from 32 to 512."""
    if columns < 32 or columns > COLUMNS or columns & (columns - 1):
        raise UnitError(f"{what} of {columns} columns", "the number of columns is a power of two from 32 to 512")


def check_rectangles(spans: Spans, what: str) -> None:
    """`UnitError` unless the rectangles lie within 128 lanes and 512 columns."""
    for l0, l1, c0, c1 in spans:
        if l0 < 0 or l1 > LANES or c0 < 0 or c1 > COLUMNS:
            raise UnitError(
                f"{what} reaches lanes [{l0}, {l1}), columns [{c0}, {c1}) of tensor memory",
                "tensor memory has 128 lanes and 512 columns; the address is lane << 16 | column",
            )


# -------------------------------------------------------------------------------------------------------- loads and
# stores

# shape -> (lanes that it touches, columns of one repetition, registers of one repetition)
_SHAPES = {
    "32x32b": (32, 1, 1),
    "16x64b": (16, 2, 1),
    "16x128b": (16, 4, 2),
    "16x256b": (16, 8, 4),
    "16x32bx2": (16, 1, 1),
}


def registers(shape: str, num: int) -> int:
    """Registers of one thread (PTX ISA table 49); `UnitError` for a combination that does not exist."""
    if shape not in _SHAPES:
        raise UnitError(f"tcgen05.ld/st shape .{shape}", f"shapes are {', '.join('.' + s for s in _SHAPES)}")
    count = _SHAPES[shape][2] * num
    if num not in (1, 2, 4, 8, 16, 32, 64, 128) or count > 128:
        raise UnitError(
            f"tcgen05.ld/st .{shape}.x{num}", "a thread transfers at most 128 registers; .num is a power of two"
        )
    return count


@lru_cache(maxsize=512)
def fragment(shape: str, num: int, split: int = 0) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(lane, column) offsets of every register of every thread: two arrays [registers, 32].

    split: the half split offset of 16x32bx2, in columns of 32 bits (packed columns count once).
    """
    count = registers(shape, num)
    t = np.arange(32)[None, :]
    r = np.arange(count)[:, None]
    zero = np.zeros((count, 32), dtype=np.intp)
    if shape == "32x32b":
        lane, column = t + zero, r + zero
    elif shape == "16x64b":
        lane, column = t // 4 + 8 * (t % 2) + zero, 2 * r + (t // 2) % 2
    elif shape == "16x128b":
        lane, column = t // 4 + 8 * (r % 2), 4 * (r // 2) + t % 4
    elif shape == "16x256b":
        lane, column = t // 4 + 8 * ((r // 2) % 2), 8 * (r // 4) + 2 * (t % 4) + r % 2
    else:
        lane, column = t % 16 + zero, r + (t // 16) * split
    return lane.astype(np.intp), column.astype(np.intp)


@dataclass(frozen=True, eq=False)
class _Transfer:
    """A tcgen05.ld or tcgen05.st of one warp: `shape`.x`num` at `address` by the warp with index `warp` in its
    warpgroup."""

    shape: str
    num: int
    address: int
    warp: int
    packed: bool = False
    split: int = 0

    @cached_property
    def index(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Absolute (lane, column) of every register, [registers, 32]; for packed transfers the column of the low
        half."""
        lane, column = split_address(self.address)
        width = 2 if self.packed else 1
        lanes, columns = fragment(self.shape, self.num, 0)
        half = (np.arange(32)[None, :] // 16) * self.split if self.shape == "16x32bx2" else 0
        return lanes + lane, columns * width + half + column

    @cached_property
    def spans(self) -> Spans:
        """Rectangles of tensor memory."""
        lane, column = split_address(self.address)
        lanes, columns, _ = _SHAPES[self.shape]
        width = columns * self.num * (2 if self.packed else 1)
        rows = [(lane, lane + lanes, column, column + width)]
        if self.shape == "16x32bx2":
            rows.append((lane, lane + lanes, column + self.split, column + self.split + width))
        return rectangles(rows)

    def check(self, what: str) -> None:
        """`UnitError` for lanes that this warp cannot reach or a place outside tensor memory."""
        registers(self.shape, self.num)
        lane, _ = split_address(self.address)
        lanes = _SHAPES[self.shape][0]
        low = 32 * self.warp
        if not low <= lane or lane + lanes > low + 32 or lane % 16:
            raise UnitError(
                f"{what}.{self.shape} at lane {lane} by warp {self.warp} of its warpgroup",
                f"that warp reaches lanes {low} to {low + 31} only; add (warp % 4) * 32 << 16 to the address (PTX "
                "ISA 9.7.16.8.1)",
            )
        check_rectangles(self.spans, f"{what}.{self.shape}.x{self.num}")


@dataclass(frozen=True, eq=False)
class LdPlan(_Transfer):
    """tcgen05.ld."""

    @property
    def accesses(self) -> tuple[Access, ...]:
        """The read of tensor memory."""
        return (Access("tensor", 0, False, "tcgen05.ld", self.spans),)

    def run(self, tmem: TensorMemory) -> U32:
        """The registers, uint32 [registers, 32]."""
        lanes, columns = self.index
        low: U32 = tmem.words[lanes, columns]
        if not self.packed:
            return low
        high: U32 = tmem.words[lanes, columns + 1] << np.uint32(16)
        both: U32 = (low & np.uint32(0xFFFF)) | high
        return both

    def reduce(self, regs: U32, op: str, kind: str, absolute: bool = False, nan: bool = False) -> U32:
        """redval of tcgen05.ld.red: min or max over a thread's registers, uint32 [32] (kinds "f32", "u32", "s32";
        .32x32b only)."""
        if self.shape != "32x32b" or self.num < 2:
            raise UnitError(
                f"tcgen05.ld.red .{self.shape}.x{self.num}", "only .32x32b with at least .x2 is implemented"
            )
        if op not in ("min", "max"):
            raise UnitError(f"tcgen05.ld.red .{op}", "the reductions are .min and .max")
        dtype: Any = {"f32": np.float32, "u32": np.uint32, "s32": np.int32}[kind]
        values = np.ascontiguousarray(regs).view(dtype)
        if kind != "f32":
            return np.ascontiguousarray(values.min(axis=0) if op == "min" else values.max(axis=0)).view(np.uint32)
        values = np.abs(values) if absolute else values
        choose = {
            ("min", True): np.minimum,
            ("min", False): np.fmin,
            ("max", True): np.maximum,
            ("max", False): np.fmax,
        }
        out: NDArray[np.float32] = choose[op, nan].reduce(values, axis=0)
        return np.where(np.isnan(out), np.uint32(0x7FFFFFFF), out.view(np.uint32)).astype(np.uint32)


@dataclass(frozen=True, eq=False)
class StPlan(_Transfer):
    """tcgen05.st."""

    @property
    def accesses(self) -> tuple[Access, ...]:
        """The write of tensor memory."""
        return (Access("tensor", 0, True, "tcgen05.st", self.spans),)

    def run(self, tmem: TensorMemory, regs: U32) -> None:
        """Store uint32 [registers, 32]. Unpacked halves are zero-extended into their words."""
        lanes, columns = self.index
        if self.packed:
            tmem.words[lanes, columns] = regs & np.uint32(0xFFFF)
            tmem.words[lanes, columns + 1] = regs >> np.uint32(16)
        else:
            tmem.words[lanes, columns] = regs
        for l0, l1, c0, c1 in self.spans:
            tmem.init[l0:l1, c0:c1] = True


@lru_cache(maxsize=4096)
def plan_ld(shape: str, num: int, address: int, warp: int, packed: bool = False, split: int = 0) -> LdPlan:
    """tcgen05.ld.sync.aligned.`shape`.x`num`{.pack::16b}: `warp` is the warp's index in its warpgroup (warp id % 4);
    `split` the
    immHalfSplitoff of 16x32bx2."""
    plan = LdPlan(shape, num, address, warp, packed, split)
    plan.check("tcgen05.ld")
    return plan


@lru_cache(maxsize=4096)
def plan_st(shape: str, num: int, address: int, warp: int, packed: bool = False, split: int = 0) -> StPlan:
    """tcgen05.st.sync.aligned.`shape`.x`num`{.unpack::16b}; operands as `plan_ld`."""
    plan = StPlan(shape, num, address, warp, packed, split)
    plan.check("tcgen05.st")
    return plan


# ---------------------------------------------------------------------------------------------------------------- shift


@dataclass(frozen=True)
class ShiftPlan:
    """tcgen05.shift.down: in 32 lanes and 8 columns, lane i takes the contents of lane i + 1; the last lane stays."""

    address: int
    group: int

    @property
    def accesses(self) -> tuple[Access, ...]:
        """Reads and writes in each CTA of the group."""
        lane, column = split_address(self.address)
        read = rectangles([(lane + 1, lane + 32, column, column + 8)])
        write = rectangles([(lane, lane + 31, column, column + 8)])
        out = []
        for cta in range(self.group):
            out.append(Access("tensor", cta, False, "tcgen05.shift", read))
            out.append(Access("tensor", cta, True, "tcgen05.shift", write))
        return tuple(out)

    def run(self, tmems: list[TensorMemory] | tuple[TensorMemory, ...]) -> None:
        """Shift in every tensor memory of the group."""
        lane, column = split_address(self.address)
        for tmem in tmems:
            for array in (tmem.words, tmem.init):
                array[lane : lane + 31, column : column + 8] = array[lane + 1 : lane + 32, column : column + 8].copy()


def plan_shift(address: int, group: int) -> ShiftPlan:
    """tcgen05.shift.cta_group::`group`.down (PTX ISA 9.7.16.9.3)."""
    lane, column = split_address(address)
    if lane % 32 or lane >= LANES or column + 8 > COLUMNS:
        raise UnitError(
            f"tcgen05.shift at lane {lane}, column {column}", "the lane must be a multiple of 32, within 512 columns"
        )
    return ShiftPlan(address, group)
