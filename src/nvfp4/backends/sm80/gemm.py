"""GEMM and dual GEMM, single and grouped, on mma.sync: plans and launches of ``sm80_[group_][dual_]gemm.cu``."""

from __future__ import annotations

from dataclasses import dataclass

from nvfp4.backends.base import Operands
from nvfp4.backends.operands import Parts, parts
from nvfp4.backends.sm80.constants import OUT, Constants, ceil_div, kernel, kind, programmatic, scales
from nvfp4.device import Capability
from nvfp4.executors.launch import Launch, Pointer, PointerArray, Scalar, ScalarArray
from nvfp4.problem import Problem

# Parameters of a kernel are at most 4 KB before CUDA 12.1; 32 groups of a list take 2.2 KB, or 2.9 KB with two B.
MAX_GROUPS = 32

_STAGES = 2
_ROW_BYTES = 128  # of a tile in shared memory: 64 elements of 16 bits


@dataclass(frozen=True)
class GemmPlan:
    """How a product runs.

    Attributes:
        arch: Compilation target.
        tile_m, tile_n: Rows and columns of the result that a block computes.
        warps_m, warps_n: Warps of a block along each.
    """

    arch: str
    tile_m: int
    tile_n: int
    warps_m: int
    warps_n: int

    def describe(self) -> str:
        """One line for people."""
        tile = f"{self.tile_m}x{self.tile_n} tiles, {self.warps_m}x{self.warps_n} warps"
        return f"mma.sync m16n8k16, {tile}, decoded to 16 bits in shared memory [{self.arch}]"

    def shared_bytes(self, operands_b: int) -> int:
        """Dynamic shared memory: two stages of an A tile and `operands_b` B tiles."""
        return _STAGES * (self.tile_m + operands_b * self.tile_n) * _ROW_BYTES


def plan(capability: Capability, problem: Problem) -> GemmPlan:
    """The largest tile of which there are enough to fill the device; 16 rows where A has no more."""
    rows = problem.m
    if problem.groups:
        rows = max(m for m, _, _ in problem.groups)
    elif problem.stacked:
        rows = ceil_div(problem.m, problem.stacked)
    if rows <= 16:
        return GemmPlan(capability.arch, 16, 64, 1, 4)
    large = GemmPlan(capability.arch, 128, 64 if problem.op.dual else 128, 4, 2)
    # Groups are short, and a ragged tile costs as much as a full one.
    if (
        not problem.op.grouped
        and ceil_div(problem.m, large.tile_m) * ceil_div(problem.n, large.tile_n) * problem.l >= capability.sms
    ):
        return large
    return GemmPlan(capability.arch, 64, 64, 2, 2)


def _constants(plan: GemmPlan, problem: Problem) -> Constants:
    return {
        "A_KIND": kind(problem.a),
        "A_LAYOUT": scales(problem.a),
        "B_LAYOUT": scales(problem.b),
        "OUT": OUT[problem.out_dtype],
        "TILE_M": plan.tile_m,
        "TILE_N": plan.tile_n,
        "WARPS_M": plan.warps_m,
        "WARPS_N": plan.warps_n,
    }


def _block(plan: GemmPlan) -> tuple[int, int, int]:
    return (32 * plan.warps_m * plan.warps_n, 1, 1)


def launches(plan: GemmPlan, problem: Problem, operands: Operands) -> tuple[Launch, ...]:
    """One launch; more for many groups, none for an empty result."""
    if problem.op.grouped:
        return (_stacked if problem.stacked else _list)(plan, problem, operands)
    if 0 in (problem.m, problem.n, problem.l):
        return ()
    dual = problem.op.dual
    a = parts(operands.a[0])
    b = [parts(operand) for operand in operands.b]
    name = problem.op.value
    strides = [() if dual else (Scalar("i32", operand.tensor_stride),) for operand in (a, *b)]
    launch = Launch(
        kernel=kernel(name, f"nvfp4_sm80_{name}", plan.arch, _constants(plan, problem)),
        grid=(ceil_div(problem.m, plan.tile_m) * ceil_div(problem.n, plan.tile_n) * problem.l, 1, 1),
        block=_block(plan),
        shared_bytes=plan.shared_bytes(len(b)),
        programmatic=programmatic(plan.arch),
        args=(
            *(argument for x, stride in zip((a, *b), strides, strict=True) for argument in (*x.pointers(), *stride)),
            Pointer(operands.out[0]),
            Scalar("i32", problem.m),
            Scalar("i32", problem.n),
            Scalar("i32", problem.k),
        ),
    )
    return (launch,)


def _capacity(groups: int) -> int:
    """Groups that the parameters have room for: a power of two, so that few variants are compiled."""
    return 1 << (groups - 1).bit_length()


def _pointer_arrays(operands: list[Parts], capacity: int) -> tuple[PointerArray, PointerArray, PointerArray]:
    return (
        PointerArray(tuple(x.data for x in operands), capacity),
        PointerArray(tuple(x.scales for x in operands), capacity),
        PointerArray(tuple(x.tensor_scale for x in operands), capacity),
    )


def _list(plan: GemmPlan, problem: Problem, operands: Operands) -> tuple[Launch, ...]:
    name = problem.op.value
    present = [i for i, (m, n, _) in enumerate(problem.groups) if m and n]
    result = []
    for start in range(0, len(present), MAX_GROUPS):
        chosen = present[start : start + MAX_GROUPS]
        capacity = _capacity(len(chosen))
        sizes = [problem.groups[i] for i in chosen]
        tiles = sum(ceil_div(m, plan.tile_m) * ceil_div(n, plan.tile_n) for m, n, _ in sizes)
        constants = {**_constants(plan, problem), "CAPACITY": capacity}
        result.append(
            Launch(
                kernel=kernel(name, f"nvfp4_sm80_{name}_list", plan.arch, constants),
                grid=(tiles, 1, 1),
                block=_block(plan),
                shared_bytes=plan.shared_bytes(problem.op.matrices),
                programmatic=programmatic(plan.arch),
                args=(
                    *_pointer_arrays([parts(operands.a[i]) for i in chosen], capacity),
                    *(
                        pointers
                        for j in range(problem.op.matrices)
                        for pointers in _pointer_arrays([parts(operands.weights(i)[j]) for i in chosen], capacity)
                    ),
                    PointerArray(tuple(operands.out[i] for i in chosen), capacity),
                    *(ScalarArray("i32", tuple(size[j] for size in sizes), capacity) for j in range(3)),
                ),
            )
        )
    return tuple(result)


def _stacked(plan: GemmPlan, problem: Problem, operands: Operands) -> tuple[Launch, ...]:
    if 0 in (problem.m, problem.n):
        return ()
    name = problem.op.value
    a, *b = (parts(x) for x in (*operands.a, *operands.b))
    # At least the tiles of any offsets: each group has at most one ragged tile.
    tiles_m = problem.m // plan.tile_m + problem.stacked
    launch = Launch(
        kernel=kernel(name, f"nvfp4_sm80_{name}_stacked", plan.arch, {**_constants(plan, problem), "CAPACITY": 1}),
        grid=(tiles_m * ceil_div(problem.n, plan.tile_n), 1, 1),
        block=_block(plan),
        shared_bytes=plan.shared_bytes(len(b)),
        programmatic=programmatic(plan.arch),
        args=(
            *a.pointers(),
            *(argument for x in b for argument in (*x.pointers(), Scalar("i32", x.tensor_stride))),
            Pointer(operands.offsets),
            Pointer(operands.out[0]),
            Scalar("i32", problem.stacked),
            Scalar("i32", problem.m),
            Scalar("i32", problem.n),
            Scalar("i32", problem.k),
        ),
    )
    return (launch,)
