"""Moves out of registers that a ``tcgen05.ld`` still writes.

NVVM packs the destinations of a ``tcgen05.ld`` into pairs at once, before the ``tcgen05.wait::ld`` of the source
program: in CuTe DSL kernels ``mov.b64 %rd1, {%r1, %r2}`` stands between the two. For ptxas these moves only name
registers; read as instructions they would take values that have not arrived. They are carried out after the wait here,
wherever nothing in between needs them.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ptx.ast import Instruction, Label
from .flow import reads_writes

__all__ = ["delay_moves"]

_ENDS = {"bra", "brx", "ret", "exit", "call", "trap"}


def delay_moves(body: Sequence[Instruction | Label]) -> list[Instruction | Label]:
    """``body`` with such moves behind the wait that makes their sources readable."""
    result: list[Instruction | Label] = []
    arriving: set[str] = set()
    moves: list[Instruction] = []
    read: set[str] = set()
    written: set[str] = set()

    def flush() -> None:
        result.extend(moves)
        moves.clear()
        read.clear()
        written.clear()

    for item in body:
        if isinstance(item, Label) or item.base in _ENDS:
            flush()
            arriving.clear()
            result.append(item)
            continue
        if item.opcode.startswith("tcgen05.wait::ld") and item.guard is None:
            result.append(item)
            flush()
            arriving.clear()
            continue
        reads, writes = reads_writes(item)
        if item.base == "mov" and item.guard is None and arriving.intersection(reads):
            if read.intersection(writes) or written.intersection(writes):
                flush()
            moves.append(item)
            read.update(reads)
            written.update(writes)
            arriving.update(writes)
            continue
        if moves and (
            written.intersection(reads)
            or read.intersection(writes)
            or written.intersection(writes)
            or item.guard in written
        ):
            flush()
        result.append(item)
        arriving.difference_update(writes)
        if item.base == "tcgen05" and item.parts[1] == "ld":
            arriving.update(writes)
    flush()
    return result
