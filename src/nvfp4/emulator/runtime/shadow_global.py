"""The shadow of global memory: initialisation and races. Native code."""

# mypy: ignore-errors
# ruff: noqa: F821, D103
from __future__ import annotations

from .library import library

native = library.native


@native(inline=True)
def global_race(ctx: Context, w: Warp, cell: GCell, place: u64, kind: u32, instruction: u32, lane: u32) -> None:
    """The last write of a word must be known: to the warp if its own cluster wrote, else to the cluster.

    kind: of a race within the cluster."""
    head = ctx.ctas + w.cta.cluster_first
    if cell.cluster == w.cta.cluster_number + 1:
        if unlikely(w.vc[cell.wactor] < cell.wclock):
            fault(ctx, w, kind, instruction, lane, cell.winstr, place, cell.wactor, cell.wclock, 2)
    elif unlikely(head.known == 0 or head.known[cell.cluster - 1] < cell.gclock):
        writes = u64(kind == F_RACE_WRITE_AFTER_WRITE)
        fault(ctx, w, F_GLOBAL_RACE, instruction, lane, cell.winstr, place, cell.cluster - 1, writes, 0)


@native
def global_read_check(ctx: Context, w: Warp, b: Buffer, offset: u64, bytes: u64, instruction: u32, lane: u32) -> None:
    if b.init and (ctx.checks & CK_INIT):
        known = pointer(u8, b.init) + offset
        for i in range(bytes):
            if unlikely(known[i] == 0):
                fault(ctx, w, F_UNINITIALISED_GLOBAL, instruction, lane, 0, b.va + offset + i, bytes, 0, 0)
                break
    if (ctx.checks & CK_RACES) and b.cells:
        first = offset >> 2
        bm = byte_mask(offset, bytes)
        for i in range((bytes + 3) >> 2):
            cell = pointer(GCell, b.cells) + (first + i)
            if cell.cluster and (cell.wmask & bm) and (cell.flags & 1) == 0:
                global_race(ctx, w, cell, b.va + ((first + i) << 2), F_RACE_READ_AFTER_WRITE, instruction, lane)


@native
def global_proxy_check(ctx: Context, w: Warp, b: Buffer, offset: u64, bytes: u64, instruction: u32, lane: u32) -> None:
    """What the async proxy reads must have been fenced since threads wrote it: by a warp of their cluster before they
    released it, or by one of the reader's since that knows of it."""
    first = offset >> 2
    bm = byte_mask(offset, bytes)
    head = ctx.ctas + w.cta.cluster_first
    for i in range((bytes + 3) >> 2):
        cell = pointer(GCell, b.cells) + (first + i)
        if cell.cluster and (cell.wmask & bm) and (cell.flags & 2) == 0:
            who = u64(cell.cluster - 1)
            fenced = head.fenced
            if cell.cluster != w.cta.cluster_number + 1:
                # Where nothing orders the two, that is said already.
                if head.known == 0 or head.known[who] < cell.gclock:
                    continue
                fenced = head.known[ctx.cluster_count + who]
            if unlikely(fenced < cell.gclock):
                place = b.va + ((first + i) << 2)
                fault(ctx, w, F_GLOBAL_PROXY_FENCE, instruction, lane, cell.winstr, place, who, 0, 0)
                break


@native
def global_async_read(ctx: Context, w: Warp, spans: P[u64], n: u64, instruction: u32, lane: u32) -> None:
    """The copy engine reads ``n`` pieces of one buffer, each from ``spans[2 i]`` up to ``spans[2 i + 1]``, all of which
    lie in it."""
    b = find_buffer(ctx, spans[0])
    for i in range(n):
        offset = spans[2 * i] - b.va
        bytes = spans[2 * i + 1] - spans[2 * i]
        global_read_check(ctx, w, b, offset, bytes, instruction, lane)
        if (ctx.checks & CK_PROXY) and b.cells:
            global_proxy_check(ctx, w, b, offset, bytes, instruction, lane)


@native
def global_write_check(
    ctx: Context, w: Warp, b: Buffer, offset: u64, bytes: u64, instruction: u32, lane: u32, atomic: u32
) -> None:
    b.flags = b.flags | 2
    if b.init:
        fill(pointer(u8, b.init) + offset, 1, bytes)
    if (ctx.checks & CK_RACES) and b.cells:
        first = offset >> 2
        bm = byte_mask(offset, bytes)
        head = ctx.ctas + w.cta.cluster_first
        mine = w.cta.cluster_number + 1
        for i in range((bytes + 3) >> 2):
            cell = pointer(GCell, b.cells) + (first + i)
            if cell.cluster and (cell.wmask & bm) and (cell.flags & atomic) == 0:
                global_race(ctx, w, cell, b.va + ((first + i) << 2), F_RACE_WRITE_AFTER_WRITE, instruction, lane)
            if cell.cluster == mine and cell.wactor == w.self and (cell.flags & 1) == atomic:
                cell.wmask = cell.wmask | u8(bm)
            else:
                cell.wmask = u8(bm)
            cell.wactor = u16(w.self)
            cell.wclock = w.vc[w.self]
            cell.gclock = head.gclock
            cell.cluster = mine
            cell.flags = u8(atomic)
            cell.winstr = instruction + 1
