"""The script that runs kernels under compute-sanitizer: what it covers, and how it reads the tools' output."""

import importlib.util
import sys
from pathlib import Path

import pytest

from nvfp4 import backends
from nvfp4.backends.operands import aligned
from nvfp4.backends.sm90.plan import tile_list
from nvfp4.check import inputs
from nvfp4.device import known

ROOT = Path(__file__).resolve().parents[2]
HOPPER = known("sm_90a")

OUTPUT = """========= COMPUTE-SANITIZER
@@case sm80/one
@@done bit-equal
@@case sm80/two
========= Invalid __global__ read of size 4 bytes
=========     at nvfp4_sm80_gemm+0x100
=========     by thread (0,0,0) in block (1,0,0)
=========
========= Error: Race reported between Write access at nvfp4_sm80_gemm+0x10
=========     and Read access at nvfp4_sm80_gemm+0x20 [62 hazards]
=========     and Read access at nvfp4_sm80_gemm+0x30 [31 hazards]
=========
========= Error: Race reported between Write access at nvfp4_sm80_gemm+0x10
=========     and Read access at nvfp4_sm80_gemm+0x40 [8 hazards]
@@done error 0.9 of the bound
@@case sm80/three
========= Program hit unspecified launch failure (error 719) due to "unspecified launch failure"
========= Target application returned an error
========= ERROR SUMMARY: 3 errors
"""


@pytest.fixture(scope="module")
def script():
    path = ROOT / "benchmarks" / "sanitize.py"
    specification = importlib.util.spec_from_file_location("sanitize", path)
    module = importlib.util.module_from_spec(specification)
    sys.modules["sanitize"] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    yield module
    del sys.modules["sanitize"]


def test_reports_belong_to_the_case_that_ran(script):
    found = dict(script.parse(OUTPUT))
    assert [(name, result.errors) for name, result in found.items()] == [
        ("sm80/one", 0),
        ("sm80/two", 3),
        ("sm80/three", 1),
    ]
    assert found["sm80/one"].answer == "bit-equal"
    assert found["sm80/two"].reports[0] == "Invalid __global__ read of size 4 bytes"
    assert found["sm80/two"].reports[1].endswith("+0x10 [93 hazards, in multiples of 31]")
    assert found["sm80/two"].reports[2].endswith("+0x10 [8 hazards]")
    assert found["sm80/three"].answer == ""  # it did not end
    assert [script._right(result) for result in found.values()] == [True, True, False]


def test_every_kernel_runs_in_some_case(script):
    """Every file ``sm80_*.cu`` and ``sm90_*.cu`` is launched; names are unique, and say what they are."""
    what = known("sm_90a")
    cases = script.cases(script.BACKENDS, (), what)
    assert len({case.name for case in cases}) == len(cases)
    used = set()
    for case in cases:
        backend = backends.get(case.backend)
        for launch in backend.launches(case.plan(what), case.problem, aligned(inputs.make(case.problem))):
            assert "nvfp4" in launch.kernel.entry, "the filter of the tools would skip it"
            used.add(launch.kernel.source)
    kernels = ROOT / "src" / "nvfp4" / "csrc" / "kernels"
    assert used == {path.name for path in (*kernels.glob("sm80_*.cu"), *kernels.glob("sm90_*.cu"))}


def test_operations_can_be_chosen(script):
    what = known("sm_90a")
    assert {case.problem.op.value for case in script.cases(["sm80"], ["dual_gemm"], what)} == {"dual_gemm"}
    assert script.cases(["sm90"], ["gemm"], known("sm_80")) == []


def test_hopper_has_cases_of_every_way_of_sharing_tiles(script):
    plans = [
        case.plan(HOPPER) for case in script.cases(["sm90"], [], HOPPER) if (case.problem, case.sms) in script.SHARED
    ]
    assert [(plan.own > 0, plan.coupled) for plan in plans[:3]] == [(True, True), (True, False), (True, False)]
    problem = script.SHARED[3][0]
    assert any(part.begin for part in tile_list(plans[3], problem, problem.groups).order)
    assert (plans[4].own > 0, plans[4].blocks) == (True, 2)
    assert (plans[5].rounds, plans[5].halved) == (1, True)


def test_cases_are_found_by_operation_and_by_name(script):
    every = script.cases(["sm80", "sm90"], [], HOPPER)
    assert script.cases(["sm80", "sm90"], [every[-1].name], HOPPER) == [every[-1]]
    some = script.cases(["sm80", "sm90"], ["gemv", every[-1].name], HOPPER)
    assert 1 < len(some) < len(every)
    assert script.cases(["sm80", "sm90"], ["gem"], HOPPER) == []
