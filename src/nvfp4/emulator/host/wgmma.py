"""wgmma: a warpgroup's asynchronous matrix products (PTX ISA 9.7.15).

The four warps issue one after another here; the product is formed when all have issued, at a seeded time, at the
latest when wgmma.wait_group of a warp needs it. Until then the accumulators count as unwritten, so that touching
them is reported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..pending import AsyncOp
from ..ptx.ast import Instruction, Operand, Vec
from ..runtime.layout import PIPES, Counter
from ..units.wgmma import WgmmaPlan, WgmmaSpec, plan_wgmma
from .registry import register
from .state import WGMMA, HostCall

__all__: list[str] = []


@dataclass
class _Issue:
    """One wgmma of a warpgroup: collects its warps."""

    plan: WgmmaPlan
    instruction: Instruction
    date: int
    calls: dict[int, HostCall] = field(default_factory=dict)
    scale: bool = True
    op: AsyncOp | None = None
    done: bool = False


@dataclass
class _Group:
    """State of a warpgroup."""

    issues: dict[int, _Issue] = field(default_factory=dict)
    first: int = 0
    issued: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    committed: list[list[int]] = field(default_factory=lambda: [[], [], [], []])
    fenced: list[bool] = field(default_factory=lambda: [False] * 4)


def _state(call: HostCall) -> _Group:
    key = ("wgmma", call.cta_slot, call.warp_id // 4)
    found = call.cluster.host.get(key)
    if found is None:
        found = call.cluster.host[key] = _Group()
    assert isinstance(found, _Group)
    return found


def _component(call: HostCall) -> int:
    """The clock component of the warpgroup: that of its first warp."""
    return call.pipe(WGMMA) - (call.warp_id % 4) * PIPES


_SPECS: dict[int, tuple[Instruction, WgmmaSpec]] = {}


def _spec(call: HostCall) -> tuple[WgmmaSpec, Operand, Operand, Operand]:
    i = call.instruction
    known = _SPECS.get(id(i))
    if known is not None and known[0] is i:
        return known[1], i.operands[1], i.operands[2], i.operands[3]
    match = re.match(r"m64n(\d+)k(\d+)", i.parts[4])
    if match is None or i.has("sp"):
        call.fatal("illegal-instruction", f"{i.opcode}: shape", "dense m64nNkK shapes are implemented")
    assert match is not None
    d_type, a_type, b_type = (p for p in i.parts[5:] if p != "satfinite")
    _, a, b, scale_d, *immediates = i.operands
    numbers = [int(getattr(x, "value", 0)) for x in immediates]
    negate_a = len(numbers) > 0 and numbers[0] == -1
    negate_b = len(numbers) > 1 and numbers[1] == -1
    in_registers = isinstance(a, Vec)
    trans = numbers[2:]
    trans_a = bool(trans[0]) if len(trans) == 2 else False
    trans_b = bool(trans[-1]) if trans else False
    del in_registers
    spec = WgmmaSpec(
        int(match.group(1)), d_type, a_type, b_type, trans_a, trans_b, negate_a, negate_b, i.has("satfinite")
    )
    _SPECS[id(i)] = i, spec
    return spec, a, b, scale_d


@register("wgmma.mma_async")
def _mma_async(call: HostCall) -> bool:
    call.aligned()
    i = call.instruction
    state = _state(call)
    quarter = call.warp_id % 4
    if call.warp_id - quarter + 4 > call.launch.warps:
        call.fatal(
            "illegal-instruction",
            f"{i.opcode} in a warpgroup of fewer than four warps",
            "launch a multiple of 128 threads",
        )
    spec, a, b, scale_d = _spec(call)
    a_desc = None if isinstance(a, Vec) else call.uniform(a, "descriptor of A")
    b_desc = call.uniform(b, "descriptor of B")
    plan = plan_wgmma(spec, a_desc, b_desc)
    if not state.fenced[quarter]:
        call.finding(
            "missing-wgmma-fence",
            f"{i.opcode} before any wgmma.fence",
            "wgmma.fence.sync.aligned before the first wgmma, and after registers change",
        )
        state.fenced[quarter] = True
    index = state.issued[quarter]
    if index not in state.issues:
        state.issues[index] = _Issue(plan, i, index + 1)
    issue = state.issues[index]
    if issue.instruction is not i or issue.plan is not plan:
        call.fatal(
            "divergence",
            f"{i.opcode}: the warps of the warpgroup issue different operations (warp {min(issue.calls)} is at "
            f"{call.launch.findings.describe(next(iter(issue.calls.values())).number)})",
            "all four warps must execute the same wgmma with the same descriptors",
        )
    issue.calls[quarter] = call
    issue.scale = bool(call.value(scale_d))
    state.issued[quarter] = index + 1
    for access in plan.accesses:
        call.access(access.words, call.rank, access.what, _component(call), issue.date, False)
    call.mark_all(i.operands[0], False)
    if len(issue.calls) == 4:
        queue = f"wgmma:{call.cta_slot}:{call.warp_id // 4}"
        issue.op = AsyncOp(lambda: _run(issue), call.launch.steps_now() + call.launch.delay(), "wgmma", queue, i.line)
        call.launch.schedule(call.cluster, issue.op)
        call.launch.count(Counter.MMA_FLOPS, plan.flops)
        call.launch.native.function("wake")(call.launch.address, call.launch.cta_address(call.cta_slot))
    return True


def _run(issue: _Issue) -> None:
    calls = [issue.calls[q] for q in range(4)]
    target = issue.instruction.operands[0]
    count = len(calls[0].items(target))
    d = np.stack([c.registers(target) for c in calls]) if issue.scale else np.zeros((4, count, 32), np.uint32)
    source = issue.instruction.operands[1]
    a: Any = None
    if isinstance(source, Vec):
        a = np.stack([c.registers(source) for c in calls])
    out = issue.plan.run(calls[0].smem(), d, a, issue.scale)
    for q, call in enumerate(calls):
        call.write_all(target, out[q])
    issue.done = True


@register("wgmma.fence")
def _fence(call: HostCall) -> bool:
    call.aligned()
    _state(call).fenced[call.warp_id % 4] = True
    return True


@register("wgmma.commit_group")
def _commit(call: HostCall) -> bool:
    call.aligned()
    state = _state(call)
    state.committed[call.warp_id % 4].append(state.issued[call.warp_id % 4])
    return True


@register("wgmma.wait_group")
def _wait(call: HostCall) -> bool:
    call.aligned()
    keep = call.value(call.instruction.operands[0])
    state = _state(call)
    groups = state.committed[call.warp_id % 4]
    if len(groups) <= keep:
        return True
    until = groups[len(groups) - keep - 1]
    mine = [state.issues[n] for n in range(state.first, until) if n in state.issues]
    if any(len(issue.calls) < 4 for issue in mine):
        return False
    for issue in mine:
        if not issue.done and issue.op is not None:
            call.launch.complete(call.cluster, issue.op)
    # Forget what is done and what every warp has waited for, so that long loops stay fast.
    while state.first in state.issues and state.issues[state.first].done:
        del state.issues[state.first]
        state.first += 1
    del groups[: max(0, len(groups) - keep - 1)]
    vc = call.vector("vc")
    vc[_component(call)] = max(int(vc[_component(call)]), until)
    # Pending accumulators of later groups stay in flight; those of finished ones may be pending again through a later
    # issue.
    for issue in list(state.issues.values()):
        if issue.date <= until:
            continue
        if call.warp_id % 4 in issue.calls and not issue.done:
            call.mark_all(issue.instruction.operands[0], False)
    return True
