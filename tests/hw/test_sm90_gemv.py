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


def layers(problem: Problem, count: int) -> list[NVFP4Tensor]:
    """Weights that keep values of order one in range from layer to layer."""
    weights = []
    for seed in range(count):
        weight = inputs.make(problem, "uniform", seed, "cuda").a[0]
        assert isinstance(weight, NVFP4Tensor)
        scale = torch.tensor(2.0**-10 * (2048 / problem.k) ** 0.5, device="cuda")
        weights.append(NVFP4Tensor(weight.codes, weight.scales, scale, scale_layout=weight.scale_layout))
    return weights


@pytest.mark.gpu
@pytest.mark.parametrize("early", ["settled", "fresh"])
@pytest.mark.parametrize(
    ("rows", "kind", "size"),
    [(1, "fp16", 2048), (4, "fp16", 2048), (16, "bf16", 2048), (1, "nvfp4", 4096), (4, "nvfp4", 2048)],
)
def test_layers_that_feed_each_other(rows, kind, size, early):
    """No synchronisation, eager and captured: the bits of a run that waits for every layer.

    NVFP4 activations are quantized between the layers, in the graph too. Settled weights are loaded before the
    previous kernel has finished; fresh ones are captured without a run before, and are not.
    """
    hopper()
    activations = Format() if kind == "nvfp4" else Format(kind, "")
    dtype = torch.bfloat16 if kind == "bf16" else torch.float16
    weights = layers(Problem(Op.GEMV, size, rows, size, 1, Format(), activations), 4)
    start = torch.randn(rows, size, device="cuda", generator=torch.Generator("cuda").manual_seed(3)).to(dtype)

    def chain(weights: list[NVFP4Tensor], wait: bool) -> torch.Tensor:
        x = start
        for weight in weights * 3:
            vector = nvfp4.quantize(x) if kind == "nvfp4" else x
            x = nvfp4.gemv(weight, vector, backend="sm90", out_dtype=dtype)
            if wait:
                torch.cuda.synchronize()
        return x

    want = chain(weights, wait=True)
    assert torch.isfinite(want).all()
    assert want.any()
    for _ in range(100):
        assert torch.equal(chain(weights, wait=False), want)
    if early == "fresh":
        weights = layers(Problem(Op.GEMV, size, rows, size, 1, Format(), activations), 4)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = chain(weights, wait=False)
    for _ in range(100):
        captured.zero_()
        graph.replay()
        assert torch.equal(captured, want)
