"""Evaluated submissions as records, so that `nvfp4 log` shows them beside the runs of `nvfp4 bench`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nvfp4.bench.records import Conditions, Entry, Record, made
from nvfp4.bench.timing import Protocol, Samples
from nvfp4.contest.evaluate import Evaluation
from nvfp4.errors import InputError


def records(
    evaluation: Evaluation,
    path: Path,
    device: Mapping[str, Any],
    clocks: tuple[dict[str, Any], ...] = (),
    commit: str | None = None,
) -> tuple[Record, ...]:
    """A record for each benchmark of an evaluation that was right.

    The subject is ``submission/NAME``, and its detail the SHA-256 of the file; the protocol is called ``contest`` (in
    leaderboard mode ``contest-ranked``).

    Args:
        evaluation: In mode benchmark or leaderboard.
        path: The submission.
        device: What `provenance.describe_device` says of the device.
        clocks: Readings before and after.
        commit: What the records name as the commit; None to ask git.

    Raises:
        InputError: Something was wrong, nothing was timed, or the device's limits are not known.
    """
    timed = [outcome for outcome in evaluation.outcomes if outcome.samples]
    if not evaluation.ok or len(timed) != len(evaluation.outcomes):
        raise InputError("contest eval", "--record", "benchmarks that are right", "others", "Record what passes.")
    task = evaluation.task
    name = "contest-ranked" if evaluation.mode == "leaderboard" else "contest"
    subject, detail = f"submission/{path.stem}", f"SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
    found = []
    for outcome in timed:
        taken = Samples(tuple(ns * 1e-9 for ns in outcome.samples))
        entry = Entry.of(subject, "nvfp4", detail, taken, "every result judged")
        protocol = Protocol(name, task.calls, max_samples=max(len(outcome.samples), 3))
        conditions = Conditions(dict(device), clocks, protocol, outcome.inputs, commit=commit)
        found.append(made(task.problem(outcome.case, scale_layout="tiled"), [entry], conditions))
    return tuple(found)
