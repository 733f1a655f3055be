"""The shadow as asynchronous engines touch it: copies, matrix units, tensor memory. Native code."""

# mypy: ignore-errors
# ruff: noqa: F821
from __future__ import annotations

from ..native.types import struct
from .library import library

__all__ = ["TOUCH"]

native = library.native

TOUCH = struct(
    "Touch",  # words of one memory that an operation reads or writes
    """
    cells: P[Cell]
    words: P[i64]
    count: u64
    flags: u32          # see async_access
    place: u32
    """,
)


@native
def keep_engine_reader(w: Warp, cta: Cta, cell: Cell, word: u64, tensor: u32) -> None:
    """As `keep_reader`. Cells of tensor memory have no row for the warps: only engines read there."""
    if tensor:
        cell.flags = cell.flags | 16
        cell.ractor2 = cell.ractor
        cell.rclock2 = cell.rclock
    else:
        keep_reader(w, cta, cell, word)


@native
def async_access(
    ctx: Context,
    w: Warp,
    cells: P[Cell],
    words: P[i64],
    n: u64,
    instruction: u32,
    component: u32,
    date: u32,
    flags: u32,
    own: u32,
    place: u64,
) -> None:
    """An asynchronous engine will touch words of shared or tensor memory: check order and initialisation, leave its
    mark.

    flags: 1 write, 2 through the async proxy (generic writes need a proxy fence), 4 tensor memory, 8 does not set
    the mark, 16 only tcgen05.fence orders,
    32 a write that also reads. own: a component that is in order with this operation whatever the clocks
    say. place: what | rank << 8, for messages.
    """
    vc = w.vc
    tvc = w.vc
    if flags & 4:
        tvc = w.tvc
        if flags & 16:
            vc = w.tvc
    cta = ctx.ctas + (w.cta.cluster_first + (place >> 8))
    for i in range(n):
        cell = cells + words[i]
        where = u64(words[i]) * 4
        if ctx.checks & CK_RACES:
            if unlikely(vc[cell.wactor] < cell.wclock) and tvc[cell.wactor] < cell.wclock and cell.wactor != own:
                kind = F_RACE_READ_AFTER_WRITE
                if flags & 1:
                    kind = F_RACE_WRITE_AFTER_WRITE
                if (flags & 4) and max(w.vc[cell.wactor], w.rvc[cell.wactor]) >= cell.wclock:
                    kind = F_TCGEN05_FENCE
                fault(ctx, w, u32(kind), instruction, 0, cell.winstr, where, cell.wactor, place, (flags & 4) | 64)
                cell.wclock = 0
            elif (
                (flags & 2)
                and ((flags & 1) == 0 or (ctx.checks & CK_STRICT))
                and (cell.flags & 1) == 0
                and unlikely(w.avc[cell.wactor] < cell.wclock)
                and (ctx.checks & CK_PROXY)
            ):
                fault(ctx, w, F_PROXY_FENCE, instruction, 0, cell.winstr, where, cell.wactor, place, 64)
                cell.wclock = 0
            if (
                (flags & 1)
                and unlikely(vc[cell.ractor] < cell.rclock)
                and tvc[cell.ractor] < cell.rclock
                and cell.ractor != own
            ):
                kind = F_RACE_WRITE_AFTER_READ
                if (flags & 4) and max(w.vc[cell.ractor], w.rvc[cell.ractor]) >= cell.rclock:
                    kind = F_TCGEN05_FENCE
                fault(ctx, w, u32(kind), instruction, 0, cell.rinstr, where, cell.ractor, place, (flags & 4) | 64)
                cell.rclock = 0
            if (flags & 1) and unlikely(cell.flags & 24):
                late = late_reader(vc, cta, cell, u64(words[i]))
                if late and late - 1 != own and late_reader(tvc, cta, cell, u64(words[i])):
                    kind = F_RACE_WRITE_AFTER_READ
                    if (flags & 4) and late_reader(w.vc, cta, cell, u64(words[i])) == 0:
                        kind = F_TCGEN05_FENCE
                    fault(ctx, w, u32(kind), instruction, 0, cell.rinstr, where, late - 1, place, (flags & 4) | 64)
                cell.flags = cell.flags & 231
            if (flags & 1) and unlikely(cell.flags & 2):
                fault(ctx, w, F_MBARRIER_OVERWRITTEN, instruction, 0, 0, where, 0, 0, 0)
                cell.flags = cell.flags & 253
        if ((flags & 1) == 0 or (flags & 32)) and unlikely(cell.init != 15) and (ctx.checks & CK_INIT):
            fault(ctx, w, F_UNINITIALISED_SHARED, instruction, 0, 0, where, 0, place, (flags & 4) | 64)
            cell.init = 15
        if flags & 1:
            cell.wclock = date
            cell.wactor = u16(component)
            cell.wmask = 15
            cell.init = 15
            cell.flags = u8(flags >> 1) & 1
            cell.winstr = instruction + 1
            cell.rclock = 0
        elif (flags & 8) == 0:
            if unlikely(w.vc[cell.ractor] < cell.rclock) and cell.ractor != component:
                keep_engine_reader(w, cta, cell, u64(words[i]), flags & 4)
            cell.rclock = date
            cell.ractor = u16(component)
            cell.rmask = 15
            cell.rinstr = instruction + 1


@native
def async_accesses(
    ctx: Context, w: Warp, touches: P[Touch], n: u32, instruction: u32, component: u32, date: u32, own: u32
) -> None:
    """Everything that one operation touches. own: counts for tensor memory only."""
    for i in range(n):
        t = touches + i
        same = own if t.flags & 4 else NONE
        async_access(ctx, w, t.cells, t.words, t.count, instruction, component, date, t.flags, same, t.place)
