"""The Triton backend: interpreted on the CPU against the exact reference, compiled for every target, run on GPUs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from unittest import mock

import pytest

from nvfp4.backends import triton as backend
from nvfp4.backends.triton.backend import TritonPlan
from nvfp4.check.run import Case, Target, run_case
from nvfp4.device import known
from nvfp4.problem import Format, Op, Problem

LINEAR, TILED = Format("nvfp4", "linear", False), Format("nvfp4", "tiled", True)
FP16, BF16 = Format("fp16", ""), Format("bf16", "")
PAIRS = [(LINEAR, LINEAR), (TILED, TILED), (LINEAR, TILED), (FP16, TILED), (BF16, LINEAR)]
DISTRIBUTIONS = ("integers", "gaussian", "largest", "smallest", "one-hot")

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs the extra nvfp4[triton]")


def problems(a: Format, b: Format, narrow: str = "bf16") -> list[Problem]:
    return [
        Problem(Op.GEMV, 50, 1, 80, 2, b, a, "fp32"),
        Problem(Op.GEMV, 90, 3, 304, 1, b, a, narrow),
        Problem(Op.GEMV, 50, 1, 80, 2, b, a, "fp32", bias="fp32"),
        Problem(Op.GEMV, 90, 3, 304, 2, b, a, "fp16", bias="fp16"),
        Problem(Op.GEMM, 50, 70, 208, 2, a, b, "fp16"),
        Problem(Op.GEMM, 10, 130, 48, 1, a, b, "fp32"),
        Problem(Op.DUAL_GEMM, 33, 70, 112, 1, a, b, narrow),
        Problem(Op.GROUP_GEMM, 60, 90, 96, 1, a, b, "fp16", groups=((20, 50, 96), (33, 90, 48), (7, 16, 16))),
        Problem(Op.GROUP_GEMM, 90, 40, 96, 1, a, b, "fp32", stacked=4),
        Problem(Op.GROUP_DUAL_GEMM, 27, 90, 96, 1, a, b, "fp16", groups=((20, 50, 96), (7, 90, 48))),
        Problem(Op.GROUP_DUAL_GEMM, 90, 40, 96, 1, a, b, narrow, stacked=4),
    ]


def judge(target: Target, cases: list[Problem], one: int | None = None) -> None:
    """With all distributions; or with one of them, which is another for each problem and each number `one`."""
    for i, problem in enumerate(cases):
        for distribution in DISTRIBUTIONS if one is None else [DISTRIBUTIONS[(i + one) % len(DISTRIBUTIONS)]]:
            outcome = run_case(Case(problem, distribution, 0), target)
            assert outcome.ok, f"{outcome.case}: {outcome.refusal or outcome.verdict}"


@needs_triton
@pytest.mark.parametrize("pair", range(4))
def test_interpreted_kernels_are_right(pair: int) -> None:
    """In a process of its own, because Triton decides when kernels are defined whether they are interpreted.

    The interpreter has no bfloat16 arithmetic, so the pair with bf16 activations is for GPUs.
    """
    call = f"judge(Target('cpu', 'triton'), problems(*PAIRS[{pair}], 'fp16'), {pair})"
    program = f"from tests.backends.test_triton import *; {call}"
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@needs_triton
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_kernels_are_right_on_a_gpu(a: Format, b: Format) -> None:
    judge(Target("cuda", "triton"), problems(a, b))


def compiled(arch: str, problem: Problem, plan: TritonPlan) -> str:
    """PTX of the kernel that `plan` launches, compiled without a GPU."""
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from nvfp4.backends.triton import kernels

    function = kernels.gemv_kernel if plan.kernel == "gemv" else kernels.gemm_kernel
    left, right = (problem.b, problem.a) if problem.op is Op.GEMV else (problem.a, problem.b)
    operands = {"a": problem.a, "x": problem.b} if plan.kernel == "gemv" else {"a": left, "b": right, "b2": None}
    if problem.op.dual:
        operands["b2"] = right
    types: dict[str, str] = {"out": {"fp16": "*fp16", "bf16": "*bf16", "fp32": "*fp32"}[problem.out_dtype]}
    for name, form in operands.items():
        if form is None:
            continue
        types[name] = {"nvfp4": "*u8", "fp16": "*fp16", "bf16": "*bf16"}[form.kind]
        if form.kind == "nvfp4":
            types[f"{name}_scales"] = "*u8"
            if form.tensor_scale:
                types[f"{name}_tensor_scale"] = "*fp32"
    if problem.stacked:
        types["offsets"] = "*i32"
    if problem.bias:
        types["bias"] = {"fp16": "*fp16", "bf16": "*bf16", "fp32": "*fp32"}[problem.bias]
    types |= {"M": "i32", "N": "i32"}
    tiled = {f"{name.upper()}_TILED": bool(form) and form.scale_layout == "tiled" for name, form in operands.items()}
    constants: dict[str, object] = {
        **{"K": problem.k, "A_STRIDE": 0, "B_STRIDE": 0, "B2_STRIDE": 0, "X_STRIDE": 0, "NATIVE": plan.native},
        **{"BLOCK_M": plan.block_m, "BLOCK_N": plan.block_n, "BLOCK_K": plan.block_k, **tiled},
        "TYPE": tl.bfloat16 if plan.operand == "bf16" else tl.float16,
    }
    names = list(function.arg_names)
    source = ASTSource(
        fn=function,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs={(i,): constants.get(name) for i, name in enumerate(names) if name not in types},
        attrs={(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if types.get(name, "").startswith("*")},
    )
    target = GPUTarget("cuda", int(arch.removeprefix("sm_").rstrip("a")), 32)
    result = compile(source, target=target, options={"num_warps": plan.warps, "num_stages": plan.stages})
    assert result.metadata.shared <= known(arch).shared_bytes
    return str(result.asm["ptx"])


COMPILED = [
    Problem(Op.GEMV, 7168, 1, 16384, 1, TILED, TILED),
    Problem(Op.GEMV, 7168, 1, 2048, 4, LINEAR, BF16, "bf16"),
    Problem(Op.GEMV, 7168, 8, 2048, 1, LINEAR, FP16, "fp32", bias="bf16"),
    Problem(Op.GEMM, 128, 7168, 16384, 1, TILED, TILED),
    Problem(Op.GEMM, 8, 7168, 2048, 1, FP16, TILED, "bf16"),
    Problem(Op.DUAL_GEMM, 256, 4096, 7168, 1, LINEAR, LINEAR),
    Problem(Op.GROUP_GEMM, 1024, 4096, 7168, 1, BF16, TILED, "bf16", stacked=8),
    Problem(Op.GROUP_DUAL_GEMM, 1024, 2048, 7168, 1, BF16, TILED, "bf16", stacked=8),
]


@needs_triton
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100a"])
@pytest.mark.parametrize("problem", COMPILED, ids=str)
def test_kernels_compile_for(arch: str, problem: Problem) -> None:
    plan = backend.BACKEND.plan(known(arch), problem)
    ptx = compiled(arch, problem, plan)
    assert plan.native == (arch == "sm_100a" and problem.a.kind == problem.b.kind == "nvfp4" and problem.n > 1)
    if plan.native:
        assert "kind::mxf4nvf4" in ptx, "the block-scaled instruction was not used"
    if plan.kernel == "gemm":
        # fp32 sums, and no TF32 anywhere: what exactness rests on.
        assert ".f16.f16.f16.f16" not in ptx
    assert "tf32" not in ptx


@pytest.mark.parametrize("problem", COMPILED, ids=str)
def test_without_triton_the_refusal_says_how_to_get_it(problem: Problem) -> None:
    with mock.patch("nvfp4.backends.triton.backend._installed", return_value=False):
        (reason,) = backend.BACKEND.refuse(known("sm_90a"), problem)
    assert "pip install 'nvfp4[triton]'" in reason


@needs_triton
def test_refusals() -> None:
    problem = Problem(Op.GEMM, 8, 8, 64)
    refuse = backend.BACKEND.refuse
    assert refuse(known("sm_90a"), problem) == ()
    assert "TRITON_INTERPRET" in refuse(known("cpu"), problem)[0]
    assert "sm_80 or later" in refuse(replace(known("sm_80"), arch="sm_75"), problem)[0]
    assert "65535" in refuse(known("sm_90a"), replace(problem, l=70000))[0]
    assert "2^31" in refuse(known("sm_90a"), replace(problem, m=2**31))[0]


def test_importing_the_backend_does_not_import_triton() -> None:
    program = "import sys, nvfp4.backends.triton; print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
