"""ldmatrix, stmatrix, movmatrix and mma.sync for a warp. Native code."""

# mypy: ignore-errors
# ruff: noqa: F821, D103
from __future__ import annotations

from .library import library

native = library.native


@native
def matrix_row(ctx: Context, w: Warp, a: u64, bytes: u32, instruction: u32, lane: u32, write: u32) -> P[u8]:
    """Host address of one matrix row in shared memory, or null after a fault."""
    if a >> 56 == 1:
        a = a - SHARED_BASE
    if (a & u64(bytes - 1)) != 0:
        fatal(ctx, w, F_MISALIGNED, instruction, lane, a, bytes, SP_SHARED, write)
        return pointer(u8, 0)
    cta = translate_shared(ctx, w, a, bytes, SP_SHARED, instruction, lane, write)
    if cta == 0:
        return pointer(u8, 0)
    offset = a & 0xFFFFFF
    if ctx.checks & (CK_INIT | CK_RACES):
        if write:
            shared_write_check(ctx, w, cta, offset, bytes, instruction, lane)
        else:
            shared_read_check(ctx, w, cta, offset, bytes, instruction, lane)
    return pointer(u8, cta.shared + offset)


@native
def load_matrix(ctx: Context, w: Warp, instruction: u32, count: u32, trans: u32, addr: P[u64], out: P[u32]) -> None:
    """ldmatrix.m8n8.b16 (PTX ISA 9.7.14.5.15): lane l names row l % 8 of matrix l / 8; register k of lane l holds,
    of matrix k, row l / 4, elements 2 (l % 4) and the next (transposed: column and row exchanged)."""
    ctx.counters[N_SHARED_REQUESTS] += 1
    ctx.counters[N_SHARED_WAVEFRONTS] += wavefronts(
        u32(0xFFFFFFFF) if count == 4 else (u32(1) << (8 * count)) - 1, addr, 16
    )
    ctx.counters[N_SHARED_LOAD_BYTES] += count * 128
    rows = u32((u64(1) << (8 * count)) - 1)
    offsets = local(u32, 32)
    space = u32(SP_GENERIC) if addr[0] >> 56 == 1 else u32(SP_SHARED)
    fits = lane_offsets(ctx, w, rows, space, addr, 16, offsets)
    if fits and (ctx.checks & (CK_INIT | CK_RACES)):
        shared_read_lanes(ctx, w, w.cta, rows, offsets, 16, instruction)
    if fits and trans == 0:
        shared = pointer(u8, w.cta.shared)
        for i in range(count * 8):
            pointer(V[u32, 4], out)[i] = pointer(V[u32, 4], shared + offsets[i])[0]
        return
    for k in range(count):
        for r in range(8):
            p = pointer(u16, w.cta.shared + offsets[k * 8 + r])
            if fits == 0:
                p = pointer(u16, matrix_row(ctx, w, addr[k * 8 + r], 16, instruction, k * 8 + r, 0))
            if p == 0:
                continue
            if trans:
                for c in range(8):
                    lane = c * 4 + (r >> 1)
                    pointer(u16, out)[(k * 32 + lane) * 2 + (r & 1)] = p[c]
            else:
                pointer(V[u32, 4], out + (k * 32 + r * 4))[0] = pointer(V[u32, 4], p)[0]


@native
def store_matrix(ctx: Context, w: Warp, instruction: u32, count: u32, trans: u32, addr: P[u64], values: P[u32]) -> None:
    ctx.progress += 1
    ctx.counters[N_SHARED_REQUESTS] += 1
    ctx.counters[N_SHARED_WAVEFRONTS] += wavefronts(
        u32(0xFFFFFFFF) if count == 4 else (u32(1) << (8 * count)) - 1, addr, 16
    )
    ctx.counters[N_SHARED_STORE_BYTES] += count * 128
    for k in range(count):
        for r in range(8):
            p = pointer(u16, matrix_row(ctx, w, addr[k * 8 + r], 16, instruction, k * 8 + r, 1))
            if p == 0:
                continue
            if trans:
                for c in range(8):
                    lane = c * 4 + (r >> 1)
                    p[c] = pointer(u16, values)[(k * 32 + lane) * 2 + (r & 1)]
            else:
                pointer(V[u32, 4], p)[0] = pointer(V[u32, 4], values + (k * 32 + r * 4))[0]


@native
def move_matrix(values: P[u32], out: P[u32]) -> None:
    """movmatrix.trans.m8n8.b16."""
    a = pointer(u16, values)
    b = pointer(u16, out)
    for r in range(8):
        for c in range(8):
            b[(c * 4 + (r >> 1)) * 2 + (r & 1)] = a[(r * 4 + (c >> 1)) * 2 + (c & 1)]
