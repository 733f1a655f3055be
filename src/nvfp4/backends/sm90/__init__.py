"""Kernels for Hopper (sm_90a): WGMMA, the copy engine, warp specialisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch

from nvfp4 import executors
from nvfp4.backends.base import Operands, Plan, Repeating
from nvfp4.backends.operands import aligned, repeated
from nvfp4.backends.sm80.constants import ceil_div
from nvfp4.backends.sm90 import decode_gemm, gemm, gemv, group_gemm
from nvfp4.backends.sm90.decode_gemm import DecodePlan
from nvfp4.backends.sm90.launching import needs
from nvfp4.backends.sm90.plan import CHUNK, MAX_STACKED, UNIT, GemmPlan, estimate, plan
from nvfp4.backends.sm90.settled import when_settled
from nvfp4.device import Capability
from nvfp4.executors.launch import Launch
from nvfp4.executors.scratch import Scratch
from nvfp4.problem import Op, Problem

_INT_MAX = 2**31 - 1

_Needs = Callable[[Operands], Scratch]
_Build = Callable[[Operands, Sequence[torch.Tensor], bool], tuple[Launch, ...]]


class Sm90Backend:
    """The backend of the kernels ``csrc/kernels/sm90_*.cu``."""

    name = "sm90"

    def refuse(self, capability: Capability, problem: Problem) -> tuple[str, ...]:
        """Reasons why these kernels do not run `problem` there; empty when they do."""
        reasons = []
        if capability.compute != (9, 0):
            what = "a CPU" if capability.arch == "cpu" else capability.arch
            reasons.append(f"needs a GPU of compute capability 9.0, not {what}")
        if problem.op is Op.GEMV:
            return (*reasons, *gemv.refuse(problem))
        if problem.b.kind != "nvfp4":
            reasons.append(f"B must be NVFP4, not {problem.b.kind}")
        depths = sorted({k for _, _, k in problem.groups} or {problem.k})
        reasons += [f"K must be a multiple of {UNIT}, not {k}" for k in depths if k % UNIT]
        if problem.stacked > MAX_STACKED:
            reasons.append(f"takes at most {MAX_STACKED} stacked groups, not {problem.stacked}")
        tiles = (ceil_div(problem.m, 8) + len(problem.groups) + problem.stacked) * ceil_div(problem.n, 128) * problem.l
        sizes = (problem.m, problem.n, problem.k, problem.tokens)
        if max(tiles * ceil_div(problem.k, UNIT * CHUNK), *sizes) > _INT_MAX:
            reasons.append("more than 2^31 - 1 parts of tiles")
        return tuple(reasons)

    def plan(self, capability: Capability, problem: Problem) -> GemmPlan | DecodePlan | gemv.GemvPlan:
        """The plan for `problem` there."""
        if problem.op is Op.GEMV:
            return gemv.plan(capability, problem)
        chosen = plan(capability, problem)
        if not decode_gemm.serves(problem):
            return chosen
        time, other = decode_gemm.plan(capability, problem)
        return other if time < estimate(chosen, problem) else chosen

    def launches(self, plan: Plan, problem: Problem, operands: Operands) -> tuple[Launch, ...]:
        """The launches, in order, that compute ``operands.out``."""
        if problem.op is Op.GEMV:
            return gemv.launches(cast(gemv.GemvPlan, plan), problem, operands)
        needed, build = _kernels(plan, problem)
        return build(operands, needed(operands).allocate(operands.out[0].device), False)

    def run(self, plan: Plan, problem: Problem, operands: Operands) -> None:
        """Compute into ``operands.out``: on a GPU, or with tensors on the CPU in the emulator."""
        operands = aligned(operands)
        executors.choose(operands.out[0].device).run(self.launches(plan, problem, operands))

    def prepare(self, plan: Plan, problem: Problem) -> Repeating:
        """`run` for many calls: what does not depend on memory is done in the first.

        The operands of all calls lie on the same device, contiguous and 16-byte aligned.
        """
        if problem.op is Op.GEMV:
            return gemv.prepare(cast(gemv.GemvPlan, plan), problem)
        needed, build = _kernels(plan, problem)

        def computation(early: bool) -> Repeating:
            return repeated(lambda operands, memory: build(operands, memory, early), needed)

        return when_settled("b", computation(False), computation(True))


def _kernels(plan: Plan, problem: Problem) -> tuple[_Needs, _Build]:
    """What the kernels of a product need beside operands, and their launches.

    These are built from operands, the memory needed, and whether weights may be read early (as `gemm.launches`).
    """
    if isinstance(plan, DecodePlan):
        memory = decode_gemm.needs(plan)
        return lambda operands: memory, partial(decode_gemm.launches, plan, problem)
    chosen = cast(GemmPlan, plan)
    build = group_gemm.launches if problem.op.grouped else gemm.launches
    return partial(needs, chosen, problem), partial(build, chosen, problem)


BACKEND = Sm90Backend()
