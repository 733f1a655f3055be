"""Launches of ``sm100_gemm.cu``."""

from __future__ import annotations

import torch

from nvfp4.backends.base import Operands
from nvfp4.backends.operands import Parts, parts
from nvfp4.backends.sm100.constants import CHUNK, ROWS, STEPS, Cluster, ScaleMode, Schedule, ceil_div
from nvfp4.backends.sm100.plans import ProductPlan
from nvfp4.executors.launch import Launch, Pointer, Scalar, TensorMap
from nvfp4.problem import Problem


def code_map(codes: torch.Tensor, rows: int, k: int, batch: int, box_rows: int) -> TensorMap:
    """Codes [batch, rows, K/2] in boxes of a chunk by `box_rows`, swizzled as the tensor core reads them."""
    return TensorMap(
        codes,
        "u8",
        shape=(k // 2, rows, batch),
        strides=(k // 2, rows * k // 2),
        box=(CHUNK // 2, box_rows, 1),
        swizzle=128,
        l2_promotion=256,
    )


def scale_map(scales: torch.Tensor, rows: int, k: int, batch: int, tiles: int) -> TensorMap:
    """Tiled scales [batch * ceil(rows/128), ceil(K/64), 512 bytes] in boxes of a chunk by `tiles`.

    A side of a box has at most 256 elements, hence elements of two bytes.
    """
    columns = ceil_div(k, 64)
    return TensorMap(
        scales,
        "u16",
        shape=(256, columns, batch * ceil_div(rows, 128)),
        strides=(512, 512 * columns),
        box=(256, STEPS, tiles),
        l2_promotion=256,
    )


def x_box(plan: ProductPlan) -> int:
    """Rows of X that one copy brings."""
    return ROWS // 2 if plan.cluster is Cluster.MULTICAST else ROWS


def maps(
    plan: ProductPlan, mode: ScaleMode, operand: Parts, sizes: tuple[int, int, int], x: bool
) -> tuple[TensorMap, TensorMap]:
    """Tensor maps of codes and scales of an operand of `sizes` (rows, K, batch); where scales are not copied through
    a map, that of the codes stands in."""
    rows, k, batch = sizes
    codes = code_map(operand.data, rows, k, batch, x_box(plan) if x else plan.y_rows)
    if mode is not ScaleMode.TENSOR_MAP:
        return codes, codes
    assert operand.scales is not None
    return codes, scale_map(operand.scales, rows, k, batch, 1 if x else plan.y_tiles)


def tile_count(plan: ProductPlan, x_rows: int, y_rows: int, batch: int = 1) -> int:
    """Tiles that clusters compute."""
    at_once = 2 if plan.cluster is Cluster.MULTICAST else 1
    return ceil_div(x_rows, plan.tile_m) * ceil_div(y_rows, plan.tile_n * at_once) * batch


def grid(plan: ProductPlan, items: int) -> int:
    """Blocks of a launch over `items` parts of tiles."""
    clusters = min(items, plan.sms // plan.blocks) if plan.schedule is Schedule.STATIC else items
    return clusters * plan.blocks


def scratch_sizes(plan: ProductPlan, tiles: int) -> tuple[int, int]:
    """Floats of partial sums, and counters; zero where K is not shared."""
    if plan.splits == 1:
        return 0, 0
    blocks = tiles * plan.blocks
    return blocks * plan.splits * plan.products * plan.tile_n * ROWS, blocks


def launch(
    plan: ProductPlan, problem: Problem, operands: Operands, scratch: tuple[torch.Tensor, torch.Tensor] | None
) -> tuple[Launch, ...]:
    """One launch; none for an empty result."""
    if 0 in (problem.m, problem.n, problem.l):
        return ()
    a, b = parts(operands.a[0]), parts(operands.b[0])
    x, y = (b, a) if plan.swapped else (a, b)
    x_rows, y_rows = (problem.n, problem.m) if plan.swapped else (problem.m, problem.n)
    x_mode, y_mode = plan.scale_modes(problem)
    x_codes, x_scales = maps(plan, x_mode, x, (x_rows, problem.k, problem.l), True)
    y_codes, y_scales = maps(plan, y_mode, y, (y_rows, problem.k, problem.l), False)
    sums, counters = scratch if scratch is not None else (None, None)
    items = tile_count(plan, x_rows, y_rows, problem.l) * plan.splits
    return (
        Launch(
            kernel=plan.kernel(problem, "gemm"),
            grid=(grid(plan, items), 1, 1),
            block=(plan.threads(problem), 1, 1),
            cluster=(plan.blocks, 1, 1),
            shared_bytes=plan.shared_bytes,
            programmatic=plan.programmatic,
            args=(
                x_codes,
                y_codes,
                x_scales,
                y_scales,
                Pointer(x.scales),
                Pointer(y.scales),
                Pointer(x.tensor_scale),
                Scalar("i32", x.tensor_stride),
                Pointer(y.tensor_scale),
                Scalar("i32", y.tensor_stride),
                Pointer(operands.out[0]),
                Pointer(sums),
                Pointer(counters),
                Scalar("i32", x_rows),
                Scalar("i32", y_rows),
                Scalar("i32", problem.k),
                Scalar("i32", problem.l),
            ),
        ),
    )
