"""Tensor copies (TMA) and tensor maps (PTX ISA 9.7.9.27, 9.7.9.28, 9.7.13.18)."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from ..pending import AsyncOp
from ..ptx.ast import Bracket
from ..units.tensormap import TensorMap, replace_field
from ..units.tma import TilePlan, plan_load, plan_store
from .bulk import complete_group_op, count_bytes, mbarrier_of
from .registry import register
from .state import BULK, HostCall

if TYPE_CHECKING:
    from ..launch import Launch

__all__: list[str] = []

# Addresses of tensor maps in device memory that a launch has changed, and not acquired since.
_changed: WeakKeyDictionary[Launch, set[int]] = WeakKeyDictionary()


def _plan(call: HostCall, bracket: Bracket, smem: int, lane: int, store: bool, op: str | None) -> TilePlan:
    i = call.instruction
    address = call.value(bracket.base, lane) + bracket.offset
    if address % 64:
        call.fatal(
            "misaligned",
            f"{i.opcode}: the tensor map is at {address:#x}",
            "align tensor maps to 64 bytes (__grid_constant__ const CUtensorMap)",
            lane,
        )
    if call.launch.checks.proxy and address in _changed.get(call.launch, ()):
        call.fatal(
            "missing-proxy-fence",
            f"{i.opcode}: the tensor map at {address:#x} was changed by tensormap.replace, and not acquired since",
            "fence.proxy.tensormap::generic.release.gpu after the changes, then "
            "fence.proxy.tensormap::generic.acquire.gpu [map], 128 before the copy",
            lane,
        )
    blob = call.memory(address, 128, "the tensor map", False, lane).tobytes()
    coords = [int(np.int32(np.uint32(call.value(c, lane) & 0xFFFFFFFF))) for c in call.items(bracket.more[0])]
    mode = next(
        (
            p
            for p in i.parts
            if p in ("tile::gather4", "tile::scatter4", "im2col", "im2col_no_offs", "im2col::w", "im2col::w::128")
        ),
        "tile",
    )
    tmap = TensorMap.decode(blob)
    dims = int(i.parts[4 if i.base == "cp" and i.parts[1] == "async" else 5][0])
    if mode == "tile" and dims != tmap.rank:
        call.fatal(
            "illegal-instruction",
            f"{i.opcode} on a tensor map of rank {tmap.rank}",
            "use the instruction form of the map's rank",
            lane,
        )
    return plan_store(tmap, coords, smem, op, mode) if store else plan_load(tmap, coords, smem, mode)


@register("cp.async.bulk.tensor")
def _tensor(call: HostCall) -> bool:
    i = call.instruction
    if i.parts[5] == "global":
        for lane in call.lanes:
            _store(call, lane, None)
        return True
    operands = list(i.operands)
    dst, source, bar = operands[:3]
    rest = operands[3:]
    if i.has("L2::cache_hint"):
        rest = rest[:-1]
    multicast = i.has("multicast::cluster")
    pair = i.has("cta_group::2")
    assert isinstance(source, Bracket)
    for lane in call.lanes:
        where, barrier = call.shared_address(call.value(dst, lane)), call.shared_address(call.value(bar, lane))
        rank, offset = call.locate(where, 1, "the destination", lane)
        plan = _plan(call, source, offset, lane, False, None)
        ranks = [rank]
        if multicast:
            mask = call.value(rest[-1], lane) & 0xFFFF
            ranks = [r for r in range(16) if mask >> r & 1]
        elif barrier >> 24 != rank and not pair:
            call.fatal(
                "illegal-instruction",
                f"{i.opcode}: the tile goes to CTA rank {rank}, but its mbarrier is in rank {barrier >> 24}",
                "keep both in one CTA, or use .cta_group::2 for the pair's barrier",
                lane,
            )
        span = plan.global_span
        buffer = call.buffer(span[0], span[1] - span[0], "the tensor", False, lane) if span else None
        if buffer is not None and call.watched(buffer):
            call.global_read(plan.global_spans, lane)
        for r in ranks:
            b_rank = barrier >> 24
            if multicast:
                # .cta_group::2 signals the CTA of the pair whose parity is that of the barrier's CTA (PTX ISA
                # 9.7.9.27.1.2).
                b_rank = (r & ~1) | (b_rank & 1) if pair else r
            call.locate((r << 24) + offset, 16, "the destination", lane)
            signal = mbarrier_of(call, (b_rank << 24) | (barrier & 0xFFFFFF), lane)
            call.access(plan.accesses[0].words, r, "the tile", signal[2], signal[3], True)
            _load(call, plan, r, (signal[0], signal[1]), buffer)
    return True


def _load(call: HostCall, plan: TilePlan, rank: int, signal: tuple[int, int], buffer: object) -> None:
    smem = call.smem(rank)
    gmem = getattr(buffer, "bytes", np.zeros(0, np.uint8))
    base = getattr(buffer, "va", 0)

    def run() -> None:
        plan.run(smem, gmem, base)
        call.arrive(signal[0], signal[1], plan.tx_bytes, 0)

    count_bytes(call, plan.tx_bytes)
    due = call.launch.steps_now() + call.launch.delay()
    call.launch.schedule(call.cluster, AsyncOp(run, due, "a tensor copy to shared memory", "", call.instruction.line))


def _store(call: HostCall, lane: int, op: str | None) -> None:
    tensor, src = call.instruction.operands[:2]
    assert isinstance(tensor, Bracket)
    rank, offset = call.locate(call.value(src, lane), 1, "the source", lane)
    plan = _plan(call, tensor, offset, lane, True, op)
    span = plan.global_span
    date = call.tick_pipe(BULK)
    call.access(plan.accesses[0].words, rank, "the tile", call.pipe(BULK), date, False)
    smem = call.smem(rank)
    if span is None:
        return
    buffer = call.buffer(span[0], span[1] - span[0], "the tensor", True, lane)
    call.global_write(buffer, plan.global_spans)
    gmem, base = buffer.bytes, buffer.va
    count_bytes(call, plan.tx_bytes)
    complete_group_op(call, lambda: plan.run(smem, gmem, base), "a tensor store from shared memory")


@register("cp.reduce.async.bulk.tensor")
def _reduce(call: HostCall) -> bool:
    op = next(p for p in call.instruction.parts if p in ("add", "min", "max", "inc", "dec", "and", "or", "xor"))
    for lane in call.lanes:
        _store(call, lane, op)
    return True


@register("cp.async.bulk.prefetch.tensor")
def _prefetch(call: HostCall) -> bool:
    return True


@register("tensormap.replace")
def _replace(call: HostCall) -> bool:
    i = call.instruction
    field = i.parts[3] if i.parts[2] == "tile" else i.parts[2]
    shared = any(p.startswith("shared") for p in i.parts)
    for lane in call.lanes:
        address = call.value(i.operands[0], lane)
        if shared:
            address = call.shared_address(address) | (1 << 56)
        if address >> 56 != 1:
            _changed.setdefault(call.launch, set()).add(address)
        blob = call.memory(address, 128, "the tensor map", True, lane)
        numbers = [call.value(o, lane) for o in i.operands[1:]]
        ordinal, value = (numbers[0], numbers[1]) if len(numbers) > 1 else (0, numbers[0])
        bits = 64 if i.parts[-1] == "b64" else 32
        blob[:] = np.frombuffer(replace_field(blob.tobytes(), field, value & ((1 << bits) - 1), ordinal), np.uint8)
    return True


@register("fence.proxy.tensormap::generic")
def _fence_tensormap(call: HostCall) -> bool:
    """Whoever acquires a map has it acquired for all: who released it to whom is not followed."""
    if call.instruction.has("acquire"):
        bracket = call.instruction.operands[0]
        assert isinstance(bracket, Bracket)
        for lane in call.lanes:
            _changed.get(call.launch, set()).discard(call.value(bracket.base, lane) + bracket.offset)
    return True


@register("tensormap.cp_fenceproxy")
def _cp_fenceproxy(call: HostCall) -> bool:
    """Copies a tensor map from shared to global memory and makes it visible (PTX ISA 9.7.13.16)."""
    call.aligned()
    dst, src = call.value(call.instruction.operands[0]), call.value(call.instruction.operands[1])
    source = call.memory((1 << 56) | call.shared_address(src), 128, "the tensor map", False)
    buffer = call.buffer(dst, 128, "the destination", True)
    buffer.bytes[dst - buffer.va : dst - buffer.va + 128] = source
    call.global_write(buffer, np.array([[dst, dst + 128]], np.int64))
    return True
