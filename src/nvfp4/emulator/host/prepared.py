"""Operations of an asynchronous engine made ready for one place in memory.

A kernel issues the same few products and copies over and over, on the stages of its ring buffer: what they touch is
laid out once, as a table that native code checks in one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.engines import TOUCH
from ..units.access import Access
from ..units.tcgen05 import TensorMemory

if TYPE_CHECKING:
    from .state import HostCall

__all__ = ["Prepared", "prepare"]


@dataclass(slots=True, eq=False)
class Prepared:
    """One operation on one cluster's memory. run: its effect; layouts: the allocations for which it has
    been checked; flops: for the counter."""

    run: Callable[[], None]
    table: NDArray[Any]
    address: int
    held: tuple[object, ...]
    tensors: list[tuple[TensorMemory, Access, str]]
    layouts: list[tuple[tuple[int, int], ...]] = field(default_factory=list)
    flops: int = 0

    def issue(self, call: HostCall, component: int, date: int) -> None:
        """Check what the operation touches, and leave its marks. Operations of one component are in order in tensor
        memory."""
        layouts = [tmem.layout for tmem, _, _ in self.tensors]
        if layouts != self.layouts:
            for tmem, access, what in self.tensors:
                tmem.check_allocated(access.spans, what)
            self.layouts = layouts
        launch = call.launch
        if launch.checked:
            launch.async_accesses(
                launch.address,
                launch.warp_address(call.index),
                self.address,
                len(self.table),
                call.number,
                component,
                date,
                component,
            )


def prepare(
    call: HostCall, accesses: Iterable[tuple[Access, int, bool]], run: Callable[[], None], flops: int = 0
) -> Prepared:
    """Lay out what an operation touches. accesses: with the rank of their CTA, and whether a write reads as well."""
    rows: list[tuple[int, int, int, int, int]] = []
    tensors: list[tuple[TensorMemory, Access, str]] = []
    held: list[object] = []
    strict = 16 if call.launch.checks.strict else 0
    for access, rank, both in accesses:
        if access.space == "tensor":
            words, cells = call.tensor_words(access), call.tensor_cells(rank)
            flags = int(access.write) | 4 | strict | (32 if both else 0)
            tensors.append((call.tmem(rank), access, f"{call.instruction.opcode}: {access.what}"))
        else:
            words, cells = np.ascontiguousarray(access.words, np.int64), call.slot.cells[rank]
            call.inside(words, cells.size, rank, access.what)
            flags = int(access.write) | 2
        held += [words, cells]
        place = call.launch.findings.name(access.what) | rank << 8
        rows.append((cells.ctypes.data, words.ctypes.data, words.size, flags, place))
    table = np.array(rows, TOUCH.dtype)
    return Prepared(run, table, int(table.ctypes.data), tuple(held), tensors, flops=flops)
