"""Dependent launches in machine code: nothing that the kernel before may use is touched before it has ended."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.backends import sass

from nvfp4 import jit
from nvfp4.backends.sm80 import BACKEND as SM80
from nvfp4.backends.sm90 import BACKEND as SM90
from nvfp4.backends.sm90 import gemv
from nvfp4.backends.sm90.gemv import StreamPlan
from nvfp4.backends.sm100 import BACKEND as SM100
from nvfp4.check import inputs
from nvfp4.device import known
from nvfp4.executors.launch import Launch
from nvfp4.problem import Format, Op, Problem

HOPPER, BLACKWELL = known("sm_90a"), known("sm_100a")
FP16, BF16, LINEAR, TILED = Format("fp16", ""), Format("bf16", ""), Format(), Format("nvfp4", "tiled")
VECTORS = [
    Problem(Op.GEMV, m, n, k, 1, LINEAR if x is not TILED else TILED, x, bias=bias)
    for m, n, k, x, bias in (
        (4096, 1, 2048, LINEAR, ""),
        (2048, 1, 6144, TILED, "fp16"),
        (64, 1, 2048, FP16, ""),
        (64, 1, 1040, BF16, "bf16"),
        (64, 4, 2048, BF16, ""),
        (64, 5, 1072, LINEAR, ""),
        (64, 16, 2048, FP16, ""),
        (64, 16, 2048, TILED, ""),
    )
]
PRODUCTS = [
    Problem(Op.GEMM, 40, 512, 512, a=LINEAR, b=LINEAR),
    Problem(Op.GEMM, 200, 512, 512, a=TILED, b=TILED),
    Problem(Op.GEMM, 16, 512, 512, a=FP16),
    Problem(Op.GEMM, 96, 512, 512, a=BF16),
    Problem(Op.GEMM, 300, 512, 512, a=BF16),
    Problem(Op.DUAL_GEMM, 200, 512, 512),
    Problem(Op.GROUP_GEMM, 0, 0, 0, groups=((40, 256, 512), (70, 256, 256))),
    Problem(Op.GROUP_GEMM, 64, 128, 512, stacked=4),
    Problem(Op.GROUP_DUAL_GEMM, 64, 128, 512, stacked=4, a=BF16),
]


def listing(launch: Launch, tmp_path: Path) -> list[sass.Instruction]:
    tool = sass.disassembler()
    if tool is None:
        pytest.skip("no cuobjdump: neither on the path nor in a Triton package")
    (tmp_path / "kernel.cubin").write_bytes(jit.compile(launch.kernel).code)
    return sass.instructions(sass.listing(tmp_path / "kernel.cubin", tool))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("problem", VECTORS + PRODUCTS, ids=str)
@pytest.mark.parametrize(
    ("backend", "capability"), [(SM80, HOPPER), (SM90, HOPPER), (SM100, BLACKWELL)], ids=["sm80", "sm90", "sm100"]
)
def test_no_memory_is_touched_before_the_kernel_before_has_ended(backend, capability, problem, tmp_path):
    if reasons := backend.refuse(capability, problem):
        pytest.skip(reasons[0])
    plan = backend.plan(capability, problem)
    for launch in backend.launches(plan, problem, inputs.make(problem)):
        assert launch.programmatic
        code = listing(launch, tmp_path)
        assert any(each.name == sass.WAIT for each in code)
        touched = sass.before_the_wait(code, sass.LOADS + sass.COPIES + sass.STORES)
        assert not [str(each) for each in touched], launch.kernel


@pytest.mark.parametrize("problem", [each for each in VECTORS if each.k % 256 == 0], ids=str)  # else scales by hand
def test_of_what_is_loaded_early_only_the_matrix_is(problem, tmp_path):
    plan = gemv.plan(HOPPER, problem)
    (launch,) = gemv.launches(plan, problem, inputs.make(problem), early=True)
    before = sass.before_the_wait(listing(launch, tmp_path), sass.LOADS)
    # Through registers: codes and scales of so many batches. Else by copies, which are not among these loads.
    expected = 2 * plan.preload * plan.rows * plan.chunks if isinstance(plan, StreamPlan) else 0
    assert len(before) == expected, [str(each) for each in before]
