"""GEMM and dual GEMM on WGMMA: launches of ``sm90_{gemm,dual_gemm}.cu``."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nvfp4.backends.base import Operands
from nvfp4.backends.operands import parts
from nvfp4.backends.sm80.constants import ceil_div
from nvfp4.backends.sm90.launching import activation_maps, code_map, gemm_kernel, reciprocal
from nvfp4.backends.sm90.plan import COUPLE, THREADS, GemmPlan, chunks_along_k, couples_of, tiles_of
from nvfp4.executors.launch import Launch, Pointer, Scalar, ScalarArray
from nvfp4.problem import Op, Problem


def launches(
    plan: GemmPlan, problem: Problem, operands: Operands, extra: Sequence[torch.Tensor], early: bool = False
) -> tuple[Launch, ...]:
    """One launch; none for an empty result.

    Args:
        plan, problem, operands: What to compute, and how.
        extra: The memory of `launching.needs`.
        early: Weights were not written by the kernel before in the queue, and may be read before it has ended.
    """
    if 0 in (problem.m, problem.n, problem.l):
        return ()
    sums, counters, *made = extra
    dual = problem.op is Op.DUAL_GEMM
    activations, weights = parts(operands.a[0]), [parts(operand) for operand in operands.b]
    operand = made[0] if made else None
    scales: list[Pointer | Scalar] = []
    for x in (activations, *weights):
        scales += [Pointer(x.tensor_scale)] if dual else [Pointer(x.tensor_scale), Scalar("i32", x.tensor_stride)]
    sizes = (problem.m, problem.n, problem.k) if dual else (problem.m, problem.n, problem.k, problem.l)
    name = "dual_gemm" if dual else "gemm"
    constants = {
        "EARLY_WEIGHTS": int(early),
        "BLOCKS": plan.blocks,
        "COUPLED": int(plan.coupled),
        "HELPED": int(plan.own > 0),
    }
    launch = Launch(
        kernel=gemm_kernel(plan, problem, name, f"nvfp4_sm90_{name}", constants),
        grid=(plan.grid, 1, 1),
        block=(THREADS, 1, 1),
        cluster=(plan.team, 1, 1),
        shared_bytes=plan.shared_bytes,
        args=(
            activation_maps(plan, (activations,), (operand,)),
            *(code_map(x, plan.part_rows(problem)) for x in weights),
            Pointer(activations.data),
            *(Pointer(x.scales) for x in (activations, *weights)),
            *scales,
            *(Pointer(tensor) for tensor in (operands.out[0], operand, sums, counters)),
            *(Scalar("i32", size) for size in sizes),
            _deal(plan, problem),
        ),
        programmatic=True,
    )
    return (launch,)


def _deal(plan: GemmPlan, problem: Problem) -> ScalarArray:
    """`StreamKDeal` or `HelpedDeal` (csrc/pipeline/sm90_helpers.cuh), `CouplesDeal` (sm90_couples.cuh there)."""
    chunks, tiles, team = chunks_along_k(problem), tiles_of(plan, problem), plan.team
    values: tuple[int, ...]
    if plan.own:
        helpers = plan.grid - team * tiles
        values = (tiles, plan.own, chunks - team * plan.own, *divmod(tiles, helpers))
    elif plan.coupled:
        couples = couples_of(plan, problem)
        values = (ceil_div(chunks, COUPLE) // couples, couples, reciprocal(couples))
    else:
        values = (*divmod(tiles * chunks, plan.grid), reciprocal(chunks))
    return ScalarArray("u32", values, len(values))
