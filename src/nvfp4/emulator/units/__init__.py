"""The GPU's asynchronous copy and matrix units as functions on NumPy arrays.

No scheduling, no threads, no knowledge of the rest of the emulator: the engine parses an instruction, asks this
package for a
*plan* when the instruction is issued (malformed descriptors and illegal shapes raise `UnitError` there), hands
`plan.accesses` to
its race and initialisation checks, and calls `plan.run(...)` when the instruction takes effect. Plans are cached and
immutable.

Conventions
-----------
shared memory
    ``smem``: ``uint8[n]``; index ``i`` is the byte at ``shared::cta`` address ``i`` (low 18 bits of a shared
    address). Swizzles
    act on those address bits, as in hardware, so the array must start at the start of the CTA's shared window.
registers
    ``uint32[..., registers, 32]``: last axis the lane, leading axes any batch (of warps). A warpgroup is ``uint32[4,
    registers, 32]``.
    An f64 register is two consecutive words in these arrays: use the ``uint64`` view that `mma.mma_sync` documents.
tensor memory
    `tcgen05.TensorMemory`: ``words: uint32[128, 512]`` (lane, column), ``init: bool[128, 512]``, allocation state.
    Addresses are the
    ISA's: lane in bits 31..16, column in bits 15..0.
pairs
    With ``cta_group::2`` a plan's `run` takes two-element sequences ``(even CTA, odd CTA)`` of ``smem`` and tensor
    memories; with
    ``cta_group::1`` sequences of one element.
accesses
    ``tuple[Access, ...]``, see `access.Access`: ``space`` ("shared" | "tensor" | "global"), ``cta`` (index into the
    pair), ``write``,
    ``what`` (for messages: "matrix A", "scale factors of B"), ``spans``: int64 ``[n, 2]`` half-open byte intervals,
    sorted and disjoint
    ("shared": shared addresses; "global": device addresses), or for "tensor" ``[n, 4]`` rectangles (lane0, lane1,
    column0, column1).

Modules
-------
errors      `UnitError(message, remedy)`.
access      `Access`, interval helpers.
numerics    formats (`FORMATS["e2m1"].decode(codes)`, `.encode(values)`), exact and hardware-like accumulation
(`Accumulation`).
swizzle     `Swizzle` modes; `swizzle_address`.
tma         `TensorMap` (the arguments of cuTensorMapEncodeTiled): `.encode() -> bytes` of length 128,
`TensorMap.decode(bytes)`,
            `replace_field(blob, field, value, ordinal)` for ``tensormap.replace``.
            `plan_load(tmap, coords, smem_addr, mode="tile") -> TilePlan`, `plan_store(tmap, coords, smem_addr,
            op=None, mode="tile")`;
            ``plan.tx_bytes`` (what complete_tx counts), ``plan.accesses``, ``plan.global_span`` ((lo, hi) device
            addresses or None when
            the box is wholly outside), ``plan.run(smem, gmem, gmem_base)`` with ``gmem: uint8[...]`` whose byte 0
            has address ``gmem_base``.
            `bulk_reduce(op, type, dst, src)` for cp.reduce.async.bulk and red.async.
mma         `MmaSpec.parse("m16n8k16", "f32", "bf16", "bf16", "f32", ...)`, `mma_sync(spec, a, b, c, scales...) -> d`,
            `ldmatrix`, `stmatrix`, `movmatrix` and their address plans.
wgmma       `WgmmaSpec(...)`, `plan_wgmma(spec, a_desc | None, b_desc) -> WgmmaPlan`; ``plan.run(smem, d, a_regs,
scale_d) -> d``.
tcgen05     `TensorMemory`, `plan_mma(MmaOp(...))`, `plan_cp(...)`, `plan_ld(...)`, `plan_st(...)`, `plan_shift(...)`;
            ``MmaPlan.run(smems, tmems, accumulate)``, ``CpPlan.run(smems, tmems)``, ``LdPlan.run(tmem) ->
            uint32[regs, 32]``,
            ``StPlan.run(tmem, regs)``.

The specification is the PTX ISA; each definition cites its section (numbers as in PTX ISA 9.1).
"""

from nvfp4.emulator.units.errors import UnitError

__all__ = ["UnitError"]
