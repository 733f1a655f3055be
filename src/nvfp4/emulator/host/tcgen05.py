"""tcgen05: tensor memory and the fifth-generation tensor core (PTX ISA 9.7.16)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..pending import AsyncOp
from ..ptx.ast import Bracket, Imm, Vec
from ..runtime.layout import Counter, Space
from ..units.native_product import work_space
from ..units.tcgen05 import LdPlan, MmaOp, StPlan, plan_cp, plan_ld, plan_mma, plan_shift, plan_st
from .prepared import Prepared, prepare
from .registry import register
from .state import LOADS, STORES, TCGEN05, TENSOR_LANES, HostCall

__all__: list[str] = []

Vector = NDArray[np.uint32]
# Operations that a slot of the launch keeps ready.
_PREPARED = 4096


def _group(call: HostCall) -> int:
    return 2 if call.instruction.has("cta_group::2") else 1


def _ranks(call: HostCall, group: int) -> list[int]:
    """Ranks of the CTA, or of the pair (even first)."""
    if group == 1:
        return [call.rank]
    first = call.rank & ~1
    if first + 1 >= call.launch.cluster_size:
        call.fatal(
            "illegal-instruction",
            f"{call.instruction.opcode} in a cluster of {call.launch.cluster_size} CTA(s)",
            ".cta_group::2 needs a cluster whose size is a multiple of 2",
        )
    peer = call.rank ^ 1
    if int(call.launch.cta_array[call.slot_of(peer)]["live_warps"]) == 0:
        call.fatal(
            "cluster-exit",
            f"{call.instruction.opcode}: the peer CTA (rank {peer}) has exited",
            "keep both CTAs of a pair alive, with a cluster barrier, until the work on them has "
            "completed (PTX ISA 9.7.16.5)",
        )
    return [first, first + 1]


def _one_thread(call: HostCall) -> None:
    """mma, cp and shift have the semantics of a single thread: each lane that executes one issues all of it."""
    if len(call.lanes) > 1:
        call.finding(
            "illegal-instruction",
            f"{call.instruction.opcode} is executed by {len(call.lanes)} lanes, each of which issues the whole "
            "operation",
            "issue it from one elected thread",
        )


def _one_group(call: HostCall) -> None:
    """All tcgen05 instructions of a kernel use one .cta_group (PTX ISA 9.7.16.5)."""
    used: dict[int, int] = call.cluster.host.setdefault("cta_group", {})
    group = _group(call)
    before = used.setdefault(0, group)
    if before != group:
        call.fatal(
            "illegal-instruction",
            f"{call.instruction.opcode} after tcgen05 instructions with .cta_group::{before}",
            "use one .cta_group in the whole kernel",
        )


def _queue(call: HostCall) -> str:
    return f"tcgen05:{call.index}"


def _in_flight(call: HostCall, run: Callable[[], None], what: str, queue: str) -> AsyncOp:
    op = AsyncOp(run, call.launch.steps_now() + call.launch.delay(), what, queue, call.instruction.line)
    call.launch.schedule(call.cluster, op)
    return op


# -- allocation ------------------------------------------------------------------------------------------------------


@register("tcgen05.alloc")
def _alloc(call: HostCall) -> bool:
    call.aligned()
    _one_group(call)
    _ranks(call, _group(call))
    columns = call.uniform(call.instruction.operands[1], "number of columns") & 0xFFFFFFFF
    if not _with_peer(call, columns):
        return False
    tmem = call.tmem(call.rank)
    address = tmem.allocate(columns)
    if address is None:
        return False
    _release_peer(call)
    space = Space.SHARED if any(p.startswith("shared") for p in call.instruction.parts) else Space.GENERIC
    call.store32(call.value(call.instruction.operands[0]), address, space)
    cells = call.tensor_cells(call.rank).reshape(-1, 512)
    cells["init"][:, address : address + columns] = 0
    return True


def _with_peer(call: HostCall, columns: int) -> bool:
    """With .cta_group::2 one warp of each CTA of the pair must allocate: whether the peer's has come (PTX ISA
    9.7.16.7.1)."""
    if _group(call) == 1:
        return True
    waiting: dict[int, int] = call.cluster.host.setdefault("tcgen05.alloc", {})
    arrived: dict[int, int] = call.cluster.host.setdefault("tcgen05.alloc met", {})
    peer = call.rank ^ 1
    waiting[call.rank] = columns
    if peer not in waiting and not arrived.get(call.rank):
        return False
    if peer in waiting:
        if waiting[peer] != columns:
            call.fatal(
                "illegal-instruction",
                f"{call.instruction.opcode} of {columns} columns, and of {waiting[peer]} in the peer CTA",
                "both CTAs of a pair allocate the same number of columns",
            )
        arrived[peer] = arrived[call.rank] = 1
    return True


def _release_peer(call: HostCall) -> None:
    """The collective allocation of this CTA is over; the peer's goes on by itself."""
    if _group(call) == 2:
        call.cluster.host["tcgen05.alloc"].pop(call.rank)
        call.cluster.host["tcgen05.alloc met"].pop(call.rank)
        call.launch.native.function("wake")(call.launch.address, call.launch.cta_address(call.slot_of(call.rank ^ 1)))


@register("tcgen05.dealloc")
def _dealloc(call: HostCall) -> bool:
    call.aligned()
    _one_group(call)
    address = call.uniform(call.instruction.operands[0], "tensor-memory address") & 0xFFFFFFFF
    columns = call.uniform(call.instruction.operands[1], "number of columns") & 0xFFFFFFFF
    tmem = call.tmem(call.rank)
    start = tmem.check_deallocate(address, columns)
    cells = call.tensor_cells(call.rank).reshape(-1, 512)
    part = cells[:, start : start + columns]
    if call.launch.checks.races:
        vc = call.vector("vc")
        late = (vc[part["wactor"]] < part["wclock"]) | (vc[part["ractor"]] < part["rclock"])
        second = ((part["flags"] & 16) != 0) & (vc[part["ractor2"]] < part["rclock2"])
        late |= second
        if late.any():
            lane, column = (int(x) for x in np.argwhere(late)[0])
            cell = part[lane, column]
            writer = vc[int(cell["wactor"])] < int(cell["wclock"])
            actor, number = ("wactor", "winstr") if writer else ("ractor", "rinstr")
            if second[lane, column] and not writer:
                actor = "ractor2"
            call.finding(
                "race",
                f"{call.instruction.opcode} frees tensor memory (lane {lane * TENSOR_LANES}, column "
                f"{start + column}), unordered with the "
                f"{'write' if writer else 'read'} by {call.launch.findings.actor(int(cell[actor]))}, "
                f"{call.launch.findings.describe(int(cell[number]) - 1)}",
                "wait for the operation (tcgen05.wait::ld or ::st, or commit and mbarrier) and synchronise "
                "the warps before freeing",
            )
    part["init"] = 0
    part["wclock"] = 0
    part["rclock"] = 0
    tmem.deallocate(address, columns)
    call.launch.native.function("wake")(call.launch.address, call.launch.cta_address(call.cta_slot))
    return True


@register("tcgen05.relinquish_alloc_permit")
def _relinquish(call: HostCall) -> bool:
    call.aligned()
    call.tmem(call.rank).relinquish()
    return True


# -- products and copies ---------------------------------------------------------------------------------------------


def _mma_op(call: HostCall, lane: int) -> tuple[MmaOp, bool]:
    i = call.instruction
    group = _group(call)
    kind = next(p[6:] for p in i.parts if p.startswith("kind::"))
    vector = next((p for p in i.parts if p in ("block16", "block32") or p.startswith("scale_vec")), "")
    collector = next((p[len("collector::") :] for p in i.parts if p.startswith("collector::")), "")
    operands = list(i.operands)
    d, a, b, idesc = operands[:4]
    rest = operands[4:]
    scale_a = scale_b = None
    if i.has("block_scale"):
        scale_a, scale_b = (call.value(x, lane) & 0xFFFFFFFF for x in rest[:2])
        rest = rest[2:]
    disabled = 0
    if rest and isinstance(rest[0], Vec):
        for k, item in enumerate(rest[0].items):
            disabled |= (call.value(item, lane) & 0xFFFFFFFF) << (32 * k)
        rest = rest[1:]
    accumulate = bool(call.value(rest[0], lane)) if rest else True
    scale_d = 0
    ws = i.has("ws")
    if not ws and len(rest) > 1 and isinstance(rest[1], Imm):
        scale_d = int(rest[1].value)
    in_tmem = isinstance(a, Bracket)
    op = MmaOp(
        kind,
        group,
        call.value(d, lane) & 0xFFFFFFFF,
        call.value(b, lane),
        call.value(idesc, lane) & 0xFFFFFFFF,
        None if in_tmem else call.value(a, lane),
        (call.value(a, lane) & 0xFFFFFFFF) if in_tmem else None,
        scale_a,
        scale_b,
        vector,
        disabled,
        scale_d,
        ws,
        i.has("ashift"),
        collector,
    )
    return op, accumulate


def _ready(call: HostCall, key: object, make: Callable[[], Prepared]) -> Prepared:
    """The operation that ``key`` identifies on this memory, made ready before or now."""
    held: dict[Any, Prepared] = call.slot.prepared
    found = held.get(key)
    if found is None:
        if len(held) >= _PREPARED:
            held.clear()
        found = held[key] = make()
    return found


def _issue(call: HostCall, prepared: Prepared, what: str) -> None:
    """Check and mark what the operation touches, and put it in flight behind the thread's others."""
    component = call.pipe(TCGEN05)
    prepared.issue(call, component, call.tick_pipe(TCGEN05))
    _in_flight(call, prepared.run, what, _queue(call))


@register("tcgen05.mma")
def _mma(call: HostCall) -> bool:
    _one_group(call)
    _one_thread(call)
    ranks = _ranks(call, _group(call))
    for lane in call.lanes:
        key = (call.pc, call.rank, call.inputs(lane))
        prepared = _ready(call, key, lambda lane=lane: _prepare_mma(call, lane, ranks))  # type: ignore[misc]
        call.launch.count(Counter.MMA_FLOPS, prepared.flops)
        _issue(call, prepared, "tcgen05.mma")
    return True


def _prepare_mma(call: HostCall, lane: int, ranks: list[int]) -> Prepared:
    op, accumulate = _mma_op(call, lane)
    plan = plan_mma(op)
    tmems, smems = [call.tmem(r) for r in ranks], [call.smem(r) for r in ranks]
    accesses = [
        (access, ranks[access.cta], accumulate and access.write and access.space == "tensor")
        for access in plan.accesses_of(accumulate)
        # Reading the accumulator goes with writing the same place.
        if access.write or access.what != "accumulator D"
    ]
    if plan.native is None:
        run = partial(plan.run_numpy, smems, tmems, accumulate)
    else:
        launch = call.launch
        if launch.work is None:
            launch.work = work_space()
        run = partial(plan.native.bind(smems, tmems, launch.work), accumulate)
    return prepare(call, accesses, run, plan.flops)


@register("tcgen05.cp")
def _cp(call: HostCall) -> bool:
    _one_group(call)
    _one_thread(call)
    ranks = _ranks(call, _group(call))
    for lane in call.lanes:
        key = (call.pc, call.rank, call.inputs(lane))
        prepared = _ready(call, key, lambda lane=lane: _prepare_cp(call, lane, ranks))  # type: ignore[misc]
        _issue(call, prepared, "tcgen05.cp")
    return True


def _prepare_cp(call: HostCall, lane: int, ranks: list[int]) -> Prepared:
    i = call.instruction
    shape = next(p for p in i.parts if p in ("128x256b", "4x256b", "128x128b", "64x128b", "32x128b"))
    multicast = next((p for p in i.parts if p.startswith("warpx")), "")
    source = next((p for p in i.parts if p in ("b4x16_p64", "b6x16_p32")), "")
    address, desc = call.value(i.operands[0], lane) & 0xFFFFFFFF, call.value(i.operands[1], lane)
    plan = plan_cp(shape, multicast, _group(call), address, desc, source)
    accesses = [(access, ranks[access.cta], False) for access in plan.accesses]
    return prepare(call, accesses, plan.bind([call.smem(r) for r in ranks], [call.tmem(r) for r in ranks]))


@register("tcgen05.shift")
def _shift(call: HostCall) -> bool:
    _one_group(call)
    _one_thread(call)
    group = _group(call)
    ranks = _ranks(call, group)
    for lane in call.lanes:
        plan = plan_shift(call.value(call.instruction.operands[0], lane) & 0xFFFFFFFF, group)
        accesses = [(access, ranks[access.cta], False) for access in plan.accesses]
        _issue(call, prepare(call, accesses, partial(plan.run, [call.tmem(r) for r in ranks])), "tcgen05.shift")
    return True


@register("tcgen05.commit")
def _commit(call: HostCall) -> bool:
    """The mbarrier learns of everything that this thread has issued (PTX ISA 9.7.16.12.1)."""
    _one_group(call)
    i = call.instruction
    component = call.pipe(TCGEN05)
    for lane in call.lanes:
        address = call.shared_address(call.value(i.operands[0], lane))
        targets = [address]
        if i.has("multicast::cluster"):
            mask = call.value(i.operands[1], lane) & 0xFFFF
            targets = [(r << 24) | (address & 0xFFFFFF) for r in range(16) if mask >> r & 1]
        date = call.cluster.host.get("pipes", {}).get(component, 0)
        signals = [call.mbarrier(t, lane)[:2] for t in targets]
        # What the thread knew when it issued: the products ran behind it (the copies that filled their operands, for
        # one), so whoever waits for them learns it too.
        known = np.concatenate((call.vector("vc"), call.vector("avc")))
        # Its own generic accesses are not among it: a commit orders asynchronous operations only. What a fence has
        # released before (mbarriers initialised in front of fence.mbarrier_init) compilers take to be passed on.
        own = int(call.warp["self"])
        fenced = 0 if call.launch.checks.strict else int(call.warp["fence_clock"])
        known[own] = fenced
        known[call.launch.components + own] = min(fenced, int(known[call.launch.components + own]))

        def run(where: list[tuple[int, int]] = signals, d: int = date, known: Vector = known) -> None:
            for rank, offset in where:
                call.teach(rank, offset, known)
                call.arrive(rank, offset, 0, 1, component, d)

        _in_flight(call, run, "tcgen05.commit", _queue(call))
    return True


# -- loads and stores ------------------------------------------------------------------------------------------------


def _shape(call: HostCall) -> tuple[str, int, bool, int]:
    i = call.instruction
    shape = next(p for p in i.parts if p in ("32x32b", "16x64b", "16x128b", "16x256b", "16x32bx2"))
    num = int(next(p for p in i.parts if p[0] == "x" and p[1:].isdigit())[1:])
    packed = i.has("pack::16b") or i.has("unpack::16b")
    split = 0
    if shape == "16x32bx2":
        split = next(int(o.value) for o in i.operands if isinstance(o, Imm))
    return shape, num, packed, split


def _store_queue(call: HostCall) -> str:
    return f"tcgen05.st:{call.index}"


def _touch(call: HostCall, plan: LdPlan | StPlan) -> None:
    """Check and mark what a load or store touches."""

    def make() -> Prepared:
        return prepare(call, [(access, call.rank, False) for access in plan.accesses], lambda: None)

    pipe = LOADS if isinstance(plan, LdPlan) else STORES
    prepared = _ready(call, (call.rank, plan), make)
    prepared.issue(call, call.pipe(pipe), call.tick_pipe(pipe))


@register("tcgen05.ld")
def _ld(call: HostCall) -> bool:
    call.aligned()
    i = call.instruction
    shape, num, packed, split = _shape(call)
    reduced = i.has("red")
    address = call.uniform(i.operands[2 if reduced else 1], "tensor-memory address") & 0xFFFFFFFF
    plan = plan_ld(shape, num, address, call.warp_id % 4, packed, split)
    tmem = call.tmem(call.rank)
    _touch(call, plan)
    # Whoever uses the registers waits for them (PTX ISA 9.7.16.6.4.5), so they may as well arrive at once. Towards
    # tensor memory the load is in flight until tcgen05.wait::ld.
    found = plan.run(tmem)
    call.write_all(i.operands[0], found)
    if reduced:
        op = "min" if i.has("min") else "max"
        call.write(i.operands[1], plan.reduce(found, op, i.parts[-1], i.has("abs"), i.has("NaN")))
    if call.launch.checks.implicit_waits:
        return _wait(call, LOADS)
    return True


@register("tcgen05.st")
def _st(call: HostCall) -> bool:
    call.aligned()
    i = call.instruction
    shape, num, packed, split = _shape(call)
    address = call.uniform(i.operands[0], "tensor-memory address") & 0xFFFFFFFF
    plan = plan_st(shape, num, address, call.warp_id % 4, packed, split)
    tmem = call.tmem(call.rank)
    _touch(call, plan)
    registers = call.registers(i.operands[-1])
    _in_flight(call, lambda: plan.run(tmem, registers), "tcgen05.st", _store_queue(call))
    return True


def _wait(call: HostCall, pipe: int) -> bool:
    """Everything in one of the warp's pipes is done, and known to be."""
    call.aligned()
    component = call.pipe(pipe)
    date = call.cluster.host.get("pipes", {}).get(component, 0)
    for name in ("vc", "tvc"):
        vector = call.vector(name)
        vector[component] = max(int(vector[component]), date)
    return True


@register("tcgen05.wait::ld")
def _wait_ld(call: HostCall) -> bool:
    return _wait(call, LOADS)


@register("tcgen05.wait::st")
def _wait_st(call: HostCall) -> bool:
    call.aligned()
    call.launch.complete_all(call.cluster, _store_queue(call))
    return _wait(call, STORES)


@register("tcgen05.fence::before_thread_sync")
def _fence_before(call: HostCall) -> bool:
    """What the thread issued so far is ordered before what its next synchronisation orders. Product and copy pipes
    are in order anyway: whoever is told of this fence may issue behind them."""
    component = call.pipe(TCGEN05)
    date = call.cluster.host.get("pipes", {}).get(component, 0)
    pipelined = call.vector("tvc")
    pipelined[component] = max(int(pipelined[component]), date)
    return True


@register("tcgen05.fence::after_thread_sync")
def _fence_after(call: HostCall) -> bool:
    call.launch.native.function("fence_tcgen05_after")(call.launch.address, call.launch.warp_address(call.index))
    return True
