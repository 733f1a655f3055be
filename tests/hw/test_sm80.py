"""The plain CUDA kernels: the same programs on silicon and in the emulator, judged by the same checker."""

from __future__ import annotations

import pytest
import torch

from nvfp4.backends.base import Operands
from nvfp4.backends.operands import parts
from nvfp4.backends.sm80 import BACKEND
from nvfp4.check import inputs
from nvfp4.check.run import fuzz, poison_outputs
from nvfp4.check.verdict import Verdict, judge
from nvfp4.contest.tasks import TASKS
from nvfp4.device import Capability, capability, known
from nvfp4.problem import Op, Problem

from .programs import DISTRIBUTIONS, SMALL

EMULATED_ARCHS = ("sm_80", "sm_90a", "sm_100a")


def run(problem: Problem, distribution: str, seed: int, device: str, what: Capability) -> Verdict:
    operands, outputs = poison_outputs(inputs.make(problem, distribution, seed, device))
    BACKEND.run(BACKEND.plan(what, problem), problem, operands)
    return judge(problem, operands, outputs)


@pytest.mark.parametrize("problem", SMALL, ids=str)
def test_emulated(problem):
    """One architecture and distribution a problem, in turn: all pairs would take minutes."""
    i = SMALL.index(problem)
    what = known(EMULATED_ARCHS[i % len(EMULATED_ARCHS)])
    verdict = run(problem, DISTRIBUTIONS[i % len(DISTRIBUTIONS)], i, "cpu", what)
    assert verdict.ok, verdict


@pytest.mark.slow
@pytest.mark.parametrize("arch", EMULATED_ARCHS)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("problem", SMALL, ids=str)
def test_emulated_everywhere(problem, distribution, arch):
    verdict = run(problem, distribution, 1, "cpu", known(arch))
    assert verdict.ok, verdict


@pytest.mark.gpu
@pytest.mark.parametrize("problem", SMALL, ids=str)
def test_on_the_gpu(problem):
    for seed, distribution in enumerate(inputs.NAMES):
        verdict = run(problem, distribution, seed, "cuda", capability("cuda"))
        assert verdict.ok, (distribution, str(verdict))


@pytest.mark.gpu
@pytest.mark.parametrize("op", list(Op))
def test_fuzzed_on_the_gpu(op):
    for seed in range(30):
        case = fuzz(op, seed)
        verdict = run(case.problem, case.distribution, seed, "cuda", capability("cuda"))
        assert verdict.ok, (str(case), str(verdict))


@pytest.mark.gpu
@pytest.mark.parametrize("layout", ["linear", "tiled"])
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_contest_shapes_on_the_gpu(task, layout):
    for case in task.tests + task.benchmarks:
        problem = task.problem(case, scale_layout=layout)
        for distribution in ("contest", "gaussian"):
            verdict = run(problem, distribution, 1, "cuda", capability("cuda"))
            assert verdict.ok, (str(problem), distribution, str(verdict))


@pytest.mark.gpu
@pytest.mark.parametrize("problem", SMALL, ids=str)
def test_a_prepared_call_takes_other_operands(problem):
    """The second call has other memory and other data; a program that kept an address of the first would be seen."""
    compute = BACKEND.prepare(BACKEND.plan(capability("cuda"), problem), problem)
    kept = []
    for seed in range(3):
        operands, outputs = poison_outputs(inputs.make(problem, "uniform", seed, "cuda"))
        kept.append(operands)
        compute(operands)
        verdict = judge(problem, operands, outputs)
        assert verdict.ok, (seed, str(verdict))


@pytest.mark.gpu
def test_a_prepared_call_whose_first_operands_are_the_same_tensor():
    problem = Problem(Op.GEMM, 48, 48, 64)
    compute = BACKEND.prepare(BACKEND.plan(capability("cuda"), problem), problem)
    first = inputs.make(problem, "uniform", 0, "cuda")
    for a, b in ((first.a, first.a), (first.a, first.b), (first.b, first.b)):
        operands, outputs = poison_outputs(type(first)(a, b, first.out))
        compute(operands)
        verdict = judge(problem, operands, outputs)
        assert verdict.ok, str(verdict)


@pytest.mark.gpu
@pytest.mark.parametrize("problem", SMALL[::3], ids=str)
def test_captured_in_a_graph(problem):
    """Capture the very first call (it compiles and loads), replay on new data in the same memory."""
    operands, outputs = poison_outputs(inputs.make(problem, "uniform", 0, "cuda"))
    compute = BACKEND.prepare(BACKEND.plan(capability("cuda"), problem), problem)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        compute(operands)
    fresh = inputs.make(problem, "uniform", 1, "cuda")
    for old, new in zip(operands.a + operands.b, fresh.a + fresh.b, strict=True):
        for ours, theirs in zip(vars(parts(old)).values(), vars(parts(new)).values(), strict=True):
            if isinstance(ours, torch.Tensor):
                ours.copy_(theirs)
    graph.replay()
    verdict = judge(problem, operands, outputs)
    assert verdict.ok, str(verdict)


@pytest.mark.gpu
def test_results_do_not_change_from_run_to_run():
    for problem in SMALL:
        operands = inputs.make(problem, "gaussian", 0, "cuda")
        plan = BACKEND.plan(capability("cuda"), problem)
        BACKEND.run(plan, problem, operands)
        first = [out.clone() for out in operands.out]
        for _ in range(3):
            BACKEND.run(plan, problem, operands)
            for before, now in zip(first, operands.out, strict=True):
                assert torch.equal(before.view(torch.uint8), now.view(torch.uint8))


def stacked_with(op: Op, offsets: list[int], device: str, what: Capability) -> tuple[torch.Tensor, torch.Tensor]:
    """The stacked form on 30 rows with these offsets, into an output of 7s; and what each group alone gives."""
    problem = Problem(op, 30, 24, 48, out_dtype="fp32", stacked=len(offsets))
    made = inputs.make(problem, "integers", 3, device)
    out = torch.full_like(made.out[0], 7.0)
    given = torch.tensor(offsets, dtype=torch.int32, device=device)
    BACKEND.run(BACKEND.plan(what, problem), problem, Operands(made.a, made.b, (out,), given))
    a, *b = (x.dequantize(torch.float64) for x in (*made.a, *made.b))
    products = [torch.einsum("tk,gnk->gtn", a, x) for x in b]
    return out, (products[0] if len(b) == 1 else torch.nn.functional.silu(products[0]) * products[1]).float()


def same(op: Op, got: torch.Tensor, want: torch.Tensor) -> bool:
    """Equal, as sums of integers are; SiLU rounds a few times."""
    return torch.equal(got, want) if op is Op.GROUP_GEMM else torch.allclose(got, want, rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize("op", [Op.GROUP_GEMM, Op.GROUP_DUAL_GEMM])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_rows_beyond_the_last_offset_keep_their_contents(op, device):
    what = known("sm_90a") if device == "cpu" else capability(device)
    out, each = stacked_with(op, [5, 5, 20], device, what)
    assert same(op, out[:5], each[0, :5])
    assert same(op, out[5:20], each[2, 5:20])
    assert (out[20:] == 7).all()


@pytest.mark.parametrize("op", [Op.GROUP_GEMM, Op.GROUP_DUAL_GEMM])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("offsets", [[-3, 8, 30], [10, 4, 30], [10, 10**9, 30], [2**31 - 1] * 3, [-(2**31)] * 3])
def test_offsets_that_make_no_sense_lead_nowhere(op, device, offsets):
    """Nothing outside of A, B and the output is touched (the emulator sees that); rows get some group's product."""
    what = known("sm_90a") if device == "cpu" else capability(device)
    out, each = stacked_with(op, offsets, device, what)
    end = 0
    for group, offset in enumerate(offsets):
        start, end = end, max(end, min(max(offset, 0), 30))
        assert same(op, out[start:end], each[group, start:end])
    assert (out[end:] == 7).all()
