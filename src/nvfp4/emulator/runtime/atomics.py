"""atom and red, lane by lane (PTX ISA 9.7.13.13 and 9.7.13.14). Native code."""

# mypy: ignore-errors
# ruff: noqa: F821, D103
from __future__ import annotations

from .library import library

native = library.native


@native
def float_to_half(x: f32) -> u16:
    """Round to nearest even."""
    b = bits(x)
    sign = u16((b >> 16) & 0x8000)
    a = b & 0x7FFFFFFF
    if a > 0x7F800000:
        return u16(0x7FFF)
    if a >= 0x477FF000:
        return sign | u16(0x7C00)
    if a < 0x38800000:
        shifted = bits(bits(a) + 0.5)
        return sign | u16(shifted - 0x3F000000)
    a = a + 0xFFF + ((a >> 13) & 1)
    return sign | u16((a - 0x38000000) >> 13)


@native
def float_to_bfloat(x: f32) -> u16:
    b = bits(x)
    if (b & 0x7FFFFFFF) > 0x7F800000:
        return u16(0x7FFF)
    return u16((b + 0x7FFF + ((b >> 16) & 1)) >> 16)


@native(inline=True)
def bfloat_to_float(x: u16) -> f32:
    return bits(u32(x) << 16)


@native
def combine_integer(op: u32, signed: u32, width: u32, old: u64, b: u64, c: u64) -> u64:
    new = old
    if op == AT_ADD:
        new = old + b
    elif op == AT_AND:
        new = old & b
    elif op == AT_OR:
        new = old | b
    elif op == AT_XOR:
        new = old ^ b
    elif op == AT_EXCH:
        new = b
    elif op == AT_CAS:
        new = c if old == b else old
    elif op == AT_INC:
        new = u64(0) if old >= b else old + 1
    elif op == AT_DEC:
        new = b if old == 0 or old > b else old - 1
    else:
        less = old < b
        if signed:
            x = i64(old)
            y = i64(b)
            if width == 4:
                x = i64(i32(u32(old)))
                y = i64(i32(u32(b)))
            less = x < y
        if op == AT_MIN:
            new = old if less else b
        else:
            new = b if less else old
    return new


@native
def flush_f32(x: f32) -> f32:
    raw = u32(bits(x))
    if (raw & 0x7F800000) == 0:
        raw = raw & 0x80000000
    return bits(raw)


@native
def combine_f32(op: u32, x: f32, y: f32) -> f32:
    if op == AT_ADD:
        total = x + y
        if total != total:
            return bits(u32(0x7FFFFFFF))
        return total
    if x != x:
        return y
    if y != y:
        return x
    if op == AT_MIN:
        return x if x < y else y
    return x if x > y else y


@native
def combine_half(op: u32, bfloat: u32, old: u16, b: u16) -> u16:
    if op == AT_EXCH:
        return b
    if bfloat:
        return float_to_bfloat(combine_f32(op, bfloat_to_float(old), bfloat_to_float(b)))
    return float_to_half(combine_f32(op, half_to_float(old), half_to_float(b)))


@native
def combine(op: u32, kind: u32, width: u32, p: P[u8], b: u64, c: u64) -> u64:
    """Apply and return the old value. kind: 0 unsigned or bits, 1 signed, 2 float, 3 f16, 4 bf16, 5 f16x2, 6 bf16x2,
    7 f32 and f64 as global memory adds them."""
    old = u64(0)
    if width == 8:
        old = pointer(u64, p)[0]
    elif width == 4:
        old = u64(pointer(u32, p)[0])
    else:
        old = u64(pointer(u16, p)[0])
    new = old
    if kind == 7 and width == 8:
        # Global memory adds f64 elsewhere than the SMs do: NaNs stay as they are, and the new operand's comes first.
        x = bits(old)
        y = bits(b)
        if y != y:
            new = b
        elif x == x:
            new = bits(x + y)
    elif kind == 7:
        new = u64(bits(flush_f32(combine_f32(op, flush_f32(bits(u32(old))), flush_f32(bits(u32(b)))))))
    elif kind == 2 and width == 4:
        new = u64(bits(combine_f32(op, bits(u32(old)), bits(u32(b)))))
    elif kind == 2:
        x = bits(old)
        y = bits(b)
        if op == AT_ADD:
            if x != x:
                new = old | 0x8000000000000
            else:
                new = bits(x + y)
        elif op == AT_MIN:
            new = bits(min(x, y))
        else:
            new = bits(max(x, y))
    elif kind == 3 or kind == 4:
        new = u64(combine_half(op, u32(kind == 4), u16(old), u16(b)))
    elif kind == 5 or kind == 6:
        low = combine_half(op, u32(kind == 6), u16(old), u16(b))
        high = combine_half(op, u32(kind == 6), u16(old >> 16), u16(b >> 16))
        new = u64(low) | (u64(high) << 16)
    else:
        new = combine_integer(op, kind, width, old, b, c)
    if width == 8:
        pointer(u64, p)[0] = new
    elif width == 4:
        pointer(u32, p)[0] = u32(new)
    else:
        pointer(u16, p)[0] = u16(new)
    return old


@native
def atomic(
    ctx: Context, w: Warp, mask: u32, instruction: u32, packed: u32, addr: P[u64], values: P[u64], out: P[u64]
) -> None:
    """packed: op | kind << 8 | width << 12 | space << 20 | ordered << 24. values: b in [0, 32), c in [32, 64)."""
    op = packed & 255
    kind = (packed >> 8) & 15
    width = (packed >> 12) & 255
    space = (packed >> 20) & 15
    ordered = (packed >> 24) & 1
    m = mask
    ctx.progress += 1
    if ctx.checks & CK_COUNT:
        ctx.counters[N_ATOMICS] += popcount(mask)
    while m:
        lane = ctz(m)
        m = m & (m - 1)
        where = space_at(space, addr[lane])
        a = within_space(space, where, addr[lane])
        if unlikely((a & (width - 1)) != 0):
            fatal(ctx, w, F_MISALIGNED, instruction, lane, a, width, where, 1)
            continue
        if where == SP_LOCAL:
            # Atomics know no local memory (PTX ISA 9.7.13.13).
            fatal(ctx, w, F_OUT_OF_BOUNDS, instruction, lane, a, width, where, 1)
            continue
        if where == SP_GLOBAL:
            b = buffer_at(ctx, w, pointer(Buffer, 0), a, width, instruction, lane, 1)
            if b == 0:
                continue
            if b.flags & 1:
                fatal(ctx, w, F_READ_ONLY, instruction, lane, a, width, b.space, 0)
                continue
            if op != AT_EXCH and b.init:
                global_read_check(ctx, w, b, a - b.va, width, instruction, lane)
            sync_acquire(ctx, w, a)
            global_write_check(ctx, w, b, a - b.va, width, instruction, lane, 1)
            sync_release(ctx, w, a, ordered)
            b.written += width
            # f32 additions in global memory flush denormals (PTX ISA 9.7.13.5), in shared memory they do not.
            how = kind
            if kind == 2 and op == AT_ADD:
                how = u32(7)
            out[lane] = combine(op, how, width, pointer(u8, b.host + (a - b.va)), values[lane], values[32 + lane])
        else:
            cta = shared_at(ctx, w, a, width, where, instruction, lane, 1)
            if cta == 0:
                continue
            offset = a & 0xFFFFFF
            if ctx.checks & CK_INIT:
                cell = cta.cells + (offset >> 2)
                if unlikely((cell.init & byte_mask(offset, width)) != byte_mask(offset, width)) and op != AT_EXCH:
                    fault(ctx, w, F_UNINITIALISED_SHARED, instruction, lane, 0, a, cell.init, width, cta.rank)
            sync_acquire(ctx, w, a)
            shared_atomic_check(ctx, w, cta, offset, width, instruction, lane)
            sync_release(ctx, w, a, ordered)
            out[lane] = combine(op, kind, width, pointer(u8, cta.shared + offset), values[lane], values[32 + lane])


@native
def shared_atomic_check(ctx: Context, w: Warp, cta: Cta, offset: u64, bytes: u64, instruction: u32, lane: u32) -> None:
    """Atomics race with plain accesses, not among themselves (flag 4 of a cell: last written atomically)."""
    for i in range((bytes + 3) >> 2):
        cell = cta.cells + ((offset >> 2) + i)
        if ctx.checks & CK_RACES:
            if (cell.flags & 4) == 0 and cell.wmask and unlikely(w.vc[cell.wactor] < cell.wclock):
                fault(
                    ctx,
                    w,
                    F_RACE_WRITE_AFTER_WRITE,
                    instruction,
                    lane,
                    cell.winstr,
                    offset + (u64(cta.rank) << 24),
                    cell.wactor,
                    cell.wclock,
                    cell.flags & 1,
                )
            if cell.rmask and unlikely(w.vc[cell.ractor] < cell.rclock):
                fault(
                    ctx,
                    w,
                    F_RACE_WRITE_AFTER_READ,
                    instruction,
                    lane,
                    cell.rinstr,
                    offset + (u64(cta.rank) << 24),
                    cell.ractor,
                    cell.rclock,
                    0,
                )
                cell.rclock = 0
            late = late_reader(w.vc, cta, cell, (offset >> 2) + i)
            if late:
                where = offset + (u64(cta.rank) << 24)
                fault(ctx, w, F_RACE_WRITE_AFTER_READ, instruction, lane, cell.rinstr, where, late - 1, 0, 0)
        cell.wmask = 15
        cell.wclock = w.vc[w.self]
        cell.wactor = u16(w.self)
        cell.wlane = 255
        cell.init = cell.init | u8(byte_mask(offset, bytes))
        cell.flags = (cell.flags & 230) | 4
        cell.winstr = instruction + 1
