"""The read floor as data on the CPU, and as a kernel that truly reads everything on a GPU."""

from dataclasses import replace

import pytest
import torch

from nvfp4.bench import floor
from nvfp4.contest.tasks import GEMV, GROUP_GEMM
from nvfp4.device import known
from nvfp4.errors import InputError
from nvfp4.executors.launch import Pointer, Scalar
from nvfp4.problem import Op, Problem


def test_read_bytes_are_the_operands_alone():
    problem = GEMV.problem(GEMV.benchmarks[0])
    assert floor.read_bytes(problem) == (7168 + 1) * 16384 * 9 // 16
    odd = Problem(Op.GEMM, 1, 1, 16)
    assert floor.read_bytes(odd) == 32  # 18 bytes in whole vectors
    groups = GROUP_GEMM.problem(GROUP_GEMM.benchmarks[2])
    assert floor.read_bytes(groups) == (512 + 2 * 3072) * 4096 * 9 // 16


def test_plans():
    hopper = floor.plan(known("sm_90a"))
    assert hopper.bulk
    assert hopper.programmatic
    assert hopper.blocks == 132
    assert "4 x 16 KB" in hopper.describe()
    ampere = floor.plan(known("sm_80"))
    assert not ampere.bulk
    assert not ampere.programmatic
    with pytest.raises(InputError, match="GPU"):
        floor.plan(known("cpu"))


def test_calls_by_themselves_are_read_in_other_ways_too():
    what = known("sm_90a")
    assert floor.plans(what, alone=False) == {"read-floor": floor.plan(what)}
    chain, *others = floor.plans(what, alone=True).values()
    assert chain == floor.plan(what)
    *loads, first = others
    assert len({plan.blocks for plan in loads}) == len(loads) > 1
    assert not any(plan.bulk for plan in loads)
    assert first == replace(chain, evict_first=True)
    assert not any(plan.programmatic for plan in floor.plans(known("sm_80"), alone=True).values())


def test_launch_as_data():
    plan = floor.plan(known("sm_90a"))
    data = torch.zeros(4096, dtype=torch.uint8)
    launch = floor.launch(plan, "sm_90a", data, torch.zeros(132, dtype=torch.int32))
    assert launch.kernel.entry == "read_floor_bulk"
    assert launch.block == (288, 1, 1)
    assert launch.shared_bytes == 65536
    assert isinstance(launch.args[0], Pointer)
    assert launch.args[1] == Scalar("u64", 4096)
    loads = floor.launch(floor.FloorPlan(False, 8), "sm_80", data, torch.zeros(8, dtype=torch.int32))
    assert loads.kernel.entry == "read_floor_loads"
    assert loads.shared_bytes == 0
    assert loads.block == (256, 1, 1)


def test_buffers_that_do_not_fit_are_refused():
    plan = floor.FloorPlan(False, 8)
    with pytest.raises(InputError, match="multiple of 16"):
        floor.launch(plan, "sm_80", torch.zeros(17, dtype=torch.uint8), torch.zeros(8, dtype=torch.int32))
    with pytest.raises(InputError, match="partials"):
        floor.launch(plan, "sm_80", torch.zeros(16, dtype=torch.uint8), torch.zeros(7, dtype=torch.int32))


@pytest.mark.parametrize("words", [1, 2, 3, 7, 64])
def test_checksum_is_the_exclusive_or_of_the_words(words):
    data = torch.randint(0, 256, (4 * words,), dtype=torch.uint8, generator=torch.Generator().manual_seed(words))
    expected = 0
    for i in range(words):
        expected ^= int.from_bytes(bytes(data[4 * i : 4 * i + 4].tolist()), "little")
    assert floor.checksum(data) == expected


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100a"])
def test_kernels_compile(arch):
    from nvfp4 import jit

    for plan in floor.plans(known(arch), alone=True).values():
        partials = torch.zeros(plan.blocks, dtype=torch.int32)
        launch = floor.launch(plan, arch, torch.zeros(16, dtype=torch.uint8), partials)
        resources = jit.compile(launch.kernel).resources
        assert resources.spill_load_bytes == resources.spill_store_bytes == 0


@pytest.mark.gpu
@pytest.mark.parametrize(("bulk", "first"), [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize("size", [16, 4096, 16384 * 133 + 48, 5_000_000 * 16])
def test_the_kernel_reads_every_byte(bulk, first, size):
    from nvfp4.device import capability

    what = capability("cuda")
    if bulk and what.compute < (9, 0):
        pytest.skip("bulk copies need sm_90")
    plan = floor.FloorPlan(bulk, 2 * what.sms, programmatic=what.compute >= (9, 0), evict_first=first)
    data = torch.randint(0, 256, (size,), dtype=torch.uint8, device="cuda")
    for call in floor.calls(plan, [data, data ^ 0x5A], what.arch):
        buffer, partials = call()
        assert floor.combine(partials) == floor.checksum(buffer)


def test_measured_limits_above_the_datasheet_are_faults():
    from nvfp4.bench.measure import Measured

    right = Measured("NVIDIA H200", copy=4.2e12, read=4.6e12, half=780e12)
    assert right.faults() == ()
    assert right.limits().bandwidth == 4.6e12
    assert right.limits().fp8 == pytest.approx(1979e12 * 780 / 989)
    cached = Measured("NVIDIA H200", copy=4.2e12, read=8.7e12, half=780e12)
    assert len(cached.faults()) == 1
    assert "read" in cached.faults()[0]
    assert Measured("Riva TNT2", 1e15, 1e15, 1e15).faults() == ()


@pytest.mark.gpu
def test_limits_of_this_device_are_within_its_datasheet():
    from nvfp4.bench.measure import measure_limits

    assert measure_limits(size=1 << 28, edge=4096).faults() == ()
