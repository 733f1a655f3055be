"""Inputs in the contest's form: shapes, strides, distributions, and the operands made of them."""

import pytest
import torch

from nvfp4 import formats
from nvfp4.contest import inputs
from nvfp4.contest.tasks import DUAL_GEMM, GEMM, GEMV, GROUP_GEMM, TASKS, Case
from nvfp4.tensor import NVFP4Tensor

SMALL = {
    "nvfp4_gemv": Case(256, 1, 256, 2),
    "nvfp4_gemm": Case(128, 256, 256, 1),
    "nvfp4_dual_gemm": Case(256, 128, 256),
    "nvfp4_group_gemm": Case((40, 72), (128, 256), (256, 512)),
}


def nibbles(codes):
    data = codes.view(torch.uint8).flatten()
    return torch.cat([data & 15, data >> 4])


@pytest.mark.parametrize("task", [GEMV, GEMM], ids=lambda task: task.name)
def test_dense_form(task):
    case = SMALL[task.name]
    a, b, sfa, sfb, sfa_permuted, sfb_permuted, c = inputs.generate(task, case)
    rows = 128 if task is GEMV else case.n
    assert a.shape == (case.m, case.k // 2, case.l)
    assert b.shape == (rows, case.k // 2, case.l)
    assert a.dtype == b.dtype == torch.float4_e2m1fn_x2
    assert sfa.shape == (case.m, case.k // 16, case.l)
    assert sfb.shape == (rows, case.k // 16, case.l)
    assert sfa_permuted.shape == (32, 4, case.m // 128, 4, case.k // 64, case.l)
    assert sfb_permuted.shape == (32, 4, rows // 128, 4, case.k // 64, case.l)
    assert sfa.dtype == sfb.dtype == sfa_permuted.dtype == torch.float8_e4m3fn
    assert c.shape == (case.m, case.n, case.l)
    assert c.dtype == torch.float16
    for tensor in (a, sfa, c):
        assert tensor.permute(2, 0, 1).is_contiguous()
    assert sfa_permuted.permute(5, 2, 4, 0, 1, 3).is_contiguous()


def test_dual_form():
    case = SMALL["nvfp4_dual_gemm"]
    data = inputs.generate(DUAL_GEMM, case)
    assert [tuple(t.shape[:1]) for t in data[:3]] == [(256,), (128,), (128,)]
    assert [t.dim() for t in data] == [3] * 6 + [6] * 3 + [3]


def test_group_form_has_cpu_linear_scales_and_ragged_tiles():
    case = SMALL["nvfp4_group_gemm"]
    abc, linear, tiled, sizes = inputs.generate(GROUP_GEMM, case)
    assert sizes == [(40, 128, 256, 1), (72, 256, 512, 1)]
    assert all(s.device.type == "cpu" for pair in linear for s in pair)
    assert tiled[0][0].shape == (32, 4, 1, 4, 4, 1)
    assert not torch.isnan(tiled[0][0].float()).any()
    assert abc[1][2].shape == (72, 256, 1)


def test_permuted_scales_hold_the_linear_ones():
    # The contest's indices: [row % 32, row % 128 // 32, row // 128, block % 4, block // 4, batch].
    _, _, sfa, _, permuted, _, _ = inputs.generate(GEMV, SMALL["nvfp4_gemv"])
    for row, block, batch in ((0, 0, 0), (37, 5, 1), (255, 15, 0), (128, 9, 1)):
        place = (row % 32, row % 128 // 32, row // 128, block % 4, block // 4, batch)
        assert permuted[place].float() == sfa[row, block, batch].float()
    assert len(sfa.float().unique()) > 1


def test_distributions():
    gemv, gemm = (inputs.generate(task, SMALL[task.name]) for task in (GEMV, GEMM))
    assert nibbles(gemv[0]).unique().tolist() == [0, 1, 2, 3]
    assert (gemv[0].view(torch.uint8) >> 4).max() == 0
    assert gemv[2].float().unique().tolist() == [0, 1, 2]
    assert nibbles(gemm[0]).unique().tolist() == list(range(16))
    assert gemm[2].float().unique().tolist() == [0, 1, 2, 3]
    dual = inputs.generate(DUAL_GEMM, SMALL["nvfp4_dual_gemm"])
    assert set(nibbles(dual[1]).unique().tolist()) == {0, 1, 2, 3, 8, 9, 10, 11}
    scales = dual[3].float()
    assert scales.min() >= 0
    assert scales.max() <= 1
    assert len(scales.unique()) > 20
    groups = inputs.generate(GROUP_GEMM, SMALL["nvfp4_group_gemm"])
    assert groups[1][0][0].float().unique().tolist() == [1, 2]


def test_another_distribution_can_be_asked_for():
    strict = inputs.generate(GEMV, SMALL["nvfp4_gemv"], distribution=GEMM.distribution)
    assert nibbles(strict[0]).unique().tolist() == list(range(16))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_seeds_decide(task):
    case = SMALL[task.name]

    def codes(seed=None):
        data = inputs.generate(task, case, seed=seed)
        return (data[0][0][0] if task is GROUP_GEMM else data[0]).view(torch.uint8)

    assert torch.equal(codes(), codes(case.seed))
    assert not torch.equal(codes(), codes(case.seed + 1))


@pytest.mark.parametrize("layout", ["linear", "tiled"])
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_operands_have_the_values_of_the_contest_tensors(task, layout):
    case = SMALL[task.name]
    data = inputs.generate(task, case)
    made = inputs.operands(task, data, scale_layout=layout)
    if task is GROUP_GEMM:
        left = [(abc[0], sf[0]) for abc, sf in zip(data[0], data[1], strict=True)]
        right = [(abc[1], sf[1]) for abc, sf in zip(data[0], data[1], strict=True)]
    elif task is DUAL_GEMM:
        left, right = [(data[0], data[3])], [(data[1], data[4]), (data[2], data[5])]
    else:
        left, right = [(data[0], data[2])], [(data[1], data[3])]
    for tensors, sources in ((made.a, left), (made.b, right)):
        assert len(tensors) == len(sources)
        for tensor, (codes, scales) in zip(tensors, sources, strict=True):
            assert isinstance(tensor, NVFP4Tensor)
            assert tensor.scale_layout == layout
            values = formats.decode_e2m1(codes.permute(2, 0, 1).view(torch.uint8).contiguous())
            values = values * scales.permute(2, 0, 1).float().repeat_interleave(16, dim=-1)
            got = tensor.dequantize()
            got = got if got.dim() == 3 else got[None]
            assert torch.equal(got, values[:, : got.shape[1]])
    problem = task.problem(case, scale_layout=layout)
    assert all(tensor.format == problem.a for tensor in made.a)
    assert all(tensor.format == problem.b for tensor in made.b)
    assert all(out.is_contiguous() for out in made.out)
    assert made.a[0].shape[-1] == case.groups[0][2]


def test_operands_share_the_storage_of_the_contest_tensors():
    data = inputs.generate(GEMM, SMALL["nvfp4_gemm"])
    made = inputs.operands(GEMM, data, scale_layout="tiled")
    assert made.a[0].codes.data_ptr() == data[0].view(torch.uint8).data_ptr()
    assert made.a[0].scales.data_ptr() == data[4].data_ptr()
    assert made.out[0].data_ptr() == data[6].data_ptr()
    assert made.out[0].shape == (1, 128, 256)


def test_gemv_result_is_the_contest_vector():
    case = SMALL["nvfp4_gemv"]
    data = inputs.generate(GEMV, case)
    made = inputs.operands(GEMV, data)
    assert made.b[0].shape == (case.l, 1, case.k)
    made.out[0].copy_(torch.arange(case.l * case.m).view(case.l, 1, case.m))
    assert data[6][3, 0, 1] == case.m + 3
