"""The shadow of shared and global memory: initialisation and races. Native code.

The race check is a happens-before check with vector clocks (components: warps, their asynchronous pipes, mbarriers; see
clocks.py). A shadow cell holds the last write and one reader of a 4-byte word; readers of the whole word that are not
ordered among themselves are kept aside (Cta.readers). Each check has a quick path, which says that all is well, and a
slow one, which says what is not.
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
    shared_reader(w, cta, word, bm, instruction, lane if ctx.checks & CK_LANES else u32(255))


@native(inline=True)
def lane_offsets(ctx: Context, w: Warp, mask: u32, space: u32, addr: P[u64], bytes: u64, offsets: P[u32]) -> u32:
    """Whether all lanes access their own CTA's shared memory, aligned and in bounds; then offsets has where."""
    if (space != SP_SHARED and space != SP_SHARED_CLUSTER and space != SP_GENERIC) or mask == 0:
        return 0
    cta = w.cta
    base = u64(cta.rank) << 24
    if space == SP_GENERIC:
        base = base + SHARED_BASE
    a = pointer(V[u64, 32], addr)[0]
    d = a - base
    low = u64(ctx.shared_window)
    high = u64(cta.shared_size)
    bad = mask_of(((d & (bytes - 1)) != 0) | (d < low) | (d + bytes > high)) & mask
    active = lanes_in(mask)
    pointer(V[u32, 32], offsets)[0] = select(active, cast(V[u32, 32], d), cast(V[u32, 32], 0))
    return u32(bad == 0)


@native(inline=True)
def reader_pitch(cta: Cta) -> u32:
    """Length of a row of Cta.readers."""
    return (cta.warps + 7) & 0xFFFFFFF8


@native
def keep_reader(w: Warp, cta: Cta, cell: Cell, word: u64) -> None:
    """The reader in the cell gives way to one that is not ordered behind it: it is kept aside. Only readers of the
    whole word are, so that bytes need not be told apart there."""
    if cell.rmask != 15:
        return
    slot = u32(cell.ractor) - cta.component_base
    if slot < cta.warps:
        row = cta.readers + word * reader_pitch(cta)
        if (cell.flags & 8) == 0:
            for i in range(reader_pitch(cta) >> 3):
                pointer(V[u32, 8], row)[i] = cast(V[u32, 8], 0)
            cell.flags = cell.flags | 8
        row[slot] = cell.rclock
    elif (cell.flags & 16) == 0 or w.vc[cell.ractor2] >= cell.rclock2 or (u32(word) + cell.rclock) & 1:
        cell.flags = cell.flags | 16
        cell.ractor2 = cell.ractor
        cell.rclock2 = cell.rclock


@native
def late_reader(vc: P[u32], cta: Cta, cell: Cell, word: u64) -> u32:
    """A reader kept aside that is not known to ``vc``: its component plus one, or 0."""
    if (cell.flags & 16) and vc[cell.ractor2] < cell.rclock2:
        return u32(cell.ractor2) + 1
    if cell.flags & 8:
        row = pointer(V[u32, 8], cta.readers + word * reader_pitch(cta))
        known = pointer(V[u32, 8], vc + cta.component_base)
        for i in range(reader_pitch(cta) >> 3):
            # Behind the warps, the row is zero.
            late = mask_of(known[i] < row[i])
            if late:
                return cta.component_base + i * 8 + ctz(late) + 1
    return 0


@native
def shared_reader(w: Warp, cta: Cta, word: u64, bm: u32, instruction: u32, tag: u32) -> None:
    """Enter a reader whose word holds another one that it is not ordered behind, or itself."""
    me = w.self
    now = w.vc[me]
    cell = cta.cells + word
    if cell.ractor == me and cell.rclock == now:
        if u32(cell.rlane) != tag:
            cell.rlane = u8(254) if bm == 15 and cell.rmask == 15 and cell.rlane != 255 else u8(255)
        cell.rmask = cell.rmask | u8(bm)
    else:
        if w.vc[cell.ractor] < cell.rclock:
            if cell.rmask != 15 and (u32(word) + now) & 1:
                return
            keep_reader(w, cta, cell, word)
        cell.rlane = u8(tag)
        cell.rmask = u8(bm)
    cell.rclock = now
    cell.ractor = u16(me)
    cell.rinstr = instruction + 1


@native
def shared_read_words(
    ctx: Context, w: Warp, cta: Cta, mask: u32, offsets: P[u32], bytes: u64, instruction: u32
) -> None:
    """The same, word by word.

    Neighbouring words mostly have the same history: what has been found in order for one is not examined again for
    the next (``calm`` the last write, ``known`` the reader).
    """
    count = (bytes + 3) >> 2
    vc = w.vc
    me = w.self
    who = u64(vc[me]) | (u64(me) << 32)
    tagging = ctx.checks & CK_LANES
    calm = ~u64(0)
    known = ~u64(0)
    m = mask
    while m:
        lane = ctz(m)
        m = m & (m - 1)
        tag = lane if tagging else u32(255)
        bm = byte_mask(u64(offsets[lane]), bytes)
        new = who | (u64(bm) << 48)
        word = u64(offsets[lane] >> 2)
        words = pointer(u64, cta.cells + word)
        last = words + count * 4
        while words != last:
            wv = words[0]
            rv = words[1]
            lanes = pointer(u8, words) + 24
            if wv != calm:
                clear = (u32(wv >> 48) & bm) == 0
                own = (wv & 0xFFFFFFFFFFFF) == who
                if not clear and vc[(wv >> 32) & 0xFFFF] >= u32(wv):
                    # Ordered; unless it is this warp's own write since it last synchronised, by another lane.
                    clear = not own or lanes[0] == 255 or lanes[0] == tag
                if not (clear and (u32(wv >> 56) & bm) == bm):
                    shared_read_slow(ctx, w, cta, word, bm, bytes, instruction, lane)
                    words = words + 4
                    word += 1
                    continue
                if bm == 15 and not own:
                    calm = wv
            if rv == known or (vc[(rv >> 32) & 0xFFFF] >= u32(rv) and (rv & 0xFFFFFFFFFFFF) != who):
                words[1] = new | (rv & 0xFF00000000000000)
                pointer(u32, words)[5] = instruction + 1
                lanes[1] = u8(tag)
                known = rv
            elif rv != new | (rv & 0xFF00000000000000) or lanes[1] < 254:
                shared_reader(w, cta, word, bm, instruction, tag)
            words = words + 4
            word += 1


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
    """One lane writes without a value to show."""
    offsets = local(u32, 32)
    offsets[lane] = u32(offset)
    shared_store_lanes(ctx, w, cta, u32(1) << lane, offsets, instruction, pointer(u8, 0), u32(bytes), 1)


@native
def shared_read_check(ctx: Context, w: Warp, cta: Cta, offset: u64, bytes: u64, instruction: u32, lane: u32) -> None:
    """One lane reads."""
    offsets = local(u32, 32)
    offsets[lane] = u32(offset)
    shared_read_lanes(ctx, w, cta, u32(1) << lane, offsets, bytes, instruction)


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
            late = late_reader(vc, cta, cell, first + i)
            if late:
                if values != 0 and (ctx.checks & CK_STRICT) == 0:
                    if same_value(pointer(u8, cta.shared + offset), values, size, n, lane):
                        return
                where = ((first + i) << 2) + (u64(cta.rank) << 24)
                fault(ctx, w, F_RACE_WRITE_AFTER_READ, instruction, lane, cell.rinstr, where, late - 1, 0, 0)
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
        cell.flags = cell.flags & 226
        cell.winstr = instruction + 1


@native
def shared_store_words(
    ctx: Context,
    w: Warp,
    cta: Cta,
    mask: u32,
    offsets: P[u32],
    instruction: u32,
    values: P[u8],
    size: u32,
    n: u32,
) -> None:
    """The same, word by word. Histories as in shared_read_words."""
    bytes = u64(size * n)
    count = (bytes + 3) >> 2
    vc = w.vc
    me = w.self
    who = u64(vc[me]) | (u64(me) << 32)
    tagging = ctx.checks & CK_LANES
    checked = ctx.checks & (CK_INIT | CK_RACES)
    calm = ~u64(0)
    known = ~u64(0)
    m = mask
    while m:
        lane = ctz(m)
        m = m & (m - 1)
        tag = lane if tagging else u32(255)
        offset = u64(offsets[lane])
        bm = byte_mask(offset, bytes)
        word = offset >> 2
        words = pointer(u64, cta.cells + word)
        last = words + count * 4
        while checked and words != last:
            wv = words[0]
            rv = words[1]
            lanes = pointer(u8, words) + 24
            own = False
            quiet = True
            if wv != calm:
                own = (wv & 0xFFFFFFFFFFFF) == who
                quiet = (u32(wv >> 48) & bm) == 0
                if not quiet and vc[(wv >> 32) & 0xFFFF] >= u32(wv):
                    quiet = not own or lanes[0] == 255 or lanes[0] == tag
                if quiet and bm == 15 and not own:
                    calm = wv
            if quiet and rv != known:
                quiet = (u32(rv >> 48) & bm) == 0
                mine = (rv & 0xFFFFFFFFFFFF) == who
                if not quiet and vc[(rv >> 32) & 0xFFFF] >= u32(rv):
                    quiet = not mine or lanes[1] == 255 or lanes[1] == tag
                flags = u32(rv >> 56)
                if flags == 0:
                    if quiet and bm == 15 and not mine:
                        known = rv
                elif flags & 231:
                    quiet = False
                elif quiet:
                    # Readers that were kept aside are done with, unless one of them is late.
                    quiet = late_reader(vc, cta, cta.cells + word, word) == 0
                    if quiet:
                        words[1] = rv & 0xFFFFFFFFFFFFFF
            if not quiet:
                shared_store_slow(ctx, w, cta, offset, bytes, instruction, lane, values, size, n)
                break
            keep = u64(bm)
            if own:
                keep = keep | ((wv >> 48) & 0xFF)
                if lanes[0] != tag:
                    lanes[0] = 255
            else:
                lanes[0] = u8(tag)
            words[0] = who | (keep << 48) | (wv & 0xFF00000000000000) | (u64(bm) << 56)
            pointer(u32, words)[4] = instruction + 1
            words = words + 4
            word += 1
        if values != 0:
            take(pointer(u8, cta.shared + offset), values, size, n, lane)
