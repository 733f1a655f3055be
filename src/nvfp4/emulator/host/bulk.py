"""Bulk copies, their groups, remote stores (PTX ISA 9.7.9.25.4, 9.7.9.25.5, 9.7.9.13)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..pending import AsyncOp
from ..ptx.ast import type_bits
from ..runtime.layout import Counter
from ..units.access import intervals_of_chunks
from ..units.errors import UnitError
from ..units.reduction import bulk_reduce
from .registry import register
from .state import BULK, HostCall

Bytes = NDArray[np.uint8]

__all__ = ["complete_group_op", "group_queue", "mbarrier_of"]


def _words(offset: int, size: int) -> NDArray[np.intp]:
    return np.arange(offset >> 2, (offset + size + 3) >> 2, dtype=np.intp)


def group_queue(call: HostCall) -> str:
    """Name of the queue of a warp's bulk-group operations."""
    return f"bulk:{call.index}"


def mbarrier_of(call: HostCall, address: int, lane: int) -> tuple[int, int, int, int]:
    """(rank, offset, clock component, date) of the mbarrier on which a copy completes."""
    rank, offset, record = call.mbarrier(address, lane)
    return rank, offset, int(record["component"]), int(record["tick"]) + 1


def count_bytes(call: HostCall, size: int) -> None:
    """Add to the counter of asynchronous bytes."""
    call.launch.count(Counter.ASYNC_COPY_BYTES, size)


def complete_group_op(call: HostCall, run: Callable[[], None], what: str) -> None:
    """Put an operation of the open bulk group in flight."""
    state = call.cluster.host.setdefault(group_queue(call), {"open": [], "groups": []})
    op = AsyncOp(run, call.launch.steps_now() + call.launch.delay(), what, "", call.instruction.line)
    state["open"].append((op, call.tick_pipe(BULK)))
    call.launch.schedule(call.cluster, op)


@register("cp.async.bulk")
def _bulk(call: HostCall) -> bool:
    i = call.instruction
    if i.parts[3] == "global":
        for lane in call.lanes:
            _to_global(call, lane, None, "")
        return True
    remote = i.parts[4].startswith("shared")
    operands = i.operands
    masked = i.has("multicast::cluster")
    for lane in call.lanes:
        dst, src = call.value(operands[0], lane), call.value(operands[1], lane)
        size = call.value(operands[2], lane) & 0xFFFFFFFF
        _check_copy(call, dst, src, size, lane)
        bar = call.shared_address(call.value(operands[3], lane))
        ranks = [call.shared_address(dst) >> 24]
        if masked:
            mask = call.value(operands[4], lane) & 0xFFFF
            ranks = [r for r in range(16) if mask >> r & 1]
        if remote:
            source = call.memory((1 << 56) | call.shared_address(src), size, "the source", False, lane)
            rank, offset = call.locate(src, size, "the source", lane)
            call.access(_words(offset, size), rank, "the source", call.pipe(BULK), call.tick_pipe(BULK), False)
        else:
            buffer = call.buffer(src, size, "the source", False, lane)
            source = buffer.bytes[src - buffer.va :][:size]
            if call.watched(buffer):
                call.global_read(np.array([[src, src + size]], np.int64), lane)
        for rank in ranks:
            offset = call.shared_address(dst) & 0xFFFFFF
            call.locate((rank << 24) + offset, size, "the destination", lane)
            where = (rank << 24) | (bar & 0xFFFFFF) if masked else bar
            b_rank, b_offset, component, date = mbarrier_of(call, where, lane)
            call.access(_words(offset, size), rank, "the destination", component, date, True)
            _land(call, source, rank, offset, size, b_rank, b_offset)
    return True


def _land(
    call: HostCall,
    source: Bytes,
    rank: int,
    offset: int,
    size: int,
    b_rank: int,
    b_offset: int,
) -> None:
    target = call.smem(rank)

    def run() -> None:
        target[offset : offset + size] = source
        call.arrive(b_rank, b_offset, size, 0)

    count_bytes(call, size)
    due = call.launch.steps_now() + call.launch.delay()
    call.launch.schedule(call.cluster, AsyncOp(run, due, "a bulk copy to shared memory", "", call.instruction.line))


def _check_copy(call: HostCall, dst: int, src: int, size: int, lane: int) -> None:
    for name, value in (("destination", dst), ("source", src), ("size", size)):
        if value % 16:
            call.fatal(
                "misaligned",
                f"{call.instruction.opcode}: the {name} {value:#x} is not a multiple of 16",
                "bulk copies move whole 16-byte units",
                lane,
            )
    if size == 0:
        call.fatal("illegal-instruction", f"{call.instruction.opcode} of 0 bytes", "copy at least 16 bytes", lane)


def _to_global(call: HostCall, lane: int, op: str | None, kind: str) -> None:
    operands = call.instruction.operands
    dst, src = call.value(operands[0], lane), call.value(operands[1], lane)
    size = call.value(operands[2], lane) & 0xFFFFFFFF
    _check_copy(call, dst, src, size, lane)
    rank, offset = call.locate(src, size, "the source", lane)
    buffer = call.buffer(dst, size, "the destination", True, lane)
    date = call.tick_pipe(BULK)
    call.access(_words(offset, size), rank, "the source", call.pipe(BULK), date, False)
    call.global_write(buffer, intervals_of_chunks(np.array([dst]), size))
    start = dst - buffer.va
    source, target = call.smem(rank), buffer.bytes

    def run() -> None:
        part = source[offset : offset + size]
        if op is None:
            target[start : start + size] = part
        else:
            bulk_reduce(op, kind, target[start : start + size], part)

    count_bytes(call, size)
    complete_group_op(call, run, "a bulk store from shared memory")


@register("cp.reduce.async.bulk")
def _reduce(call: HostCall) -> bool:
    i = call.instruction
    op = next(p for p in i.parts if p in ("add", "min", "max", "inc", "dec", "and", "or", "xor"))
    kind = i.parts[-1]
    if i.parts[4] == "global":
        for lane in call.lanes:
            _to_global(call, lane, op, kind)
        return True
    for lane in call.lanes:
        dst, src = call.value(i.operands[0], lane), call.value(i.operands[1], lane)
        size = call.value(i.operands[2], lane) & 0xFFFFFFFF
        _check_copy(call, dst, src, size, lane)
        rank, offset = call.locate(dst, size, "the destination", lane)
        s_rank, s_offset = call.locate(src, size, "the source", lane)
        b_rank, b_offset, component, date = mbarrier_of(call, call.value(i.operands[3], lane), lane)
        call.access(_words(s_offset, size), s_rank, "the source", call.pipe(BULK), call.tick_pipe(BULK), False)
        call.access(_words(offset, size), rank, "the destination", component, date, True)
        source = call.smem(s_rank)[s_offset : s_offset + size]
        target = call.smem(rank)[offset : offset + size]

        def run(to: Bytes = target, of: Bytes = source, bar: tuple[int, int] = (b_rank, b_offset)) -> None:
            bulk_reduce(op, kind, to, of)
            call.arrive(bar[0], bar[1], to.size, 0)

        call.launch.schedule(
            call.cluster,
            AsyncOp(
                run, call.launch.steps_now() + call.launch.delay(), "a bulk reduction in shared memory", "", i.line
            ),
        )
    return True


@register("cp.async.bulk.prefetch")
def _prefetch(call: HostCall) -> bool:
    return True


@register("cp.async.bulk.commit_group")
def _commit(call: HostCall) -> bool:
    state = call.cluster.host.setdefault(group_queue(call), {"open": [], "groups": []})
    state["groups"].append(state["open"])
    state["open"] = []
    return True


@register("cp.async.bulk.wait_group")
def _wait(call: HostCall) -> bool:
    keep = call.value(call.instruction.operands[0])
    state = call.cluster.host.setdefault(group_queue(call), {"open": [], "groups": []})
    done = state["groups"][: max(0, len(state["groups"]) - keep)]
    for group in done:
        for op, date in group:
            if op in call.cluster.pending:
                call.launch.complete(call.cluster, op)
            vc = call.vector("vc")
            vc[call.pipe(BULK)] = max(int(vc[call.pipe(BULK)]), date)
    state["groups"] = state["groups"][len(done) :]
    return True


@register("st.async")
@register("red.async")
def _remote_store(call: HostCall) -> bool:
    """st.async and red.async: a remote write that completes bytes on a remote mbarrier."""
    i = call.instruction
    kind = i.parts[-1]
    values = call.items(i.operands[1])
    width = type_bits(kind) // 8
    op = next((p for p in i.parts if p in ("add", "min", "max", "inc", "dec", "and", "or", "xor")), None)
    for lane in call.lanes:
        size = width * len(values)
        dst = call.value(i.operands[0], lane)
        if dst % size:
            call.fatal("misaligned", f"{i.opcode} to {dst:#x}", f"align the address to {size} bytes", lane)
        rank, offset = call.locate(dst, size, "the destination", lane)
        b_rank, b_offset, component, date = mbarrier_of(call, call.value(i.operands[2], lane), lane)
        data = b"".join(call.value(v, lane).to_bytes(8, "little")[:width] for v in values)
        words = _words(offset, size)
        cells = call.launch.slots[call.cluster.slot].cells[rank]
        if op is not None:
            # Reductions do not race among themselves (flag 4: last written by one).
            cells["wclock"][words[(cells["flags"][words] & 4) != 0]] = 0
        call.access(words, rank, "the destination", component, date, True)
        if op is not None:
            cells["flags"][words] |= 4
        target = call.smem(rank)[offset : offset + size]

        def run(to: Bytes = target, d: bytes = data, bar: tuple[int, int] = (b_rank, b_offset)) -> None:
            if op is None:
                to[:] = np.frombuffer(d, np.uint8)
            else:
                old, new = to.view(_dtype(kind)), np.frombuffer(d, _dtype(kind))
                to[:] = np.ascontiguousarray(_combine(op, kind, old, new)).view(np.uint8)
            call.arrive(bar[0], bar[1], to.size, 0)

        due = call.launch.steps_now() + call.launch.delay()
        call.launch.schedule(call.cluster, AsyncOp(run, due, "a remote store to shared memory", "", i.line))
    return True


def _dtype(kind: str) -> str:
    return ("i" if kind[0] == "s" else "u") + str(type_bits(kind) // 8)


def _combine(op: str, kind: str, old: Bytes, new: Bytes) -> Bytes:
    from ..units.reduction import combine

    return combine(op, kind, old, new)


@register("st.bulk")
def _st_bulk(call: HostCall) -> bool:
    """st.bulk: zero a range of shared memory (PTX ISA 9.7.9.14)."""
    i = call.instruction
    for lane in call.lanes:
        dst, size = call.value(i.operands[0], lane), call.value(i.operands[1], lane)
        if dst % 8 or size % 8:
            raise UnitError(f"st.bulk of {size} bytes at {dst:#x}", "address and size are multiples of 8")
        rank, offset = call.locate(dst, size, "the destination", lane)
        call.access(
            _words(offset, size),
            rank,
            "the destination",
            int(call.warp["self"]),
            int(call.vector("vc")[int(call.warp["self"])]),
            True,
        )
        call.smem(rank)[offset : offset + size] = 0
    return True
