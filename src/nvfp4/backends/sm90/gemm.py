"""GEMM and dual GEMM on WGMMA: launches of ``sm90_{decode,gemm,dual_gemm}.cu``."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nvfp4.backends.base import Operands
from nvfp4.backends.operands import parts
from nvfp4.backends.sm90.launching import activation_map, decode_launch, gemm_kernel, weight_map
from nvfp4.backends.sm90.plan import THREADS, GemmPlan
from nvfp4.executors.launch import Launch, Pointer, Scalar
from nvfp4.problem import Op, Problem
from nvfp4.tensor import NVFP4Tensor


def launches(plan: GemmPlan, problem: Problem, operands: Operands, extra: Sequence[torch.Tensor]) -> tuple[Launch, ...]:
    """One launch, and one before it that decodes NVFP4 activations; none for an empty result.

    Args:
        plan, problem, operands: What to compute, and how.
        extra: What `launching.scratch` gave for them.
    """
    if 0 in (problem.m, problem.n, problem.l):
        return ()
    sums, counters, *decoded = extra
    activations = operands.a[0]
    before: tuple[Launch, ...] = ()
    if isinstance(activations, NVFP4Tensor):
        before = (decode_launch(plan, activations, decoded[0]),)
        activations = decoded[0]
    dual = problem.op is Op.DUAL_GEMM
    weights = [parts(operand) for operand in operands.b]
    scales: list[Pointer | Scalar] = []
    for x in (parts(operands.a[0]), *weights):
        scales += [Pointer(x.tensor_scale)] if dual else [Pointer(x.tensor_scale), Scalar("i32", x.tensor_stride)]
    sizes = (problem.m, problem.n, problem.k) if dual else (problem.m, problem.n, problem.k, problem.l)
    name = "dual_gemm" if dual else "gemm"
    constants = {"BAND": plan.band} if dual else {"BAND": plan.band, "BLOCKS": plan.blocks}
    launch = Launch(
        kernel=gemm_kernel(plan, problem, name, f"nvfp4_sm90_{name}", constants),
        grid=(plan.grid, 1, 1),
        block=(THREADS, 1, 1),
        shared_bytes=plan.shared_bytes,
        args=(
            activation_map(activations, plan.tokens),
            *(weight_map(x) for x in weights),
            *(Pointer(x.scales) for x in weights),
            *scales,
            *(Pointer(tensor) for tensor in (operands.out[0], sums, counters)),
            *(Scalar("i32", size) for size in sizes),
        ),
        programmatic=True,
    )
    return (*before, launch)
