"""What the contest's evaluator reports: lines ``key: value``, statistics in nanoseconds, exit codes."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the contest's evaluator."""

    PASS = 0
    CRASH = 110
    """The submission ended its process, or could not be loaded."""
    NO_CHANNEL = 111
    """``POPCORN_FD`` is not set (ours then prints, and does not use this code) or cannot be written."""
    WRONG = 112
    """A test or a benchmark failed."""
    BAD_CASES = 113
    """The case file cannot be read."""
    TIMEOUT = 114
    """The submission ran past its time limit."""


@dataclass(frozen=True)
class Stats:
    """Statistics of a benchmark, in nanoseconds for each call.

    Attributes:
        runs: Samples.
        mean, std, err: Mean, standard deviation (of n - 1) and standard error of the mean.
        best, worst: Shortest and longest sample.
    """

    runs: int
    mean: float
    std: float
    err: float
    best: float
    worst: float


def stats(samples: Sequence[float]) -> Stats:
    """Statistics of `samples` (nanoseconds, at least one)."""
    mean = statistics.fmean(samples)
    std = statistics.stdev(samples) if len(samples) > 1 else 0.0
    return Stats(len(samples), mean, std, std / math.sqrt(len(samples)), min(samples), max(samples))


def enough(samples: Sequence[float], wall: float, *, ranked: bool, most: int) -> bool:
    """The contest's stop rule.

    Args:
        samples: Nanoseconds of each sample so far.
        wall: Seconds since the first began.
        ranked: Whether this is a leaderboard run, which may use 30 instead of 10 device seconds.
        most: Samples at most.
    """
    if len(samples) >= most:
        return True
    if len(samples) <= 2 or wall <= 0.1:  # the contest's loop index is above 1 from the third sample on
        return False
    now = stats(samples)
    return now.err / now.mean < 1e-3 or now.mean * now.runs > (30e9 if ranked else 10e9) or wall > 120.0


class Report:
    """Lines ``key: value``, kept, and written to a file descriptor as they come.

    Args:
        descriptor: Where to write; None to keep them only.

    Attributes:
        lines: (key, value) of every line.
        broken: Why the descriptor cannot be written; None while it can. Lines are kept all the same.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.lines: list[tuple[str, str]] = []
        self.broken: str | None = None
        self._descriptor = descriptor

    def log(self, key: str, value: object) -> None:
        """Add a line; line breaks in `value` become spaces, so that no value can pose as another line."""
        text = " ".join(str(value).splitlines())
        self.lines.append((key, text))
        if self._descriptor is not None:
            data = f"{key}: {text}\n".encode(errors="backslashreplace")
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except OSError as error:
                self.broken, self._descriptor = error.strerror, None

    def __getitem__(self, key: str) -> str:
        return dict(self.lines)[key]

    def __contains__(self, key: str) -> bool:
        return any(name == key for name, _ in self.lines)


def read(lines: Iterable[str]) -> list[tuple[str, str]]:
    """(key, value) of the lines of a report, what is no such line left out."""
    pairs = (line.rstrip("\n").partition(": ") for line in lines)
    return [(key, value) for key, colon, value in pairs if colon]
