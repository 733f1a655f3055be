"""Named barriers and cluster barriers (PTX ISA 9.7.13.1, 9.7.13.4). Native code.

A blocking operation is a basic block of its own: it returns S_RETRY and runs again when something in its cluster has
moved.
"""

# mypy: ignore-errors
# ruff: noqa: F821, D103
from __future__ import annotations

from .library import library

native = library.native


@native
def wake(ctx: Context, cta: Cta) -> None:
    """Something completed: let every blocked warp of the cluster look again."""
    ctx.progress += 1
    first = ctx.ctas + cta.cluster_first
    for c in range(cta.cluster_size):
        other = first + c
        for i in range(other.warps):
            w = ctx.warps + (other.first_warp + i)
            if w.state == ST_BLOCKED:
                w.state = ST_RUN


@native
def wait_begin(ctx: Context, w: Warp, kind: u32, address: u32, phase: u32, instruction: u32) -> i32:
    if w.retry == 0:
        w.wait_since = ctx.steps
        ctx.counters[N_BLOCKED] += 1
    w.wait_kind = kind
    w.wait_address = address
    w.wait_phase = phase
    w.wait_instr = instruction
    w.retry = 1
    return S_RETRY


@native
def wait_end(ctx: Context, w: Warp, address: u32, instruction: u32) -> None:
    if (ctx.checks & CK_TRACE) and w.retry and ctx.trace_count < ctx.trace_capacity:
        t = ctx.trace + ctx.trace_count
        ctx.trace_count += 1
        t.begin = w.wait_since
        t.end = ctx.steps
        t.cta = w.cta.number
        t.warp = w.id
        t.address = address
        t.instruction = instruction
    w.wait_kind = 0


@native
def barrier_complete(ctx: Context, cta: Cta, bar: Barrier) -> None:
    n = u64(cta.components) * 8
    copy(pointer(u8, bar.done), pointer(u8, bar.acc), n)
    fill(pointer(u8, bar.acc), 0, n)
    bar.phase += 1
    bar.arrived = 0
    bar.expected = 0
    bar.result_and = bar.reduce_and
    bar.result_or = bar.reduce_or
    bar.result_count = bar.reduce_count
    wake(ctx, cta)


@native
def barrier_arrive(ctx: Context, w: Warp, mask: u32, instruction: u32, number: u32, threads: u32, aligned: u32) -> u32:
    """Count this group in. Returns 1 after a fault."""
    cta = w.cta
    if number >= 16:
        fatal(ctx, w, F_BAD_BARRIER, instruction, ctz(mask), number, threads, 0, 0)
        return 1
    if aligned and mask != w.alive:
        partial_aligned(ctx, w, instruction, mask)
        return 1
    bar = cta.bars + number
    wanted = threads
    if wanted == 0:
        wanted = cta.live_warps * 32
    elif (wanted & 31) != 0:
        fatal(ctx, w, F_BAD_BARRIER, instruction, ctz(mask), number, threads, 1, 0)
        return 1
    if bar.arrived == 0:
        bar.expected = wanted
        bar.warps = u64(threads)
        bar.reduce_and = 1
        bar.reduce_or = 0
        bar.reduce_count = 0
    elif bar.expected != wanted and threads != 0:
        fatal(ctx, w, F_BARRIER_MISMATCH, instruction, ctz(mask), number, threads, bar.expected, bar.instruction)
        return 1
    bar.instruction = instruction
    # A warp whose other lanes have exited (or were never there) counts whole; lanes of a diverged one count as they
    # come.
    count = popcount(mask)
    w.bar_lanes[number] = w.bar_lanes[number] | mask
    if (w.bar_lanes[number] & w.alive) == w.alive:
        count = 32 - (popcount(w.bar_lanes[number]) - popcount(mask))
        w.bar_lanes[number] = 0
    bar.arrived += count
    release_to(w, bar.acc)
    return 0


@native
def barrier_settle(ctx: Context, w: Warp, instruction: u32, number: u32) -> None:
    bar = w.cta.bars + number
    if bar.arrived > bar.expected:
        fatal(ctx, w, F_BAD_BARRIER, instruction, 0, number, bar.arrived, 2, bar.expected)
    elif bar.arrived == bar.expected:
        barrier_complete(ctx, w.cta, bar)


@native
def barrier_sync(ctx: Context, w: Warp, mask: u32, instruction: u32, number: u32, threads: u32, aligned: u32) -> i32:
    if w.retry == 0:
        if number < 16:
            w.bar_phase[number] = (w.cta.bars + number).phase
        if barrier_arrive(ctx, w, mask, instruction, number, threads, aligned):
            return S_RETRY
        ctx.counters[N_BARRIER_WAITS] += 1
        barrier_settle(ctx, w, instruction, number)
    bar = w.cta.bars + number
    if bar.phase == w.bar_phase[number]:
        return wait_begin(ctx, w, 1, number, bar.phase, instruction)
    acquire_from(w, bar.done)
    wait_end(ctx, w, number, instruction)
    return 0


@native
def barrier_reduce(
    ctx: Context, w: Warp, mask: u32, instruction: u32, number: u32, threads: u32, aligned: u32, pred: u32
) -> i32:
    """Like barrier_sync; the result is read from the barrier afterwards (barrier_result)."""
    if w.retry == 0:
        if number < 16:
            w.bar_phase[number] = (w.cta.bars + number).phase
        if barrier_arrive(ctx, w, mask, instruction, number, threads, aligned):
            return S_RETRY
        bar0 = w.cta.bars + number
        if (pred & mask) != mask:
            bar0.reduce_and = 0
        if pred & mask:
            bar0.reduce_or = 1
        bar0.reduce_count += popcount(pred & mask)
        barrier_settle(ctx, w, instruction, number)
    return barrier_sync_retry(ctx, w, instruction, number)


@native
def barrier_sync_retry(ctx: Context, w: Warp, instruction: u32, number: u32) -> i32:
    bar = w.cta.bars + number
    if bar.phase == w.bar_phase[number]:
        return wait_begin(ctx, w, 1, number, bar.phase, instruction)
    acquire_from(w, bar.done)
    wait_end(ctx, w, number, instruction)
    return 0


@native
def barrier_result(ctx: Context, w: Warp, number: u32, what: u32) -> u32:
    bar = w.cta.bars + (number & 15)
    if what == 0:
        return bar.result_and
    if what == 1:
        return bar.result_or
    return bar.result_count


@native
def barrier_arrive_only(
    ctx: Context, w: Warp, mask: u32, instruction: u32, number: u32, threads: u32, aligned: u32
) -> i32:
    if barrier_arrive(ctx, w, mask, instruction, number, threads, aligned) == 0:
        barrier_settle(ctx, w, instruction, number)
    return 0


@native
def warp_exited(ctx: Context, w: Warp) -> None:
    """Barriers without a count wait only for warps that still run."""
    cta = w.cta
    cta.live_warps -= 1
    head = ctx.ctas + cta.cluster_first
    head.cb_live -= 1
    for i in range(16):
        bar = cta.bars + i
        if bar.arrived and bar.warps == 0 and bar.expected == (cta.live_warps + 1) * 32:
            bar.expected = cta.live_warps * 32
            if bar.arrived >= bar.expected:
                barrier_complete(ctx, cta, bar)
    cluster_settle(ctx, cta)
    wake(ctx, cta)


@native
def cluster_settle(ctx: Context, cta: Cta) -> None:
    head = ctx.ctas + cta.cluster_first
    if head.cb_arrived and head.cb_arrived >= head.cb_live:
        n = u64(cta.components) * 8
        copy(pointer(u8, head.cb_done), pointer(u8, head.cb_acc), n)
        fill(pointer(u8, head.cb_acc), 0, n)
        head.cb_phase += 1
        head.cb_arrived = 0
        wake(ctx, cta)


@native
def cluster_arrive(ctx: Context, w: Warp, mask: u32, instruction: u32, aligned: u32, release: u32) -> i32:
    if mask != w.alive:
        if aligned:
            partial_aligned(ctx, w, instruction, mask)
            return 0
        w.cluster_arrived = w.cluster_arrived | mask
        if w.cluster_arrived != w.alive:
            return 0
    head = ctx.ctas + w.cta.cluster_first
    if w.cluster_phase > head.cb_phase:
        fatal(ctx, w, F_CLUSTER_BARRIER, instruction, 0, 0, 0, 0, 0)
        return 0
    w.cluster_arrived = 0
    w.cluster_phase = head.cb_phase + 1
    head.cb_arrived += 1
    if release:
        release_to(w, head.cb_acc)
    else:
        release_fenced(w, head.cb_acc)
    cluster_settle(ctx, w.cta)
    return 0


@native
def cluster_wait(ctx: Context, w: Warp, mask: u32, instruction: u32, aligned: u32) -> i32:
    if aligned and mask != w.alive:
        partial_aligned(ctx, w, instruction, mask)
        return 0
    head = ctx.ctas + w.cta.cluster_first
    if w.cluster_phase == 0:
        fatal(ctx, w, F_CLUSTER_BARRIER, instruction, 0, 1, 0, 0, 0)
        return 0
    if head.cb_phase < w.cluster_phase:
        return wait_begin(ctx, w, 3, 0, head.cb_phase, instruction)
    acquire_from(w, head.cb_done)
    wait_end(ctx, w, NONE, instruction)
    return 0
