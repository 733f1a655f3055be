"""benchmarks/host_time.py without a GPU: it measures every kind of call, and its table is in the documentation."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from nvfp4.ops import _dispatch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def host_time() -> ModuleType:
    spec = importlib.util.spec_from_file_location("host_time", ROOT / "benchmarks" / "host_time.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("backend", ["sm80", "sm90"])
def test_every_call_is_measured_with_a_driver_that_does_nothing(
    backend: str, host_time: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_time, "BATCH", 2)
    with host_time.stand_in("sm_90a"):
        rounds = [list(host_time.measure("cpu", backend, 1)) for _ in range(2)]
    _dispatch.clear()
    names = [kind.name for kind in host_time.kinds("cpu")]
    assert {row.backend for rows in rounds for row in rows} == {backend}
    assert {row.call for row in rounds[0]} >= {
        name for name in names if "dual, " not in name and "group_dual" not in name
    }
    for row, *others in zip(host_time.best(rounds), *rounds, strict=True):
        for name in ("direct", "out", "operator", "dispatcher", "prepared"):
            assert 0 < getattr(row, name) == min(getattr(other, name) for other in others)


def test_a_profile_adds_up(host_time: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part is the difference of two times, so that only all of them together are bound to a measured one."""
    times = iter((20.0, 16.0, 14.0, 13.0, 11.0, 10.0, 7.0))
    monkeypatch.setattr(host_time, "microseconds", lambda call, device, repeat: (call(), next(times))[1])
    with host_time.stand_in("sm_90a"):
        kind = next(iter(host_time.kinds("cpu")))
        parts = host_time.profile(kind, "cpu", "sm80", 1)
    assert parts == dict(zip(host_time.PARTS, (4.0, 2.0, 1.0, 2.0, 1.0, 3.0, 7.0), strict=True))


def test_the_table_is_of_the_newest_rows_of_the_last_device(host_time: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "results" / "here.jsonl"
    for value in (5.0, 6.0):
        host_time.append(path, [host_time.Row("gemm", "sm80", value, 7.0, 9.0, 8.0, None)], "cpu", "abc")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["commit"] for record in records] == ["abc", "abc"]
    table = host_time.table([{**records[0], "device": "another"}, *records])
    assert "| gemm | sm80 | 6.0 | 7.0 | 9.0 | 8.0 |  |" in table
    assert "5.0" not in table
    document = f"before\n{host_time.BEGIN}\nold\n{host_time.END}\nafter"
    rendered = host_time.render(document, records)
    assert "old" not in rendered
    assert host_time.render(rendered, records) == rendered


def test_the_documentation_has_the_recorded_table(host_time: ModuleType) -> None:
    text = host_time.DOCUMENT.read_text()
    assert host_time.render(text, host_time.load()) == text
