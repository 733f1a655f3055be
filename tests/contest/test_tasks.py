"""The tables of the contest against facts that can be checked without it: sizes, speed of light, case lines."""

import pytest

from nvfp4.contest.tasks import DUAL_GEMM, GEMM, GEMV, GROUP_GEMM, TASKS, Case, case_of, task_of
from nvfp4.errors import InputError
from nvfp4.problem import Op


def test_every_task_has_ten_tests_and_its_benchmarks():
    assert [len(task.tests) for task in TASKS] == [10, 10, 10, 10]
    assert [len(task.benchmarks) for task in TASKS] == [3, 3, 4, 4]
    assert {task.op for task in TASKS} == set(Op) - {Op.GROUP_DUAL_GEMM}, "the contest has no grouped dual GEMM"


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_sizes_keep_the_promises_of_the_task_descriptions(task):
    # "K is divisible by 64" for the GEMV, by 256 for the others.
    unit = 64 if task.op is Op.GEMV else 256
    for case in task.tests + task.benchmarks:
        assert all(k % unit == 0 for _, _, k in case.groups)
        assert all(size > 0 for group in case.groups for size in group)
        assert task.problem(case).op is task.op
    assert all(case.light_us is not None for case in task.benchmarks)
    assert all(case.light_us is None for case in task.tests)


def test_official_speed_of_light_is_the_contest_model():
    # Its B200 model reads everything once at 7.68 TB/s and computes at 6.9 PFLOP/s; both figures follow from the
    # published times, so a wrong size or time in the tables breaks the agreement.
    for task in (GEMM, DUAL_GEMM, GROUP_GEMM):
        for case in task.benchmarks:
            problem = task.problem(case)
            expected = max(problem.bytes / 7.68e12, problem.flops / 6.9e15) * 1e6
            assert case.light_us == pytest.approx(expected, rel=2e-3), task.line(case)


def test_official_gemv_speed_of_light_is_a_rate_of_multiply_adds():
    rates = [GEMV.problem(case).flops / case.light_us for case in GEMV.benchmarks]
    assert max(rates) / min(rates) < 1.002


def test_problem_of_groups():
    problem = GROUP_GEMM.problem(GROUP_GEMM.benchmarks[2], scale_layout="tiled")
    assert problem.groups == ((192, 3072, 4096), (320, 3072, 4096))
    assert (problem.m, problem.n, problem.k) == (512, 3072, 4096)
    assert problem.a.scale_layout == problem.b.scale_layout == "tiled"


def test_case_lines():
    assert GEMV.line(GEMV.benchmarks[1]) == "m: 4096; k: 7168; l: 8; seed: 1111"
    assert GEMM.line(GEMM.benchmarks[0]) == "m: 128; n: 7168; k: 16384; l: 1; seed: 1111"
    assert GROUP_GEMM.line(GROUP_GEMM.tests[0]) == "m: [96, 128]; n: [128, 256]; k: [256, 512]; g: 2; seed: 1111"


def test_groups_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="zip"):
        _ = Case((1, 2), (3,), (4, 5)).groups


def test_task_of_finds_by_operation_and_name():
    assert task_of(Op.GEMM) is task_of("gemm") is task_of("nvfp4_gemm") is GEMM
    with pytest.raises(InputError, match="nvfp4_dual_gemm"):
        task_of("conv")


def test_case_of_finds_the_benchmark_of_a_problem():
    for task in TASKS:
        for case in task.benchmarks:
            assert case_of(task.problem(case)) is case
    assert case_of(GEMM.problem(GEMM.tests[0])) is None
