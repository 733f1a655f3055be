"""tcgen05.mma in native code (runtime/products.py): the forms that real kernels use, several times faster than NumPy.

`prepare` says whether a plan has such a form; `MmaPlan.run` does everything else, and both give the same bits
(tests/emulator/units/test_unit_tcgen05.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nvfp4.emulator.runtime.native import runtime
from nvfp4.emulator.runtime.products import OPERAND, PRODUCT
from nvfp4.emulator.units.numerics import FORMATS
from nvfp4.emulator.units.tmem import TensorMemory, split_address

if TYPE_CHECKING:
    from nvfp4.emulator.units.operand import Operand
    from nvfp4.emulator.units.tcgen05_mma import MmaPlan

__all__ = ["NativeProduct", "prepare", "work_space"]

# Decoded A (128 x 64), B twice (256 x 64), and scale factors of both: the largest instruction.
_WORK = 128 * 64 + 2 * 256 * 64 + 256 * 8
_KINDS = {"f16": 16, "bf16": 17, "tf32": 32}


def work_space() -> NDArray[np.float64]:
    """Room for the operands of one product at a time."""
    return np.empty(_WORK, np.float64)


@lru_cache(maxsize=16)
def _table(name: str) -> NDArray[np.float64]:
    """Values of all bytes: of two codes each for 4-bit formats; unused top bits of a code do not count."""
    fmt = FORMATS[name]
    if fmt.bits == 4:
        return fmt.pairs.reshape(-1).astype(np.float64)
    return np.tile(fmt.table.astype(np.float64), 256 >> fmt.bits)


def _operand(o: Operand, steps: tuple[int, int]) -> tuple[NDArray[Any], NDArray[np.int64]] | None:
    """The native description and the chunk list that it points to. steps: of a row and of a k, in elements."""
    bits = o.fmt.bits
    if o.fmt.integer or bits not in (4, 8, 16, 32) or (bits == 32 and o.fmt.name != "tf32"):
        return None
    record = np.zeros(1, OPERAND.dtype)
    chunks = np.ascontiguousarray(o.chunk_addresses >> 4, np.int64)
    elements = 128 // o.container_bits
    r = record[0]
    r["chunks"], r["outer"], r["inner"], r["elements"] = chunks.ctypes.data, *chunks.shape, elements
    r["kind"] = _KINDS.get(o.fmt.name, bits)
    if bits <= 8:
        r["table"] = _table(o.fmt.name).ctypes.data
    outer, inner = steps[::-1] if o.mn_major else steps
    r["outer_step"], r["inner_step"], r["limit"] = outer, inner, o.rows if o.mn_major else o.k
    return record, chunks


@dataclass(frozen=True, eq=False)
class NativeProduct:
    """A plan's operands and geometry for native code."""

    plan: MmaPlan
    a: tuple[NDArray[Any], NDArray[np.int64]]
    b: tuple[NDArray[Any], NDArray[np.int64]]
    record: NDArray[Any]
    end: int

    def bind(
        self, smems: Sequence[NDArray[np.uint8]], tmems: Sequence[TensorMemory], work: NDArray[np.float64]
    ) -> Callable[[bool], None]:
        """The product on these memories, as a function of the enable-input-d operand. work: `work_space()`, not used
        by anybody else meanwhile."""
        record = self.record.copy()
        r = record[0]
        r["work"] = work.ctypes.data
        for c, (smem, tmem) in enumerate(zip(smems, tmems, strict=True)):
            r["smem"][c], r["words"][c], r["init"][c] = (x.ctypes.data for x in (smem, tmem.words, tmem.init))
        call = runtime().function("tensor_product")
        where = int(record.ctypes.data), int(self.a[0].ctypes.data), int(self.b[0].ctypes.data)
        fits = all(self.end <= smem.size for smem in smems)
        plan = self.plan

        def run(accumulate: bool, held: object = (record, work)) -> None:
            del held  # as long as the function lives
            if not fits or not call(*where, accumulate):
                plan.run_numpy(smems, tmems, accumulate)

        return run


def prepare(plan: MmaPlan) -> NativeProduct | None:
    """The native form of a plan; None if it has none."""
    i, op = plan.instruction, plan.op
    if plan.a is None or i.d_type != "f32" or op.disabled_lanes or op.scale_d or op.ashift:
        return None
    if i.scales and (len(plan.paths) != 1 or plan.rows != 128):
        return None
    a, b = _operand(plan.a, (i.k, 1)), _operand(plan.b, (1, i.n))
    if a is None or b is None or min(int(plan.a.spans[0, 0]), int(plan.b.spans[0, 0])) < 0:
        return None
    record = np.zeros(1, PRODUCT.dtype)
    r = record[0]
    r["ctas"], r["rows"], r["columns"], r["k"], r["scales"] = op.group, plan.rows, i.n, i.k, i.scales
    r["column"], r["negate"] = split_address(op.d)[1], i.negate_a != i.negate_b
    if i.scales:
        assert op.scale_a is not None
        assert op.scale_b is not None
        r["scale_column_a"], r["scale_column_b"] = (
            split_address(address & 0x3FFFFFFF)[1] for address in (op.scale_a, op.scale_b)
        )
        r["scale_byte_a"], r["scale_byte_b"] = i.a_scale_id, i.b_scale_id
        r["scale_table"] = _table(i.scale_type).ctypes.data
    runs = 0
    for path in plan.paths:
        row = 0
        for lane, count in path.lanes:
            # Where D is split over datapaths, each of them multiplies all rows with its own columns.
            for name, value in (
                ("run_lane", lane),
                ("run_rows", count),
                ("run_first", row),
                ("run_column", path.n0),
                ("run_width", path.n1 - path.n0),
            ):
                r[name][runs] = value
            row += count
            runs += 1
    r["runs"] = runs
    if (r["run_rows"][:runs] % 8).any() or (r["run_width"][:runs] % 8).any() or i.n % 8:
        return None
    return NativeProduct(plan, a, b, record, max(int(plan.a.spans[-1, 1]), int(plan.b.spans[-1, 1])))
