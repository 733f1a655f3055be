"""The Hopper GEMV: the same problems in the emulator and on silicon, and chains of dependent launches on silicon."""

from __future__ import annotations

import pytest
import torch

import nvfp4
from nvfp4 import executors
from nvfp4.backends.sm90 import BACKEND, gemv
from nvfp4.check import inputs
from nvfp4.check.run import fuzz, poison_outputs
from nvfp4.check.verdict import Verdict, judge
from nvfp4.device import Capability, capability, known
from nvfp4.problem import Format, Op, Problem
from nvfp4.tensor import NVFP4Tensor

from .programs import DISTRIBUTIONS, SMALL

GEMVS = tuple(problem for problem in SMALL if problem.op is Op.GEMV)


def run(problem: Problem, distribution: str, seed: int, device: str, what: Capability, early: bool) -> Verdict:
    operands, outputs = poison_outputs(inputs.make(problem, distribution, seed, device))
    launches = gemv.launches(gemv.plan(what, problem), problem, operands, early=early)
    executors.choose(operands.out[0].device).run(launches)
    return judge(problem, operands, outputs)


@pytest.mark.parametrize("problem", GEMVS, ids=str)
def test_emulated(problem):
    i = GEMVS.index(problem)
    verdict = run(problem, DISTRIBUTIONS[i % len(DISTRIBUTIONS)], i, "cpu", known("sm_90a"), early=i % 2 == 0)
    assert verdict.ok, verdict


def hopper() -> Capability:
    what = capability("cuda")
    if what.compute != (9, 0):
        pytest.skip(f"needs a GPU of compute capability 9.0, not {what.arch}")
    return what


@pytest.mark.gpu
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("problem", GEMVS, ids=str)
def test_on_the_gpu(problem, early):
    what = hopper()
    for seed, distribution in enumerate(inputs.NAMES):
        verdict = run(problem, distribution, seed, "cuda", what, early)
        assert verdict.ok, (distribution, str(verdict))


@pytest.mark.gpu
def test_fuzzed_on_the_gpu():
    what = hopper()
    for seed in range(100):
        case = fuzz(Op.GEMV, seed)
        assert BACKEND.refuse(what, case.problem) == ()
        verdict = run(case.problem, case.distribution, seed, "cuda", what, early=True)
        assert verdict.ok, (seed, str(verdict))


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 4])
def test_layers_that_feed_each_other(rows):
    """Early loads, no synchronisation, eager and captured: the bits of a run that waits for every layer."""
    hopper()
    problem = Problem(Op.GEMV, 2048, rows, 2048, 1, Format(), Format("fp16", ""))
    weights = []
    for seed in range(4):
        weight = inputs.make(problem, "uniform", seed, "cuda").a[0]
        assert isinstance(weight, NVFP4Tensor)
        scale = torch.tensor(2.0**-10, device="cuda")
        weights.append(NVFP4Tensor(weight.codes, weight.scales, scale, scale_layout=weight.scale_layout))
    start = torch.randn(rows, 2048, device="cuda", generator=torch.Generator("cuda").manual_seed(3)).half()

    def chain(wait: bool) -> torch.Tensor:
        x = start
        for weight in weights * 3:
            x = nvfp4.gemv(weight, x, backend="sm90")
            if wait:
                torch.cuda.synchronize()
        return x

    want = chain(wait=True)
    assert torch.isfinite(want).all()
    assert want.any()
    for _ in range(100):
        assert torch.equal(chain(wait=False), want)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = chain(wait=False)
    for _ in range(100):
        captured.zero_()
        graph.replay()
        assert torch.equal(captured, want)
