"""cp.async: copies of a lane in flight, in groups (PTX ISA 9.7.9.25). Native code."""

# mypy: ignore-errors
# ruff: noqa: F821, D103
from __future__ import annotations

from .library import library

native = library.native


@native
def queue_run(ctx: Context, w: Warp, until: u32) -> u32:
    """Carry out queued copies of groups up to ``until``. Returns how many entries ran."""
    ran = u32(0)
    while w.q_head != w.q_tail:
        e = w.queue + (w.q_head % ctx.queue_capacity)
        if e.group > until:
            break
        w.q_head += 1
        ran += 1
        if e.arrive:
            cta = ctx.ctas + (w.cta.cluster_first + u32(e.dst >> 24))
            offset = u32(e.dst & 0xFFFFFF)
            slot = cta.mbarrier_map[offset >> 3]
            if slot:
                bar = cta.mbarriers + (slot - 1)
                n = w.cta.components
                bar.acc[w.pipe] = max(bar.acc[w.pipe], e.group)
                bar.acc[n + w.pipe] = max(bar.acc[n + w.pipe], e.group)
                if e.arrive == 1 and bar.pending:
                    bar.pending -= 1
                elif e.arrive == 2:
                    bar.pending += 0
                mbarrier_settle(ctx, cta, bar)
        else:
            if e.copy:
                copy(pointer(u8, e.dst), pointer(u8, e.src), e.copy)
            if e.copy < e.size:
                fill(pointer(u8, e.dst + e.copy), 0, e.size - e.copy)
    return ran


@native
def cp_async(
    ctx: Context, w: Warp, mask: u32, instruction: u32, size: u32, space: u32, dst: P[u64], src: P[u64], count: P[u64]
) -> None:
    m = mask
    ctx.counters[N_ASYNC_COPY_BYTES] += popcount(mask) * size
    while m:
        lane = ctz(m)
        m = m & (m - 1)
        d = dst[lane]
        s = src[lane]
        take_bytes = u32(count[lane])
        if d >> 56 == 1:
            d = d - SHARED_BASE
        if take_bytes > size:
            take_bytes = size
        if (d & (size - 1)) != 0 or (take_bytes and (s & (size - 1)) != 0):
            fatal(ctx, w, F_MISALIGNED, instruction, lane, s if (d & (size - 1)) == 0 else d, size, SP_SHARED, 1)
            continue
        cta = translate_shared(ctx, w, d, size, SP_SHARED, instruction, lane, 1)
        if cta == 0:
            continue
        host = u64(0)
        if take_bytes:
            b = find_buffer(ctx, s)
            if b == 0 or s < b.va or s + take_bytes > b.va + b.size:
                fatal(ctx, w, F_OUT_OF_BOUNDS, instruction, lane, s, take_bytes, SP_GLOBAL, 0)
                continue
            if (b.flags & 2) != 0 or b.init != 0:
                global_read_check(ctx, w, b, s - b.va, take_bytes, instruction, lane)
            host = b.host + (s - b.va)
        offset = d & 0xFFFFFF
        shared_write_check(ctx, w, cta, offset, size, instruction, lane)
        # The bytes land later: nobody may read them before the group has been waited for.
        for i in range(u64(size) >> 2):
            cell = cta.cells + ((offset >> 2) + i)
            cell.wactor = u16(w.pipe)
            cell.wclock = w.cp_group + 1
            if (ctx.checks & CK_STRICT) == 0:
                cell.flags = cell.flags | 1
        if w.q_tail - w.q_head >= ctx.queue_capacity:
            queue_run(ctx, w, (w.queue + (w.q_head % ctx.queue_capacity)).group)
        e = w.queue + (w.q_tail % ctx.queue_capacity)
        w.q_tail += 1
        e.dst = cta.shared + offset
        e.src = host
        e.size = size
        e.copy = take_bytes
        e.group = w.cp_group + 1
        e.arrive = 0


@native
def cp_async_commit(ctx: Context, w: Warp) -> None:
    w.cp_group += 1
    if (random(ctx) & 7) == 0 and w.cp_group > w.cp_done:
        queue_run(ctx, w, w.cp_group - (random(ctx) & 1))


@native
def cp_async_wait(ctx: Context, w: Warp, pending: u32) -> None:
    """pending: how many of the newest groups may remain; NONE means wait_all, also of what is not committed."""
    until = w.cp_group + 1
    if pending != NONE:
        until = w.cp_group - min(pending, w.cp_group)
    else:
        w.cp_group += 1
    queue_run(ctx, w, until)
    w.cp_done = max(w.cp_done, until)
    w.vc[w.pipe] = max(w.vc[w.pipe], until)
    w.avc[w.pipe] = w.avc[w.pipe]


@native
def cp_async_arrive(ctx: Context, w: Warp, mask: u32, instruction: u32, noinc: u32, space: u32, addr: P[u64]) -> None:
    m = mask
    while m:
        lane = ctz(m)
        m = m & (m - 1)
        a = addr[lane]
        bar = mbarrier_at(ctx, w, a, space, instruction, lane)
        if bar == 0:
            continue
        if noinc == 0:
            bar.pending += 1
        if w.q_tail - w.q_head >= ctx.queue_capacity:
            queue_run(ctx, w, (w.queue + (w.q_head % ctx.queue_capacity)).group)
        e = w.queue + (w.q_tail % ctx.queue_capacity)
        w.q_tail += 1
        e.dst = u64(bar.address)
        e.group = w.cp_group + 1
        e.arrive = 1
    # Copies after this arrival belong to a later date than those before it.
    w.cp_group += 1
