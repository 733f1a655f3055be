"""Evaluated submissions as records."""

from pathlib import Path

import pytest

from nvfp4.bench import records as stored
from nvfp4.bench.log import runs
from nvfp4.contest.evaluate import Evaluation, Outcome
from nvfp4.contest.record import records
from nvfp4.contest.report import stats
from nvfp4.contest.tasks import GEMV
from nvfp4.errors import InputError

DEVICE = {"name": "NVIDIA H200", "arch": "sm_90a", "sms": 132}


def evaluation(mode="leaderboard", **changes):
    samples = (40e3, 41e3, 42e3)
    outcomes = [Outcome(case, stats=stats(samples), samples=samples, inputs=1, **changes) for case in GEMV.benchmarks]
    return Evaluation(GEMV, mode, outcomes)


def test_right_benchmarks_become_a_run(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("x")
    made = records(evaluation(), path, DEVICE)
    stored.append(tmp_path / "r.jsonl", made)
    (run,) = runs(stored.load(tmp_path / "r.jsonl"))
    assert (run.subject, run.protocol, run.complete) == ("submission/mine", "contest-ranked", True)
    assert run.geomean_us == pytest.approx(41.0)
    assert made[0].entries[0].right
    assert made[0].official_us == pytest.approx(8.622)


def test_what_is_wrong_is_not_recorded(tmp_path):
    path = Path(__file__)
    with pytest.raises(InputError, match="--record"):
        records(evaluation(error="bad", kind="wrong"), path, DEVICE)
    with pytest.raises(InputError, match="--record"):
        records(Evaluation(GEMV, "test", [Outcome(GEMV.tests[0])]), path, DEVICE)
    with pytest.raises(InputError, match="device"):
        records(evaluation(), path, {"name": "an unknown device"})
