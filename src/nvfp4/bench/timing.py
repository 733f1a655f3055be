"""How things are timed: the contest's protocol with CUDA events, cold caches, subjects interleaved in one process.

One sample of a subject::

    flush the L2 cache | hold the device | event | call 0, call 1, ... call n-1, each on inputs of its own | event

and its value is the time between the events over n. The device is held back (a spinning kernel) until the host has
queued every call, as it is in the contest, where the flush takes milliseconds: so host time counts only where the calls
are slower to queue than to run. With several subjects, rounds go through all of them, starting with a different one
each time, and ratios are taken within a round: a drift of clocks or temperature hits all of them alike.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol as Interface

import torch

from nvfp4.contest.tasks import calls_of
from nvfp4.errors import InputError
from nvfp4.problem import Op

Call = Callable[[], object]
"""One call on one set of inputs: it queues work and does not wait for it."""


@dataclass(frozen=True)
class Protocol:
    """When samples are taken, and when there are enough of them.

    The defaults are the contest's: stop once there are `min_samples`, `min_wall` has passed, and either the standard
    error is within `relative_error` of the mean, or the samples add up to `max_device`, or `max_wall` has passed.

    Attributes:
        name: ``"back-to-back"``, ``"event-pair"`` or ``"graph"``.
        calls: Calls between two events, each on inputs of its own.
        graph: Whether the calls are captured in a CUDA graph, and a sample replays it.
        warmup: Samples that are thrown away first.
        min_samples, max_samples: Bounds on the samples of a subject.
        relative_error: Standard error over mean that is good enough.
        min_wall, max_wall: Seconds of wall clock for each subject.
        max_device: Seconds that the samples of a subject may add up to (mean per call times samples, as the contest).
    """

    name: str
    calls: int
    graph: bool = False
    warmup: int = 3
    min_samples: int = 3
    max_samples: int = 200
    relative_error: float = 1e-3
    min_wall: float = 0.1
    max_wall: float = 120.0
    max_device: float = 10.0

    def enough(self, samples: Sequence[float], wall: float) -> bool:
        """Whether these samples (seconds per call), taken in `wall` seconds, end the measurement."""
        count = len(samples)
        if count >= self.max_samples:
            return True
        if count < self.min_samples or wall <= self.min_wall:
            return False
        mean = statistics.fmean(samples)
        error = statistics.stdev(samples) / math.sqrt(count)
        return error / mean < self.relative_error or mean * count > self.max_device or wall > self.max_wall


PROTOCOLS = ("back-to-back", "event-pair", "graph")


def protocol(name: str, op: Op, *, max_samples: int | None = None, calls: int | None = None) -> Protocol:
    """A protocol by name.

    ``back-to-back`` launches as many distinct inputs between two events as the contest does for the operation (50; 15
    for grouped GEMM; for GEMV, where the contest has one, 50 too), ``graph`` the same from a CUDA graph, and
    ``event-pair`` one, which is how the contest times GEMV.

    Raises:
        InputError: There is no protocol of that name.
    """
    if name not in PROTOCOLS:
        raise InputError("bench", "protocol", "one of " + ", ".join(PROTOCOLS), repr(name), "Name one of them.")
    many = 50 if op is Op.GEMV else calls_of(op)
    made = Protocol(name, calls or (1 if name == "event-pair" else many), graph=name == "graph")
    return made if max_samples is None else replace(made, max_samples=max_samples)


@dataclass(frozen=True)
class Samples:
    """The samples of one subject.

    Attributes:
        seconds: Device seconds per call of each sample, in the order in which they were taken.
        host: Host seconds per call that queueing took, likewise.
    """

    seconds: tuple[float, ...]
    host: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        """Median seconds per call."""
        return statistics.median(self.seconds)

    @property
    def mean(self) -> float:
        """Mean seconds per call, which is what the contest scores."""
        return statistics.fmean(self.seconds)

    @property
    def error(self) -> float:
        """Standard error of the mean in seconds; 0 for one sample."""
        return statistics.stdev(self.seconds) / math.sqrt(len(self.seconds)) if len(self.seconds) > 1 else 0.0

    @property
    def spread(self) -> float:
        """Distance from the 10th to the 90th percentile over the median."""
        if len(self.seconds) < 2:
            return 0.0
        deciles = statistics.quantiles(self.seconds, n=10, method="inclusive")
        return (deciles[-1] - deciles[0]) / self.median

    @property
    def host_median(self) -> float:
        """Median host seconds per call; 0 where it was not taken."""
        return statistics.median(self.host) if self.host else 0.0


def paired_ratio(numerator: Samples, denominator: Samples) -> float:
    """Median over the rounds of ``numerator / denominator``: how many times longer the first takes.

    Raises:
        InputError: The samples are not from the same rounds.
    """
    pairs = (len(numerator.seconds), len(denominator.seconds))
    if pairs[0] != pairs[1]:
        raise InputError("bench", "samples", "as many of each", pairs, "Compare subjects of one interleaved run.")
    return statistics.median(a / b for a, b in zip(numerator.seconds, denominator.seconds, strict=True))


def geomean(values: Sequence[float]) -> float:
    """Geometric mean, the contest's score over the shapes of a task."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


class Timer(Interface):
    """Takes single samples; `CudaTimer` on a GPU, a fake one in tests."""

    def sample(self, run: Call) -> tuple[float, float]:
        """Device seconds and host seconds of one cold run of `run`."""
        ...

    def capture(self, calls: Sequence[Call]) -> Call:
        """One call that replays all of `calls` from a graph."""
        ...

    def now(self) -> float:
        """Wall clock in seconds."""
        ...


def _run_all(calls: Sequence[Call]) -> Call:
    def run() -> None:
        for call in calls:
            call()

    return run


def compare(
    subjects: Mapping[str, Sequence[Call]],
    protocol: Protocol,
    timer: Timer,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Samples]:
    """Time several subjects, interleaved.

    Args:
        subjects: The calls of each subject, one for each set of distinct inputs. A sample makes ``protocol.calls`` of
            them, going on where the sample before stopped.
        protocol: When to sample and to stop. All subjects go on until each of them has enough.
        timer: Takes the samples.
        progress: Called with (samples taken of each subject, most that there will be).

    Returns:
        The samples of each subject; the i-th ones of all subjects belong to one round.

    Raises:
        InputError: There is nothing to time.
    """
    if not subjects or any(not calls for calls in subjects.values()):
        raise InputError("bench", "subjects", "calls to time", "none", "Pass at least one call for each subject.")
    runs = {name: _windows(calls, protocol, timer) for name, calls in subjects.items()}
    names = list(subjects)
    for index in range(protocol.warmup):
        for name in names:
            timer.sample(runs[name](index))
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    start = timer.now()
    for index in range(protocol.max_samples):
        first = index % len(names)
        for name in names[first:] + names[:first]:
            device, host = timer.sample(runs[name](index))
            taken[name].append((device / protocol.calls, host / protocol.calls))
        if progress is not None:
            progress(index + 1, protocol.max_samples)
        wall = (timer.now() - start) / len(names)
        if all(protocol.enough([device for device, _ in pairs], wall) for pairs in taken.values()):
            break
    return {
        name: Samples(tuple(device for device, _ in pairs), tuple(host for _, host in pairs))
        for name, pairs in taken.items()
    }


def _windows(calls: Sequence[Call], protocol: Protocol, timer: Timer) -> Callable[[int], Call]:
    """The run of sample `index`: `protocol.calls` calls, cycling through all of them from sample to sample."""

    def window(index: int) -> list[Call]:
        begin = index * protocol.calls
        return [calls[(begin + i) % len(calls)] for i in range(protocol.calls)]

    if protocol.graph:
        replay = timer.capture(window(0))
        return lambda index: replay
    return lambda index: _run_all(window(index))


def input_count(one: int, calls: int, l2_bytes: int, free_bytes: int) -> int:
    """How many distinct sets of inputs to prepare: one for each call if memory allows.

    With fewer, calls of one sample reuse them, so together they must exceed twice the L2 cache: by the time that a set
    is used again, nothing of it is left there.

    Args:
        one: Bytes of one set for all subjects together.
        calls: Calls of a sample.
        l2_bytes: The device's L2 cache.
        free_bytes: Memory that may be used.

    Raises:
        InputError: Not even that many fit.
    """
    affordable = free_bytes // max(one, 1)
    if affordable >= calls:
        return calls
    needed = min(calls, 2 * l2_bytes // max(one, 1) + 2)
    if affordable < needed:
        expected = f"{needed * one / 1e9:.1f} GB for {needed} sets of inputs, so that caches stay cold"
        got = f"{free_bytes / 1e9:.1f} GB free"
        raise InputError(
            "bench", "device memory", expected, got, "Compare fewer subjects at a time, or smaller shapes."
        )
    return int(affordable)


class CudaTimer:
    """Samples on the current CUDA device and stream.

    The flush writes four times the L2 cache: whatever a subject left there is gone, on any card.
    """

    def __init__(self, device: torch.device | str = "cuda") -> None:
        properties = torch.cuda.get_device_properties(device)
        self.device = torch.device(device)
        self.l2_bytes = int(properties.L2_cache_size)
        self._flush = torch.empty(max(4 * self.l2_bytes, 64 << 20), dtype=torch.uint8, device=device)
        # torch.cuda._sleep counts clock cycles; an upper bound of the clock errs to the side of a longer hold.
        self._clock = 2.0e9
        self._hold = 200e-6

    def sample(self, run: Call) -> tuple[float, float]:
        """Device and host seconds of one cold run of `run`."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(self.device)
        self._flush.zero_()
        torch.cuda._sleep(int(self._hold * self._clock))  # type: ignore[no-untyped-call]
        started = time.perf_counter()
        begin.record()
        run()
        end.record()
        host = time.perf_counter() - started
        torch.cuda.synchronize(self.device)
        # Samples that took longer to queue than the device was held teach the next ones; warm-up is when this happens.
        self._hold = min(max(self._hold, 1.5 * host), 20e-3)
        return begin.elapsed_time(end) * 1e-3, host

    def capture(self, calls: Sequence[Call]) -> Call:
        """A replay of all `calls`, captured once."""
        for call in calls:
            call()  # outside of the capture: compilation, allocation, and what a backend learns from a first call
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in calls:
                call()
        return graph.replay  # which keeps the graph and its memory alive

    def now(self) -> float:
        """Wall clock in seconds."""
        return time.perf_counter()


class WallTimer:
    """Samples by the clock on the wall, where there is no GPU: to try scripts with, not to measure."""

    def sample(self, run: Call) -> tuple[float, float]:
        """Seconds of one run, twice."""
        begin = time.perf_counter()
        run()
        seconds = time.perf_counter() - begin
        return seconds, seconds

    def capture(self, calls: Sequence[Call]) -> Call:
        """The calls themselves: there are no graphs."""
        return _run_all(calls)

    def now(self) -> float:
        """Wall clock in seconds."""
        return time.perf_counter()
