"""The table of runs at full size in docs/blackwell.md is that of its records, complete and without a fault."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "blackwell_evidence.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("blackwell_evidence", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_every_official_shape_ran(script: ModuleType) -> None:
    found = script.load()
    assert {run.key for run in script.runs()} == set(found)
    assert [record for record in found.values() if not record.ok] == []
    assert all(record.seconds > 0 and record.warp_instructions > 0 for record in found.values())


def test_the_document_has_what_was_recorded(script: ModuleType) -> None:
    text = script.DOCUMENT.read_text(encoding="utf-8")
    assert script.render(text, script.load()) == text


def test_a_run_is_repeated_when_its_kernel_changes(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    run = next(script.runs())
    records = {run.key: script.load()[run.key]}
    monkeypatch.setattr(script, "digest", lambda problem: records[run.key].kernel)
    assert script.done(run, records)
    monkeypatch.setattr(script, "digest", lambda problem: "another")
    assert not script.done(run, records)
