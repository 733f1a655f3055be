"""The judge: right results pass, each kind of wrong one is caught, and the demand is as strict as it claims."""

import dataclasses

import pytest
import torch

from nvfp4 import reference
from nvfp4.check import inputs
from nvfp4.check.inputs import DTYPES
from nvfp4.check.run import fuzz, poison_outputs
from nvfp4.check.verdict import Expected, expected, judge
from nvfp4.problem import Format, Op, Problem

PROBLEMS = [
    Problem(Op.GEMV, 70, 1, 96),
    Problem(Op.GEMV, 33, 5, 160, l=2, b=Format("fp16", "")),
    Problem(Op.GEMM, 40, 24, 160, l=3, a=Format(scale_layout="tiled"), out_dtype="bf16"),
    Problem(Op.GEMM, 40, 24, 160, a=Format("bf16", ""), out_dtype="fp32"),
    Problem(Op.DUAL_GEMM, 40, 24, 160),
    Problem(Op.GROUP_GEMM, 50, 40, 96, groups=((20, 40, 96), (30, 16, 32))),
    Problem(Op.GROUP_GEMM, 50, 40, 96, b=Format(tensor_scale=True), stacked=4),
    Problem(Op.GROUP_DUAL_GEMM, 50, 40, 96, groups=((20, 40, 96), (30, 16, 32))),
    Problem(Op.GROUP_DUAL_GEMM, 50, 40, 96, b=Format(tensor_scale=True), stacked=4),
]


def _computed(problem: Problem, distribution: str):
    """Operands with outputs that hold the exact result rounded once."""
    operands, outputs = poison_outputs(inputs.make(problem, distribution, 3))
    for output, want in zip(outputs, expected(problem, operands), strict=True):
        rows = slice(None) if operands.offsets is None else slice(int(operands.offsets[-1]))
        output.tensor[rows].copy_(want.rounded[rows])
    return operands, outputs


@pytest.mark.parametrize("distribution", inputs.NAMES)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_the_rounded_exact_result_passes(problem, distribution):
    operands, outputs = _computed(problem, distribution)
    verdict = judge(problem, operands, outputs)
    assert verdict.ok, str(verdict)
    assert verdict.worst <= 1


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_one_wrong_element_is_found(problem):
    operands, outputs = _computed(problem, "gaussian")
    flat = outputs[-1].tensor.view(-1)
    flat[0] = flat[0] * 1.5 + 1
    verdict = judge(problem, operands, outputs)
    assert verdict.wrong == 1
    assert not verdict.ok


def test_one_ulp_is_wrong_where_sums_are_exact():
    problem = Problem(Op.GEMM, 16, 16, 64)
    operands, outputs = _computed(problem, "integers")
    assert judge(problem, operands, outputs).summary == "bit-equal"
    bits = outputs[0].tensor.view(torch.int16).view(-1)
    bits[int(outputs[0].tensor.view(-1).abs().argmax())] += 1
    assert judge(problem, operands, outputs).wrong == 1


def test_an_unwritten_element_is_wrong():
    problem = Problem(Op.GEMM, 16, 16, 64)
    operands, outputs = poison_outputs(inputs.make(problem, "integers", 0))
    want = expected(problem, operands)[0].rounded
    outputs[0].tensor[:15].copy_(want[:15])
    verdict = judge(problem, operands, outputs)
    assert verdict.wrong == 16
    assert "16 elements are never written: rows 15..15" in str(verdict)


@pytest.mark.parametrize("where", ["before", "behind"])
def test_guard_zones(where):
    problem = Problem(Op.GEMM, 16, 16, 64)
    operands, outputs = _computed(problem, "integers")
    storage = outputs[0].storage
    storage[4095 if where == "before" else 4096 + 512] = 0
    verdict = judge(problem, operands, outputs)
    assert not verdict.ok
    assert verdict.wrong == 0
    assert f"1 bytes {where} the output were overwritten, the nearest at distance" in verdict.summary


def test_rows_beyond_the_last_group_must_stay():
    problem = Problem(Op.GROUP_GEMM, 40, 16, 32, stacked=3)
    seed = next(s for s in range(99) if int(inputs.make(problem, "integers", s).offsets[-1]) < 40)
    operands, outputs = poison_outputs(inputs.make(problem, "integers", seed))
    last = int(operands.offsets[-1])
    outputs[0].tensor[:last].copy_(expected(problem, operands)[0].rounded[:last])
    assert judge(problem, operands, outputs).ok
    outputs[0].tensor[last] = 0
    assert judge(problem, operands, outputs).wrong == 16


def test_fp32_summation_in_any_order_is_within_the_bound():
    problem = Problem(Op.GEMM, 16, 16, 4096, out_dtype="fp32")
    operands, outputs = poison_outputs(inputs.make(problem, "all-scales", 0))
    a, b = (operand.dequantize() for operand in (operands.a[0], operands.b[0]))
    total = torch.zeros(16, 16)
    for k in torch.randperm(4096, generator=torch.Generator().manual_seed(0)).tolist():
        total += a[:, k : k + 1] * b[:, k]
    outputs[0].tensor.copy_(total)
    verdict = judge(problem, operands, outputs)
    assert verdict.ok, str(verdict)
    assert verdict.exact < verdict.elements


def test_fp16_accumulation_is_beyond_the_bound():
    problem = Problem(Op.GEMM, 16, 16, 2048)
    operands, outputs = poison_outputs(inputs.make(problem, "gaussian", 0))
    a, b = (operand.dequantize() for operand in (operands.a[0], operands.b[0]))
    total = torch.zeros(16, 16, dtype=torch.float16)
    for k in range(2048):
        total += (a[:, k : k + 1] * b[:, k]).half()
    outputs[0].tensor.copy_(total)
    verdict = judge(problem, operands, outputs)
    assert verdict.wrong > 20
    assert "accumulation in fp16" in verdict.summary


def test_infinity_is_right_only_where_the_type_ends():
    problem = Problem(Op.GEMM, 8, 8, 512)
    operands, outputs = _computed(problem, "largest")
    infinite = torch.isinf(outputs[0].tensor)
    assert infinite.any()
    assert judge(problem, operands, outputs).ok
    outputs[0].tensor[infinite] *= -1
    assert judge(problem, operands, outputs).wrong == int(infinite.sum())


def test_infinity_of_either_sign_where_the_bound_reaches_beyond_the_type():
    problem = Problem(Op.GEMM, 1, 2, 16)
    operands = inputs.make(problem, "integers", 0)
    values, bound = torch.tensor([[646.0, 646.0]]).double(), torch.tensor([[7e10, 10.0]]).double()
    never = torch.zeros(1, 2, dtype=torch.bool)
    want = Expected(values, values.half(), bound, never, values)
    operands.out[0].copy_(torch.tensor([[-float("inf"), -float("inf")]]))
    assert judge(problem, operands, wants=(want,), explain=False).wrong == 1


def test_a_dual_bound_is_not_slack():
    problem = Problem(Op.DUAL_GEMM, 16, 16, 64, out_dtype="fp32")
    operands, outputs = poison_outputs(inputs.make(problem, "integers", 0))
    exact = reference.dual_gemm(operands.a[0], *operands.b)
    gate, up = exact.gate.value, exact.up.value
    approximate = 0.5 * gate * (1 + (0.5 * gate).tanh().to(torch.float16).double()) * up  # what tanh.approx gives
    outputs[0].tensor.copy_(approximate)
    assert not judge(problem, operands, outputs).ok


@pytest.mark.parametrize("op", list(Op))
def test_fuzzed_cases_are_reproducible_and_valid(op):
    for seed in range(30):
        case = fuzz(op, seed, largest=64, largest_k=128)
        assert case == fuzz(op, seed, largest=64, largest_k=128)
        one, two = (inputs.make(case.problem, case.distribution, seed) for _ in range(2))
        assert all(x.dtype == DTYPES[case.problem.out_dtype] for x in one.out)
        for x, y in zip((*one.a, *one.b), (*two.a, *two.b), strict=True):
            assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x.equal(y)
    assert dataclasses.replace(case, seed=1) != case
