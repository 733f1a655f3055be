"""The emulated executor: parameters of every kind, clusters, tensor maps, reports, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from tests.executors import probes

from nvfp4.backends.sm80 import BACKEND
from nvfp4.check import inputs
from nvfp4.device import known
from nvfp4.emulator import Checks
from nvfp4.errors import InputError, LaunchError
from nvfp4.executors import emulated
from nvfp4.executors.launch import Argument, Launch, Pointer, PointerArray, Scalar, ScalarArray
from nvfp4.problem import Op, Problem


def launch(entry: str, *args: Argument, **rest) -> Launch:
    return probes.launch("sm_90a", entry, *args, **rest)


def test_parameters_of_every_kind():
    args, out, expected = probes.every_parameter("cpu")
    emulated.run([launch("probe_parameters", *args)])
    assert out.tolist() == expected


def test_launches_run_in_order_and_leave_reports():
    out = torch.zeros(1, dtype=torch.int64)
    emulated.run([launch("probe_increment", Pointer(out), grid=3, programmatic=True)] * 5)
    assert out.item() == 5
    reports = emulated.last_reports()
    assert [report.kernel for report in reports] == ["probe_increment"] * 5
    assert all(report.steps > 0 and not report.findings for report in reports)


def test_clusters():
    out = torch.zeros(12, dtype=torch.int64)
    emulated.run([launch("probe_cluster", Pointer(out), grid=12, cluster=(4, 1, 1))])
    assert out.tolist() == [i % 4 * 100 + 4 for i in range(12)]


@pytest.mark.parametrize("swizzle", [0, 32, 64, 128])
@pytest.mark.parametrize("offset", [0, 256])
def test_tensor_maps(swizzle, offset):
    args, out, expected = probes.box(swizzle, "cpu", offset)
    emulated.run([launch("probe_tensor_map", *args, threads=128, shared_bytes=2048)])
    assert torch.equal(out, expected)


def test_tensors_that_share_memory_share_addresses():
    """A pointer into another argument's memory must see what is written through the other."""
    memory = torch.zeros(9, dtype=torch.int64)
    inside = memory[4:5]
    args = (
        Pointer(memory),
        Scalar("i32", 0),
        Scalar("u32", 0),
        Scalar("i64", 0),
        Scalar("u64", 0),
        Scalar("f32", 2.5),
        PointerArray((inside, None, None, None), 4),
        ScalarArray("i32", (), 4),
    )
    emulated.run([launch("probe_parameters", *args)])
    assert memory.tolist() == [0, 0, 0, 0, 10, 10, -1, -1, -1]


def test_memory_is_unmapped_after_a_launch():
    space = emulated._module(launch("probe_increment").kernel).space
    before = sum(1 for buffer in space.buffers if buffer.va)
    for _ in range(3):
        emulated.run([launch("probe_increment", Pointer(torch.zeros(1, dtype=torch.int64)))])
    assert sum(1 for buffer in space.buffers if buffer.va) == before


def test_a_write_beyond_an_output_is_found_and_named():
    problem = Problem(Op.GEMM, 20, 24, 32, out_dtype="fp32")
    operands = inputs.make(problem)
    short = type(operands)(operands.a, operands.b, (torch.zeros(19, 24),))
    with pytest.raises(LaunchError, match="out-of-bounds") as caught:
        BACKEND.run(BACKEND.plan(known("sm_80"), problem), problem, short)
    assert "store.cuh" in str(caught.value) or "st.cuh" in str(caught.value)
    (report,) = emulated.last_reports()
    assert report.findings


def test_checks_and_seed_reach_the_emulator():
    problem = Problem(Op.GEMM, 20, 24, 96, out_dtype="fp32")
    operands = inputs.make(problem, "integers")
    launches = BACKEND.launches(BACKEND.plan(known("sm_90a"), problem), problem, operands)
    results = []
    for seed in range(3):
        operands.out[0].fill_(float("nan"))
        emulated.emulate(launches, seed=seed)
        results.append(operands.out[0].clone())
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    (quiet,) = emulated.emulate(launches, checks=Checks.none())
    (loud,) = emulated.emulate(launches)
    assert quiet.steps == loud.steps
    assert quiet.counts["global_load_bytes"] == 0
    assert loud.counts["global_load_bytes"] > 0


def test_refusals():
    out = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(LaunchError, match="2048 threads"):
        emulated.run([launch("probe_increment", Pointer(out), threads=2048)])
    with pytest.raises(LaunchError, match="no kernel 'nothing'"):
        emulated.run([launch("nothing", Pointer(out))])
    with pytest.raises(LaunchError, match="takes 1 arguments"):
        emulated.run([launch("probe_increment", Pointer(out), Pointer(out))])
    with pytest.raises(InputError, match="at most 4"):
        emulated.run([launch("probe_parameters", ScalarArray("i32", (1,) * 5, 4))])
    with pytest.raises(InputError, match="tensors on the CPU"):
        emulated.run([launch("probe_increment", Pointer(torch.zeros(1, device="meta")))])
    emulated.run([])
    assert out.item() == 0
