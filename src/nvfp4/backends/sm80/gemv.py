"""GEMV on CUDA cores: plan and launch of ``csrc/kernels/sm80_gemv.cu``."""

from __future__ import annotations

from dataclasses import dataclass

from nvfp4.backends.base import Operands
from nvfp4.backends.operands import parts
from nvfp4.backends.sm80.constants import BIAS, OUT, ceil_div, kernel, kind, programmatic, scales
from nvfp4.device import Capability
from nvfp4.executors.launch import Launch, Pointer, Scalar
from nvfp4.problem import Problem

MAX_VECTORS = 16

# 16-bit elements of the vectors that are kept in shared memory, 32 KB: four blocks fit a multiprocessor.
_VECTOR_ELEMENTS = 16384
# More would not be used before the next barrier, and costs occupancy.
_MAX_CHUNK = 8192


@dataclass(frozen=True)
class GemvPlan:
    """How a GEMV runs.

    Attributes:
        arch: Compilation target.
        rows: Rows of A that a warp multiplies.
        row_warps, k_warps: Warps of a block: by rows, and by parts of K.
        group: Elements that a lane loads of a row at a time (16 or 32).
        chunk: Elements of each vector that are in shared memory at a time.
    """

    arch: str
    rows: int
    row_warps: int
    k_warps: int
    group: int
    chunk: int

    def describe(self) -> str:
        """One line for people."""
        block = f"{self.row_warps}x{self.k_warps} warps of {self.rows} rows"
        return f"CUDA cores, {block}, {self.group} elements a load, vectors {self.chunk} at a time [{self.arch}]"


def plan(capability: Capability, problem: Problem) -> GemvPlan:
    """Rows enough to fill the device twice get two to a warp; few rows are shared by several warps along K."""
    group = 32 if problem.k % 32 == 0 else 16
    total = problem.m * problem.l
    rows = 2 if problem.n <= 4 and total >= 32 * capability.sms else 1
    row_warps, k_warps = (8, 1)
    if total < 8 * capability.sms and problem.n <= 4 and problem.k >= 4096:
        row_warps, k_warps = (2, 4)
    step = 32 * group * k_warps
    chunk = min(_MAX_CHUNK, _VECTOR_ELEMENTS // problem.n, ceil_div(max(problem.k, 1), step) * step) // step * step
    return GemvPlan(capability.arch, rows, row_warps, k_warps, group, max(chunk, step))


def launches(plan: GemvPlan, problem: Problem, operands: Operands) -> tuple[Launch, ...]:
    """One launch; none for an empty result."""
    if 0 in (problem.m, problem.n, problem.l):
        return ()
    a, x = parts(operands.a[0]), parts(operands.b[0])
    constants = {
        "X_KIND": kind(problem.b),
        "A_LAYOUT": scales(problem.a),
        "X_LAYOUT": scales(problem.b),
        "OUT": OUT[problem.out_dtype],
        "BIAS": BIAS[problem.bias],
        "N": problem.n,
        "ROWS": plan.rows,
        "ROW_WARPS": plan.row_warps,
        "K_WARPS": plan.k_warps,
        "GROUP": plan.group,
        "CHUNK": plan.chunk,
    }
    warps = plan.row_warps * plan.k_warps
    # Vectors, their scales when they are NVFP4, partial sums: the map of shared memory in the kernel's header.
    shared = problem.n * plan.chunk * 2
    shared += problem.n * (plan.chunk // 16) * 4 if problem.b.kind == "nvfp4" else 0
    shared += warps * plan.rows * problem.n * 4
    launch = Launch(
        kernel=kernel("gemv", "nvfp4_sm80_gemv", plan.arch, constants),
        grid=(ceil_div(problem.m, plan.row_warps * plan.rows) * problem.l, 1, 1),
        block=(32 * warps, 1, 1),
        shared_bytes=shared,
        programmatic=programmatic(plan.arch),
        args=(
            *a.pointers(),
            Scalar("i32", a.tensor_stride),
            *x.pointers(),
            Scalar("i32", x.tensor_stride),
            Pointer(operands.out[0]),
            Pointer(operands.bias),
            Scalar("i32", problem.m),
            Scalar("i32", problem.k),
        ),
    )
    return (launch,)
