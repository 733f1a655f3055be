"""The plain CUDA backend without a GPU: what it refuses, what it plans, and that its kernels keep to registers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nvfp4 import jit
from nvfp4.backends.operands import addresses, flatten, parts
from nvfp4.backends.sm80 import BACKEND
from nvfp4.backends.sm80.gemm import MAX_GROUPS
from nvfp4.check import inputs
from nvfp4.check.run import fuzz
from nvfp4.contest.tasks import TASKS
from nvfp4.device import KNOWN, known
from nvfp4.executors import parameters
from nvfp4.executors.launch import PointerArray
from nvfp4.problem import Format, Op, Problem
from nvfp4.tensor import NVFP4Tensor

ARCHS = [arch for arch in KNOWN if arch != "cpu"]
# Rows by index are gathered for it.
FUZZED = [problem for op in Op for seed in range(12) if not (problem := fuzz(op, seed).problem).tokens]


@pytest.mark.parametrize("arch", ARCHS)
def test_accepts_every_operation_from_sm_80_on(arch):
    for problem in FUZZED:
        assert BACKEND.refuse(known(arch), problem) == ()
        assert arch in BACKEND.plan(known(arch), problem).describe()


def test_refusals_name_the_reason():
    gemm = Problem(Op.GEMM, 64, 64, 64)
    sm_90a = known("sm_90a")

    def reason(problem: Problem, capability=sm_90a) -> str:
        (text,) = BACKEND.refuse(capability, problem)
        return text

    assert "a CPU" in reason(gemm, known("cpu"))
    assert "not sm_75" in reason(gemm, replace(sm_90a, arch="sm_75"))
    assert "B must be NVFP4" in reason(replace(gemm, b=Format("fp16", "")))
    assert "A must be NVFP4" in reason(replace(gemm, op=Op.GEMV, n=1, a=Format("bf16", "")))
    assert "1..16 vectors, not 17" in reason(replace(gemm, op=Op.GEMV, n=17))
    assert "multiple of 16, not 72" in reason(replace(gemm, k=72))
    assert "tiles" in reason(replace(gemm, m=2**20, n=2**20, l=4))
    assert "no index" in reason(replace(gemm, op=Op.GROUP_GEMM, stacked=2, tokens=8))


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100a"])
@pytest.mark.parametrize("op", list(Op))
def test_kernels_use_no_local_memory(op, arch):
    """Every kernel that fuzzed problems and the contest's shapes lead to; compiled ones come from the cache."""
    problems = [problem for problem in FUZZED if problem.op is op][:4]
    problems += [task.problem(task.benchmarks[0], scale_layout="tiled") for task in TASKS if task.op is op]
    for problem in problems:
        plan = BACKEND.plan(known(arch), problem)
        operands = inputs.make(replace(problem, k=min(problem.k, 64)) if not problem.groups else problem)
        for launch in BACKEND.launches(plan, problem, operands):
            resources = jit.compile(launch.kernel).resources
            assert resources is not None
            assert resources.local_bytes == 0, f"{launch.kernel}: {resources}"
            assert resources.registers * launch.block[0] <= 65536
            assert launch.shared_bytes + resources.shared_bytes <= known(arch).shared_bytes


def test_shared_memory_fits_the_smallest_device():
    smallest = min(KNOWN[arch].shared_bytes for arch in ARCHS)
    for problem in FUZZED:
        operands = inputs.make(problem)
        for launch in BACKEND.launches(BACKEND.plan(known("sm_86"), problem), problem, operands):
            assert launch.shared_bytes <= smallest


@pytest.mark.parametrize("op", [Op.GROUP_GEMM, Op.GROUP_DUAL_GEMM])
def test_many_groups_take_several_launches_and_empty_ones_none(op):
    sizes = tuple((i % 5, 8 + i % 3, 32) for i in range(3 * MAX_GROUPS))
    problem = Problem(op, sum(s[0] for s in sizes), 10, 32, groups=sizes)
    operands = inputs.make(problem)
    launches = BACKEND.launches(BACKEND.plan(known("sm_90a"), problem), problem, operands)
    present = [i for i, (m, _, _) in enumerate(sizes) if m]
    assert len(launches) == -(-len(present) // MAX_GROUPS)
    seen = []
    for launch in launches:
        outs = launch.args[3 + 3 * op.matrices]
        assert isinstance(outs, PointerArray)
        seen += [id(tensor) for tensor in outs.tensors]
        assert launch.grid[0] == len(outs.tensors)  # every group is a single tile here
        assert len(parameters.build(launch.args).data) <= 4096
    assert seen == [id(operands.out[i]) for i in present]


@pytest.mark.parametrize("op", [Op.GEMV, Op.GEMM, Op.DUAL_GEMM])
def test_an_empty_result_takes_no_launch(op):
    problem = Problem(op, 0, 4, 32)
    assert BACKEND.launches(BACKEND.plan(known("sm_90a"), problem), problem, inputs.make(problem)) == ()


@pytest.mark.parametrize("problem", FUZZED, ids=str)
def test_addresses_are_those_of_the_flat_list(problem):
    operands = inputs.make(problem)
    tensors = flatten(operands)
    assert addresses(operands) == [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    launches = BACKEND.launches(BACKEND.plan(known("sm_90a"), problem), problem, operands)
    used = {
        tensor.data_ptr() for launch in launches for tensor in parameters.tensors(launch.args) if tensor is not None
    }
    assert used <= {tensor.data_ptr() for tensor in tensors if tensor is not None}
    assert all(out.data_ptr() in used for out in operands.out if out.numel())


def test_parts_of_operands():
    x = torch.zeros(2, 32, dtype=torch.float16)
    assert (parts(x).data is x, parts(x).scales, parts(x).tensor_scale, parts(x).tensor_stride) == (True, None, None, 0)
    codes, scales = torch.zeros(3, 4, 8, dtype=torch.uint8), torch.zeros(3, 4, 1, dtype=torch.uint8)
    assert parts(NVFP4Tensor(codes, scales, 2.0)).tensor_stride == 0
    assert parts(NVFP4Tensor(codes, scales, torch.ones(3))).tensor_stride == 1


@pytest.mark.parametrize(("arch", "early"), [("sm_80", False), ("sm_89", False), ("sm_90a", True), ("sm_100a", True)])
def test_kernels_begin_before_the_previous_kernel_ends_where_they_can_wait_for_it(arch, early):
    for problem in (
        Problem(Op.GEMV, 9, 1, 64),
        Problem(Op.GEMM, 9, 8, 64),
        Problem(Op.DUAL_GEMM, 9, 8, 64),
        Problem(Op.GROUP_GEMM, 12, 8, 64, groups=((5, 8, 64), (7, 8, 32))),
        Problem(Op.GROUP_DUAL_GEMM, 12, 8, 64, stacked=3),
    ):
        capability = replace(known("sm_80"), arch=arch)
        launches = BACKEND.launches(BACKEND.plan(capability, problem), problem, inputs.make(problem))
        assert [launch.programmatic for launch in launches] == [early]
