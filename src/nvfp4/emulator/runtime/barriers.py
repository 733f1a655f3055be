"""Named barriers, mbarriers, cluster barriers, and cp.async (PTX ISA 9.7.13.1, 9.7.13.15, 9.7.13.4, 9.7.9.25).
Native code.

A blocking operation is a basic block of its own: it returns S_RETRY and runs again when something in its cluster has
moved.
"""

# mypy: ignore-errors
# ruff: noqa: F821, D103, SIM102
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


# -- named barriers --------------------------------------------------------------------------------------------------


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


# -- cluster barrier -------------------------------------------------------------------------------------------------


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


# -- mbarriers -------------------------------------------------------------------------------------------------------


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


# -- cp.async --------------------------------------------------------------------------------------------------------


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
