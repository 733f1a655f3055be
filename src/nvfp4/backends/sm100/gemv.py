"""Plans and launches of ``sm100_gemv.cu``."""

from __future__ import annotations

from dataclasses import dataclass

from nvfp4.backends.base import Operands
from nvfp4.backends.operands import parts
from nvfp4.backends.sm80.constants import BIAS
from nvfp4.backends.sm100.constants import OUT, SCALES, VECTORS, ceil_div
from nvfp4.device import Capability
from nvfp4.executors.launch import Kernel, Launch, Pointer, Scalar
from nvfp4.problem import Problem

MAX_VECTORS = 16
UNITS = (64, 32, 16)
"""Elements that a lane takes at a time: 32 bytes of codes and four scales, or less where K is no multiple of that."""

_UNROLLED = 64


@dataclass(frozen=True)
class GemvPlan:
    """How a product with a few vectors runs.

    Attributes:
        arch: Compilation target.
        rows: Rows of a warp: 1, 2 or 4.
        parts: Warps that share rows along K; their sums are added in a fixed order.
        warps: Warps of a block, a multiple of `parts`.
        ahead: Loads of a row that are under way at once, a step of 32 * `parts` units each.
        early: The matrix is not written by the kernel before in the queue, and is read before that has ended.
        programmatic: Launched before the previous kernel has ended (programmatic dependent launch).
    """

    arch: str
    rows: int = 4
    parts: int = 1
    warps: int = 4
    ahead: int = 2
    early: bool = False
    programmatic: bool = True

    def describe(self) -> str:
        """One line for people."""
        shared = f", {self.parts} warps a row" if self.parts > 1 else ""
        rows = f"{self.rows} rows a warp{shared}, blocks of {self.warps} warps"
        return f"cvt.rn.f16x2.e2m1x2, loads of up to 256 bits, {rows} [{self.arch}]"

    def teams(self, problem: Problem) -> int:
        """Groups of warps that share rows, in one matrix of the batch."""
        if problem.a.scale_layout == "tiled":
            return ceil_div(problem.m, 128) * (128 // self.rows)
        return ceil_div(problem.m, self.rows)

    def grid(self, problem: Problem) -> tuple[int, int, int]:
        """Blocks of the launch."""
        return (ceil_div(self.teams(problem), self.warps // self.parts), problem.l, 1)


def unit_of(k: int) -> int:
    """Elements that a lane takes at a time."""
    return next(unit for unit in UNITS if k % unit == 0)


def plan(capability: Capability, problem: Problem) -> GemvPlan:
    """As many rows a warp as leave eight warps for each multiprocessor, then as many parts of K as fill it."""
    # More sums than eight in a lane leave no registers for decoded codes.
    rows = 4 if problem.n == 1 else (2 if problem.n <= 4 else 1)
    wanted = 8 * capability.sms
    while rows > 1 and GemvPlan(capability.arch, rows).teams(problem) * problem.l < wanted:
        rows //= 2
    teams = GemvPlan(capability.arch, rows).teams(problem) * problem.l
    units = ceil_div(problem.k, unit_of(problem.k)) if problem.k else 0
    parts = 1
    while parts < 8 and teams * parts < wanted and parts * 2 * 32 <= units:
        parts *= 2
    # Loads ahead are unrolled with all of K: not for many vectors, or a K that fills the instruction cache.
    steps = ceil_div(units, 32 * parts)
    ahead = 2 if steps * rows * problem.n <= _UNROLLED else 1
    return GemvPlan(capability.arch, rows, parts, max(4, parts), ahead)


def kernel(plan: GemvPlan, problem: Problem) -> Kernel:
    """``sm100_gemv.cu`` with the constants of a plan."""
    constants = {
        "K": problem.k,
        "N": problem.n,
        "ROWS": plan.rows,
        "PARTS": plan.parts,
        "WARPS": plan.warps,
        "AHEAD": plan.ahead,
        "A_LAYOUT": SCALES[problem.a.scale_layout],
        "X_LAYOUT": SCALES[problem.b.scale_layout or "linear"],
        "X_KIND": VECTORS[problem.b.kind],
        "OUT": OUT[problem.out_dtype],
        "BIAS": BIAS[problem.bias],
        "EARLY": int(plan.early),
    }
    return Kernel(
        "sm100_gemv.cu",
        "nvfp4_sm100_gemv",
        tuple((f"PLAN_{key}", value) for key, value in constants.items()),
        plan.arch,
    )


def launch(plan: GemvPlan, problem: Problem, operands: Operands) -> tuple[Launch, ...]:
    """One launch; none for an empty result."""
    if 0 in (problem.m, problem.n, problem.l):
        return ()
    a, x = parts(operands.a[0]), parts(operands.b[0])
    return (
        Launch(
            kernel=kernel(plan, problem),
            grid=plan.grid(problem),
            block=(32 * plan.warps, 1, 1),
            programmatic=plan.programmatic,
            args=(
                *a.pointers(),
                Scalar("i32", a.tensor_stride),
                *x.pointers(),
                Scalar("i32", x.tensor_stride),
                Pointer(operands.out[0]),
                Pointer(operands.bias),
                Scalar("i32", problem.m),
            ),
        ),
    )
