"""Evaluated submissions as records, so that `nvfp4 log` shows them beside the runs of `nvfp4 bench`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nvfp4.bench import provenance
from nvfp4.bench.records import Entry, Record
from nvfp4.bench.roofline import light, limits_of, official_light
from nvfp4.bench.timing import Protocol
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
    limits = limits_of(str(device["name"]))
    name = "contest-ranked" if evaluation.mode == "leaderboard" else "contest"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    made = []
    for outcome in timed:
        problem = task.problem(outcome.case, scale_layout="tiled")
        official = official_light(problem)
        samples = tuple(round(ns * 1e-3, 4) for ns in outcome.samples)
        entry = Entry(f"submission/{path.stem}", "nvfp4", f"SHA-256 {digest}", samples, verdict="every result judged")
        made.append(
            Record(
                problem=problem,
                device=dict(device),
                clocks=clocks,
                versions=provenance.versions(),
                commit=commit or provenance.commit(),
                time=provenance.now(),
                protocol=Protocol(name, task.calls, max_samples=max(len(samples), 3)),
                inputs=outcome.inputs,
                limits=limits,
                light=light(problem, limits),
                entries=(entry,),
                official_us=None if official is None else round(official * 1e6, 6),
            )
        )
    return tuple(made)
