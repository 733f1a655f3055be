"""The optimisation log: every recorded run in the order of time, with what it changed against the best before it.

A run is what one subject reached on the shapes of an operation at one commit: on one device, by one protocol, with the
same formats. Runs are compared where all of this but the subject and the commit agrees, and the shapes do, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from nvfp4.bench.records import Entry, Record
from nvfp4.bench.tables import shape_text
from nvfp4.bench.timing import geomean
from nvfp4.contest.tasks import benchmarks_of, case_of
from nvfp4.problem import Problem

ROLE = "nvfp4"
"""Whose entries the log is about."""
_MOST_TIMES = 6
"""Times that are told one by one in brief."""


@dataclass(frozen=True)
class Timed:
    """One shape of a run.

    Attributes:
        problem: The shape.
        median_us: Microseconds per call.
        fraction: Of the speed of light.
        wrong: Whether its answer was found wrong.
        detail: The plan; of a submission, which file.
    """

    problem: Problem
    median_us: float
    fraction: float
    wrong: bool
    detail: str = ""


@dataclass(frozen=True)
class Run:
    """One subject at one commit.

    Attributes:
        subject: Such as ``"nvfp4/sm90"``.
        device: Name of the device.
        protocol: How it was timed.
        formats: Formats of operands and result.
        commit: As recorded.
        time: Of the first record, UTC, ISO 8601.
        shapes: What was timed, the contest's shapes first.
        change: Geometric mean over that of the best earlier run, minus 1 (negative is faster); None for the first one.
        best: Whether it is the fastest so far.
    """

    subject: str
    device: str
    protocol: str
    formats: str
    commit: str
    time: str
    shapes: tuple[Timed, ...]
    change: float | None = None
    best: bool = False

    @property
    def op(self) -> str:
        """The operation."""
        return str(self.shapes[0].problem.op)

    @property
    def what(self) -> str:
        """The operation, and the type of operands that are not NVFP4."""
        problem = self.shapes[0].problem
        others = sorted({problem.a.kind, problem.b.kind} - {"nvfp4"})
        return ", ".join((self.op, *others))

    @property
    def geomean_us(self) -> float:
        """Geometric mean of the medians, which is how the contest scores its benchmark shapes."""
        return geomean([shape.median_us for shape in self.shapes])

    @property
    def fraction(self) -> float:
        """Geometric mean of the fractions of the speed of light."""
        return geomean([shape.fraction for shape in self.shapes])

    @property
    def complete(self) -> bool:
        """Whether these are exactly the contest's benchmark shapes."""
        cases = [case_of(shape.problem) for shape in self.shapes]
        every = benchmarks_of(self.shapes[0].problem.op)
        return None not in cases and len(cases) == len(every)

    @property
    def wrong(self) -> bool:
        """Whether an answer was found wrong: such a run is never the best."""
        return any(shape.wrong for shape in self.shapes)

    @property
    def times(self) -> str:
        """The shapes with their times, for people."""
        return ", ".join(f"{shape_text(shape.problem)}: {shape.median_us:.2f}" for shape in self.shapes)

    @property
    def brief(self) -> str:
        """The times alone in microseconds, the contest's shapes in its order; of many others their range."""
        times = [f"{x.median_us:.3g}" if x.median_us < 100 else f"{x.median_us:.0f}" for x in self.shapes]
        if self.complete or len(times) <= _MOST_TIMES:
            return " / ".join(times)
        medians = [shape.median_us for shape in self.shapes]
        return f"{len(times)} other shapes, {min(medians):.3g} to {max(medians):.3g}"


def _formats(problem: Problem) -> str:
    return f"{problem.a} x {problem.b} -> {problem.out_dtype}"


def _order(timed: Timed) -> tuple[object, ...]:
    cases = benchmarks_of(timed.problem.op)
    case = case_of(timed.problem)
    return (cases.index(case) if case is not None else len(cases), timed.problem.flops, str(timed.problem))


def _is_contest(problem: Problem) -> bool:
    return case_of(problem) is not None


_Key = tuple[str, str, str, str, str, str, bool]


def _key(record: Record, entry: Entry) -> _Key:
    """What belongs to one run; the contest's shapes make runs of their own, so that they can be scored."""
    problem = record.problem
    what = (str(problem.op), entry.name, str(record.device["name"]), record.protocol.name, _formats(problem))
    return (*what, record.commit, _is_contest(problem))


def runs(records: Iterable[Record]) -> tuple[Run, ...]:
    """The runs of all records, oldest first.

    A shape that is timed again by the same subject at the same commit begins another run.
    """
    groups: dict[_Key, list[dict[Problem, tuple[Record, Entry]]]] = {}
    for record in sorted(records, key=lambda record: record.time):
        for entry in record.entries:
            if entry.role != ROLE:
                continue
            parts = groups.setdefault(_key(record, entry), [{}])
            if record.problem in parts[-1]:
                parts.append({})
            parts[-1][record.problem] = record, entry
    found = [_run(key, part) for key, parts in groups.items() for part in parts]
    return _compared(sorted(found, key=lambda run: run.time))


def _run(key: _Key, part: dict[Problem, tuple[Record, Entry]]) -> Run:
    _, subject, device, protocol, formats, commit, _ = key
    shapes = [
        Timed(problem, entry.median_us, record.light.fraction(entry.median_us * 1e-6), entry.wrong, entry.detail)
        for problem, (record, entry) in part.items()
    ]
    time = min(record.time for record, _ in part.values())
    return Run(subject, device, protocol, formats, commit, time, tuple(sorted(shapes, key=_order)))


def _compared(found: list[Run]) -> tuple[Run, ...]:
    best: dict[tuple[str, str, str, frozenset[Problem]], float] = {}
    result = []
    for run in found:
        kind = (run.device, run.protocol, run.formats, frozenset(shape.problem for shape in run.shapes))
        before = best.get(kind)
        change = None if before is None else run.geomean_us / before - 1
        is_best = not run.wrong and (before is None or run.geomean_us < before)
        if is_best:
            best[kind] = run.geomean_us
        result.append(replace(run, change=change, best=is_best))
    return tuple(result)
