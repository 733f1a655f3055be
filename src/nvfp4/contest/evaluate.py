"""Our evaluator of contest submissions: the contest's modes, reports and scores, without the contest's blind spots.

The submission lives in a process of its own (`worker`), which is told seeds and asked for results; everything that it
returns is judged here (`judge`). Modes: ``test`` checks every test case, on the contest's data and on harder data;
``benchmark`` and ``leaderboard`` time the benchmark cases, and judge every result of every sample.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from nvfp4.bench.roofline import Limits, datasheet, light
from nvfp4.bench.timing import geomean
from nvfp4.contest import cases, hard
from nvfp4.contest.channel import Message
from nvfp4.contest.judge import Inputs, Judge
from nvfp4.contest.process import Failure, Worker, compile_step
from nvfp4.contest.report import ExitCode, Report, Stats, enough, stats
from nvfp4.contest.tasks import Case, Task
from nvfp4.errors import InputError
from nvfp4.problem import Op

MODES = ("test", "benchmark", "leaderboard", "profile")

_PROBE_EVERY = 4
"""One sample in so many, at random, captures results as they are returned; its time does not count."""
_TAIL_SECONDS, _TAIL_SAMPLES = 300e-6, 3
"""Work that goes on so long after everything in our queue has ended, in so many samples, is work on the side."""
_CPU_INPUTS = 4
_NEW_SAMPLES, _NEW_FACTOR, _NEW_JUDGED = 3, 1.5, 8
"""A submission that takes so many times as long when the inputs of all calls are new, in each of so many samples,
remembers results; so many results of such a sample, nobody knows which, are judged."""


@dataclass(frozen=True)
class Options:
    """How to evaluate.

    Attributes:
        device: ``"cuda"`` or ``"cpu"``.
        mode: One of `MODES`.
        cases: Cases instead of the task's.
        seed: Of the run (``POPCORN_SEED``); None for the cases' own seeds.
        limit: Seconds that the submission may take for one command, and the whole process to be run as a program.
        strict: Whether harder data and exact comparison decide too.
        most_hard: `Case.work` of the largest case that is tested on harder data; None for any.
        emulate: Whether the submission is a bundle of ours, whose kernels run in the emulator.
        repeats: Samples at most; None for the task's own.
        threads: Threads of torch in the worker; 0 for torch's choice.
        as_program: Whether the file is first run as a program, as the contest does.
    """

    device: str = "cuda"
    mode: str = "test"
    cases: tuple[Case, ...] | None = None
    seed: int | None = None
    limit: float = 300.0
    strict: bool = True
    most_hard: int | None = None
    emulate: bool = False
    repeats: int | None = None
    threads: int = 0
    as_program: bool = True


@dataclass(frozen=True)
class Outcome:
    """What became of one case.

    Attributes:
        case: The case.
        error: What is wrong; None when nothing is.
        kind: The kind of failure (see `process.Failure`), empty when there is none.
        stats: Times in nanoseconds per call, if it was timed.
        light: Speed of light of the device in seconds; None where it is not known.
        checked: Results that were judged.
        notes: What is odd, but not wrong.
        trace: Traceback or output of the submission, if it failed there.
        report: A profile, in base64.
        samples: Nanoseconds per call of each sample.
        inputs: Distinct sets of inputs of a benchmark.
    """

    case: Case
    error: str | None = None
    kind: str = ""
    stats: Stats | None = None
    light: float | None = None
    checked: int = 0
    notes: tuple[str, ...] = ()
    trace: str = ""
    report: str = ""
    samples: tuple[float, ...] = ()
    inputs: int = 0


@dataclass
class Evaluation:
    """What became of a submission.

    Attributes:
        task: The task.
        mode: The mode.
        outcomes: One for each case that was reached.
        failure: What stopped the evaluation before the first case; None if nothing did.
        report: The contest's report.
    """

    task: Task
    mode: str
    outcomes: list[Outcome] = field(default_factory=list)
    failure: Outcome | None = None
    report: Report = field(default_factory=Report)

    @property
    def failed(self) -> list[Outcome]:
        """All that is wrong."""
        found = [outcome for outcome in self.outcomes if outcome.error is not None]
        return [self.failure, *found] if self.failure is not None else found

    @property
    def ok(self) -> bool:
        """Whether there was something to judge, and all of it was right."""
        return bool(self.outcomes) and not self.failed

    @property
    def exit_code(self) -> ExitCode:
        """The contest's exit code."""
        if self.ok:
            return ExitCode.PASS
        kinds = {outcome.kind for outcome in self.failed}
        if "timeout" in kinds:
            return ExitCode.TIMEOUT
        if self.failure is not None and kinds & {"crash", "missing"}:
            return ExitCode.CRASH
        return ExitCode.WRONG

    @property
    def score(self) -> float | None:
        """Geometric mean of the means in seconds; None unless every benchmark was timed and right."""
        timed = [outcome.stats.mean * 1e-9 for outcome in self.outcomes if outcome.stats is not None]
        return geomean(timed) if self.ok and len(timed) == len(self.outcomes) else None


Progress = Callable[[str], None]


def _sheet(device: str) -> Limits | None:
    """Limits of the device, if its datasheet is known."""
    return datasheet(torch.cuda.get_device_name()) if device == "cuda" else None


class _Run:
    """One evaluation under way."""

    def __init__(self, path: Path, task: Task, options: Options, report: Report, progress: Progress) -> None:
        self.path, self.task, self.options, self.progress = path, task, options, progress
        self.result = Evaluation(task, options.mode, report=report)
        self.judge = Judge(task, "cpu" if options.emulate else options.device, strict=options.strict)
        self.random = random.Random(options.seed) if options.seed is not None else random.SystemRandom()
        default = task.tests if options.mode == "test" else task.benchmarks
        chosen = options.cases if options.cases is not None else default
        self.cases = tuple(cases.with_seed(case, options.seed) for case in chosen)
        self._worker: Worker | None = None
        self.sheet = _sheet(options.device)

    def worker(self) -> Worker:
        """The process of the submission; a new one after it was lost."""
        if self._worker is None:
            device = "cpu" if self.options.emulate else self.options.device
            fresh = Worker(self.task.name, device, limit=self.options.limit, threads=self.options.threads)
            try:
                fresh.__enter__()
                fresh.command("load", path=str(self.path), emulate="ptx" if self.options.emulate else None)
            except BaseException:
                fresh.close()
                raise
            self._worker = fresh
        return self._worker

    def drop(self) -> None:
        """End the process of the submission."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def whole(self) -> Evaluation:
        """Evaluate all cases."""
        name = "test" if self.options.mode == "test" else "benchmark"
        run = {"test": self.test, "profile": self.profile}.get(self.options.mode, self.benchmark)
        report = self.result.report
        try:
            try:
                if self.options.as_program and not self.options.emulate:
                    compile_step(self.path, self.options.limit)
                self.worker()
            except Failure as failure:
                self.result.failure = self._failed(self.cases[0], failure)
            stopped = self.result.failure
            report.log(f"{name}-count", len(self.cases))
            for index, case in enumerate(self.cases):
                report.log(f"{name}.{index}.spec", self.task.line(case))
                self.progress(f"{name} {index + 1} of {len(self.cases)}")
                outcome = stopped
                if outcome is None:
                    outcome = self._guarded(run, index, case)
                    self.result.outcomes.append(outcome)
                    if outcome.kind in ("timeout", "cheat"):
                        stopped = replace(outcome, error=f"not run: {outcome.error}")
                self._log(f"{name}.{index}", outcome)
            report.log("check", "pass" if self.result.ok else "fail")
        finally:
            self.drop()
        return self.result

    def _guarded(self, run: Callable[[int, Case], Outcome], index: int, case: Case) -> Outcome:
        try:
            return run(index, case)
        except Failure as failure:
            if failure.kind != "wrong":
                self.drop()  # its process is gone, or not to be trusted any more
            return self._failed(case, failure)

    @staticmethod
    def _failed(case: Case, failure: Failure) -> Outcome:
        return Outcome(case, str(failure), failure.kind, trace=failure.trace)

    def _log(self, key: str, outcome: Outcome) -> None:
        report = self.result.report
        if outcome.stats is not None and outcome.error is None:
            for name in ("runs", "mean", "std", "err", "best", "worst"):
                report.log(f"{key}.{name}", getattr(outcome.stats, name))
        if outcome.report:
            report.log(f"{key}.report", outcome.report)
        if outcome.error is not None:
            report.log(f"{key}.status", "fail")
            report.log(f"{key}.error", outcome.error)
        elif self.options.mode == "test":
            report.log(f"{key}.status", "pass")
            message = "; ".join((f"{outcome.checked} results judged", *outcome.notes))
            report.log(f"{key}.message", message)

    # ---- modes -------------------------------------------------------------------------------------------------------

    def _kinds(self, index: int, case: Case) -> tuple[str, ...]:
        """The contest's data; then all of the hard ones on the smallest case, and one of them, in turn, on others."""
        most = self.options.most_hard
        if not self.options.strict or (most is not None and case.work > most):
            return (hard.OFFICIAL,)
        rest = [name for name in hard.NAMES if name != hard.OFFICIAL]
        sizes = [case.work for case in self.cases]
        if sizes.index(min(sizes)) == index:
            return (hard.OFFICIAL, *rest)
        return (hard.OFFICIAL, rest[index % len(rest)])

    def test(self, index: int, case: Case) -> Outcome:
        """Judge calls on every kind of data."""
        notes: set[str] = set()
        kinds = self._kinds(index, case)
        for data in kinds:
            answer = self.worker().command("test", line=self.task.line(case), data=data, seed=case.seed)
            notes.update(answer["notes"])
            self.accept(Inputs(case, data, case.seed), answer, 0)
        return Outcome(case, checked=len(kinds), notes=tuple(sorted(notes)))

    def accept(self, what: Inputs, answer: Message, index: int) -> None:
        """Fetch the results of call `index`, and judge them."""
        worker = self.worker()
        files = [worker.scratch / Path(name).name for name in worker.command("fetch", index=index)["files"]]
        results = self.judge.read(what.case, files, answer["digests"][index])
        if isinstance(results, str):
            raise Failure("cheat", results)
        problem = self.judge.judge(what, results)
        if problem is not None:
            raise Failure("wrong", problem)

    def _seeds(self, case: Case, calls: int) -> list[int]:
        return [case.seed + self.task.seed_step * (i + 1) for i in range(calls)]

    def benchmark(self, index: int, case: Case) -> Outcome:
        """Time a case; every result of every sample is judged, or has the fingerprint of one that was."""
        ranked = self.options.mode == "leaderboard"
        most = self.options.repeats or (self.task.ranked_repeats if ranked else self.task.repeats)
        sets = self._input_count(case)
        seeds = self._seeds(case, sets)
        self.worker().command("prepare", line=self.task.line(case), seeds=seeds)
        series = _Series(self, case, seeds, self.task.calls if self.options.device == "cuda" else sets)
        for _ in range(2):
            series.take(probe=True)
        series.begin()
        while not enough(series.times, series.wall, ranked=ranked, most=most):
            series.take(probe=self.random.randrange(_PROBE_EVERY) == 0)
        found = stats(series.times)
        samples = tuple(series.times)
        remembers = series.remembers()
        outcome = Outcome(case, stats=found, checked=series.judged, notes=series.notes(), samples=samples, inputs=sets)
        if remembers is not None:
            return replace(outcome, error=remembers, kind="cheat")
        return self._faults(case, outcome, found)

    def _faults(self, case: Case, outcome: Outcome, found: Stats) -> Outcome:
        if self.sheet is None:
            return outcome
        limit = light(self.task.problem(case), self.sheet)
        outcome = replace(outcome, light=limit.seconds)
        if limit.is_fault(found.mean * 1e-9):
            text = f"a mean of {found.mean / 1e3:.2f} us is under the speed of light, {limit.seconds * 1e6:.2f} us"
            return replace(outcome, error=f"{text}: the measurement was deceived", kind="cheat")
        if limit.is_fault(found.best * 1e-9):
            note = f"the best sample, {found.best / 1e3:.2f} us, is under the speed of light"
            outcome = replace(outcome, notes=(*outcome.notes, note))
        return outcome

    def _input_count(self, case: Case) -> int:
        """Distinct sets of inputs: one for each call of a sample, or as many as memory holds."""
        if self.options.device == "cpu":
            return min(self.task.calls, _CPU_INPUTS)
        free, _ = torch.cuda.mem_get_info()
        one = 2 * self.task.problem(case).bytes  # linear and tiled scales, results and their copies
        return max(1, min(self.task.calls, free // 2 // one))

    def profile(self, index: int, case: Case) -> Outcome:
        """A profile of one call."""
        self.worker().command("prepare", line=self.task.line(case), seeds=self._seeds(case, 1))
        return Outcome(case, report=self.worker().command("profile")["report"])


class _Series:
    """The samples of one benchmark."""

    def __init__(self, run: _Run, case: Case, seeds: list[int], calls: int) -> None:
        self.run, self.case, self.seeds, self.calls = run, case, list(seeds), calls
        self.times: list[float] = []
        self.judged = 0
        self._right: list[list[int] | None] = [None] * len(seeds)
        self._notes: set[str] = set()
        self._tails = 0
        self._start = time.perf_counter()

    def begin(self) -> None:
        """The samples from here on count."""
        self.times.clear()
        self._start = time.perf_counter()

    @property
    def wall(self) -> float:
        """Seconds since `begin`."""
        return time.perf_counter() - self._start

    def notes(self) -> tuple[str, ...]:
        """What was odd."""
        return tuple(sorted(self._notes))

    def take(self, *, probe: bool) -> None:
        """One sample, with new values in one set of inputs, nobody knows which."""
        answer, order = self._sample([self.run.random.randrange(len(self.seeds))], probe=probe)
        self._judge(answer, order, range(len(order)))
        if not probe:
            self.times.append(answer["ns"] / self.calls)

    def remembers(self) -> str | None:
        """What says that the submission keeps results of inputs that it was given before; None when nothing does.

        Results kept by a checksum of the operands, or of some of their bytes, are right in every sample: only the time
        tells. It is compared with that of the middle one of all samples, in which all sets of inputs but one are known:
        the mean of a busy machine may be as long as that of new inputs.
        """
        if len(self.seeds) == 1:  # then every sample has new inputs only
            return None
        fastest, known = math.inf, statistics.median(self.times)
        for _ in range(_NEW_SAMPLES):
            answer, order = self._sample(range(len(self.seeds)), probe=False)
            self._judge(answer, order, self.run.random.sample(range(len(order)), min(_NEW_JUDGED, len(order))))
            fastest = min(fastest, answer["ns"] / self.calls)
            if fastest <= _NEW_FACTOR * known:
                return None
        times = f"{fastest / 1e3:.2f} us when all inputs are new, {known / 1e3:.2f} us when it has seen them before"
        return f"it remembers results: {times}"

    def _sample(self, renewed: Sequence[int], *, probe: bool) -> tuple[Message, list[int]]:
        """One sample, with new values in the sets `renewed`; the worker's answer, and the set of each call."""
        for index in renewed:
            self.seeds[index] = self.run.random.randrange(1 << 40)
            self._right[index] = None
        order = [i % len(self.seeds) for i in range(self.calls)]
        if self.run.task.op is not Op.GEMV:
            self.run.random.shuffle(order)
        refresh = [[index, self.seeds[index]] for index in renewed]
        answer = self.run.worker().command("sample", refresh=refresh, order=order, probe=probe)
        self._notes.update(answer["notes"])
        self._tails += answer["tail"] > _TAIL_SECONDS
        if self._tails >= _TAIL_SAMPLES:
            raise Failure("cheat", "the device went on working after all results were due: work on the side")
        return answer, order

    def _judge(self, answer: Message, order: Sequence[int], calls: Iterable[int]) -> None:
        """Judge the results of `calls`, unless they have the fingerprints of ones that were right."""
        for call in calls:
            index, digests = order[call], answer["digests"][call]
            if self._right[index] != digests:
                # New values; or other bits than the last time, which is allowed if they are right, too.
                if self._right[index] is not None:
                    self._notes.add("results differ from run to run")
                self.run.accept(Inputs(self.case, hard.OFFICIAL, self.seeds[index]), answer, call)
                self._right[index] = digests
                self.judged += 1


def evaluate(
    path: Path | str,
    task: Task,
    options: Options | None = None,
    *,
    report: Report | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a submission.

    Whatever it does, the result is an `Evaluation`: nothing of it is raised.

    Args:
        path: The submission's file.
        task: The task it is for.
        options: How.
        report: Where the contest's report goes.
        progress: Told what is being done.

    Raises:
        InputError: The file is not there, or the mode or the device is.
    """
    options = options or Options()
    file = Path(path).resolve()
    if not file.is_file():
        raise InputError("contest eval", "submission", "a file", str(path), "Pass the path of a submission.py.")
    if options.mode not in MODES:
        raise InputError("contest eval", "mode", "one of " + ", ".join(MODES), repr(options.mode), "Name one of them.")
    if options.emulate and options.mode != "test":
        remedy = "Run --mode test; the emulator's own time says nothing about a GPU's."
        raise InputError("contest eval", "mode", "test with --emulate", repr(options.mode), remedy)
    if options.device not in ("cpu", "cuda"):
        raise InputError("contest eval", "device", "cuda or cpu", repr(options.device), "Name one of them.")
    if options.device == "cuda" and not options.emulate and not torch.cuda.is_available():
        remedy = "Use --emulate for bundles of ours, or --device cpu for submissions that run on CPU tensors."
        raise InputError("contest eval", "device", "a GPU that torch can use", "none", remedy)
    if options.emulate:
        options = replace(options, device="cpu")
    return _Run(file, task, options, report or Report(), progress or (lambda _: None)).whole()
