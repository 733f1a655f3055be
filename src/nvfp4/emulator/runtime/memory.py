"""Loads and stores of a warp: address translation, bounds, alignment, initialisation, races. Native code (see
native/language.py).

The race check is a happens-before check with vector clocks (components: warps, their asynchronous pipes, mbarriers; see
clocks.py). A shadow cell holds the last write and one reader of a 4-byte word.
"""

# mypy: ignore-errors
# ruff: noqa: F821, D103, SIM102, SIM109
from __future__ import annotations

from .library import library

native = library.native


@native
def random(ctx: Context) -> u32:
    x = ctx.rng
    x = x ^ (x << 13)
    x = x ^ (x >> 7)
    x = x ^ (x << 17)
    ctx.rng = x
    return u32(x >> 32)


@native
def fault(
    ctx: Context, w: Warp, kind: u32, instruction: u32, lane: u32, other: u32, a: u64, b: u64, c: u64, d: u64
) -> None:
    for i in range(ctx.fault_count):
        f = ctx.faults + i
        if f.kind == kind and f.instruction == instruction and f.other == other:
            f.count += 1
            return
    if ctx.fault_count >= ctx.fault_capacity:
        return
    f = ctx.faults + ctx.fault_count
    ctx.fault_count += 1
    f.kind = kind
    f.instruction = instruction
    f.cta = w.cta.number
    f.warp = w.id
    f.lane = lane
    f.other = other
    f.a = a
    f.b = b
    f.c = c
    f.d = d
    f.count = 1


@native
def fatal(ctx: Context, w: Warp, kind: u32, instruction: u32, lane: u32, a: u64, b: u64, c: u64, d: u64) -> None:
    fault(ctx, w, kind, instruction, lane, 0, a, b, c, d)
    ctx.fatal = 1


@native
def uninitialised(ctx: Context, w: Warp, instruction: u32, lanes: u32, register: u32) -> None:
    """A register that no path has written in these lanes."""
    if ctx.checks & CK_INIT:
        fault(ctx, w, F_UNINITIALISED_REGISTER, instruction, ctz(lanes), 0, register, lanes, 0, 0)


@native
def partial_aligned(ctx: Context, w: Warp, instruction: u32, mask: u32) -> None:
    fatal(ctx, w, F_PARTIAL_ALIGNED, instruction, ctz(mask), mask, w.alive, 0, 0)


@native
def trap(ctx: Context, w: Warp, instruction: u32, mask: u32) -> None:
    if mask:
        fatal(ctx, w, F_TRAP, instruction, ctz(mask), mask, 0, 0, 0)


@native(inline=True)
def find_buffer(ctx: Context, a: u64) -> P[Buffer]:
    page = (a - VA_BASE) >> PAGE_BITS
    if page >= ctx.page_count:
        return pointer(Buffer, 0)
    index = ctx.pages[page]
    if index == 0:
        return pointer(Buffer, 0)
    return ctx.buffers + (index - 1)


@native
def translate_shared(
    ctx: Context, w: Warp, a: u64, bytes: u64, space: u32, instruction: u32, lane: u32, write: u32
) -> P[Cta]:
    """The CTA whose shared memory address ``a`` names, or null after a fault."""
    cta = w.cta
    rank = u32(a >> 24)
    offset = a & 0xFFFFFF
    if rank != cta.rank:
        if rank >= cta.cluster_size:
            fatal(ctx, w, F_OUT_OF_BOUNDS, instruction, lane, a, bytes, SP_SHARED, write)
            return pointer(Cta, 0)
        if space == SP_SHARED:
            fatal(ctx, w, F_REMOTE_AS_OWN, instruction, lane, a, rank, cta.rank, write)
            return pointer(Cta, 0)
        cta = ctx.ctas + (cta.cluster_first + rank)
        if cta.live_warps == 0:
            fatal(ctx, w, F_REMOTE_EXITED, instruction, lane, a, rank, write, 0)
            return pointer(Cta, 0)
    if offset + bytes > cta.shared_size or offset < ctx.shared_window:
        fatal(ctx, w, F_OUT_OF_BOUNDS, instruction, lane, a, bytes, SP_SHARED, write)
        return pointer(Cta, 0)
    return cta


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


@native(inline=True)
def put(out: P[u8], src: P[u8], size: u32, n: u32, lane: u32) -> None:
    if size == 4 and n == 1:
        pointer(u32, out)[lane] = pointer(u32, src)[0]
    elif size == 4:
        for k in range(n):
            pointer(u32, out)[k * 32 + lane] = pointer(u32, src)[k]
    elif size == 8:
        for k in range(n):
            pointer(u64, out)[k * 32 + lane] = pointer(u64, src)[k]
    elif size == 2:
        for k in range(n):
            pointer(u16, out)[k * 32 + lane] = pointer(u16, src)[k]
    elif size == 1:
        for k in range(n):
            out[k * 32 + lane] = src[k]
    else:
        for k in range(n):
            copy(out + (k * 32 + lane) * 16, src + k * 16, 16)


@native(inline=True)
def take(dst: P[u8], values: P[u8], size: u32, n: u32, lane: u32) -> None:
    if size == 4 and n == 1:
        pointer(u32, dst)[0] = pointer(u32, values)[lane]
    elif size == 4:
        for k in range(n):
            pointer(u32, dst)[k] = pointer(u32, values)[k * 32 + lane]
    elif size == 8:
        for k in range(n):
            pointer(u64, dst)[k] = pointer(u64, values)[k * 32 + lane]
    elif size == 2:
        for k in range(n):
            pointer(u16, dst)[k] = pointer(u16, values)[k * 32 + lane]
    elif size == 1:
        for k in range(n):
            dst[k] = values[k * 32 + lane]
    else:
        for k in range(n):
            copy(dst + k * 16, values + (k * 32 + lane) * 16, 16)


@native
def wavefronts(mask: u32, addr: P[u64], bytes: u64) -> u32:
    """Shared-memory passes that the request needs: the most distinct words of any bank, per phase of 128 bytes."""
    if bytes == 4:
        # Mostly every lane has a bank of its own: one pass tells.
        seen = u32(0)
        clash = u32(0)
        left = mask
        while left:
            at = ctz(left)
            left = left & (left - 1)
            bit = u32(1) << (u32(addr[at] >> 2) & 31)
            clash = clash | (seen & bit)
            seen = seen | bit
        if clash == 0:
            return 1
    lanes_per_phase = u32(32)
    if bytes == 8:
        lanes_per_phase = 16
    if bytes >= 16:
        lanes_per_phase = 8
    words = (bytes + 3) >> 2
    total = u32(0)
    count = local(u8, 32)
    last = local(u32, 32)
    start = u32(0)
    while start < 32:
        fill(pointer(u8, count), 0, 32)
        worst = u32(0)
        m = (mask >> start) & u32((u64(1) << lanes_per_phase) - 1)
        while m:
            lane = ctz(m) + start
            m = m & (m - 1)
            for k in range(words):
                word = u32(addr[lane] >> 2) + u32(k)
                bank = word & 31
                if count[bank] == 0 or last[bank] != word:
                    count[bank] += 1
                    last[bank] = word
                    if count[bank] > worst:
                        worst = u32(count[bank])
        total += worst
        start += lanes_per_phase
    return total


@native
def local_pointer(ctx: Context, w: Warp, a: u64, bytes: u64, instruction: u32, lane: u32, write: u32) -> P[u8]:
    if a + bytes > w.local_size:
        fatal(ctx, w, F_OUT_OF_BOUNDS, instruction, lane, a, bytes, SP_LOCAL, write)
        return pointer(u8, 0)
    where = w.local + u64(lane) * w.local_size * 2
    known = pointer(u8, where + w.local_size + a)
    if write:
        fill(known, 1, bytes)
    elif ctx.checks & CK_INIT:
        for i in range(bytes):
            if unlikely(known[i] == 0):
                fault(ctx, w, F_UNINITIALISED_LOCAL, instruction, lane, 0, a, bytes, 0, 0)
                break
    return pointer(u8, where + a)


@native
def load(
    ctx: Context, w: Warp, mask: u32, instruction: u32, size: u32, n: u32, space: u32, addr: P[u64], out: P[u8]
) -> None:
    bytes = u64(size * n)
    b = pointer(Buffer, 0)
    m = mask
    sectors = u32(0)
    shared = u32(0)
    previous = u64(0)
    while m:
        lane = ctz(m)
        m = m & (m - 1)
        a = addr[lane]
        where = space
        if where == SP_GENERIC:
            where = SP_GLOBAL
            if a >> 56 == 1:
                where = SP_SHARED_CLUSTER
                a = a - SHARED_BASE
            elif a >> 56 == 2:
                where = SP_LOCAL
                a = a - LOCAL_BASE
        if unlikely((a & (bytes - 1)) != 0):
            fatal(ctx, w, F_MISALIGNED, instruction, lane, a, bytes, where, 0)
            continue
        if where == SP_GLOBAL or where == SP_CONST:
            if b == 0 or a < b.va or a + bytes > b.va + b.size:
                b = find_buffer(ctx, a)
                if b == 0 or a < b.va or a + bytes > b.va + b.size:
                    fatal(ctx, w, F_OUT_OF_BOUNDS, instruction, lane, a, bytes, SP_GLOBAL, 0)
                    b = pointer(Buffer, 0)
                    continue
            if unlikely((b.flags & 2) != 0 or b.init != 0):
                global_read_check(ctx, w, b, a - b.va, bytes, instruction, lane)
            put(out, pointer(u8, b.host + (a - b.va)), size, n, lane)
            if a >> 5 != previous:
                sectors += u32((a + bytes - 1) >> 5) - u32(a >> 5) + 1
                previous = (a + bytes - 1) >> 5
        elif where == SP_LOCAL:
            p = local_pointer(ctx, w, a, bytes, instruction, lane, 0)
            if p == 0:
                continue
            put(out, p, size, n, lane)
        else:
            cta = w.cta
            offset = a & 0xFFFFFF
            if unlikely(a >> 24 != cta.rank or offset + bytes > cta.shared_size or offset < ctx.shared_window):
                cta = translate_shared(ctx, w, a, bytes, where, instruction, lane, 0)
                if cta == 0:
                    continue
            if ctx.checks & (CK_INIT | CK_RACES):
                shared_read_check(ctx, w, cta, offset, bytes, instruction, lane)
            put(out, pointer(u8, cta.shared + offset), size, n, lane)
            shared += 1
    if ctx.checks & CK_COUNT:
        lanes = popcount(mask)
        if sectors:
            ctx.counters[N_GLOBAL_REQUESTS] += 1
            ctx.counters[N_GLOBAL_SECTORS] += sectors
            ctx.counters[N_GLOBAL_LOAD_BYTES] += (lanes - shared) * bytes
        if shared:
            ctx.counters[N_SHARED_REQUESTS] += 1
            ctx.counters[N_SHARED_WAVEFRONTS] += wavefronts(mask, addr, bytes)
            ctx.counters[N_SHARED_LOAD_BYTES] += shared * bytes


@native
def store(
    ctx: Context, w: Warp, mask: u32, instruction: u32, size: u32, n: u32, where_to: u32, addr: P[u64], values: P[u8]
) -> None:
    """where_to: the space, and 256 for strong stores (volatile, relaxed, release), which do not race mutually."""
    space = where_to & 255
    strong = where_to >> 8
    bytes = u64(size * n)
    b = pointer(Buffer, 0)
    m = mask
    sectors = u32(0)
    shared = u32(0)
    previous = u64(0)
    ctx.progress += 1
    while m:
        lane = ctz(m)
        m = m & (m - 1)
        a = addr[lane]
        where = space
        if where == SP_GENERIC:
            where = SP_GLOBAL
            if a >> 56 == 1:
                where = SP_SHARED_CLUSTER
                a = a - SHARED_BASE
            elif a >> 56 == 2:
                where = SP_LOCAL
                a = a - LOCAL_BASE
        if unlikely((a & (bytes - 1)) != 0):
            fatal(ctx, w, F_MISALIGNED, instruction, lane, a, bytes, where, 1)
            continue
        if where == SP_GLOBAL or where == SP_CONST:
            if b == 0 or a < b.va or a + bytes > b.va + b.size:
                b = find_buffer(ctx, a)
                if b == 0 or a < b.va or a + bytes > b.va + b.size:
                    fatal(ctx, w, F_OUT_OF_BOUNDS, instruction, lane, a, bytes, SP_GLOBAL, 1)
                    b = pointer(Buffer, 0)
                    continue
            if unlikely(b.flags & 1):
                fatal(ctx, w, F_READ_ONLY, instruction, lane, a, bytes, b.space, 0)
                continue
            global_write_check(ctx, w, b, a - b.va, bytes, instruction, lane, strong)
            b.written += bytes
            take(pointer(u8, b.host + (a - b.va)), values, size, n, lane)
            if a >> 5 != previous:
                sectors += u32((a + bytes - 1) >> 5) - u32(a >> 5) + 1
                previous = (a + bytes - 1) >> 5
        elif where == SP_LOCAL:
            p = local_pointer(ctx, w, a, bytes, instruction, lane, 1)
            if p == 0:
                continue
            take(p, values, size, n, lane)
        else:
            cta = w.cta
            offset = a & 0xFFFFFF
            if unlikely(a >> 24 != cta.rank or offset + bytes > cta.shared_size or offset < ctx.shared_window):
                cta = translate_shared(ctx, w, a, bytes, where, instruction, lane, 1)
                if cta == 0:
                    continue
            if ctx.checks & (CK_INIT | CK_RACES):
                if strong:
                    shared_atomic_check(ctx, w, cta, offset, bytes, instruction, lane)
                else:
                    shared_store_check(ctx, w, cta, offset, bytes, instruction, lane, values, size, n)
            take(pointer(u8, cta.shared + offset), values, size, n, lane)
            shared += 1
    if ctx.checks & CK_COUNT:
        lanes = popcount(mask)
        if sectors:
            ctx.counters[N_GLOBAL_REQUESTS] += 1
            ctx.counters[N_GLOBAL_SECTORS] += sectors
            ctx.counters[N_GLOBAL_STORE_BYTES] += (lanes - shared) * bytes
        if shared:
            ctx.counters[N_SHARED_REQUESTS] += 1
            ctx.counters[N_SHARED_WAVEFRONTS] += wavefronts(mask, addr, bytes)
            ctx.counters[N_SHARED_STORE_BYTES] += shared * bytes
