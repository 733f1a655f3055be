"""The sweep over M: 16-bit activations times the NVFP4 weights of models, from a decoding step to a prefill.

Each weight [N, K] with every number of tokens; the tables say where which library is the faster one.
"""

from __future__ import annotations

from collections.abc import Iterable

from nvfp4.problem import Format, Op, Problem

WEIGHTS: tuple[tuple[int, int], ...] = ((8192, 7168), (4096, 14336), (28672, 4096))
"""(N, K): gate and up over DeepSeek-V3's hidden size, and the down projection and gate and up of Llama 3 8B."""

ROWS: tuple[int, ...] = (32, 64, 128, 256, 512, 2048, 8192)
"""Tokens, the M of the products."""

PEERS = ("cublas-bf16", "humming")
"""cuBLAS on weights decoded beforehand, and Humming on NVFP4 weights."""


def problems(
    rows: Iterable[int] = ROWS,
    weights: Iterable[tuple[int, int]] = WEIGHTS,
    *,
    activations: str = "bf16",
    scale_layout: str = "linear",
) -> tuple[Problem, ...]:
    """The products of a sweep, weight by weight.

    Args:
        rows: Numbers of tokens.
        weights: (N, K) of each weight.
        activations: ``"bf16"`` or ``"fp16"``; the result has the same type.
        scale_layout: Of the weights' block scales.
    """
    a, b = Format(activations, ""), Format("nvfp4", scale_layout)
    return tuple(Problem(Op.GEMM, m, n, k, a=a, b=b, out_dtype=activations) for n, k in weights for m in rows)


def belongs(problem: Problem) -> bool:
    """Whether a problem is a product of the sweep, with either 16-bit type."""
    return (
        problem.op is Op.GEMM
        and problem.l == 1
        and problem.a.kind == problem.out_dtype
        and problem.b.kind == "nvfp4"
        and problem.m in ROWS
        and (problem.n, problem.k) in WEIGHTS
    )
