"""Launches of ``sm100_group_gemm.cu``."""

from __future__ import annotations

from dataclasses import replace

from nvfp4.backends.base import Operands
from nvfp4.backends.operands import parts
from nvfp4.backends.sm100.constants import Cluster, ScaleMode, ceil_div
from nvfp4.backends.sm100.gemm import code_map, grid, maps, out_map, scale_box, scale_map, tile_count, x_box
from nvfp4.backends.sm100.plans import ProductPlan
from nvfp4.executors.launch import Kernel, Launch, Pointer, PointerArray, Scalar, ScalarArray, TensorMapArray
from nvfp4.problem import Problem

MAX_LIST_GROUPS = 32
"""Groups of one launch of the list form: four tensor maps each, and parameters of a kernel are at most 32764 bytes."""

MAX_STACKED_GROUPS = 1024
"""Groups of the stacked form: shared memory holds two numbers for each."""


def kernel(plan: ProductPlan, problem: Problem, groups: int) -> Kernel:
    """``sm100_group_gemm.cu`` with the constants of a plan, for a launch of so many groups."""
    if problem.stacked:
        form, capacity = "stacked", groups
    else:
        # A power of two, so that few variants are compiled.
        form, capacity = "list", 1 << (groups - 1).bit_length()
    made = plan.kernel(problem, "group_gemm", {"CAPACITY": capacity})
    return replace(made, entry=f"{made.entry}_{form}")


def _entry(plan: ProductPlan, problem: Problem, groups: int) -> Launch:
    """A launch without arguments."""
    return Launch(
        kernel=kernel(plan, problem, groups),
        grid=(1, 1, 1),
        block=(plan.threads(problem), 1, 1),
        cluster=(plan.blocks, 1, 1),
        shared_bytes=plan.shared_bytes_of(problem.out_dtype),
        programmatic=plan.programmatic,
        args=(),
    )


def launch(plan: ProductPlan, problem: Problem, operands: Operands) -> tuple[Launch, ...]:
    """One launch; more for many groups of the list form, none for an empty result."""
    return (_stacked if problem.stacked else _list)(plan, problem, operands)


def _list(plan: ProductPlan, problem: Problem, operands: Operands) -> tuple[Launch, ...]:
    present = [i for i, (m, n, _) in enumerate(problem.groups) if m and n]
    a_mode, b_mode = plan.scale_modes(problem)
    if plan.swapped:
        a_mode, b_mode = b_mode, a_mode
    result = []
    for start in range(0, len(present), MAX_LIST_GROUPS):
        chosen = present[start : start + MAX_LIST_GROUPS]
        capacity = 1 << (len(chosen) - 1).bit_length()
        a, b = [parts(operands.a[i]) for i in chosen], [parts(operands.b[i]) for i in chosen]
        sizes = [problem.groups[i] for i in chosen]
        a_maps = [maps(plan, a_mode, x, (m, k, 1), not plan.swapped) for x, (m, _, k) in zip(a, sizes, strict=True)]
        b_maps = [maps(plan, b_mode, x, (n, k, 1), plan.swapped) for x, (_, n, k) in zip(b, sizes, strict=True)]
        tiles = sum(tile_count(plan, *((n, m) if plan.swapped else (m, n))) for m, n, _ in sizes)
        outs = [out_map(plan, problem, operands.out[i], (*problem.groups[i][:2], 1)) for i in chosen]
        out_maps = tuple(made for made in outs if made is not None)
        entry = _entry(plan, problem, len(chosen))
        result.append(
            replace(
                entry,
                grid=(grid(plan, tiles), 1, 1),
                args=(
                    TensorMapArray(tuple(codes for codes, _ in a_maps), capacity),
                    TensorMapArray(tuple(codes for codes, _ in b_maps), capacity),
                    TensorMapArray(tuple(scales for _, scales in a_maps), capacity),
                    TensorMapArray(tuple(scales for _, scales in b_maps), capacity),
                    TensorMapArray(out_maps, capacity) if out_maps else TensorMapArray((a_maps[0][0],), 1),
                    PointerArray(tuple(x.scales for x in a), capacity),
                    PointerArray(tuple(x.scales for x in b), capacity),
                    PointerArray(tuple(x.tensor_scale for x in a), capacity),
                    PointerArray(tuple(x.tensor_scale for x in b), capacity),
                    PointerArray(tuple(operands.out[i] for i in chosen), capacity),
                    *(ScalarArray("i32", tuple(size[j] for size in sizes), capacity) for j in range(3)),
                    Scalar("i32", tiles),
                ),
            )
        )
    return tuple(result)


def _stacked(plan: ProductPlan, problem: Problem, operands: Operands) -> tuple[Launch, ...]:
    if 0 in (problem.m, problem.n):
        return ()
    a, b = parts(operands.a[0]), parts(operands.b[0])
    b_mode = plan.scale_modes(problem)[0 if plan.swapped else 1]
    a_codes = code_map(a.data, problem.m, problem.k, 1, plan.y_rows if plan.swapped else x_box(plan))
    b_codes = code_map(b.data, problem.n, problem.k, problem.stacked, x_box(plan) if plan.swapped else plan.y_rows)
    b_scales = b_codes
    if b_mode is ScaleMode.TENSOR_MAP:
        assert b.scales is not None
        b_scales = scale_map(b.scales, problem.n, problem.k, problem.stacked, scale_box(plan, plan.swapped))
    at_once = 2 if plan.cluster is Cluster.MULTICAST else 1
    a_tile, b_tile = plan.tile_m, plan.tile_n * at_once
    if plan.swapped:
        a_tile, b_tile = b_tile, a_tile
    # At least the tiles of any offsets: each group has at most one ragged tile. The kernel counts them.
    tiles = (problem.m // a_tile + problem.stacked) * ceil_div(problem.n, b_tile)
    return (
        replace(
            _entry(plan, problem, problem.stacked),
            grid=(grid(plan, tiles), 1, 1),
            args=(
                a_codes,
                b_codes,
                b_scales,
                out_map(plan, problem, operands.out[0], (problem.m, problem.n, 1)) or a_codes,
                Pointer(a.scales),
                Pointer(b.scales),
                Pointer(a.tensor_scale),
                Pointer(b.tensor_scale),
                Scalar("i32", b.tensor_stride),
                Pointer(operands.offsets),
                Pointer(operands.out[0]),
                Scalar("i32", problem.stacked),
                Scalar("i32", problem.m),
                Scalar("i32", problem.n),
                Scalar("i32", problem.k),
            ),
        ),
    )
