"""The Blackwell kernels in the emulator, with the plans that are chosen: the contest's shapes, hard data, padding."""

from __future__ import annotations

import pytest
import torch

from nvfp4.backends.base import Operands
from nvfp4.backends.sm100 import BACKEND
from nvfp4.backends.sm100.decode import DecodePlan
from nvfp4.backends.sm100.gemv import GemvPlan
from nvfp4.check import inputs
from nvfp4.check.run import Case, Target, fuzz, poison_outputs, run_case
from nvfp4.check.verdict import judge
from nvfp4.contest.tasks import TASKS
from nvfp4.device import known
from nvfp4.executors import emulated
from nvfp4.problem import Format, Op, Problem
from nvfp4.tensor import NVFP4Tensor

from . import sm100_plans
from .programs import BF16, DISTRIBUTIONS, FP16, SCALED_TILED, SMALL

TARGET = Target("cpu", "sm100", "sm_100a")
SM_100A = known("sm_100a")
LINEAR, TILED = Format("nvfp4", "linear"), Format("nvfp4", "tiled")
SMALL_OFFICIAL = 1.2e9  # FLOP of what every run checks; the rest is for --slow


def official(which: str, *, small: bool) -> list[Case]:
    """Official cases with either layout in turn."""
    cases = []
    for task in TASKS:
        for i, case in enumerate(getattr(task, which)):
            problem = task.problem(case, scale_layout=("linear", "tiled")[i % 2])
            if (problem.flops <= SMALL_OFFICIAL) == small:
                cases.append(Case(problem, "contest", case.seed))
    return cases


def check(case: Case) -> None:
    outcome = run_case(case, TARGET)
    assert outcome.refusal is None, outcome.refusal
    assert outcome.ok, (str(case), str(outcome.verdict))


@pytest.mark.parametrize("case", official("tests", small=True), ids=str)
def test_official_shapes(case: Case) -> None:
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", official("tests", small=False) + official("benchmarks", small=False), ids=str)
def test_large_official_shapes(case: Case) -> None:
    check(case)


def taken(problem: Problem) -> bool:
    return not BACKEND.refuse(SM_100A, problem)


@pytest.mark.parametrize("problem", [p for p in SMALL if taken(p)], ids=str)
def test_small_problems(problem: Problem) -> None:
    i = SMALL.index(problem)
    check(Case(problem, DISTRIBUTIONS[i % len(DISTRIBUTIONS)], i))


@pytest.mark.slow
@pytest.mark.parametrize("op", list(Op))
def test_fuzzed(op: Op) -> None:
    for seed in range(40):
        case = fuzz(op, seed)
        if taken(case.problem):
            check(case)


VECTORS = (
    # M, N, K, L, formats, result, rows, parts, ahead: one or several rows, parts and steps; ragged rows; many vectors.
    (Problem(Op.GEMV, 130, 1, 2112, 2, TILED, LINEAR, "fp16"), GemvPlan("sm_100a", 4, 1, 4, 2, early=True)),
    (Problem(Op.GEMV, 130, 1, 2112, 2, LINEAR, TILED, "fp32"), GemvPlan("sm_100a", 4, 2, 4, 2)),
    (Problem(Op.GEMV, 67, 3, 704, 1, TILED, TILED, "bf16"), GemvPlan("sm_100a", 2, 4, 8, 1)),
    (Problem(Op.GEMV, 67, 16, 192, 2, LINEAR, LINEAR, "fp32"), GemvPlan("sm_100a", 1, 1, 4, 1)),
    (Problem(Op.GEMV, 300, 1, 4096, 1, TILED, LINEAR, "fp32"), GemvPlan("sm_100a", 1, 2, 4, 2)),
    # K a multiple of 32 and of 16 only; 16-bit vectors.
    (Problem(Op.GEMV, 130, 2, 2144, 2, TILED, LINEAR, "fp16"), GemvPlan("sm_100a", 4, 2, 4, 2)),
    (Problem(Op.GEMV, 131, 3, 1072, 2, LINEAR, TILED, "fp32"), GemvPlan("sm_100a", 2, 1, 4, 1, early=True)),
    (Problem(Op.GEMV, 130, 1, 4160, 2, TILED, FP16, "fp32"), GemvPlan("sm_100a", 4, 1, 4, 2)),
    (Problem(Op.GEMV, 67, 5, 1072, 2, LINEAR, FP16, "fp16"), GemvPlan("sm_100a", 1, 2, 4, 2, early=True)),
    (Problem(Op.GEMV, 130, 16, 224, 1, TILED, FP16, "bf16"), GemvPlan("sm_100a", 1, 1, 4, 1)),
    (Problem(Op.GEMV, 130, 1, 4160, 2, LINEAR, BF16, "fp32"), GemvPlan("sm_100a", 4, 2, 4, 2)),
    (Problem(Op.GEMV, 67, 4, 1072, 2, TILED, BF16, "bf16"), GemvPlan("sm_100a", 2, 1, 4, 1)),
    (Problem(Op.GEMV, 33, 16, 288, 1, LINEAR, BF16, "fp32"), GemvPlan("sm_100a", 1, 1, 8, 2)),
)


@pytest.mark.parametrize(
    ("problem", "plan"), VECTORS, ids=lambda value: str(value) if isinstance(value, Problem) else ""
)
def test_gemv_plans(problem: Problem, plan: GemvPlan) -> None:
    for seed, data in enumerate(("uniform", "all-scales", "largest", "smallest", "one-hot")):
        verdict = sm100_plans.run(plan, problem, data, seed)
        assert verdict.ok, (data, str(verdict))


@pytest.mark.parametrize("vectors", [LINEAR, FP16, BF16], ids=str)
def test_gemv_of_operands_that_are_not_32_byte_aligned(vectors: Format) -> None:
    """The contract of operands is 16 bytes; 256-bit loads want 32."""
    problem = Problem(Op.GEMV, 9, 2, 192, 1, LINEAR, vectors, "fp32")
    made, outputs = poison_outputs(inputs.make(problem, "uniform", 0))

    def moved(x: torch.Tensor) -> torch.Tensor:
        data = x.contiguous().view(torch.uint8)
        memory = torch.empty(data.numel() + 64, dtype=torch.uint8)
        start = -memory.data_ptr() % 32 + 16
        place = memory[start : start + data.numel()].view(data.shape)
        place.copy_(data)
        return place.view(x.dtype)

    (a,), (b,) = made.a, made.b
    assert isinstance(a, NVFP4Tensor)
    matrix = NVFP4Tensor(moved(a.codes), a.scales, a.tensor_scale, scale_layout=a.scale_layout)
    if isinstance(b, NVFP4Tensor):
        x: NVFP4Tensor | torch.Tensor = NVFP4Tensor(moved(b.codes), b.scales, scale_layout=b.scale_layout)
    else:
        x = moved(b)
    data = x.codes if isinstance(x, NVFP4Tensor) else x
    assert matrix.codes.data_ptr() % 32 == data.data_ptr() % 32 == 16
    operands = Operands((matrix,), (x,), made.out)
    BACKEND.run(BACKEND.plan(SM_100A, problem), problem, operands)
    verdict = judge(problem, operands, outputs)
    assert verdict.ok, str(verdict)


DECODED = (
    # K of one, several and parts of chunks; K shared; batches; few and many rows of A; results of each type.
    (Problem(Op.GEMM, 1, 130, 32, 1, FP16, LINEAR, "fp32"), DecodePlan("sm_100a", 32, 4, sms=2)),
    (Problem(Op.GEMM, 70, 200, 544, 1, FP16, TILED, "fp32"), DecodePlan("sm_100a", 32, 5, 1, sms=3)),
    (
        Problem(Op.GEMM, 70, 260, 1056, 2, BF16, SCALED_TILED, "bf16"),
        DecodePlan("sm_100a", 64, 4, splits=3, early=True),
    ),
    (Problem(Op.GEMM, 150, 100, 864, 2, BF16, LINEAR, "fp32"), DecodePlan("sm_100a", 128, 4, splits=2, band=1, sms=3)),
    (
        Problem(Op.GEMM, 300, 129, 640, 1, FP16, LINEAR, "fp16"),
        DecodePlan("sm_100a", 256, 4, 1, sms=2, programmatic=False),
    ),
    (Problem(Op.GEMM, 33, 300, 1024, 1, FP16, TILED, "fp16"), DecodePlan("sm_100a", 256, 4, 2, early=True, sms=1)),
)


@pytest.mark.parametrize(
    ("problem", "plan"), DECODED, ids=lambda value: str(value) if isinstance(value, Problem) else ""
)
def test_decoding_plans(problem: Problem, plan: DecodePlan) -> None:
    for seed, data in enumerate(("integers", "all-scales", "largest", "smallest", "one-hot", "gaussian")):
        verdict = sm100_plans.run(plan, problem, data, seed)
        assert verdict.ok, (data, str(verdict))


PADDED = (
    Problem(Op.GEMM, 70, 130, 352, 1, TILED, TILED, "fp32"),
    Problem(Op.GEMM, 70, 130, 288, 2, TILED, LINEAR, "fp32"),
    Problem(Op.GEMM, 70, 130, 352, 1, FP16, TILED, "fp32"),
    Problem(Op.DUAL_GEMM, 70, 130, 96, 1, TILED, TILED, "fp32"),
    Problem(Op.GROUP_GEMM, 90, 40, 160, 1, TILED, TILED, "fp32", groups=((50, 40, 160), (40, 33, 32))),
    Problem(Op.GROUP_GEMM, 90, 40, 160, 1, TILED, TILED, "fp32", stacked=3),
    Problem(Op.GEMV, 70, 3, 320, 2, TILED, TILED, "fp32"),
)


@pytest.mark.parametrize("problem", PADDED, ids=str)
def test_nan_in_the_padding_of_scales_does_not_leak(problem: Problem) -> None:
    """What pads tiled scales, along rows and along K, may be anything; the tensor core makes NaN of 0 times NaN."""
    made, outputs = poison_outputs(inputs.make(problem, "integers", 1))

    def poisoned(x: NVFP4Tensor | torch.Tensor) -> NVFP4Tensor | torch.Tensor:
        if not isinstance(x, NVFP4Tensor) or x.scale_layout != "tiled":
            return x
        rows, blocks = x.codes.shape[-2], x.codes.shape[-1] // 8
        scales = x.scales.view(torch.uint8).clone()
        tile, column, line, quarter, byte = torch.meshgrid(*(torch.arange(n) for n in scales.shape[-5:]), indexing="ij")
        padding = (tile * 128 + quarter * 32 + line >= rows) | (column * 4 + byte >= blocks)
        scales[..., padding] = 0x7F
        return NVFP4Tensor(x.codes, scales.view(torch.float8_e4m3fn), x.tensor_scale, scale_layout="tiled")

    operands = Operands(
        tuple(map(poisoned, made.a)),
        tuple(map(poisoned, made.b)),
        made.out,
        made.offsets,
    )
    BACKEND.run(BACKEND.plan(SM_100A, problem), problem, operands)
    verdict = judge(problem, made, outputs)
    assert verdict.ok, str(verdict)


@pytest.mark.parametrize("op", [Op.GEMV, *sm100_plans.OPS])
def test_results_do_not_depend_on_the_interleaving(op: Op) -> None:
    """The same bits under many schedules and completion times, with K shared by blocks where that is possible."""
    rng_seed = {Op.GEMV: 0, Op.GEMM: 1, Op.DUAL_GEMM: 2, Op.GROUP_GEMM: 3}[op]
    if op is Op.GEMV:
        problem, plan = VECTORS[1]
    else:
        chosen = sm100_plans.ProductPlan("sm_100a", 2 if op is Op.DUAL_GEMM else 1, tile_n=64, stages=3, sets=2)
        problem = Problem(op, 150, 100, 1056, 1, TILED, LINEAR, "fp32")
        if op is Op.GROUP_GEMM:
            problem = Problem(op, 150, 100, 544, 1, TILED, LINEAR, "fp32", stacked=3)
        else:
            chosen = sm100_plans.replace(chosen, splits=3)
        plan = chosen
    first = None
    for seed in range(6):
        operands = inputs.make(problem, "gaussian", rng_seed)
        launches = sm100_plans.build(plan, problem, operands, sm100_plans.scratch(plan, problem, operands))
        for out in operands.out:
            out.zero_()
        emulated.emulate(launches, seed=seed)
        found = [out.clone() for out in operands.out]
        first = first or found
        assert all(torch.equal(x.view(torch.uint8), y.view(torch.uint8)) for x, y in zip(first, found, strict=True))


def test_rows_beyond_the_last_offset_keep_their_contents() -> None:
    problem = Problem(Op.GROUP_GEMM, 30, 24, 64, out_dtype="fp32", stacked=3)
    made = inputs.make(problem, "integers", 3)
    for offsets in ([5, 5, 20], [-3, 8, 30], [10, 4, 30], [10, 10**9, 30], [-(2**31)] * 3):
        out = torch.full_like(made.out[0], 7.0)
        given = torch.tensor(offsets, dtype=torch.int32)
        BACKEND.run(BACKEND.plan(SM_100A, problem), problem, Operands(made.a, made.b, (out,), given))
        (a,), (b,) = made.a, made.b
        assert isinstance(a, NVFP4Tensor)
        assert isinstance(b, NVFP4Tensor)
        each = torch.einsum("tk,gnk->gtn", a.dequantize(torch.float64), b.dequantize(torch.float64)).float()
        end = 0
        for group, offset in enumerate(offsets):
            start, end = end, max(end, min(max(offset, 0), 30))
            assert torch.equal(out[start:end], each[group, start:end])
        assert (out[end:] == 7).all()
