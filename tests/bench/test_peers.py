"""Peers compute what they claim (on the CPU, where their products run too), and refuse with a reason."""

import dataclasses

import pytest
import torch

from nvfp4 import reference
from nvfp4.backends.base import Operands
from nvfp4.bench import inputs as bench_inputs
from nvfp4.bench import peers
from nvfp4.contest import inputs
from nvfp4.contest.tasks import DUAL_GEMM, GEMM, GEMV, GROUP_GEMM, Case
from nvfp4.device import known
from nvfp4.errors import InputError
from nvfp4.problem import Format, Op, Problem

CASES = {
    GEMV: (Case(128, 1, 256, 1), Case(128, 1, 256, 3)),
    GEMM: (Case(32, 64, 256, 1), Case(32, 64, 256, 2)),
    DUAL_GEMM: (Case(32, 64, 256),),
    GROUP_GEMM: (Case((16, 40), (64, 64), (256, 256)),),
}
PAIRS = [(task, case) for task, cases in CASES.items() for case in cases]


def truth(problem, operands):
    a, b = ([x.dequantize() for x in side] for side in (operands.a, operands.b))
    if problem.op is Op.DUAL_GEMM:
        return [torch.nn.functional.silu(a[0] @ b[0].T) * (a[0] @ b[1].T)]
    if problem.op is Op.GEMV:
        a, b = b, a
    return [x @ y.transpose(-1, -2) for x, y in zip(a, b, strict=True)]


def results(call, like):
    got = call()
    got = list(got) if isinstance(got, list | tuple) else [got]
    if len(got) == 1 and len(like) > 1:
        got = list(got[0].split([x.shape[0] for x in like]))
    if len(got) > 1 and len(like) == 1:
        got = [torch.stack(got)]
    return [x.float().reshape(y.shape) for x, y in zip(got, like, strict=True)]


def prepared(name, task, case):
    problem = task.problem(case)
    operands = inputs.operands(task, inputs.generate(task, case))
    return peers.peer(name).prepare(problem, operands), truth(problem, operands)


@pytest.mark.parametrize("name", ["cublas-fp16", "cublas-bf16"])
@pytest.mark.parametrize(("task", "case"), PAIRS, ids=lambda value: getattr(value, "name", "case"))
def test_cublas_on_decoded_operands(name, task, case):
    call, expected = prepared(name, task, case)
    for got, want in zip(results(call, expected), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=2e-2, atol=2e-2 * want.abs().max().item())


def test_dual_products_alone():
    call, _ = prepared("cublas-fp16-products", DUAL_GEMM, CASES[DUAL_GEMM][0])
    assert call().shape == (32, 128)


def test_a_call_does_not_prepare_again():
    call, expected = prepared("cublas-fp16", GEMM, CASES[GEMM][0])
    assert call().data_ptr() == call().data_ptr()
    assert expected[0].shape == (1, 32, 64)


def test_fp8_rounds_to_one_scale():
    values = torch.tensor([[1.0, -448.0 * 3, 0.0]])
    coded, scale = peers._to_fp8(values)
    assert scale == pytest.approx(3.0)
    torch.testing.assert_close(coded.float() * scale, values, rtol=0.07, atol=0)


def refusal(name, arch, problem):
    return peers.peer(name).refuse(known(arch), problem)


def test_refusals_give_reasons():
    gemm, dual = Problem(Op.GEMM, 128, 256, 256), Problem(Op.DUAL_GEMM, 128, 256, 256)
    assert refusal("cublas-fp16", "sm_90a", gemm) == ()
    assert refusal("cublas-fp16", "cpu", gemm) == ("needs a GPU",)
    assert "dual GEMM" in refusal("cublas-fp16-products", "sm_90a", gemm)[0]
    assert refusal("cublas-fp16-products", "sm_90a", dual) == ()
    assert "sm_89" in refusal("cublas-fp8", "sm_80", gemm)[0]
    assert refusal("cublas-fp8", "sm_90a", gemm) == ()
    assert "sm_100" in refusal("cublas-nvfp4", "sm_90a", gemm)[0]
    assert refusal("cublas-nvfp4", "sm_100a", gemm) == ()
    assert "both" in refusal("cublas-nvfp4", "sm_100a", Problem(Op.GEMM, 1, 256, 256, a=Format("bf16")))[0]
    assert "groups" in refusal("grouped-mm-bf16", "sm_90a", gemm)[0]
    ragged = GROUP_GEMM.problem(GROUP_GEMM.tests[0])
    assert "agree" in refusal("grouped-mm-bf16", "sm_90a", ragged)[0]


def test_humming_says_how_to_install_it(monkeypatch):
    problem = Problem(Op.GEMM, 128, 256, 256)
    monkeypatch.setattr(peers, "installed", lambda module: False)
    assert "humming-kernels" in refusal("humming", "sm_90a", problem)[0]
    monkeypatch.setattr(peers, "installed", lambda module: True)
    assert refusal("humming", "sm_90a", problem) == ()
    assert "NVFP4" in refusal("humming", "sm_90a", Problem(Op.GEMM, 1, 256, 256, b=Format("bf16")))[0]


class FakeLayer:
    """Stands for `humming.layer.HummingLayer`: takes the ModelOpt form, computes with decoded weights."""

    made = 0

    def __init__(self, shape_n, shape_k, weight_config, num_experts, torch_dtype):
        assert weight_config == {"quant_method": "modelopt", "quant_algo": "nvfp4"}
        self.shape, self.experts, self.dtype = (shape_n, shape_k), num_experts, torch_dtype
        self.transformed = False
        FakeLayer.made += 1

    def to(self, device):
        return self

    def load_from_tensors(self, tensors):
        from nvfp4.tensor import NVFP4Tensor

        assert tensors["weight_scale_2"].dtype == torch.float32
        assert tensors["weight_scale_2"].shape == (self.experts or 1,)
        batch = () if self.experts is None else (self.experts,)
        assert tensors["weight"].shape == (*batch, self.shape[0], self.shape[1] // 2)
        assert tensors["weight_scale"].dtype == torch.float8_e4m3fn
        self.weights = NVFP4Tensor(tensors["weight"], tensors["weight_scale"]).dequantize()
        scale = tensors["weight_scale_2"]
        self.weights = self.weights * (scale if self.experts is None else scale.view(-1, 1, 1))

    def transform(self):
        self.transformed = True

    def __call__(self, rows, expert_layout=None, compute_config=None):
        assert self.transformed
        assert rows.dtype == self.dtype
        if expert_layout is None:
            return (rows.float() @ self.weights.T).to(self.dtype)
        assert compute_config == {"gemm_type": "grouped_contiguous"}
        pieces = rows.float().split((expert_layout[1:] - expert_layout[:-1]).tolist())
        return torch.cat([x @ y.T for x, y in zip(pieces, self.weights, strict=True)]).to(self.dtype)


@pytest.mark.parametrize(("task", "case"), PAIRS, ids=lambda value: getattr(value, "name", "case"))
def test_humming_gets_the_operands_in_its_form(monkeypatch, task, case):
    import sys
    import types

    module = types.ModuleType("humming.layer")
    module.HummingLayer = FakeLayer
    monkeypatch.setitem(sys.modules, "humming", types.ModuleType("humming"))
    monkeypatch.setitem(sys.modules, "humming.layer", module)
    call, expected = prepared("humming", task, case)
    made = FakeLayer.made
    for got, want in zip(results(call, expected), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=2e-2, atol=2e-2 * want.abs().max().item())
    assert FakeLayer.made == made


def test_stacked_groups_on_decoded_operands():
    case = CASES[GROUP_GEMM][0]
    listed = inputs.operands(GROUP_GEMM, inputs.generate(GROUP_GEMM, case))
    dense = torch.cat([x.dequantize(torch.bfloat16) for x in listed.a])
    from nvfp4.tensor import NVFP4Tensor

    weights = NVFP4Tensor(
        torch.stack([x.codes for x in listed.b]), torch.stack([x.scales.view(torch.uint8) for x in listed.b])
    )
    ends = torch.tensor([16, 56], dtype=torch.int32)
    problem = Problem(Op.GROUP_GEMM, 56, 64, 256, a=Format("bf16"), stacked=2)
    out = torch.empty(56, 64, dtype=torch.float16)
    call = peers.peer("grouped-mm-bf16").prepare(problem, Operands((dense,), (weights,), (out,), ends))
    want = truth(Problem(Op.GROUP_GEMM, 56, 64, 256), listed)
    torch.testing.assert_close(call().float(), torch.cat(want), rtol=2e-2, atol=1.0)


def experts(form: str) -> tuple[Problem, Operands, list[torch.Tensor]]:
    """A grouped dual GEMM with an empty group where it is stacked, and its results in float32."""
    groups = ((16, 32, 64), (40, 32, 64)) if form == "list" else ()
    problem = Problem(Op.GROUP_DUAL_GEMM, 56, 32, 64, a=Format("bf16", ""), groups=groups, stacked=0 if groups else 3)
    made = bench_inputs.make(problem, seed=1, device="cpu")
    if not groups:
        made = dataclasses.replace(made, offsets=torch.tensor([16, 16, 56], dtype=torch.int32))
    return problem, made, [x.rounded(torch.float32) for x in expected_of(problem, made)]


def expected_of(problem: Problem, operands: Operands):
    if problem.groups:
        count = len(problem.groups)
        return reference.group_dual_gemm(operands.a, operands.b[:count], operands.b[count:])
    return [reference.group_dual_gemm(operands.a[0], *operands.b, offsets=operands.offsets)]


@pytest.mark.parametrize("form", ["list", "stacked"])
@pytest.mark.parametrize("name", ["cublas-fp16", "cublas-bf16", "grouped-mm-bf16", "humming"])
def test_gate_and_up_of_experts(monkeypatch, name, form):
    import sys
    import types

    module = types.ModuleType("humming.layer")
    module.HummingLayer = FakeLayer
    monkeypatch.setitem(sys.modules, "humming", types.ModuleType("humming"))
    monkeypatch.setitem(sys.modules, "humming.layer", module)
    problem, operands, want = experts(form)
    call = peers.peer(name).prepare(problem, operands)
    for got, right in zip(results(call, want), want, strict=True):
        torch.testing.assert_close(got, right, rtol=2e-2, atol=2e-2 * right.abs().max().item())


@pytest.mark.parametrize("form", ["list", "stacked"])
def test_products_of_experts_without_silu(form):
    problem, operands, _ = experts(form)
    got = peers.peer("cublas-fp16-products").prepare(problem, operands)()
    assert [tuple(x.shape) for x in got] == [(16, 64), (40, 64)]  # of the groups that have rows


def test_unknown_peers_are_an_error():
    with pytest.raises(InputError, match="cublas-fp16"):
        peers.peer("mkl")
