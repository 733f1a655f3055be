"""The optimisation log: what belongs to one run, what is compared, and what is the best."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from nvfp4.bench import records
from nvfp4.bench.log import runs
from nvfp4.cli import app
from nvfp4.contest.tasks import GEMM, GEMV
from nvfp4.problem import Op, Problem

from .samples import contest_records, entry, record


def gemm(us, commit, time, *, name="nvfp4/sm90", verdict="bit-equal", count=3):
    made = []
    for case in GEMM.benchmarks[:count]:
        one = record(GEMM.problem(case), entry(name, "nvfp4", us, verdict), entry("cublas", "peer", 9.0), time=time)
        made.append(replace(one, commit=commit))
    return made


def test_shapes_of_one_commit_are_one_run():
    (run,) = runs(gemm(60.0, "a", "2026-01-01T00:00:00Z"))
    assert (run.op, run.subject, run.commit, run.complete) == ("gemm", "nvfp4/sm90", "a", True)
    assert run.geomean_us == pytest.approx(60.0)
    assert run.change is None
    assert run.best
    assert [shape.problem for shape in run.shapes] == [GEMM.problem(case) for case in GEMM.benchmarks]


def test_change_is_against_the_best_before():
    history = [(60.0, "a"), (90.0, "b"), (45.0, "c"), (50.0, "d")]
    made = [r for i, (us, commit) in enumerate(history) for r in gemm(us, commit, f"2026-01-0{i + 1}T00:00:00Z")]
    found = runs(reversed(made))
    assert [run.commit for run in found] == ["a", "b", "c", "d"]
    assert [run.change for run in found[1:]] == pytest.approx([0.5, -0.25, 50 / 45 - 1])
    assert [run.best for run in found] == [True, False, True, False]


def test_the_same_commit_timed_again_is_another_run():
    made = gemm(60.0, "a", "2026-01-01T00:00:00Z") + gemm(50.0, "a", "2026-01-02T00:00:00Z")
    assert [round(run.geomean_us) for run in runs(made)] == [60, 50]


def test_a_wrong_run_is_never_the_best():
    made = gemm(60.0, "a", "2026-01-01T00:00:00Z") + gemm(10.0, "b", "2026-01-02T00:00:00Z", verdict="wrong: 3 of 4")
    made += gemm(50.0, "c", "2026-01-03T00:00:00Z")
    _, wrong, last = runs(made)
    assert wrong.wrong
    assert not wrong.best
    assert last.best
    assert last.change == pytest.approx(50 / 60 - 1)


def test_other_shapes_devices_and_protocols_are_not_compared():
    made = gemm(60.0, "a", "2026-01-01T00:00:00Z")
    made += gemm(50.0, "b", "2026-01-02T00:00:00Z", count=2)
    made += [replace(r, device={**r.device, "name": "NVIDIA B200"}) for r in gemm(40.0, "c", "2026-01-03T00:00:00Z")]
    made += [replace(r, protocol=replace(r.protocol, name="graph")) for r in gemm(30.0, "d", "2026-01-04T00:00:00Z")]
    found = runs(made)
    assert [run.change for run in found] == [None] * 4
    assert [run.complete for run in found] == [True, False, True, True]


def test_shapes_beside_the_contests_do_not_spoil_a_score():
    made = [*gemm(60.0, "a", "2026-01-01T00:00:00Z")]
    made.append(replace(record(Problem(Op.GEMM, 1, 64, 64), entry("nvfp4/sm90", "nvfp4", 5.0)), commit="a"))
    assert sorted(len(run.shapes) for run in runs(made)) == [1, 3]


def test_peers_and_floors_are_no_runs():
    found = runs(contest_records())
    assert {run.subject for run in found} == {"nvfp4/sm90"}
    assert len(found) == 4
    assert all(run.fraction == pytest.approx(0.5, abs=1e-3) for run in found)


def test_the_command(tmp_path):
    path = tmp_path / "r.jsonl"
    records.append(path, contest_records())
    result = CliRunner().invoke(app, ["log", str(path), "--op", "gemv", "--json"])
    assert result.exit_code == 0
    (run,) = json.loads(result.output)
    assert run["contest"] is True
    assert len(run["shapes"]) == len(GEMV.benchmarks)
    table = CliRunner().invoke(app, ["log", str(path)])
    assert "4 runs" in table.output
    assert "012345678" in table.output
    assert " / ".join(f"{shape['median_us']:.3g}" for shape in run["shapes"]) in table.output
    assert CliRunner().invoke(app, ["log", str(path), "--subject", "sm100"]).output.strip().startswith("0 runs")
    assert [shape["plan"] for shape in run["shapes"]] == ["plan of nvfp4/sm90"] * len(run["shapes"])
    shapes = CliRunner().invoke(app, ["log", str(path), "--op", "gemv", "--shapes"])
    assert shapes.output.count("plan of nvfp4/sm90") == len(GEMV.benchmarks)
    missing = CliRunner().invoke(app, ["log", str(tmp_path / "none")])
    assert "a file or directory" in str(missing.exception)
