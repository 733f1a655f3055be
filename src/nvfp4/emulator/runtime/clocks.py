"""Vector clocks: who has seen what. Native code.

Within a cluster every warp holds a vector of clocks. Its components, per CTA: one per warp; PIPES per warp (cp.async
groups, wgmma groups, bulk groups, tcgen05 operations); and one per mbarrier, which counts completed phases and so
dates the asynchronous copies that complete there. ``vc`` is what the warp knows; ``avc`` is what it knows to be
visible to the async proxy (raised to ``vc`` by ``fence.proxy.async``). Release copies both into a barrier, acquire
copies them back.

Between clusters one clock per cluster suffices: a release to global memory (a fence and a strong write, or
``.release``) publishes it in one of SYNC_OBJECTS vectors, chosen by the address; a strong read takes that vector.
Each has a second half: what of it the async proxy sees, because a warp of the writing or of the reading cluster has
executed ``fence.proxy.async`` since.
"""

# mypy: ignore-errors
# ruff: noqa: F821, D103
from __future__ import annotations

from .library import library

native = library.native


@native
def release_to(w: Warp, acc: P[u32]) -> None:
    n = w.cta.components
    merge(acc, w.vc, n)
    merge(acc + n, w.avc, n)
    w.vc[w.self] += 1


@native
def release_fenced(w: Warp, acc: P[u32]) -> None:
    """A relaxed arrival behind a fence (fence.mbarrier_init, fence.acq_rel) releases what the warp did before the
    fence."""
    if w.release_fence == 0:
        return
    known = w.vc[w.self]
    visible = w.avc[w.self]
    w.vc[w.self] = w.fence_clock
    if visible > w.fence_clock:
        w.avc[w.self] = w.fence_clock
    release_to(w, acc)
    w.vc[w.self] = known
    w.avc[w.self] = visible


@native
def acquire_from(w: Warp, done: P[u32]) -> None:
    n = w.cta.components
    merge(w.vc, done, n)
    merge(w.avc, done + n, n)


@native
def fence_proxy_async(ctx: Context, w: Warp) -> None:
    merge(w.avc, w.vc, w.cta.components)


@native
def fence_proxy_async_global(ctx: Context, w: Warp) -> None:
    head = ctx.ctas + w.cta.cluster_first
    head.fenced = head.gclock
    head.gclock += 1
    if ctx.sync:
        merge(head.known + ctx.cluster_count, head.known, ctx.cluster_count)


@native
def fence_tcgen05_after(ctx: Context, w: Warp) -> None:
    merge(w.tvc, w.vc, w.cta.components)
    merge(w.tvc, w.rvc, w.cta.components)


@native
def fence_memory(ctx: Context, w: Warp) -> None:
    w.release_fence = 1
    w.fence_clock = w.vc[w.self]
    w.vc[w.self] += 1


@native
def sync_release(ctx: Context, w: Warp, a: u64, ordered: u32) -> None:
    """A strong write to ``a``: publishes if it releases, or if a fence went before."""
    if ordered == 0 and w.release_fence == 0:
        return
    head = ctx.ctas + w.cta.cluster_first
    head.sync_used = 1
    release_to(w, head.sync + ((a >> 2) % SYNC_LOCAL) * (2 * head.components))
    if ctx.sync == 0:
        return
    n = ctx.cluster_count
    vector = ctx.sync + ((a >> 2) % SYNC_OBJECTS) * (2 * n)
    merge(vector, head.known, 2 * n)
    own = w.cta.cluster_number
    vector[own] = max(vector[own], head.gclock)
    vector[n + own] = max(vector[n + own], head.fenced)
    head.gclock += 1


@native
def sync_acquire(ctx: Context, w: Warp, a: u64) -> None:
    """A strong read of ``a``. Taken at once, also without a fence behind it: relaxed polling followed by a barrier is
    common."""
    head = ctx.ctas + w.cta.cluster_first
    if head.sync_used:
        acquire_from(w, head.sync + ((a >> 2) % SYNC_LOCAL) * (2 * head.components))
    if ctx.sync == 0:
        return
    n = ctx.cluster_count
    merge(head.known, ctx.sync + ((a >> 2) % SYNC_OBJECTS) * (2 * n), 2 * n)


@native
def sync_lanes(ctx: Context, w: Warp, mask: u32, addr: P[u64], acquire: u32, release: u32, ordered: u32) -> None:
    head = ctx.ctas + w.cta.cluster_first
    if release == 0 and head.sync_used == 0 and ctx.sync == 0:
        return
    if acquire == 0 and ordered == 0 and w.release_fence == 0:
        return
    m = mask
    while m:
        lane = ctz(m)
        m = m & (m - 1)
        if acquire:
            sync_acquire(ctx, w, addr[lane])
        if release:
            sync_release(ctx, w, addr[lane], ordered)
