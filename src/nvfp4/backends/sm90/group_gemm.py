"""Grouped GEMM and grouped dual GEMM on WGMMA: launches of ``sm90_group_gemm.cu``."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nvfp4.backends.base import Operands
from nvfp4.backends.operands import parts
from nvfp4.backends.sm90.launching import activation_maps, code_map, gemm_kernel
from nvfp4.backends.sm90.plan import (
    MAX_GRID,
    MAX_LISTED,
    MAX_NOTED,
    THREADS,
    GemmPlan,
    capacity,
    table_bytes,
    tile_list,
)
from nvfp4.executors.launch import Kernel, Launch, Pointer, PointerArray, Scalar, ScalarArray, TensorMapArray
from nvfp4.problem import Problem


def launches(
    plan: GemmPlan, problem: Problem, operands: Operands, extra: Sequence[torch.Tensor], early: bool = False
) -> tuple[Launch, ...]:
    """A launch for up to `MAX_LISTED` groups; none without results. Arguments as for `gemm.launches`."""
    return (_stacked if problem.stacked else _list)(plan, problem, operands, extra, early)


def _kernel(plan: GemmPlan, problem: Problem, room: int, early: bool, order: int = 1) -> Kernel:
    constants = {
        "BLOCKS": plan.blocks,
        "CAPACITY": room,
        "MATRICES": problem.op.matrices,
        "STACKED": int(problem.stacked > 0),
        "EARLY_WEIGHTS": int(early and not problem.stacked),  # a stack waits for its offsets
        "INDEXED": int(problem.tokens > 0),
        "RESIDENT": plan.resident,
        "NARROWEST": plan.narrowest or plan.tokens,
        "ORDER": order,
    }
    form = "stacked" if problem.stacked else "list"
    return gemm_kernel(plan, problem, "group_gemm", f"nvfp4_sm90_group_gemm_{form}", constants)


def _list(
    plan: GemmPlan, problem: Problem, operands: Operands, extra: Sequence[torch.Tensor], early: bool
) -> tuple[Launch, ...]:
    sums, counters, *made = extra
    present = [i for i, (m, n, _) in enumerate(problem.groups) if m and n]
    result: list[Launch] = []
    for start in range(0, len(present), MAX_LISTED):
        chosen = present[start : start + MAX_LISTED]
        room = capacity(len(chosen))
        a = [parts(operands.a[i]) for i in chosen]
        b = [parts(weights) for i in chosen for weights in operands.weights(i)]
        operand = tuple(made[i] if made else None for i in chosen)
        room_b = room * problem.op.matrices
        sizes = tuple([problem.groups[i] for i in chosen])
        own = _own_tiles(plan, problem, sizes, room) if plan.narrowest else ()
        launch = Launch(
            kernel=_kernel(plan, problem, room, early, own[-1].capacity if own else 1),
            grid=(plan.grid, 1, 1),
            block=(THREADS, 1, 1),
            shared_bytes=plan.shared_bytes + table_bytes(problem),
            args=(
                activation_maps(plan, a, operand, room),
                TensorMapArray(tuple(code_map(x, plan.part_rows(problem)) for x in b), room_b),
                PointerArray(tuple(x.data for x in a), room),
                PointerArray(tuple(x.scales for x in a), room),
                PointerArray(tuple(x.scales for x in b), room_b),
                PointerArray(tuple(x.tensor_scale for x in a), room),
                PointerArray(tuple(x.tensor_scale for x in b), room_b),
                PointerArray(tuple(operands.out[i] for i in chosen), room),
                PointerArray(operand, room),
                *(ScalarArray("i32", tuple(size[j] for size in sizes), room) for j in range(3)),
                Pointer(sums),
                Pointer(counters),
                Scalar("i32", len(chosen)),
                Scalar("i32", max(k for _, _, k in sizes)),
                *own,
            ),
            programmatic=True,
        )
        result.append(launch)
    return tuple(result)


def _own_tiles(
    plan: GemmPlan, problem: Problem, sizes: tuple[tuple[int, int, int], ...], room: int
) -> tuple[ScalarArray, ...]:
    """Rows of A in the tiles of each group, and the tiles of each block."""
    tiles = tile_list(plan, problem, sizes)
    assert tiles.most <= MAX_NOTED, "a block would lose tiles; no such plan is chosen"
    widths = tuple(plan.width(m) for m, _, _ in sizes)
    return (
        ScalarArray("i32", widths, room),
        ScalarArray("i32", tiles.starts, MAX_GRID + 1),
        ScalarArray("i32", tuple(part.word for part in tiles.order), capacity(len(tiles.order))),
    )


def _stacked(
    plan: GemmPlan, problem: Problem, operands: Operands, extra: Sequence[torch.Tensor], early: bool
) -> tuple[Launch, ...]:
    if 0 in (problem.m, problem.n):
        return ()
    sums, counters, *made = extra
    a, b = parts(operands.a[0]), [parts(weights) for weights in operands.b]
    operand = made[0] if made else None
    launch = Launch(
        kernel=_kernel(plan, problem, capacity(problem.stacked), early),
        grid=(plan.grid, 1, 1),
        block=(THREADS, 1, 1),
        shared_bytes=plan.shared_bytes + table_bytes(problem),
        args=(
            activation_maps(plan, (a,), (operand,)),
            TensorMapArray(tuple(code_map(x, plan.part_rows(problem)) for x in b), len(b)),
            Pointer(a.data),
            Pointer(a.scales),
            PointerArray(tuple(x.scales for x in b), len(b)),
            Pointer(a.tensor_scale),
            PointerArray(tuple(x.tensor_scale for x in b), len(b)),
            ScalarArray("i32", tuple(x.tensor_stride for x in b), len(b)),
            *(Pointer(tensor) for tensor in (operands.offsets, operands.out[0], operand, sums, counters)),
            *(Scalar("i32", size) for size in (problem.stacked, problem.m, problem.n, problem.k)),
            *((Pointer(operands.rows), Scalar("i32", problem.tokens)) if problem.tokens else ()),
        ),
        programmatic=True,
    )
    return (launch,)
