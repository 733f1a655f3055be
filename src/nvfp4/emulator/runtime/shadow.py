"""The shadow of shared and global memory: initialisation and races. Native code.

The race check is a happens-before check with vector clocks (components: warps, their asynchronous pipes, mbarriers; see
clocks.py). A shadow cell holds the last write and one reader of a 4-byte word. Each check has a quick path, which says
that all is well, and a slow one, which says what is not.
"""

# mypy: ignore-errors
# ruff: noqa: F821, D103, SIM102
from __future__ import annotations

from .library import library

native = library.native


@native(inline=True)
def byte_mask(offset: u64, bytes: u64) -> u32:
    if bytes >= 4:
        return 15
    return ((u32(1) << u32(bytes)) - 1) << u32(offset & 3)


@native(inline=True)
def lane_conflict(ctx: Context, same: bool, before: u32, lane: u32) -> u32:
    """Whether another lane of this warp touched the bytes since the warp last synchronised."""
    return u32(same and (ctx.checks & CK_LANES) != 0 and before != 255 and before != lane)


@native
def shared_read_slow(
    ctx: Context, w: Warp, cta: Cta, word: u64, bm: u32, bytes: u64, instruction: u32, lane: u32
) -> None:
    """Say what is wrong with a read of one word, if anything is."""
    vc = w.vc
    me = w.self
    now = vc[me]
    cell = cta.cells + word
    if unlikely((cell.init & bm) != bm) and (ctx.checks & CK_INIT):
        fault(
            ctx,
            w,
            F_UNINITIALISED_SHARED,
            instruction,
            lane,
            0,
            (word << 2) + (u64(cta.rank) << 24),
            cell.init,
            bytes,
            cta.rank,
        )
        cell.init = 15
    if (
        (cell.wmask & bm)
        and unlikely(vc[cell.wactor] < cell.wclock)
        and (ctx.checks & CK_RACES)
        and (cell.flags & 4) == 0
    ):
        fault(
            ctx,
            w,
            F_RACE_READ_AFTER_WRITE,
            instruction,
            lane,
            cell.winstr,
            (word << 2) + (u64(cta.rank) << 24),
            cell.wactor,
            cell.wclock,
            cell.flags & 1,
        )
        cell.wclock = 0
    if lane_conflict(ctx, cell.wactor == me and cell.wclock == now and (cell.wmask & bm) != 0, u32(cell.wlane), lane):
        if (cell.flags & 4) == 0:
            where = (word << 2) + (u64(cta.rank) << 24)
            fault(ctx, w, F_LANE_RACE, instruction, lane, cell.winstr, where, cell.wlane, 0, 0)
        cell.wlane = 255
    if cell.ractor == me or vc[cell.ractor] >= cell.rclock or (u32(word) + now) & 1:
        cell.rlane = 255
        cell.rclock = now
        cell.ractor = u16(me)
        cell.rmask = u8(bm)
        cell.rinstr = instruction + 1


@native(inline=True)
def shared_read_check(ctx: Context, w: Warp, cta: Cta, offset: u64, bytes: u64, instruction: u32, lane: u32) -> None:
    first = offset >> 2
    count = (bytes + 3) >> 2
    bm = byte_mask(offset, bytes)
    vc = w.vc
    me = w.self
    now = vc[me]
    who = u64(now) | (u64(me) << 32)
    tag = lane if ctx.checks & CK_LANES else u32(255)
    for i in range(count):
        words = pointer(u64, cta.cells + (first + i))
        lanes = pointer(u8, words) + 24
        wv = words[0]
        rv = words[1]
        clear = (u32(wv >> 48) & bm) == 0
        if not clear and vc[(wv >> 32) & 0xFFFF] >= u32(wv):
            # Ordered; unless it is this warp's own write since it last synchronised, by another lane.
            clear = (wv & 0xFFFFFFFFFFFF) != who or lanes[0] == 255 or lanes[0] == tag
        if clear and (u32(wv >> 56) & bm) == bm:
            # All is well. Of several readers one is kept: any that this one follows gives way, else a coin decides.
            reader = u32(rv >> 32) & 0xFFFF
            if reader == me or vc[reader] >= u32(rv) or (u32(first + i) + now) & 1:
                if (rv & 0xFFFFFFFFFFFF) == who:
                    if lanes[1] != tag:
                        lanes[1] = u8(254) if bm == 15 and (u32(rv >> 48) & 15) == 15 and lanes[1] != 255 else u8(255)
                else:
                    lanes[1] = u8(tag)
                new = who | (u64(bm) << 48) | (rv & 0xFF00000000000000)
                if new != rv:
                    words[1] = new
                    pointer(u32, words)[5] = instruction + 1
        else:
            shared_read_slow(ctx, w, cta, first + i, bm, bytes, instruction, lane)


@native
def same_value(p: P[u8], values: P[u8], size: u32, n: u32, lane: u32) -> u32:
    """Whether memory already holds what a lane is about to store."""
    for k in range(n):
        for i in range(size):
            if p[k * size + i] != values[(k * 32 + lane) * size + i]:
                return 0
    return 1


@native
def shared_write_check(ctx: Context, w: Warp, cta: Cta, offset: u64, bytes: u64, instruction: u32, lane: u32) -> None:
    shared_store_check(ctx, w, cta, offset, bytes, instruction, lane, pointer(u8, 0), 0, 0)


@native
def shared_store_slow(
    ctx: Context,
    w: Warp,
    cta: Cta,
    offset: u64,
    bytes: u64,
    instruction: u32,
    lane: u32,
    values: P[u8],
    size: u32,
    n: u32,
) -> None:
    """values, size, n: what is stored, so that unordered writes of one value can be told from harmful ones; values may
    be null."""
    first = offset >> 2
    count = (bytes + 3) >> 2
    bm = byte_mask(offset, bytes)
    vc = w.vc
    me = w.self
    now = vc[me]
    for i in range(count):
        cell = cta.cells + (first + i)
        if ctx.checks & CK_RACES:
            if (cell.wmask & bm) and unlikely(vc[cell.wactor] < cell.wclock):
                if values != 0 and (ctx.checks & CK_STRICT) == 0:
                    if same_value(pointer(u8, cta.shared + offset), values, size, n, lane):
                        return
                fault(
                    ctx,
                    w,
                    F_RACE_WRITE_AFTER_WRITE,
                    instruction,
                    lane,
                    cell.winstr,
                    ((first + i) << 2) + (u64(cta.rank) << 24),
                    cell.wactor,
                    cell.wclock,
                    cell.flags & 1,
                )
            if (cell.rmask & bm) and unlikely(vc[cell.ractor] < cell.rclock):
                if values != 0 and (ctx.checks & CK_STRICT) == 0:
                    if same_value(pointer(u8, cta.shared + offset), values, size, n, lane):
                        return
                fault(
                    ctx,
                    w,
                    F_RACE_WRITE_AFTER_READ,
                    instruction,
                    lane,
                    cell.rinstr,
                    ((first + i) << 2) + (u64(cta.rank) << 24),
                    cell.ractor,
                    cell.rclock,
                    0,
                )
                cell.rclock = 0
            before = u32(255)
            other = u32(0)
            verb = u32(1)
            if lane_conflict(
                ctx, cell.ractor == me and cell.rclock == now and (cell.rmask & bm) != 0, u32(cell.rlane), lane
            ):
                before = u32(cell.rlane)
                other = cell.rinstr
                verb = 2
            if lane_conflict(
                ctx, cell.wactor == me and cell.wclock == now and (cell.wmask & bm) != 0, u32(cell.wlane), lane
            ):
                before = u32(cell.wlane)
                other = cell.winstr
                verb = 1
            if before != 255 and (cell.flags & 4) == 0:
                if values == 0 or same_value(pointer(u8, cta.shared + offset), values, size, n, lane) == 0:
                    place = ((first + i) << 2) + (u64(cta.rank) << 24)
                    fault(ctx, w, F_LANE_RACE, instruction, lane, other, place, before, verb, 0)
            if unlikely(cell.flags & 2):
                fault(
                    ctx,
                    w,
                    F_MBARRIER_OVERWRITTEN,
                    instruction,
                    lane,
                    0,
                    ((first + i) << 2) + (u64(cta.rank) << 24),
                    0,
                    0,
                    0,
                )
        if cell.wactor == me and cell.wclock == now:
            cell.wmask = cell.wmask | u8(bm)
            cell.wlane = 255
        else:
            cell.wmask = u8(bm)
            cell.wlane = u8(lane) if ctx.checks & CK_LANES else u8(255)
        cell.rlane = 255
        cell.wclock = now
        cell.wactor = u16(me)
        cell.init = cell.init | u8(bm)
        cell.flags = cell.flags & 250
        cell.winstr = instruction + 1


@native(inline=True)
def shared_store_check(
    ctx: Context,
    w: Warp,
    cta: Cta,
    offset: u64,
    bytes: u64,
    instruction: u32,
    lane: u32,
    values: P[u8],
    size: u32,
    n: u32,
) -> None:
    """values, size, n: what is stored, so that unordered writes of one value pass (may be null)."""
    first = offset >> 2
    count = (bytes + 3) >> 2
    bm = byte_mask(offset, bytes)
    vc = w.vc
    me = w.self
    who = u64(vc[me]) | (u64(me) << 32)
    tag = lane if ctx.checks & CK_LANES else u32(255)
    for i in range(count):
        words = pointer(u64, cta.cells + (first + i))
        lanes = pointer(u8, words) + 24
        wv = words[0]
        rv = words[1]
        own = (wv & 0xFFFFFFFFFFFF) == who
        quiet = (u32(wv >> 48) & bm) == 0
        if not quiet and vc[(wv >> 32) & 0xFFFF] >= u32(wv):
            quiet = not own or lanes[0] == 255 or lanes[0] == tag
        free = (u32(rv >> 48) & bm) == 0
        if not free and vc[(rv >> 32) & 0xFFFF] >= u32(rv):
            free = (rv & 0xFFFFFFFFFFFF) != who or lanes[1] == 255 or lanes[1] == tag
        if quiet and free and (rv >> 56) == 0:
            mask = u64(bm)
            if own:
                mask = mask | ((wv >> 48) & 0xFF)
                if lanes[0] != tag:
                    lanes[0] = 255
            else:
                lanes[0] = u8(tag)
            words[0] = who | (mask << 48) | (wv & 0xFF00000000000000) | (u64(bm) << 56)
            pointer(u32, words)[4] = instruction + 1
        else:
            shared_store_slow(ctx, w, cta, offset, bytes, instruction, lane, values, size, n)
            break


@native
def global_read_check(ctx: Context, w: Warp, b: Buffer, offset: u64, bytes: u64, instruction: u32, lane: u32) -> None:
    if b.init and (ctx.checks & CK_INIT):
        known = pointer(u8, b.init) + offset
        for i in range(bytes):
            if unlikely(known[i] == 0):
                fault(ctx, w, F_UNINITIALISED_GLOBAL, instruction, lane, 0, b.va + offset + i, bytes, 0, 0)
                break
    if (ctx.checks & CK_RACES) and b.cells:
        cells = pointer(GCell, b.cells)
        first = offset >> 2
        count = (bytes + 3) >> 2
        bm = byte_mask(offset, bytes)
        head = ctx.ctas + w.cta.cluster_first
        mine = w.cta.cluster_number + 1
        for i in range(count):
            cell = cells + (first + i)
            if cell.cluster and (cell.wmask & bm) and (cell.flags & 1) == 0:
                if cell.cluster == mine:
                    if unlikely(w.vc[cell.wactor] < cell.wclock):
                        fault(
                            ctx,
                            w,
                            F_RACE_READ_AFTER_WRITE,
                            instruction,
                            lane,
                            cell.winstr,
                            b.va + ((first + i) << 2),
                            cell.wactor,
                            cell.wclock,
                            2,
                        )
                elif unlikely(head.known == 0 or head.known[cell.cluster - 1] < cell.gclock):
                    fault(
                        ctx,
                        w,
                        F_GLOBAL_RACE,
                        instruction,
                        lane,
                        cell.winstr,
                        b.va + ((first + i) << 2),
                        cell.cluster - 1,
                        0,
                        0,
                    )


@native
def global_write_check(
    ctx: Context, w: Warp, b: Buffer, offset: u64, bytes: u64, instruction: u32, lane: u32, atomic: u32
) -> None:
    b.flags = b.flags | 2
    if b.init:
        fill(pointer(u8, b.init) + offset, 1, bytes)
    if (ctx.checks & CK_RACES) and b.cells:
        cells = pointer(GCell, b.cells)
        first = offset >> 2
        count = (bytes + 3) >> 2
        bm = byte_mask(offset, bytes)
        head = ctx.ctas + w.cta.cluster_first
        mine = w.cta.cluster_number + 1
        for i in range(count):
            cell = cells + (first + i)
            if cell.cluster and (cell.wmask & bm) and (cell.flags & atomic) == 0:
                if cell.cluster == mine:
                    if unlikely(w.vc[cell.wactor] < cell.wclock):
                        fault(
                            ctx,
                            w,
                            F_RACE_WRITE_AFTER_WRITE,
                            instruction,
                            lane,
                            cell.winstr,
                            b.va + ((first + i) << 2),
                            cell.wactor,
                            cell.wclock,
                            2,
                        )
                elif unlikely(head.known == 0 or head.known[cell.cluster - 1] < cell.gclock):
                    fault(
                        ctx,
                        w,
                        F_GLOBAL_RACE,
                        instruction,
                        lane,
                        cell.winstr,
                        b.va + ((first + i) << 2),
                        cell.cluster - 1,
                        1,
                        0,
                    )
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
