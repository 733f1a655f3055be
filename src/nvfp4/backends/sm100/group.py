"""Launches of ``sm100_group_gemm.cu``."""

from __future__ import annotations

from dataclasses import replace

import torch

from nvfp4.backends.base import Operands
from nvfp4.backends.operands import parts
from nvfp4.backends.sm100.constants import Cluster, ScaleMode, ceil_div
from nvfp4.backends.sm100.gemm import code_map, grid, maps, out_map, scale_box, scale_map, tile_count, x_box
from nvfp4.backends.sm100.plans import ProductPlan
from nvfp4.executors.launch import Kernel, Launch, Pointer, PointerArray, Scalar, ScalarArray, TensorMapArray
from nvfp4.problem import Problem

MAX_LIST_GROUPS = 32
"""Groups of one launch of the list form: four tensor maps each, and parameters of a kernel are at most 32764 bytes."""

MAX_PATCHED_GROUPS = 128
"""The same where tensor maps are made on the device; blocks search the groups one by one."""

MAP_BYTES = 128
_MAPS_OF_BLOCK = 8
"""Two sets of four tensor maps (``csrc/pipeline/sm100_maps.cuh``)."""

MAX_STACKED_GROUPS = 1024
"""Groups of the stacked form: shared memory holds two numbers for each."""


def kernel(plan: ProductPlan, problem: Problem, groups: int) -> Kernel:
    """``sm100_group_gemm.cu`` with the constants of a plan, for a launch of so many groups."""
    if problem.stacked:
        form, capacity = "stacked", groups
    else:
        # A power of two, so that few variants are compiled.
        form, capacity = "list", 1 << (groups - 1).bit_length()
    made = plan.kernel(problem, "group_gemm", {"CAPACITY": capacity, "PATCHED": int(plan.patches(problem))})
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


def at_once(plan: ProductPlan, problem: Problem) -> int:
    """Groups of the list form that one launch takes."""
    return MAX_PATCHED_GROUPS if plan.patches(problem) else MAX_LIST_GROUPS


def map_bytes(plan: ProductPlan, problem: Problem) -> int:
    """Device memory for the tensor maps that blocks make, with room to align them."""
    if not plan.patches(problem):
        return 0
    sizes = [(n, m) if plan.swapped else (m, n) for m, n, _ in problem.groups if m and n]
    return (grid(plan, sum(tile_count(plan, *size) for size in sizes)) * _MAPS_OF_BLOCK + 1) * MAP_BYTES


def launch(
    plan: ProductPlan, problem: Problem, operands: Operands, scratch: torch.Tensor | None = None
) -> tuple[Launch, ...]:
    """One launch; more for many groups of the list form, none for an empty result. `scratch`: of `map_bytes`."""
    return _stacked(plan, problem, operands) if problem.stacked else _list(plan, problem, operands, scratch)


def _list(plan: ProductPlan, problem: Problem, operands: Operands, scratch: torch.Tensor | None) -> tuple[Launch, ...]:
    most, patched = at_once(plan, problem), plan.patches(problem)
    present = [i for i, (m, n, _) in enumerate(problem.groups) if m and n]
    a_mode, b_mode = plan.scale_modes(problem)
    if plan.swapped:
        a_mode, b_mode = b_mode, a_mode
    result = []
    for start in range(0, len(present), most):
        chosen = present[start : start + most]
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
                    *(
                        TensorMapArray((each[0][i],), 1)
                        if patched
                        else TensorMapArray(tuple(both[i] for both in each), capacity)
                        for i in (0, 1)
                        for each in (a_maps, b_maps)
                    ),
                    TensorMapArray(out_maps, capacity) if out_maps else TensorMapArray((a_maps[0][0],), 1),
                    *(
                        PointerArray(tuple(x.data for x in each), capacity) if patched else PointerArray((None,), 1)
                        for each in (a, b)
                    ),
                    PointerArray(tuple(x.scales for x in a), capacity),
                    PointerArray(tuple(x.scales for x in b), capacity),
                    PointerArray(tuple(x.tensor_scale for x in a), capacity),
                    PointerArray(tuple(x.tensor_scale for x in b), capacity),
                    PointerArray(tuple(operands.out[i] for i in chosen), capacity),
                    *(ScalarArray("i32", tuple(size[j] for size in sizes), capacity) for j in range(3)),
                    Pointer(scratch),
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
