"""The shadow of shared memory for a whole warp: many words at a time where they are alike. Native code.

Blocks of 16 words, or of 4, are compared as vectors; whatever is not plainly in order goes to shadow.py, word by word.
"""

# mypy: ignore-errors
# ruff: noqa: F821
from __future__ import annotations

from .library import library

native = library.native


@native
def consecutive(mask: u32, offsets: P[u32], bytes: u64) -> u32:
    """Whether all 32 lanes access consecutive places of 4, 8 or 16 bytes."""
    if mask != 0xFFFFFFFF or bytes < 4 or bytes > 16 or offsets[31] - offsets[0] != 31 * bytes:
        return 0
    step = cast(V[u32, 32], iota(V[u32, 32]) * u32(bytes) + offsets[0])
    return u32(all(pointer(V[u32, 32], offsets)[0] == step))


@native
def shared_read_rows(ctx: Context, w: Warp, cta: Cta, first: u32, bytes: u64, instruction: u32) -> u32:
    """Check and mark a read of consecutive words by all lanes, 16 words at a time: those that are in order. Returns the
    lanes whose words are not, or not obviously."""
    vc = w.vc
    me = w.self
    who = u64(vc[me]) | (u64(me) << 32)
    width = ctz(u32(bytes)) - 2
    k = iota(V[u64, 64])
    field = k & 3
    tag = cast(V[u64, 64], 0xFF00)
    left = u32(0)
    for g in range(u32(2) << width):
        p = pointer(V[u64, 64], cta.cells + (first + 16 * g))
        x = p[0]
        wv = part(x, 0, 16, 4)
        rv = part(x, 1, 16, 4)
        fine = gather(vc, cast(V[u32, 16], wv >> 32) & 0xFFFF) >= cast(V[u32, 16], wv)
        fine = fine & (gather(vc, cast(V[u32, 16], rv >> 32) & 0xFFFF) >= cast(V[u32, 16], rv))
        fine = fine & ((wv & 0xFFFFFFFFFFFF) != who) & ((rv & 0xFFFFFFFFFFFF) != who)
        fine = fine & ((wv >> 56) == 15)
        if all(fine):
            if ctx.checks & CK_LANES:
                tag = (((k >> 2) + 16 * g) >> width) << 8
            kept = select(field == 1, cast(V[u64, 64], 0xFF00000000000000), ~cast(V[u64, 64], 0))
            kept = select(field == 2, cast(V[u64, 64], 0xFFFFFFFF), kept)
            kept = select(field == 3, ~cast(V[u64, 64], 0xFF00), kept)
            new = select(field == 1, cast(V[u64, 64], who | (u64(15) << 48)), cast(V[u64, 64], 0))
            new = select(field == 2, cast(V[u64, 64], (u64(instruction) + 1) << 32), new)
            new = select(field == 3, tag, new)
            p[0] = (x & kept) | new
        else:
            left = left | (((u32(1) << (16 >> width)) - 1) << ((16 * g) >> width))
    return left


@native
def shared_read_quads(ctx: Context, w: Warp, cta: Cta, mask: u32, offsets: P[u32], instruction: u32) -> None:
    """Check and mark a read of 16 bytes by each of some lanes. Rows of a tile mostly have one history: four words that
    are as the last four are not examined again."""
    vc = w.vc
    me = w.self
    who = u64(vc[me]) | (u64(me) << 32)
    pitch = reader_pitch(cta)
    field = iota(V[u64, 16]) & 3
    zero = cast(V[u64, 16], 0)
    history = select(field < 2, ~zero, zero)
    kept = select(field == 1, zero, select(field == 2, zero + 0xFFFFFFFF, ~zero))
    kept = select(field == 3, ~(zero + 0xFF00), kept)
    tags = select(field == 3, zero + 0xFF00, zero)
    expect = history
    new = zero
    aside = False
    fresh = False
    slot = u32(0)
    clock = u32(0)
    m = mask
    while m:
        lane = ctz(m)
        m = m & (m - 1)
        word = u64(offsets[lane] >> 2)
        p = pointer(V[u64, 16], cta.cells + word)
        x = p[0]
        if any((x & history) != expect):
            wv = pointer(u64, p)[0]
            rv = pointer(u64, p)[1]
            slot = (u32(rv >> 32) & 0xFFFF) - cta.component_base
            clock = u32(rv)
            aside = vc[(rv >> 32) & 0xFFFF] < clock
            fresh = ((rv >> 56) & 8) == 0
            calm = vc[(wv >> 32) & 0xFFFF] >= u32(wv) and (wv & 0xFFFFFFFFFFFF) != who and (wv >> 56) == 15
            simple = not aside or (slot < cta.warps and ((rv >> 48) & 15) == 15)
            expect = history
            if calm and simple and (rv & 0xFFFFFFFFFFFF) != who:
                expect = select(field == 0, zero + wv, select(field == 1, zero + rv, zero))
                flags = rv & 0xFF00000000000000
                if aside:
                    flags = flags | (u64(8) << 56)
                new = select(field == 1, zero + (who | (u64(15) << 48) | flags), zero)
                new = select(field == 2, zero + ((u64(instruction) + 1) << 32), new)
            if any((x & history) != expect):
                shared_read_words(ctx, w, cta, u32(1) << lane, offsets, 16, instruction)
                continue
        if aside:
            # As keep_reader, for four words.
            row = pointer(V[u32, 8], cta.readers + word * pitch)
            for i in range(pitch >> 1):
                at = iota(V[u32, 8]) + 8 * (u32(i) % (pitch >> 3))
                old = cast(V[u32, 8], 0)
                if not fresh:
                    old = row[i]
                row[i] = select(at == slot, cast(V[u32, 8], clock), old)
        if ctx.checks & CK_LANES:
            tags = select(field == 3, zero + (u64(lane) << 8), zero)
        p[0] = (x & kept) | new | tags


@native
def shared_read_lanes(
    ctx: Context, w: Warp, cta: Cta, mask: u32, offsets: P[u32], bytes: u64, instruction: u32
) -> None:
    """Check and mark a read by some lanes, at offsets[lane]."""
    m = mask
    if consecutive(mask, offsets, bytes):
        m = shared_read_rows(ctx, w, cta, offsets[0] >> 2, bytes, instruction)
    if bytes == 16:
        shared_read_quads(ctx, w, cta, m, offsets, instruction)
    elif m:
        shared_read_words(ctx, w, cta, m, offsets, bytes, instruction)


@native
def shared_store_rows(ctx: Context, w: Warp, cta: Cta, first: u32, bytes: u64, instruction: u32) -> u32:
    """Check and mark a store to consecutive words by all lanes, 16 words at a time: those that are in order. Returns
    the lanes whose words are not, or not obviously."""
    vc = w.vc
    me = w.self
    who = u64(vc[me]) | (u64(me) << 32)
    width = ctz(u32(bytes)) - 2
    k = iota(V[u64, 64])
    field = k & 3
    tag = cast(V[u64, 64], 0xFF)
    left = u32(0)
    for g in range(u32(2) << width):
        p = pointer(V[u64, 64], cta.cells + (first + 16 * g))
        x = p[0]
        wv = part(x, 0, 16, 4)
        rv = part(x, 1, 16, 4)
        fine = gather(vc, cast(V[u32, 16], wv >> 32) & 0xFFFF) >= cast(V[u32, 16], wv)
        fine = fine & (gather(vc, cast(V[u32, 16], rv >> 32) & 0xFFFF) >= cast(V[u32, 16], rv))
        fine = fine & ((wv & 0xFFFFFFFFFFFF) != who) & ((rv & 0xFFFFFFFFFFFF) != who)
        fine = fine & ((rv >> 56) == 0)
        if all(fine):
            if ctx.checks & CK_LANES:
                tag = ((k >> 2) + 16 * g) >> width
            kept = select(field == 0, cast(V[u64, 64], 0), ~cast(V[u64, 64], 0))
            kept = select(field == 2, cast(V[u64, 64], 0xFFFFFFFF00000000), kept)
            kept = select(field == 3, ~cast(V[u64, 64], 0xFF), kept)
            new = select(field == 0, cast(V[u64, 64], who | (u64(0xF0F) << 48)), cast(V[u64, 64], 0))
            new = select(field == 2, cast(V[u64, 64], u64(instruction) + 1), new)
            new = select(field == 3, tag, new)
            p[0] = (x & kept) | new
        else:
            left = left | (((u32(1) << (16 >> width)) - 1) << ((16 * g) >> width))
    return left


@native
def shared_store_quads(ctx: Context, w: Warp, cta: Cta, mask: u32, offsets: P[u32], instruction: u32) -> u32:
    """Check and mark a store of 16 bytes by each of some lanes, as shared_read_quads. Returns the lanes that need a
    closer look."""
    vc = w.vc
    me = w.self
    who = u64(vc[me]) | (u64(me) << 32)
    pitch = reader_pitch(cta)
    known = pointer(V[u32, 8], vc + cta.component_base)
    field = iota(V[u64, 16]) & 3
    zero = cast(V[u64, 16], 0)
    history = select(field < 2, ~zero, zero)
    kept = select(field == 2, zero + 0xFFFFFFFF00000000, select(field == 3, ~(zero + 0xFF), zero))
    tags = select(field == 3, zero + 0xFF, zero)
    expect = history
    new = zero
    aside = False
    left = u32(0)
    m = mask
    while m:
        lane = ctz(m)
        m = m & (m - 1)
        word = u64(offsets[lane] >> 2)
        p = pointer(V[u64, 16], cta.cells + word)
        x = p[0]
        if any((x & history) != expect):
            wv = pointer(u64, p)[0]
            rv = pointer(u64, p)[1]
            aside = (rv >> 56) == 8
            calm = vc[(wv >> 32) & 0xFFFF] >= u32(wv) and (wv & 0xFFFFFFFFFFFF) != who
            simple = (aside or (rv >> 56) == 0) and vc[(rv >> 32) & 0xFFFF] >= u32(rv)
            expect = history
            if calm and simple and (rv & 0xFFFFFFFFFFFF) != who:
                expect = select(field == 0, zero + wv, select(field == 1, zero + rv, zero))
                new = select(field == 0, zero + (who | (u64(0xF0F) << 48)), zero)
                new = select(field == 1, zero + (rv & 0xFFFFFFFFFFFFFF), new)
                new = select(field == 2, zero + (u64(instruction) + 1), new)
        late = any((x & history) != expect)
        if aside and not late:
            # As late_reader, for four words.
            row = pointer(V[u32, 8], cta.readers + word * pitch)
            for i in range(pitch >> 1):
                late = late or any(known[i % (pitch >> 3)] < row[i])
        if late:
            left = left | (u32(1) << lane)
            continue
        if ctx.checks & CK_LANES:
            tags = select(field == 3, zero + lane, zero)
        p[0] = (x & kept) | new | tags
    return left


@native
def shared_store_lanes(
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
    """Check, mark and carry out a store of n values of size bytes by some lanes, at offsets[lane]; values null: only
    check and mark."""
    m = mask
    if ctx.checks & (CK_INIT | CK_RACES):
        if consecutive(mask, offsets, size * n):
            m = shared_store_rows(ctx, w, cta, offsets[0] >> 2, size * n, instruction)
        if size * n == 16 and m:
            m = shared_store_quads(ctx, w, cta, m, offsets, instruction)
    # Before the others, which compare what they store with what is there.
    done = mask & ~m
    if done == 0xFFFFFFFF and size == 4 and n == 1 and values != 0:
        pointer(V[u32, 32], cta.shared + offsets[0])[0] = pointer(V[u32, 32], values)[0]
        done = 0
    while done and values != 0:
        lane = ctz(done)
        done = done & (done - 1)
        take(pointer(u8, cta.shared + offsets[lane]), values, size, n, lane)
    if m:
        shared_store_words(ctx, w, cta, m, offsets, instruction, values, size, n)
