"""mbarrier objects (PTX ISA 9.7.13.15). Native code."""

# mypy: ignore-errors
# ruff: noqa: F821, D103, SIM102
from __future__ import annotations

from .library import library

native = library.native


@native
def mbarrier_at(ctx: Context, w: Warp, a: u64, space: u32, instruction: u32, lane: u32) -> P[MBarrier]:
    """The live mbarrier at a shared address, or null after a fault."""
    if a >> 56 == 1:
        a = a - SHARED_BASE
    if (a & 7) != 0:
        fatal(ctx, w, F_MISALIGNED, instruction, lane, a, 8, SP_SHARED, 1)
        return pointer(MBarrier, 0)
    cta = translate_shared(ctx, w, a, 8, space, instruction, lane, 1)
    if cta == 0:
        return pointer(MBarrier, 0)
    slot = cta.mbarrier_map[(a & 0xFFFFFF) >> 3]
    if slot == 0 or (cta.mbarriers + (slot - 1)).live == 0:
        fatal(ctx, w, F_NOT_AN_MBARRIER, instruction, lane, a, slot, 0, 0)
        return pointer(MBarrier, 0)
    bar = cta.mbarriers + (slot - 1)
    # The initialisation is a write like any other: whoever uses the barrier must have been told of it.
    cell = cta.cells + ((a & 0xFFFFFF) >> 2)
    if (ctx.checks & CK_RACES) and unlikely(w.vc[cell.wactor] < cell.wclock):
        fault(ctx, w, F_MBARRIER_UNORDERED, instruction, lane, cell.winstr, a, cell.wactor, cell.wclock, 0)
        cell.wclock = 0
    return bar


@native
def mbarrier_init(ctx: Context, w: Warp, mask: u32, instruction: u32, addr: P[u64], count: P[u64]) -> None:
    m = mask
    while m:
        lane = ctz(m)
        m = m & (m - 1)
        a = addr[lane]
        if a >> 56 == 1:
            a = a - SHARED_BASE
        if (a & 7) != 0:
            fatal(ctx, w, F_MISALIGNED, instruction, lane, a, 8, SP_SHARED, 1)
            continue
        cta = translate_shared(ctx, w, a, 8, SP_SHARED, instruction, lane, 1)
        if cta == 0:
            continue
        expected = u32(count[lane])
        if expected == 0 or expected > 0xFFFFF:
            fatal(ctx, w, F_MBARRIER_OVERFLOW, instruction, lane, a, expected, 2, 0)
            continue
        offset = a & 0xFFFFFF
        slot = u32(cta.mbarrier_map[offset >> 3])
        if slot == 0:
            if cta.mbarrier_count >= ctx.max_mbarriers:
                fatal(ctx, w, F_MBARRIER_OVERFLOW, instruction, lane, a, cta.mbarrier_count, 3, 0)
                continue
            cta.mbarrier_count += 1
            slot = cta.mbarrier_count
            cta.mbarrier_map[offset >> 3] = u16(slot)
        bar = cta.mbarriers + (slot - 1)
        if bar.live and (ctx.checks & CK_RACES):
            fault(ctx, w, F_MBARRIER_REINIT, instruction, lane, bar.instruction + 1, a, bar.phase, 0, 0)
        for k in range(2):
            cell = cta.cells + ((offset >> 2) + k)
            cell.flags = cell.flags & 253
        shared_write_check(ctx, w, cta, offset, 8, instruction, lane)
        for k in range(2):
            cell = cta.cells + ((offset >> 2) + k)
            cell.flags = cell.flags | 2
        bar.address = u32(a)
        bar.live = 1
        bar.expected = expected
        bar.pending = expected
        bar.tx = 0
        bar.phase = 0
        bar.instruction = instruction
        n = cta.components * 2
        for i in range(n):
            bar.acc[i] = 0
        pointer(u64, cta.shared + offset)[0] = u64(expected)


@native
def mbarrier_inval(ctx: Context, w: Warp, mask: u32, instruction: u32, addr: P[u64]) -> None:
    m = mask
    while m:
        lane = ctz(m)
        m = m & (m - 1)
        bar = mbarrier_at(ctx, w, addr[lane], SP_SHARED, instruction, lane)
        if bar == 0:
            continue
        bar.live = 0
        offset = bar.address & 0xFFFFFF
        for k in range(2):
            cell = w.cta.cells + ((offset >> 2) + k)
            cell.flags = cell.flags & 253
            cell.init = 0
            cell.wclock = w.vc[w.self]
            cell.wactor = u16(w.self)
            cell.wlane = 255
            cell.winstr = instruction + 1


@native
def mbarrier_settle(ctx: Context, cta: Cta, bar: MBarrier) -> None:
    if bar.pending == 0 and bar.tx == 0:
        bar.phase += 1
        bar.tick += 1
        bar.pending = bar.expected
        n = cta.components
        merge(bar.done, bar.acc, n * 2)
        bar.done[bar.component] = bar.tick
        bar.done[n + bar.component] = bar.tick
        fill(pointer(u8, bar.acc), 0, u64(n) * 8)
        wake(ctx, cta)


@native
def mbarrier_arrive(
    ctx: Context, w: Warp, mask: u32, instruction: u32, packed: u32, addr: P[u64], values: P[u64], out: P[u64]
) -> None:
    """packed: 1 arrive, 2 expect_tx, 4 complete_tx, 8 drop, 16 release, 32 noComplete, space << 8.

    values: arrival counts in [0, 32), bytes in [32, 64). out: the state before, phase | pending << 32.
    """
    m = mask
    while m:
        lane = ctz(m)
        m = m & (m - 1)
        bar = mbarrier_at(ctx, w, addr[lane], packed >> 8, instruction, lane)
        if bar == 0:
            continue
        cta = w.cta
        if bar.address >> 24 != cta.rank:
            cta = ctx.ctas + (cta.cluster_first + (bar.address >> 24))
        out[lane] = u64(bar.phase) | (u64(bar.pending) << 32)
        if packed & 2:
            bar.tx += i64(values[32 + lane])
        if packed & 4:
            bar.tx -= i64(values[32 + lane])
        if packed & 1:
            n = u32(values[lane])
            ctx.counters[N_MBARRIER_ARRIVES] += 1
            if n > bar.pending or n == 0:
                fatal(ctx, w, F_MBARRIER_OVERFLOW, instruction, lane, bar.address, n, 0, bar.pending)
                continue
            bar.pending -= n
            if packed & 8:
                bar.expected -= n
            if packed & 16:
                release_to(w, bar.acc)
            else:
                release_fenced(w, bar.acc)
        if bar.tx > 0xFFFFF or bar.tx < -0xFFFFF:
            fatal(ctx, w, F_MBARRIER_OVERFLOW, instruction, lane, bar.address, u64(bar.tx), 1, 0)
            continue
        mbarrier_settle(ctx, cta, bar)


@native
def mbarrier_complete(
    ctx: Context, cta: Cta, offset: u32, bytes: u64, arrivals: u32, component: u32, clock: u32
) -> u32:
    """An asynchronous engine completes ``bytes`` and arrives ``arrivals`` times; 0 when there is no such mbarrier.

    component, clock: what its operations are stamped with (component NONE: the mbarrier itself dates them).
    """
    slot = cta.mbarrier_map[offset >> 3]
    if slot == 0 or (cta.mbarriers + (slot - 1)).live == 0:
        return 0
    bar = cta.mbarriers + (slot - 1)
    bar.tx -= i64(bytes)
    if arrivals > bar.pending:
        return 2
    bar.pending -= arrivals
    if component != NONE:
        bar.acc[component] = max(bar.acc[component], clock)
        bar.acc[cta.components + component] = max(bar.acc[cta.components + component], clock)
    mbarrier_settle(ctx, cta, bar)
    return 1


@native
def mbarrier_wait(
    ctx: Context, w: Warp, mask: u32, instruction: u32, packed: u32, addr: P[u64], values: P[u64], out: P[u32]
) -> i32:
    """packed: 1 parity, 2 try (may suspend), 4 acquire, space << 8. values: parity or state. out[0]: lanes whose phase
    is over."""
    ready = u32(0)
    m = mask
    last = pointer(MBarrier, 0)
    want = u32(0)
    while m:
        lane = ctz(m)
        m = m & (m - 1)
        bar = mbarrier_at(ctx, w, addr[lane], packed >> 8, instruction, lane)
        if bar == 0:
            continue
        over = False
        if packed & 1:
            over = (bar.phase & 1) != (u32(values[lane]) & 1)
        else:
            over = bar.phase != u32(values[lane])
        if over:
            ready = ready | (u32(1) << lane)
            if bar != last:
                if packed & 4:
                    acquire_from(w, bar.done)
                else:
                    merge(w.rvc, bar.done, w.cta.components)
            last = bar
        else:
            want = bar.address
            w.wait_phase = bar.phase
    out[0] = ready
    if w.retry == 0:
        ctx.counters[N_MBARRIER_WAITS] += 1
    if ready == 0 and (packed & 2) and ctx.fatal == 0:
        # try_wait may give up at any time: say so once in a while, so that code which does not loop fails.
        # The launch sets 2 when nothing else can move: the time limit of the wait has come.
        if w.retry != 2 and (w.retry or (ctx.checks & CK_SPURIOUS) == 0 or (random(ctx) & 3) != 0):
            return wait_begin(ctx, w, 2, want, w.wait_phase, instruction)
    if last != 0:
        wait_end(ctx, w, last.address, instruction)
    return 0
