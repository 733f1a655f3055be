"""Exchanges among the lanes of a warp (PTX ISA 9.7.9.6, 9.7.13.9 to 9.7.13.12). Native code."""

# mypy: ignore-errors
# ruff: noqa: F821, D103
from __future__ import annotations

from .library import library

native = library.native


@native
def shuffle(mode: u32, a: P[u32], b: P[u32], c: P[u32], out: P[u32]) -> u32:
    """modes up, down, bfly, idx. Returns the lanes whose source was in range."""
    valid = u32(0)
    for lane in range(32):
        segment = (c[lane] >> 8) & 31
        clamp = c[lane] & 31
        highest = i32((u32(lane) & segment) | (clamp & ~segment))
        lowest = i32(u32(lane) & segment)
        j = i32(0)
        ok = False
        bv = i32(b[lane] & 31)
        if mode == 0:
            j = lane - bv
            ok = j >= highest
        elif mode == 1:
            j = lane + bv
            ok = j <= highest
        elif mode == 2:
            j = i32(u32(lane) ^ u32(bv))
            ok = j <= highest
        else:
            j = lowest | i32(u32(bv) & ~segment)
            ok = j <= highest
        if ok:
            valid = valid | (u32(1) << u32(lane))
        else:
            j = lane
        out[lane] = a[j & 31]
    return valid


@native
def match(members: u32, a: P[u64], everyone: u32, out: P[u32]) -> u32:
    first = a[ctz(members) & 31]
    all_same = u32(1)
    for lane in range(32):
        out[lane] = 0
        if (members >> u32(lane)) & 1:
            same = u32(0)
            for k in range(32):
                if (members >> u32(k)) & 1 and a[k] == a[lane]:
                    same = same | (u32(1) << u32(k))
            out[lane] = same
            if a[lane] != first:
                all_same = 0
    if everyone:
        for lane in range(32):
            out[lane] = members if all_same else u32(0)
    return all_same


@native
def reduce(members: u32, a: P[u32], op: u32, kind: u32, nan: u32) -> u32:
    m = members
    total = a[ctz(m) & 31]
    m = m & (m - 1)
    while m:
        lane = ctz(m)
        m = m & (m - 1)
        if kind == 2:
            x = bits(total)
            y = bits(a[lane])
            if nan and (x != x or y != y):
                total = 0x7FFFFFFF
            else:
                total = bits(combine_f32(op, x, y))
        else:
            total = u32(combine_integer(op, kind, 4, total, a[lane], 0))
    return total


@native
def warp_synced(ctx: Context, w: Warp) -> None:
    """bar.warp.sync orders the lanes' accesses: what follows belongs to a new date."""
    w.vc[w.self] += 1
