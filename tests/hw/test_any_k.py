"""Every K that is a multiple of 16, on the kernels that take it: the same programs in the emulator and on silicon.

The rows of packed codes then start at any multiple of 8 bytes, those of linear scales at any byte, and the last block
of 64 elements is partly there. A backend that refuses such a K today must say that this is why; its cases run as soon
as it takes them.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from nvfp4 import backends
from nvfp4.check import inputs
from nvfp4.check.run import poison_outputs
from nvfp4.check.verdict import judge
from nvfp4.device import capability, known
from nvfp4.problem import Op, Problem

from .programs import BF16, FP16, LINEAR, SCALED_TILED, TILED

BACKENDS = ("sm80", "sm90")
# Odd multiples of 16, around blocks of 64 and chunks of 256; then odd multiples of 32, whose codes are whole 16 bytes.
DEPTHS = (16, 48, 80, 112, 240, 272, 336, 1040, 32, 96, 160, 288)
# Data that shows what is lost, read twice or taken from a neighbour at the end of a row.
DISTRIBUTIONS = ("integers", "one-hot", "all-scales")

PROBLEMS: tuple[Problem, ...] = (
    Problem(Op.GEMM, 70, 150, 0, 1, LINEAR, LINEAR, "fp32"),
    Problem(Op.GEMM, 9, 140, 0, 2, SCALED_TILED, SCALED_TILED, "fp16"),
    Problem(Op.GEMM, 33, 130, 0, 1, BF16, LINEAR, "bf16"),
    Problem(Op.GEMM, 20, 130, 0, 2, FP16, TILED, "fp32"),
    Problem(Op.DUAL_GEMM, 40, 70, 0, 1, LINEAR, TILED, "fp32"),
    Problem(Op.DUAL_GEMM, 17, 140, 0, 1, BF16, LINEAR, "bf16"),
    Problem(Op.GROUP_GEMM, 60, 140, 0, 1, TILED, LINEAR, "fp32", groups=((20, 50, 0), (33, 140, 64), (7, 16, 0))),
    Problem(Op.GROUP_GEMM, 80, 130, 0, 1, BF16, LINEAR, "bf16", stacked=5),
    Problem(Op.GROUP_GEMM, 50, 70, 0, 1, LINEAR, SCALED_TILED, "fp16", stacked=3),
    Problem(Op.GROUP_DUAL_GEMM, 27, 90, 0, 1, FP16, LINEAR, "fp32", groups=((20, 50, 0), (7, 90, 128))),
    Problem(Op.GROUP_DUAL_GEMM, 60, 70, 0, 1, BF16, TILED, "bf16", stacked=4),
)


def with_depth(problem: Problem, k: int) -> Problem:
    """`problem` with this K wherever it has none."""
    groups = tuple((m, n, depth or k) for m, n, depth in problem.groups)
    return replace(problem, k=max((depth for _, _, depth in groups), default=k), groups=groups)


def check(name: str, problem: Problem, distribution: str, device: str) -> None:
    backend = backends.get(name)
    what = known("sm_90a") if device == "cpu" else capability(device)
    reasons = backend.refuse(what, problem)
    if reasons:
        assert name != "sm80", reasons
        assert all("K must be" in reason for reason in reasons), reasons
        pytest.skip("; ".join(reasons))
    operands, outputs = poison_outputs(inputs.make(problem, distribution, problem.k, device))
    backend.run(backend.plan(what, problem), problem, operands)
    verdict = judge(problem, operands, outputs)
    assert verdict.ok, f"{problem}, {distribution} data: {verdict}"


@pytest.mark.parametrize("k", DEPTHS)
@pytest.mark.parametrize("name", BACKENDS)
def test_emulated(name: str, k: int) -> None:
    """One problem and distribution for each K and backend, in turn: all together take minutes."""
    i = DEPTHS.index(k)
    problem = with_depth(PROBLEMS[i % len(PROBLEMS)], k)
    check(name, problem, DISTRIBUTIONS[i % len(DISTRIBUTIONS)], "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("k", DEPTHS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("name", BACKENDS)
def test_emulated_everywhere(name: str, problem: Problem, k: int) -> None:
    check(name, with_depth(problem, k), DISTRIBUTIONS[k // 16 % len(DISTRIBUTIONS)], "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("k", DEPTHS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("name", BACKENDS)
def test_on_the_gpu(name: str, problem: Problem, k: int) -> None:
    for distribution in inputs.NAMES:
        check(name, with_depth(problem, k), distribution, "cuda")
