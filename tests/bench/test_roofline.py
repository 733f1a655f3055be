"""Roofline arithmetic against the speed-of-light tables of the H200 and the B200."""

import pytest

from nvfp4.bench import roofline
from nvfp4.contest.tasks import TASKS, task_of
from nvfp4.errors import InputError
from nvfp4.problem import Format, Op, Problem

# Microseconds at the H200's datasheet limits, computed by hand from sizes: bytes / 4.8 TB/s, FLOPs / 989 TFLOP/s.
H200_LIGHT = {
    Op.GEMV: (13.8, 27.5, 6.9),
    Op.GEMM: (30.4, 7.6, 3.8),
    Op.DUAL_GEMM: (30.4, 60.8, 13.0, 45.6),
    Op.GROUP_GEMM: (60.8, 30.4, 13.0, 6.5),
}
H200_WORK = {
    Op.GEMV: (66.1, 132.2, 33.1),  # megabytes
    Op.GEMM: (30.1, 7.5, 3.8),  # GFLOP
    Op.DUAL_GEMM: (30.1, 60.1, 12.9, 45.1),
    Op.GROUP_GEMM: (60.1, 30.1, 12.9, 6.4),
}


@pytest.mark.parametrize("op", list(H200_LIGHT), ids=str)
def test_speed_of_light_of_the_contest_shapes_on_an_h200(op):
    task, limits = task_of(op), roofline.limits_of("NVIDIA H200")
    for case, expected, work in zip(task.benchmarks, H200_LIGHT[op], H200_WORK[op], strict=True):
        problem = task.problem(case)
        light = roofline.light(problem, limits)
        assert light.seconds * 1e6 == pytest.approx(expected, abs=0.05)
        assert light.bound == ("memory" if op is Op.GEMV else "compute")
        assert round(problem.bytes / 1e6 if op is Op.GEMV else problem.flops / 1e9, 1) == work


@pytest.mark.parametrize("op", [Op.GEMM, Op.DUAL_GEMM, Op.GROUP_GEMM], ids=str)
def test_official_speed_of_light_is_within_the_b200_datasheet(op):
    task, limits = task_of(op), roofline.limits_of("NVIDIA B200")
    for case in task.benchmarks:
        problem = task.problem(case)
        official = roofline.official_light(problem)
        # The contest counts with a lower clock and bandwidth than the datasheet, so it is slower, not by half.
        assert 1 < official / roofline.light(problem, limits).seconds < 1.5


def test_official_light_only_for_the_contest_shapes():
    assert roofline.official_light(Problem(Op.GEMM, 128, 7168, 16384)) == pytest.approx(8.994e-6)
    assert roofline.official_light(Problem(Op.GEMM, 128, 7168, 8192)) is None
    assert roofline.official_light(Problem(Op.GEMM, 128, 7168, 16384, a=Format("bf16"))) is None


def test_rates_by_format():
    b200, h200 = roofline.limits_of("NVIDIA B200"), roofline.limits_of("NVIDIA H200")
    both = Problem(Op.GEMM, 256, 256, 256)
    weights = Problem(Op.GEMM, 256, 256, 256, a=Format("bf16"))
    assert b200.rate(both) == 9000e12
    assert b200.rate(weights) == 2250e12
    assert h200.rate(both) == h200.rate(weights) == 989e12


def test_a_time_under_the_speed_of_light_is_a_fault():
    light = roofline.Light(memory=10e-6, compute=4e-6)
    assert light.bound == "memory"
    assert light.fraction(20e-6) == pytest.approx(0.5)
    assert not light.is_fault(10e-6)
    assert light.is_fault(9.99e-6)


@pytest.mark.parametrize(
    ("device", "bandwidth"),
    [
        ("NVIDIA H200", 4.8e12),
        ("NVIDIA H100 80GB HBM3", 3.35e12),
        ("NVIDIA H100 PCIe", 2.0e12),
        ("NVIDIA A100-SXM4-40GB", 1.555e12),
        ("NVIDIA A10", 0.6e12),
    ],
)
def test_datasheets_by_driver_name(device, bandwidth):
    assert roofline.limits_of(device).bandwidth == bandwidth


def test_an_unknown_device_is_an_error_that_lists_the_known_ones():
    assert roofline.datasheet("NVIDIA A10G") is None  # not an A10
    with pytest.raises(InputError, match="NVIDIA H200"):
        roofline.limits_of("Riva TNT2")


def test_intensity_grows_with_rows():
    few, many = (roofline.intensity(Problem(Op.GEMM, m, 4096, 4096)) for m in (1, 128))
    assert few < 4
    assert many > 50 * few


def test_every_benchmark_has_an_official_time():
    assert all(roofline.official_light(task.problem(case)) for task in TASKS for case in task.benchmarks)
