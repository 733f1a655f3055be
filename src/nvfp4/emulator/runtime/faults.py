"""Chance, and what goes wrong: faults are recorded here and put into words by checks/findings.py. Native code."""

# mypy: ignore-errors
# ruff: noqa: F821, D103
from __future__ import annotations

from .library import library

native = library.native


@native
def random(ctx: Context) -> u32:
    x = ctx.rng
    x = x ^ (x << 13)
    x = x ^ (x >> 7)
    x = x ^ (x << 17)
    ctx.rng = x
    return u32(x >> 32)


@native
def fault(
    ctx: Context, w: Warp, kind: u32, instruction: u32, lane: u32, other: u32, a: u64, b: u64, c: u64, d: u64
) -> None:
    for i in range(ctx.fault_count):
        f = ctx.faults + i
        if f.kind == kind and f.instruction == instruction and f.other == other:
            f.count += 1
            return
    if ctx.fault_count >= ctx.fault_capacity:
        return
    f = ctx.faults + ctx.fault_count
    ctx.fault_count += 1
    f.kind = kind
    f.instruction = instruction
    f.cta = w.cta.number
    f.warp = w.id
    f.lane = lane
    f.other = other
    f.a = a
    f.b = b
    f.c = c
    f.d = d
    f.count = 1


@native
def fatal(ctx: Context, w: Warp, kind: u32, instruction: u32, lane: u32, a: u64, b: u64, c: u64, d: u64) -> None:
    fault(ctx, w, kind, instruction, lane, 0, a, b, c, d)
    ctx.fatal = 1


@native
def uninitialised(ctx: Context, w: Warp, instruction: u32, lanes: u32, register: u32) -> None:
    """A register that no path has written in these lanes."""
    if ctx.checks & CK_INIT:
        fault(ctx, w, F_UNINITIALISED_REGISTER, instruction, ctz(lanes), 0, register, lanes, 0, 0)


@native
def partial_aligned(ctx: Context, w: Warp, instruction: u32, mask: u32) -> None:
    fatal(ctx, w, F_PARTIAL_ALIGNED, instruction, ctz(mask), mask, w.alive, 0, 0)


@native
def trap(ctx: Context, w: Warp, instruction: u32, mask: u32) -> None:
    if mask:
        fatal(ctx, w, F_TRAP, instruction, ctz(mask), mask, 0, 0, 0)
