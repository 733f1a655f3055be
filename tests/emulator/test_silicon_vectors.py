"""The emulator against what an H200 answered, bit for bit (the recordings are data; ``--device`` records them anew)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from hw.silicon import emulated, judge, store, sums
from hw.silicon.classes import programs
from hw.silicon.program import Program

PROGRAMS = programs()


def _recording(program: Program) -> dict[str, np.ndarray]:
    want = store.recorded(program)
    assert want is not None, f"{program.name} was not recorded as it is now: record again on a GPU (tests/hw/record.py)"
    return want


def _explain(differences: list[judge.Difference]) -> str:
    return "\n".join(map(str, differences[:20]))


@pytest.mark.parametrize("program", [p for p in PROGRAMS if not p.inexact], ids=lambda p: p.name)
def test_the_emulator_gives_the_bits_of_silicon(program):
    got, report = emulated.run(program)
    assert report.clean
    differences = judge.compare(program, got, _recording(program))
    assert not differences, _explain(differences)


@pytest.mark.parametrize("program", [p for p in PROGRAMS if p.inexact == "mma"], ids=lambda p: p.name)
def test_the_model_of_accumulation_gives_the_bits_of_silicon(program):
    want = _recording(program)["out"]
    assert np.array_equal(sums.mma_outputs(program), want)


@pytest.mark.parametrize("program", [p for p in PROGRAMS if p.inexact == "wgmma"], ids=lambda p: p.name)
def test_the_model_of_wgmma_gives_the_bits_of_silicon(program):
    want = _recording(program)["out"]
    assert np.array_equal(sums.wgmma_outputs(program), want)


@pytest.mark.parametrize("program", [p for p in PROGRAMS if p.inexact], ids=lambda p: p.name)
def test_exact_sums_stay_close_to_silicon(program):
    """What the emulator computes by default: sums rounded once, near what silicon's truncation gives."""
    got, report = emulated.run(program)
    assert report.clean
    sums.assert_close(program, got["out"], _recording(program)["out"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize(
    "program", [p for p in PROGRAMS if not p.inexact and p.klass != "special registers"], ids=lambda p: p.name
)
def test_every_interleaving_gives_the_bits_of_silicon(program, seed):
    got, _ = emulated.run(program, seed=seed)
    differences = judge.compare(program, got, _recording(program))
    assert not differences, _explain(differences)


def test_every_class_has_its_provenance():
    for klass in dict.fromkeys(p.klass for p in PROGRAMS):
        _, meta = store.load(klass)
        where = meta["provenance"]
        assert where["device"].startswith("NVIDIA")
        assert where["capability"] == "9.0"
        assert all(where[key] for key in ("driver", "nvrtc", "date", "commit"))


def test_the_evidence_page_lists_every_class():
    """docs/emulator-evidence.md is generated (tests/hw/evidence.py); here it only must not be out of date."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "emulator-evidence.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]+?) \|.*\| ([^|]+?) \|$", page.partition("How each class")[0], re.MULTILINE))
    for klass in dict.fromkeys(p.klass for p in PROGRAMS):
        assert rows.get(klass) == "equal", klass
