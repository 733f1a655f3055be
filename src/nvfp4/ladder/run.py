"""Running a ladder: each rung checked against the exact reference, then timed on a GPU or counted in the emulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from nvfp4.backends.base import Operands
from nvfp4.bench import inputs, provenance, timing
from nvfp4.bench.records import NOT_CHECKED, Conditions, Entry, Record, made
from nvfp4.bench.timing import Call, CudaTimer
from nvfp4.check.verdict import Expected, expected, judge
from nvfp4.executors import emulated
from nvfp4.ladder.rungs import Data, Ladder, Rung
from nvfp4.problem import Problem
from nvfp4.tensor import NVFP4Tensor

PROTOCOL = "ladder"
"""Name of the protocol of these records: distinct inputs back to back, cold."""

SHOWN = (
    "global_load_bytes", "global_sectors", "shared_load_bytes", "shared_store_bytes", "shared_wavefronts",
    "async_copy_bytes", "mbarrier_waits", "barrier_waits", "mma_flops",
)  # fmt: skip
"""Counters of the emulator that tell the rungs apart."""


@dataclass(frozen=True)
class Step:
    """What became of one rung.

    Attributes:
        rung: Which.
        verdict: ``"bit-equal"``, or what is wrong; empty when it could not run.
        failure: Why it could not run, or what the emulator found.
        samples: Its times on a GPU.
        counters: What the emulator counted: warp instructions as ``steps``, and those of `SHOWN`.
    """

    rung: Rung
    verdict: str = ""
    failure: str = ""
    samples: timing.Samples | None = None
    counters: dict[str, int] | None = None

    @property
    def ok(self) -> bool:
        """Whether it ran, and was right."""
        return bool(self.verdict) and not self.failure and not self.verdict.startswith("wrong")


def make(problem: Problem, seed: int, device: str) -> tuple[Data, Operands]:
    """Operands of a ladder's problem, with the contest's data: sums are exact in fp32."""
    operands = inputs.make(problem, seed=seed, device=device)
    a, b = operands.a[0], operands.b[0]
    assert isinstance(a, NVFP4Tensor)
    assert isinstance(b, NVFP4Tensor)
    return Data(problem, a, b, operands.out[0]), operands


def _verdict(problem: Problem, operands: Operands, wants: tuple[Expected, ...]) -> str:
    found = judge(problem, operands, wants=wants)
    return found.summary if found.ok else f"wrong: {found.summary}"


def emulate(ladder: Ladder, shape: tuple[int, int, int] | None = None, *, seed: int = 0) -> tuple[Step, ...]:
    """Run every rung in the emulator, with all its checks.

    Args:
        ladder: Which.
        shape: (M, N, K); the ladder's small one when None.
        seed: Picks the interleaving of warps.
    """
    problem = ladder.problem(shape or ladder.small)
    data, operands = make(problem, 1111, "cpu")
    wants = expected(problem, operands)
    steps = []
    for rung in ladder.rungs:
        rung.check(problem)
        data.c.fill_(float("nan"))
        try:
            (report,) = emulated.emulate([rung.build(data, ladder.arch)], seed=seed)
        except Exception as error:  # what it finds is the rung's result
            steps.append(Step(rung, failure=str(error)))
            continue
        counts = {"steps": report.steps, **{name: report.counts.get(name, 0) for name in SHOWN}}
        steps.append(Step(rung, _verdict(problem, operands, wants), counters=counts))
    return tuple(steps)


def _calls(rung: Rung, ladder: Ladder, sets: list[Data]) -> list[Call]:
    from nvfp4.executors import driver, parameters

    first = rung.build(sets[0], ladder.arch)
    prepared = driver.prepare(first)

    def one(data: Data) -> Call:
        launch = rung.build(data, ladder.arch)
        addresses = tuple(0 if x is None else x.data_ptr() for x in parameters.tensors(launch.args))
        return lambda: prepared.run(addresses, driver.current_queue(prepared.index))

    return [one(data) for data in sets]


def time(
    ladder: Ladder,
    shape: tuple[int, int, int] | None = None,
    *,
    max_samples: int = 20,
    calls: int | None = None,
    commit: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[tuple[Step, ...], Record]:
    """Check and time every rung on the GPU at hand, interleaved, and the package's own kernel beside them.

    Args:
        ladder: Which; its architecture must be the GPU's.
        shape: (M, N, K); the ladder's own when None.
        max_samples: Most samples of each.
        calls: Calls of a sample, on distinct inputs; the ladder's own number when None.
        commit: What the record names as the commit; None to ask git.
        progress: Told what is being done.
    """
    problem = ladder.problem(shape or ladder.shape)
    calls = calls or ladder.calls
    both = [make(problem, 1111 + 42 * i, "cuda") for i in range(calls)]
    sets = [data for data, _ in both]
    wants = expected(problem, both[0][1])
    steps: list[Step] = []
    timed: dict[str, list[Call]] = {}
    for rung in ladder.rungs:
        progress(f"check {rung.name}")
        rung.check(problem)
        sets[0].c.fill_(float("nan"))
        try:
            made = _calls(rung, ladder, sets)
            made[0]()
            torch.cuda.synchronize()
        except Exception as error:
            steps.append(Step(rung, failure=str(error)))
            continue
        verdict = _verdict(problem, both[0][1], wants)
        steps.append(Step(rung, verdict))
        if not verdict.startswith("wrong"):
            timed[rung.name] = made
    package, about = _package(ladder, problem, [operands for _, operands in both])
    timed[package] = about
    protocol = timing.Protocol(
        PROTOCOL, calls, warmup=1, min_samples=3, max_samples=max_samples, min_wall=0.02, max_wall=4.0
    )
    clocks = [provenance.clocks()]
    timer = CudaTimer()
    taken: dict[str, timing.Samples] = {}
    for name, made in timed.items():
        # One after the other: a naive rung takes a thousand times as long as the last one.
        progress(f"time {name}")
        taken |= timing.compare({name: made}, protocol, timer)
    clocks.append(provenance.clocks())
    steps = [replace(step, samples=taken.get(step.rung.name)) for step in steps]
    conditions = Conditions(provenance.describe_device("cuda"), tuple(clocks), protocol, calls, commit=commit)
    return tuple(steps), _record(problem, steps, taken, conditions)


def _package(ladder: Ladder, problem: Problem, operands: list[Operands]) -> tuple[str, list[Call]]:
    """The package's own kernel for the problem."""
    from nvfp4 import backends
    from nvfp4.backends.base import PreparingBackend
    from nvfp4.device import capability

    backend = backends.get(ladder.package)
    plan = backend.plan(capability("cuda"), problem)
    assert isinstance(backend, PreparingBackend)
    run = backend.prepare(plan, problem)

    def one(x: Operands) -> Call:
        return lambda: run(x)

    return f"nvfp4/{ladder.package}", [one(x) for x in operands]


def _record(problem: Problem, steps: list[Step], taken: dict[str, timing.Samples], conditions: Conditions) -> Record:
    verdicts = {step.rung.name: step.verdict for step in steps}
    about = {step.rung.name: step.rung.title for step in steps}
    few = min(len(samples.seconds) for samples in taken.values())  # of a record all have the same number
    entries = (
        Entry.of(
            name, "other", about.get(name, "the package's own kernel"),
            replace(samples, seconds=samples.seconds[:few]), verdicts.get(name, NOT_CHECKED),
        )
        for name, samples in taken.items()
    )  # fmt: skip
    refusals = {step.rung.name: step.failure.splitlines()[0] for step in steps if step.failure}
    return made(problem, entries, conditions, refusals)
