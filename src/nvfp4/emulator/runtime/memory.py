"""Loads and stores of a warp: address translation, bounds and alignment. Native code (see native/language.py)."""

# mypy: ignore-errors
# ruff: noqa: F821, D103, SIM109
from __future__ import annotations

from .library import library

native = library.native


@native(inline=True)
def find_buffer(ctx: Context, a: u64) -> P[Buffer]:
    page = (a - VA_BASE) >> PAGE_BITS
    if page >= ctx.page_count:
        return pointer(Buffer, 0)
    index = ctx.pages[page]
    if index == 0:
        return pointer(Buffer, 0)
    return ctx.buffers + (index - 1)


@native(inline=True)
def space_at(space: u32, a: u64) -> u32:
    """The space that an address lies in: generic addresses say so themselves."""
    if space != SP_GENERIC:
        return space
    if a >> 56 == 1:
        return SP_SHARED_CLUSTER
    if a >> 56 == 2:
        return SP_LOCAL
    return SP_GLOBAL


@native(inline=True)
def within_space(space: u32, where: u32, a: u64) -> u64:
    """A generic address without the window that it was found in."""
    if space == SP_GENERIC and where != SP_GLOBAL:
        return a & 0xFFFFFFFFFFFFFF
    return a


@native(inline=True)
def buffer_at(
    ctx: Context, w: Warp, last: Buffer, a: u64, bytes: u64, instruction: u32, lane: u32, write: u32
) -> P[Buffer]:
    """The buffer that holds an access, most likely the last one; null after a fault."""
    if last != 0 and a >= last.va and a + bytes <= last.va + last.size:
        return last
    b = find_buffer(ctx, a)
    if b == 0 or a < b.va or a + bytes > b.va + b.size:
        fatal(ctx, w, F_OUT_OF_BOUNDS, instruction, lane, a, bytes, SP_GLOBAL, write)
        return pointer(Buffer, 0)
    return b


@native(inline=True)
def shared_at(ctx: Context, w: Warp, a: u64, bytes: u64, space: u32, instruction: u32, lane: u32, write: u32) -> P[Cta]:
    """As translate_shared, for what is mostly the CTA's own memory."""
    offset = a & 0xFFFFFF
    if unlikely(a >> 24 != w.cta.rank or offset + bytes > w.cta.shared_size or offset < ctx.shared_window):
        return translate_shared(ctx, w, a, bytes, space, instruction, lane, write)
    return w.cta


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
    if bytes >= 4 and bytes <= 16:
        # Mostly the lanes of each phase have banks of their own.
        places = u32(128) // u32(bytes)
        own = cast(V[u32, 32], pointer(V[u64, 32], addr)[0] >> ctz(bytes)) & (places - 1)
        at = own + (iota(V[u32, 32]) & ~(places - 1))
        bit = select(lanes_in(mask), cast(V[u32, 32], 1) << at, cast(V[u32, 32], 0))
        taken = reduce_or(bit)
        if popcount(taken) == popcount(mask):
            phases = u32(0)
            while taken:
                phases += 1
                taken = taken & ~u32(((u64(1) << places) - 1) << (ctz(taken) & ~(places - 1)))
            return phases
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
def load_shared(
    ctx: Context,
    w: Warp,
    mask: u32,
    instruction: u32,
    size: u32,
    n: u32,
    addr: P[u64],
    offsets: P[u32],
    out: P[u8],
) -> None:
    """A load of which every lane reads its own CTA's shared memory, in bounds, at offsets[lane]."""
    bytes = u64(size * n)
    cta = w.cta
    if ctx.checks & (CK_INIT | CK_RACES):
        shared_read_lanes(ctx, w, cta, mask, offsets, bytes, instruction)
    if size == 4 and n == 1:
        pointer(V[u32, 32], out)[0] = gather(pointer(u32, cta.shared), pointer(V[u32, 32], offsets)[0] >> 2)
    else:
        m = mask
        while m:
            lane = ctz(m)
            m = m & (m - 1)
            put(out, pointer(u8, cta.shared + offsets[lane]), size, n, lane)
    if ctx.checks & CK_COUNT:
        ctx.counters[N_SHARED_REQUESTS] += 1
        ctx.counters[N_SHARED_WAVEFRONTS] += wavefronts(mask, addr, bytes)
        ctx.counters[N_SHARED_LOAD_BYTES] += popcount(mask) * bytes


@native
def load(
    ctx: Context, w: Warp, mask: u32, instruction: u32, size: u32, n: u32, space: u32, addr: P[u64], out: P[u8]
) -> None:
    bytes = u64(size * n)
    if space != SP_GLOBAL:
        offsets = local(u32, 32)
        if lane_offsets(ctx, w, mask, space, addr, bytes, offsets):
            load_shared(ctx, w, mask, instruction, size, n, addr, offsets, out)
            return
    b = pointer(Buffer, 0)
    m = mask
    sectors = u32(0)
    shared = u32(0)
    previous = u64(0)
    while m:
        lane = ctz(m)
        m = m & (m - 1)
        where = space_at(space, addr[lane])
        a = within_space(space, where, addr[lane])
        if unlikely((a & (bytes - 1)) != 0):
            fatal(ctx, w, F_MISALIGNED, instruction, lane, a, bytes, where, 0)
            continue
        if where == SP_GLOBAL or where == SP_CONST:
            b = buffer_at(ctx, w, b, a, bytes, instruction, lane, 0)
            if b == 0:
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
            cta = shared_at(ctx, w, a, bytes, where, instruction, lane, 0)
            if cta == 0:
                continue
            offset = a & 0xFFFFFF
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
    if space != SP_GLOBAL and strong == 0:
        offsets = local(u32, 32)
        if lane_offsets(ctx, w, mask, space, addr, bytes, offsets):
            ctx.progress += 1
            shared_store_lanes(ctx, w, w.cta, mask, offsets, instruction, values, size, n)
            if ctx.checks & CK_COUNT:
                ctx.counters[N_SHARED_REQUESTS] += 1
                ctx.counters[N_SHARED_WAVEFRONTS] += wavefronts(mask, addr, bytes)
                ctx.counters[N_SHARED_STORE_BYTES] += popcount(mask) * bytes
            return
    b = pointer(Buffer, 0)
    m = mask
    sectors = u32(0)
    shared = u32(0)
    previous = u64(0)
    ctx.progress += 1
    while m:
        lane = ctz(m)
        m = m & (m - 1)
        where = space_at(space, addr[lane])
        a = within_space(space, where, addr[lane])
        if unlikely((a & (bytes - 1)) != 0):
            fatal(ctx, w, F_MISALIGNED, instruction, lane, a, bytes, where, 1)
            continue
        if where == SP_GLOBAL or where == SP_CONST:
            b = buffer_at(ctx, w, b, a, bytes, instruction, lane, 1)
            if b == 0:
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
            cta = shared_at(ctx, w, a, bytes, where, instruction, lane, 1)
            if cta == 0:
                continue
            offset = a & 0xFFFFFF
            if strong:
                if ctx.checks & (CK_INIT | CK_RACES):
                    shared_atomic_check(ctx, w, cta, offset, bytes, instruction, lane)
                take(pointer(u8, cta.shared + offset), values, size, n, lane)
            else:
                one = local(u32, 32)
                one[lane] = u32(offset)
                shared_store_lanes(ctx, w, cta, u32(1) << lane, one, instruction, values, size, n)
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
