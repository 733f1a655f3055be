"""The GPU's asynchronous copy and matrix units as functions on NumPy arrays.

No scheduling, no threads, no knowledge of the rest of the emulator: the engine parses an instruction, asks this package
for a *plan* when the instruction is issued (malformed descriptors and illegal shapes raise `UnitError` there), hands
the
plan's accesses to its race and initialisation checks, and calls `plan.run(...)` when the instruction takes effect.
Plans
are cached by their arguments and immutable; asking again for the same one costs well under a microsecond.

Conventions
-----------
shared memory
    ``smem``: contiguous ``uint8[n]``; index ``i`` is the byte at ``shared::cta`` address ``i`` (the low 18 bits that
    descriptors hold). Swizzles act on those address bits, as in hardware, so the array must begin at shared address 0.
    Its memory should be 16-byte aligned (faster).
registers
    ``uint32[..., registers, 32]``: last axis the lane, leading axes any batch (of warps). A warpgroup is
    ``uint32[4, registers, 32]``, warps in order. f64 registers of mma.sync are ``uint64[..., registers, 32]``.
tensor memory
    `tcgen05.TensorMemory`: ``words: uint32[128, 512]`` (lane, column), ``init: bool[128, 512]`` (set by every write
    here),
    allocation state. Addresses are the ISA's: lane in bits 31..16, column in bits 15..0.
pairs
    With ``cta_group::2`` a plan's `run` takes two-element sequences ``(even CTA, odd CTA)`` of shared and tensor
    memories,
    whichever CTA issued the instruction; with ``cta_group::1`` sequences of one element.
accesses
    ``tuple[Access, ...]`` (`access.Access`): ``space`` ("shared" | "tensor" | "global"), ``cta`` (index into the pair),
    ``write``, ``what`` (for messages: "matrix A", "scale factors of B"), ``spans``: int64 ``[n, 2]`` half-open byte
    intervals, sorted and disjoint ("shared": shared addresses; "global": device addresses), or for "tensor" ``[n, 4]``
    rectangles (lane0, lane1, column0, column1). ``access.words`` are the same as sorted indices of 4-byte words,
    cached:
    gather shadow state through them when there are many spans (a K block of a swizzled operand has one or two a row).
    `TensorMemory.check_allocated(spans, what)` and
    `TensorMemory.uninitialised(spans)` serve the checks of tensor memory.

Modules
-------
errors        `UnitError(message, remedy)`.
access        `Access`, `intervals_of_chunks`, `rectangles`.
numerics      formats: ``FORMATS["e2m1"].decode(codes)``, ``.encode(values)``, ``.unpack(bytes)``.
accumulate    exact sums (default) and `Alignment`, the truncating accumulation of silicon, with `SILICON` parameters.
swizzle       `Swizzle` modes, `swizzle_address`.
tma           `TensorMap` (arguments of cuTensorMapEncodeTiled; `.resolved(address)` turns an array into its address,
              `.encode() -> bytes` of length 128, `TensorMap.decode(bytes)`), `replace_field(blob, field, value,
              ordinal)`
              for ``tensormap.replace``; `plan_load(tmap, coords, smem_addr, mode="tile") -> TilePlan`,
              `plan_store(tmap, coords, smem_addr, op=None, mode="tile")`. ``plan.tx_bytes`` (what complete_tx counts),
              ``plan.accesses``, ``plan.global_span`` ((lo, hi) device addresses, or None when the box is wholly
              outside),
              ``plan.run(smem, gmem, gmem_base)``: ``gmem: uint8[...]``, byte 0 has device address ``gmem_base``.
              `bulk_reduce(op, type, dst, src)` for cp.reduce.async.bulk.
mma           `parse_mma(opcode) -> MmaSpec`, `mma_sync(spec, (a, b, c), scale_data, selectors) -> d`.
matrix_moves  `ldmatrix(smem, addresses, num, trans, shape, source) -> regs`, `stmatrix(...)`, `movmatrix(regs)`,
`spans(...)`.
wgmma         `WgmmaSpec(n, d_type, a_type, b_type, ...)`, `plan_wgmma(spec, a_desc | None, b_desc) -> WgmmaPlan`;
              ``plan.accesses``, ``plan.run(smem, d, a_regs, scale_d) -> d``.
tcgen05       `TensorMemory`, `plan_mma(MmaOp(...)) -> MmaPlan` (``accesses_of(accumulate)``, ``run(smems, tmems,
accumulate)``),
              `plan_cp(shape, multicast, group, taddr, desc, source_format) -> CpPlan` (``run(smems, tmems)``),
              `plan_ld(shape, num, taddr, warp, packed, split) -> LdPlan` (``run(tmem) -> uint32[regs, 32]``),
              `plan_st(...) -> StPlan` (``run(tmem, regs)``), `plan_shift(taddr, group)`. ``warp`` is the warp id
              modulo 4.

The specification is the PTX ISA; each definition cites its section (numbers as in PTX ISA 9.1). Figures of the ISA are
pictures: where only they state a layout, CUTLASS's CuTe traits are the source, and the tests check against them.
"""

from nvfp4.emulator.units.errors import UnitError

__all__ = ["UnitError"]
