"""benchmarks/bundle_time.py without a GPU: bundles are called, on every benchmark case, and reach the driver."""

import importlib.util
import sys
from pathlib import Path

import pytest

from nvfp4.contest.tasks import GEMV, GROUP_GEMM

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def bundle_time(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("bundle_time", BENCHMARKS / "bundle_time.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "host_time", None)  # put back what other tests have loaded by this name
    monkeypatch.delitem(sys.modules, "host_time")
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("task", [GEMV, GROUP_GEMM], ids=lambda task: task.name)
def test_every_benchmark_case_is_timed(bundle_time, monkeypatch, task):
    launched = []

    def count(*arguments):
        launched.append(arguments)
        return 0

    monkeypatch.setattr(bundle_time, "nothing", lambda: count)
    found = dict(bundle_time.measure(task, "sm_90a", "cpu", repeat=1))
    assert list(found) == [task.line(case) for case in task.benchmarks]
    assert all(us > 0 for us in found.values())
    assert len(launched) == len(found) * (bundle_time.SETS + bundle_time.BATCH)
