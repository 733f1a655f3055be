"""Plain CUDA kernels, right on every NVIDIA GPU from sm_80 on: the first rung of each operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from nvfp4 import executors
from nvfp4.backends.base import Operands, Plan, follows_no_index
from nvfp4.backends.operands import aligned, repeated
from nvfp4.backends.sm80 import gemm, gemv
from nvfp4.backends.sm80.gemm import GemmPlan
from nvfp4.backends.sm80.gemv import GemvPlan
from nvfp4.device import Capability
from nvfp4.executors.launch import Launch
from nvfp4.problem import Op, Problem

# Sizes and block indices are 32-bit integers in the kernels; the grid's x dimension ends there too.
_INT_MAX = 2**31 - 1


class Sm80Backend:
    """The backend of the kernels ``csrc/kernels/sm80_*.cu``."""

    name = "sm80"

    def refuse(self, capability: Capability, problem: Problem) -> tuple[str, ...]:
        """Reasons why these kernels do not run `problem` there; empty when they do."""
        reasons = [*follows_no_index(problem)]
        if capability.compute < (8, 0):
            what = "a CPU" if capability.arch == "cpu" else capability.arch
            reasons.append(f"needs a GPU of compute capability 8.0 or later, not {what}")
        matrix, other = (problem.a, "A") if problem.op is Op.GEMV else (problem.b, "B")
        if matrix.kind != "nvfp4":
            reasons.append(f"{other} must be NVFP4, not {matrix.kind}")
        if problem.op is Op.GEMV and problem.n > gemv.MAX_VECTORS:
            reasons.append(f"takes 1..{gemv.MAX_VECTORS} vectors, not {problem.n}; use gemm")
        if problem.k % 16:
            reasons.append(f"K must be a multiple of 16, not {problem.k}")
        if _blocks(problem) > _INT_MAX:
            reasons.append("more than 2^31 - 1 tiles")
        return tuple(reasons)

    def plan(self, capability: Capability, problem: Problem) -> GemmPlan | GemvPlan:
        """The plan for `problem` there."""
        return (gemv.plan if problem.op is Op.GEMV else gemm.plan)(capability, problem)

    def launches(self, plan: Plan, problem: Problem, operands: Operands) -> tuple[Launch, ...]:
        """The launches, in order, that compute ``operands.out``."""
        if problem.op is Op.GEMV:
            return gemv.launches(cast(GemvPlan, plan), problem, operands)
        return gemm.launches(cast(GemmPlan, plan), problem, operands)

    def run(self, plan: Plan, problem: Problem, operands: Operands) -> None:
        """Compute into ``operands.out``: on a GPU, or with tensors on the CPU in the emulator."""
        operands = aligned(operands)
        executors.choose(operands.out[0].device).run(self.launches(plan, problem, operands))

    def prepare(self, plan: Plan, problem: Problem) -> Callable[[Operands], None]:
        """`run` for many calls: what does not depend on memory is done in the first.

        The operands of all calls lie on the same device, contiguous and 16-byte aligned.
        """
        return repeated(lambda operands, _: self.launches(plan, problem, operands))


def _blocks(problem: Problem) -> int:
    """At least as many blocks as any launch of `problem` has, and as any of its sizes."""
    sizes = problem.groups or ((problem.m, problem.n, problem.k),)
    if problem.op is Op.GEMV:
        return max(problem.m * problem.l, problem.k)
    tiles = sum((m // 16 + 1 + problem.stacked) * (n // 64 + 1) for m, n, _ in sizes) * problem.l
    return max(tiles, *(max(size) for size in sizes))


BACKEND = Sm80Backend()
