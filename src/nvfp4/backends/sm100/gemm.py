"""Launches of ``sm100_gemm.cu``."""

from __future__ import annotations

import torch

from nvfp4.backends.base import Operands
from nvfp4.backends.operands import Parts, parts
from nvfp4.backends.sm100.constants import (
    CHUNK,
    LANES,
    OUT_BYTES,
    STAGED_ROWS,
    STEPS,
    Cluster,
    ScaleMode,
    Schedule,
    ceil_div,
)
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


def scale_map(scales: torch.Tensor, rows: int, k: int, batch: int, box: tuple[int, int]) -> TensorMap:
    """Tiled scales [batch * ceil(rows/128), ceil(K/64), 512 bytes] in boxes of `box` (tiles, steps).

    A step of a box has its tiles side by side.
    A side of a box has at most 256 elements, hence elements of two bytes.
    """
    columns = ceil_div(k, 64)
    return TensorMap(
        scales,
        "u16",
        shape=(256, batch * ceil_div(rows, 128), columns),
        strides=(512 * columns, 512),
        box=(256, *box),
        l2_promotion=256,
    )


def x_box(plan: ProductPlan) -> int:
    """Rows of X that one copy brings."""
    return plan.x_rows // (2 if plan.cluster is Cluster.MULTICAST else 1)


def scale_box(plan: ProductPlan, x: bool) -> tuple[int, int]:
    """Tiles and steps of scales of X or Y that one copy brings."""
    if plan.share_scales and (plan.cluster is Cluster.MULTICAST if x else plan.cluster.pairs):
        return 1 if x else plan.y_tiles, STEPS // 2
    return 1 if x else plan.y_tiles, STEPS


def out_map(plan: ProductPlan, problem: Problem, out: torch.Tensor, sizes: tuple[int, int, int]) -> TensorMap | None:
    """C of `sizes` (rows, columns, batch) in squares, swizzled by the length of a row; None where threads store."""
    if not plan.stages_results(problem):
        return None
    rows, columns, batch = sizes
    size = OUT_BYTES[problem.out_dtype]
    return TensorMap(
        out,
        "u16" if size == 2 else "u32",
        shape=(columns, rows, batch),
        strides=(columns * size, rows * columns * size),
        box=(STAGED_ROWS, STAGED_ROWS, 1),
        swizzle=STAGED_ROWS * size,
    )


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
    return codes, scale_map(operand.scales, rows, k, batch, scale_box(plan, x))


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
    return blocks * plan.splits * plan.products * plan.d_columns * LANES, blocks


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
            shared_bytes=plan.shared_bytes_of(problem.out_dtype),
            programmatic=plan.programmatic,
            args=(
                x_codes,
                y_codes,
                x_scales,
                y_scales,
                out_map(plan, problem, operands.out[0], (problem.m, problem.n, problem.l)) or x_codes,
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
