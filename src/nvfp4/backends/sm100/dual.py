"""Launches of ``sm100_dual_gemm.cu``."""

from __future__ import annotations

import torch

from nvfp4.backends.base import Operands
from nvfp4.backends.operands import parts
from nvfp4.backends.sm100.gemm import grid, maps, out_map, tile_count
from nvfp4.backends.sm100.plans import ProductPlan
from nvfp4.executors.launch import Launch, Pointer, Scalar
from nvfp4.problem import Problem


def launch(
    plan: ProductPlan, problem: Problem, operands: Operands, scratch: tuple[torch.Tensor, torch.Tensor] | None
) -> tuple[Launch, ...]:
    """One launch; none for an empty result."""
    if 0 in (problem.m, problem.n):
        return ()
    a, b1, b2 = parts(operands.a[0]), parts(operands.b[0]), parts(operands.b[1])
    x_mode, y_mode = plan.scale_modes(problem)
    sizes = (problem.n, problem.k, 1)
    pairs = (
        maps(plan, x_mode, a, (problem.m, problem.k, 1), True),
        maps(plan, y_mode, b1, sizes, False),
        maps(plan, y_mode, b2, sizes, False),
    )
    sums, counters = scratch if scratch is not None else (None, None)
    items = tile_count(plan, problem.m, problem.n) * plan.splits
    return (
        Launch(
            kernel=plan.kernel(problem, "dual_gemm"),
            grid=(grid(plan, items), 1, 1),
            block=(plan.threads(problem), 1, 1),
            cluster=(plan.blocks, 1, 1),
            shared_bytes=plan.shared_bytes_of(problem.out_dtype),
            programmatic=plan.programmatic,
            args=(
                *(codes for codes, _ in pairs),
                *(scales for _, scales in pairs),
                out_map(plan, problem, operands.out[0], (problem.m, problem.n, 1)) or pairs[0][0],
                *(Pointer(x.scales) for x in (a, b1, b2)),
                *(Pointer(x.tensor_scale) for x in (a, b1, b2)),
                Pointer(operands.out[0]),
                Pointer(sums),
                Pointer(counters),
                Scalar("i32", problem.m),
                Scalar("i32", problem.n),
                Scalar("i32", problem.k),
            ),
        ),
    )
