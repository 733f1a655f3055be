"""The torch_ops backend: right answers (judged by the exact reference), bounded memory, paths as planned."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nvfp4.backends import torch_ops
from nvfp4.backends.base import Operands
from nvfp4.check import inputs
from nvfp4.check.run import Case, Target, run_case
from nvfp4.device import known
from nvfp4.problem import Format, Op, Problem
from nvfp4.tensor import NVFP4Tensor

LINEAR, TILED = Format("nvfp4", "linear", False), Format("nvfp4", "tiled", True)
FP16, BF16 = Format("fp16", ""), Format("bf16", "")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def problems(a: Format, b: Format) -> list[Problem]:
    return [
        Problem(Op.GEMV, 50, 1, 80, 2, b, a, "fp32"),
        Problem(Op.GEMV, 150, 3, 560, 1, b, a, "bf16"),
        Problem(Op.GEMM, 50, 70, 208, 2, a, b, "fp16"),
        Problem(Op.GEMM, 10, 130, 48, 1, a, b, "fp32"),
        Problem(Op.DUAL_GEMM, 33, 70, 112, 1, a, b, "bf16"),
        Problem(Op.GROUP_GEMM, 60, 90, 96, 1, a, b, "fp16", groups=((20, 50, 96), (33, 90, 48), (7, 16, 16))),
        Problem(Op.GROUP_GEMM, 90, 40, 96, 1, a, b, "fp32", stacked=4),
    ]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("a", "b"), [(LINEAR, LINEAR), (TILED, TILED), (LINEAR, TILED), (FP16, TILED), (BF16, LINEAR)])
def test_judged_by_the_reference(a: Format, b: Format, device: str) -> None:
    for problem in problems(a, b):
        for distribution in ("integers", "gaussian", "largest", "smallest", "all-scales"):
            outcome = run_case(Case(problem, distribution, 0), Target(device, "torch_ops"))
            assert outcome.ok, f"{outcome.case}: {outcome.verdict}"


@pytest.mark.parametrize("problem", problems(TILED, TILED) + problems(FP16, LINEAR), ids=str)
def test_chunks_change_nothing(problem: Problem) -> None:
    """Whatever is decoded at a time: results whose sums are exact are the same to the bit."""
    whole = inputs.make(problem, "integers", 0)
    plan = torch_ops.BACKEND.plan(known("cpu"), problem)
    torch_ops.BACKEND.run(plan, problem, whole)
    parts = Operands(whole.a, whole.b, tuple(torch.full_like(x, 7.0) for x in whole.out), whole.offsets)
    torch_ops.BACKEND.run(replace(plan, chunk=128), problem, parts)
    for expected, got in zip(whole.out, parts.out, strict=True):
        rows = got.shape[0] if whole.offsets is None else int(whole.offsets[-1])
        assert torch.equal(got[:rows], expected[:rows])


def test_chunks_are_multiples_of_scale_tiles_and_fit_their_budget() -> None:
    for k in (16, 7168, 16384, 1 << 20):
        plan = torch_ops.BACKEND.plan(known("cpu"), Problem(Op.GEMM, 128, 7168, k))
        assert plan.chunk % 128 == 0
        assert plan.chunk == 128 or plan.chunk * k * 4 <= 64 << 20


@pytest.mark.parametrize(
    ("arch", "problem", "path"),
    [
        ("sm_100a", Problem(Op.GEMM, 128, 4096, 4096, 1, TILED, TILED), "scaled_mm"),
        ("sm_100a", Problem(Op.DUAL_GEMM, 128, 4096, 4096, 1, TILED, TILED), "scaled_mm"),
        ("sm_100a", Problem(Op.GEMM, 128, 4096, 4096, 1, LINEAR, TILED), "decode"),
        ("sm_100a", Problem(Op.GEMM, 128, 4096, 4096, 1, FP16, TILED), "decode"),
        ("sm_100a", Problem(Op.GEMM, 128, 4096, 4096 + 16, 1, TILED, TILED), "decode"),
        ("sm_100a", Problem(Op.GEMM, 128, 4088, 4096, 1, TILED, TILED), "decode"),
        ("sm_90a", Problem(Op.GEMM, 128, 4096, 4096, 1, TILED, TILED), "decode"),
        ("cpu", Problem(Op.GEMM, 128, 4096, 4096, 1, TILED, TILED), "decode"),
    ],
)
def test_cublas_multiplies_nvfp4_only_where_it_can(arch: str, problem: Problem, path: str) -> None:
    assert torch_ops.BACKEND.plan(known(arch), problem).path == path


def test_operands_keep_the_precision_of_activations() -> None:
    def operand(arch: str, a: Format) -> str:
        return torch_ops.BACKEND.plan(known(arch), Problem(Op.GEMM, 8, 8, 16, 1, a, TILED)).operand

    assert [operand("sm_90a", form) for form in (LINEAR, FP16, BF16)] == ["bf16", "fp16", "bf16"]
    assert {operand("cpu", form) for form in (LINEAR, FP16, BF16)} == {"fp32"}


def test_process_wide_settings_do_not_reach_the_products() -> None:
    """A process may allow bf16 passes for fp32 products; an exact sum has to stay exact."""
    problem = Problem(Op.GEMM, 64, 64, 256, 1, FP16, LINEAR, "fp32")
    operands = inputs.make(problem, "gaussian", 0)
    a = operands.a[0]
    assert isinstance(a, torch.Tensor)
    a.copy_(torch.randint(-2047, 2048, a.shape))  # 11 bits: more than bf16 holds
    plan = torch_ops.BACKEND.plan(known("cpu"), problem)
    torch_ops.BACKEND.run(plan, problem, operands)
    expected = operands.out[0].clone()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        setting = torch.backends.mkldnn.matmul.fp32_precision
        torch_ops.BACKEND.run(plan, problem, operands)
        assert torch.backends.mkldnn.matmul.fp32_precision == setting, "the setting was not put back"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(operands.out[0], expected)


def test_old_gpus_are_refused_with_a_reason() -> None:
    turing = replace(known("sm_80"), arch="sm_75")
    assert "sm_80 or later" in torch_ops.BACKEND.refuse(turing, Problem(Op.GEMM, 8, 8, 16))[0]


@pytest.mark.parametrize("ends", [[0, 0, 0], [2, 1, 3], [9, 9, 9], [1, 2, 100]])
def test_strange_offsets_stay_inside_the_result(ends: list[int]) -> None:
    """Ends that fall or go too far are the caller's mistake, but must not write elsewhere or fail."""
    problem = Problem(Op.GROUP_GEMM, 6, 8, 32, stacked=3)
    operands = replace(inputs.make(problem, "integers", 0), offsets=torch.tensor(ends, dtype=torch.int32))
    operands.out[0].fill_(7)
    torch_ops.BACKEND.run(torch_ops.BACKEND.plan(known("cpu"), problem), problem, operands)
    assert bool((operands.out[0][max(ends) :] == 7).all())


@pytest.mark.slow
def test_more_than_two_to_the_31_elements() -> None:
    """A matrix of 2^31 + 2^14 elements: nothing is indexed with 32 bits, and it is decoded a part at a time."""
    rows, k = (1 << 17) + 1, 1 << 14
    codes = torch.zeros(rows, k // 2, dtype=torch.uint8)
    codes[-1, -1] = 0x20  # the very last element is 1
    scales = torch.full((rows, k // 16), 0x38, dtype=torch.uint8)
    a = NVFP4Tensor(codes, scales, validate=False)
    import nvfp4

    x = torch.zeros(k, dtype=torch.float16)
    x[-1] = 3
    result = nvfp4.gemv(a, x)
    assert result[-1] == 3
    assert int(result.count_nonzero()) == 1
