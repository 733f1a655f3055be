"""Divergence and the warp scheduler (PTX ISA 3.1, independent thread scheduling). Native code.

A warp runs one group of lanes at a time (pc, mask). A divergent branch opens a join at the branch's immediate post-
dominator; its groups wait there for one another, as compiled code does. Groups that wait for lanes (shfl and its
kin) or for a barrier step aside for the others; when nothing else in the warp can run, joins are given up early, so
every legal program makes progress.
"""

# mypy: ignore-errors
# ruff: noqa: F821, D103, SIM102
from __future__ import annotations

from .library import library

native = library.native


@native
def group_push(ctx: Context, w: Warp, pc: u32, mask: u32, join: u32, retry: u32, blocked: u32) -> None:
    for i in range(w.groups):
        if w.g_pc[i] == pc and w.g_join[i] == join:
            # Two groups meet at one place: they are one group again, and look afresh at what blocked the first.
            if w.g_retry[i] == retry:
                w.g_mask[i] = w.g_mask[i] | mask
                w.g_blocked[i] = 0
                return
    i = w.groups
    w.groups += 1
    w.g_pc[i] = pc
    w.g_mask[i] = mask
    w.g_join[i] = join
    w.g_retry[i] = retry
    w.g_blocked[i] = blocked


@native
def group_take(w: Warp, i: u32) -> None:
    """Make saved group ``i`` the current one."""
    w.pc = w.g_pc[i]
    w.mask = w.g_mask[i]
    w.join = w.g_join[i]
    w.retry = w.g_retry[i]
    last = w.groups - 1
    w.groups = last
    w.g_pc[i] = w.g_pc[last]
    w.g_mask[i] = w.g_mask[last]
    w.g_join[i] = w.g_join[last]
    w.g_retry[i] = w.g_retry[last]
    w.g_blocked[i] = w.g_blocked[last]


@native
def release_joins(ctx: Context, w: Warp) -> u32:
    """Give up joins whose missing lanes cannot come: their waiting lanes go on alone."""
    released = u32(0)
    for j in range(32):
        if w.j_used[j] and w.j_arrived[j]:
            mask = w.j_arrived[j]
            w.j_arrived[j] = 0
            w.j_expect[j] = w.j_expect[j] & ~mask
            if w.j_expect[j] == 0:
                w.j_used[j] = 0
            group_push(ctx, w, w.j_pc[j], mask, w.j_parent[j], 0, 0)
            released += 1
    return released


@native
def group_pick(ctx: Context, w: Warp) -> u32:
    """Choose the next group when the current one is gone or saved. 0: none can run; the warp is blocked."""
    n = w.groups
    if n:
        start = random(ctx) % n
        for k in range(n):
            i = (start + k) % n
            if w.g_blocked[i] == 0:
                group_take(w, i)
                return 1
    # Lanes wait at a join for lanes that wait elsewhere, as behind a convergence barrier; only when the whole cluster
    # is stuck do they go on alone (`unstick`).
    if n == 0 and release_joins(ctx, w):
        for i in range(w.groups):
            if w.g_blocked[i] == 0:
                group_take(w, u32(i))
                return 1
    w.mask = 0
    w.state = ST_BLOCKED
    return 0


@native
def unstick(ctx: Context, first: u32, count: u32) -> u32:
    """Nothing else can move: blocked warps give up their joins. Returns how many warps may run again."""
    found = u32(0)
    for i in range(count):
        w = ctx.warps + (first + i)
        if w.state == ST_BLOCKED:
            if release_joins(ctx, w):
                w.state = ST_RUN
                found += 1
    return found


@native
def join_arrive(ctx: Context, w: Warp, j: u32, mask: u32) -> u32:
    """Lanes reach join ``j``. 1: complete, the lanes are the current group."""
    w.j_arrived[j] = w.j_arrived[j] | mask
    if w.j_arrived[j] == w.j_expect[j]:
        w.j_used[j] = 0
        w.pc = w.j_pc[j]
        w.mask = w.j_arrived[j]
        w.join = w.j_parent[j]
        w.retry = 0
        return 1
    return 0


@native
def join_open(ctx: Context, w: Warp, pc: u32, mask: u32, parent: u32) -> u32:
    for j in range(32):
        if w.j_used[j] == 0:
            w.j_used[j] = 1
            w.j_pc[j] = pc
            w.j_expect[j] = mask
            w.j_arrived[j] = 0
            w.j_parent[j] = parent
            return u32(j)
    fatal(ctx, w, F_JOIN_OVERFLOW, NONE, ctz(mask), 0, 0, 0, 0)
    return NONE


@native
def child_join(ctx: Context, w: Warp, mask: u32, join_pc: u32) -> u32:
    if join_pc == NONE:
        return w.join
    if w.join != NONE and w.j_pc[w.join] == join_pc:
        return w.join
    return join_open(ctx, w, join_pc, mask, w.join)


@native
def send(ctx: Context, w: Warp, pc: u32, mask: u32, join: u32) -> None:
    """A part of a diverged group goes to ``pc``."""
    if join != NONE and w.j_pc[join] == pc:
        w.j_arrived[join] = w.j_arrived[join] | mask
    else:
        group_push(ctx, w, pc, mask, join, 0, 0)


@native
def diverge(ctx: Context, w: Warp, taken: u32, target: u32, fall: u32, join_pc: u32) -> i32:
    rest = w.mask & ~taken
    ctx.counters[N_DIVERGENT] += 1
    join = child_join(ctx, w, w.mask, join_pc)
    send(ctx, w, target, taken, join)
    send(ctx, w, fall, rest, join)
    group_pick(ctx, w)
    return S_MOVED


@native
def branch_index(ctx: Context, w: Warp, mask: u32, index: P[u32], targets: P[u32], n: u32, join_pc: u32) -> i32:
    first = index[ctz(mask)]
    same = u32(0)
    m = mask
    while m:
        lane = ctz(m)
        m = m & (m - 1)
        if index[lane] >= n:
            fatal(ctx, w, F_TRAP, NONE, lane, index[lane], n, 1, 0)
            return S_MOVED
        if index[lane] == first:
            same = same | (u32(1) << lane)
    if same == mask:
        return i32(targets[first])
    join = child_join(ctx, w, mask, join_pc)
    m = mask
    while m:
        first = index[ctz(m)]
        same = 0
        k = m
        while k:
            lane = ctz(k)
            k = k & (k - 1)
            if index[lane] == first:
                same = same | (u32(1) << lane)
        m = m & ~same
        send(ctx, w, targets[first], same, join)
    group_pick(ctx, w)
    return S_MOVED


@native
def exit_lanes(ctx: Context, w: Warp, lanes: u32) -> i32:
    w.alive = w.alive & ~lanes
    ctx.progress += 1
    left = w.mask & ~lanes
    for j in range(32):
        if w.j_used[j]:
            w.j_expect[j] = w.j_expect[j] & ~lanes
    if left:
        w.mask = left
        return 0
    w.mask = 0
    if w.alive == 0:
        w.state = ST_DONE
        warp_exited(ctx, w)
        return S_MOVED
    # Joins that waited only for the lanes that left are complete now.
    for j in range(32):
        if w.j_used[j]:
            if w.j_expect[j] == 0:
                w.j_used[j] = 0
            elif w.j_arrived[j] == w.j_expect[j]:
                w.j_used[j] = 0
                group_push(ctx, w, w.j_pc[j], w.j_arrived[j], w.j_parent[j], 0, 0)
    # Lanes that wait for a whole warp look again.
    for i in range(w.groups):
        w.g_blocked[i] = 0
    group_pick(ctx, w)
    return S_MOVED


@native
def park(ctx: Context, w: Warp, instruction: u32, wanted: u32) -> i32:
    """shfl and its kin: lanes of the member mask are elsewhere."""
    w.wait_kind = 4
    w.wait_address = wanted
    w.wait_instr = instruction
    return S_PARK


@native
def advance(ctx: Context, w: Warp, pc: u32) -> None:
    """The current group goes to block ``pc``: joins and meetings happen here."""
    w.pc = pc
    w.retry = 0
    if w.join != NONE and w.j_pc[w.join] == pc:
        if join_arrive(ctx, w, w.join, w.mask) == 0:
            group_pick(ctx, w)
    elif w.groups:
        for i in range(w.groups):
            if w.g_pc[i] == pc and w.g_join[i] == w.join and w.g_retry[i] == 0:
                w.mask = w.mask | w.g_mask[i]
                last = w.groups - 1
                w.groups = last
                w.g_pc[i] = w.g_pc[last]
                w.g_mask[i] = w.g_mask[last]
                w.g_join[i] = w.g_join[last]
                w.g_retry[i] = w.g_retry[last]
                w.g_blocked[i] = w.g_blocked[last]
                break


@native
def host_done(ctx: Context, w: Warp, pc: u32, next: u32) -> None:
    """The host has carried out the instruction of block ``pc``."""
    ctx.steps += 1
    ctx.progress += 1
    ctx.block_hits[pc] += 1
    ctx.block_lanes[pc] += popcount(w.mask)
    advance(ctx, w, next)


@native
def step_aside(ctx: Context, w: Warp) -> None:
    """The current group waits: save it and let another run, or block the warp."""
    group_push(ctx, w, w.pc, w.mask, w.join, w.retry, 1)
    group_pick(ctx, w)


@native
def run_warp(ctx: Context, w: Warp, quantum: u32) -> i32:
    n = u32(0)
    if w.mask == 0:
        # Woken after a block: every group looks again.
        for i in range(w.groups):
            w.g_blocked[i] = 0
        if group_pick(ctx, w) == 0:
            return 0
    while n < quantum:
        n += 1
        pc = w.pc
        code = ctx.blocks[pc]
        if code == 0:
            return S_HOST
        mask = w.mask
        r = invoke(code, ctx, w, mask)
        if r != S_RETRY and r != S_PARK:
            ctx.steps += ctx.block_steps[pc]
            ctx.block_hits[pc] += 1
            ctx.block_lanes[pc] += popcount(mask)
        if unlikely(ctx.fatal):
            return 0
        if r >= 0:
            advance(ctx, w, u32(r))
        elif r != S_MOVED:
            step_aside(ctx, w)
        if w.state != ST_RUN:
            return 0
        if w.groups and (n & 15) == 15:
            # Fairness among diverged groups: one may spin for what another does.
            group_push(ctx, w, w.pc, w.mask, w.join, w.retry, 0)
            group_pick(ctx, w)
    return 0


@native
def run_cluster(ctx: Context, first: u32, count: u32, budget: u64) -> i32:
    limit = ctx.steps + budget
    turns = u64(0)
    while True:
        start = random(ctx) % count
        chosen = NONE
        live = u32(0)
        for i in range(count):
            k = start + i
            if k >= count:
                k -= count
            k += first
            state = (ctx.warps + k).state
            if state == ST_RUN:
                chosen = k
                break
            if state == ST_BLOCKED:
                live = 1
        if chosen == NONE:
            ran = u32(0)
            for i in range(count):
                ran += queue_run(ctx, ctx.warps + (first + i), NONE - 1)
            if ran:
                wake(ctx, (ctx.warps + first).cta)
                any = u32(0)
                for i in range(count):
                    if (ctx.warps + (first + i)).state == ST_RUN:
                        any = 1
                if any:
                    continue
            return S_ALL_BLOCKED if live else S_EXITED
        w = ctx.warps + chosen
        r = run_warp(ctx, w, 8 + (random(ctx) & 127))
        if r == S_HOST:
            ctx.host_warp = chosen
            return S_HOST
        if ctx.fatal:
            return S_FATAL
        turns += 1
        if ctx.steps >= ctx.event_at:
            return S_EVENT
        if ctx.steps >= limit or turns > budget:
            return S_BUDGET


@native
def tick(ctx: Context) -> u64:
    """A clock that moves with execution, a nanosecond or so per instruction."""
    ctx.clock += 16
    return ctx.clock + ctx.steps
