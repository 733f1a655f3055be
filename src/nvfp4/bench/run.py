"""One benchmark run: our backends, peers and the read floor on the same inputs, interleaved, as records.

`bench` is what ``nvfp4 bench`` calls. A subject that refuses or fails is listed with its reason, and stops no other.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nvfp4 import backends
from nvfp4.backends.base import Operands
from nvfp4.bench import floor, inputs, provenance, records, roofline, timing
from nvfp4.bench import peers as peers_module
from nvfp4.bench.records import Entry, Record, Workload
from nvfp4.bench.roofline import Limits
from nvfp4.bench.timing import Call, CudaTimer, Protocol, Timer, WallTimer
from nvfp4.contest.tasks import task_of
from nvfp4.device import Capability, capability
from nvfp4.errors import InputError
from nvfp4.problem import Op, Problem

Prepare = Callable[[Operands], Call]
Check = Callable[[Problem, Operands, Prepare], str]
"""Makes and runs one call on these operands, and says whether the answer is right: a `records.Entry.verdict`."""
Progress = Callable[[Problem, str, float], None]
"""Told of a problem, what is done for it now, and the fraction of this step that is done."""


@dataclass(frozen=True)
class Settings:
    """What a run compares, and how.

    Attributes:
        backends: Names of our backends; None for every one that takes the problem.
        peers: Names of peers; None for every one that takes the problem.
        floor: Whether the read floor runs too (see `floor.plans`).
        protocol: Name of the timing protocol, one of `timing.PROTOCOLS`.
        max_samples: Most samples of a subject; None for the protocol's own.
        calls: Calls of a sample; None for the protocol's own.
        seed: Seed of the first set of inputs; the others follow.
        commit: What the records name as the commit; None to ask git.
    """

    backends: tuple[str, ...] | None = None
    peers: tuple[str, ...] | None = None
    floor: bool = True
    protocol: str = "back-to-back"
    max_samples: int | None = None
    calls: int | None = None
    seed: int = 1111
    commit: str | None = None


@dataclass(frozen=True)
class Environment:
    """Where a run happens; replaced in tests.

    Attributes:
        device: Where the operands lie.
        capability: Of that device.
        timer: Takes the samples.
        limits: What the speed of light is taken from.
        l2_bytes: Its L2 cache.
        free_bytes: Memory that inputs may take.
        check: Checks the answers of our backends before they are timed; None to time everything unchecked.
    """

    device: torch.device
    capability: Capability
    timer: Timer
    limits: Limits
    l2_bytes: int
    free_bytes: int
    check: Check | None = None

    @classmethod
    def here(cls, device: torch.device | str = "cuda", *, check: bool = True) -> Environment:
        """The GPU of this machine.

        Args:
            device: Which one.
            check: Whether answers are checked before they are timed.

        Raises:
            InputError: There is none, or its limits are not known.
        """
        if not torch.cuda.is_available():
            raise InputError("bench", "device", "an NVIDIA GPU", "none", "Times need a GPU: run it where there is one.")
        what = capability(device)
        timer = CudaTimer(device)
        free, _ = torch.cuda.mem_get_info(device)
        limits = roofline.datasheet(what.name)
        if limits is None:
            from nvfp4.bench.measure import measure_limits

            limits = measure_limits(device).limits()
        return cls(
            torch.device(device), what, timer, limits, timer.l2_bytes, int(0.8 * free), judged if check else None
        )

    @classmethod
    def dry(cls) -> Environment:
        """The CPU, to try a script: everything runs and is checked, and the times say nothing about a GPU."""
        limits = Limits("CPU", "none: a dry run", bandwidth=1e15, half=1e18)
        return cls(torch.device("cpu"), capability("cpu"), WallTimer(), limits, 0, 1 << 30, judged)


_GATE_AND_UP = (0, 2)
"""Of the contest's grouped shapes, those that are gate and up in one matrix (of DeepSeek-V3 and of Qwen3 235B)."""


def benchmark_problems(op: str, *, scale_layout: str = "linear") -> tuple[Problem, ...]:
    """The benchmark shapes of the contest for an operation.

    Grouped dual GEMM is not in the contest: its shapes are the gate and up projections among those of the grouped GEMM.
    """
    if op == Op.GROUP_DUAL_GEMM:
        whole = benchmark_problems(Op.GROUP_GEMM, scale_layout=scale_layout)
        return tuple(_halved(whole[index]) for index in _GATE_AND_UP)
    task = task_of(op)
    return tuple(task.problem(case, scale_layout=scale_layout) for case in task.benchmarks)


def _halved(problem: Problem) -> Problem:
    """A grouped GEMM over gates and ups in one matrix as a grouped dual GEMM."""
    groups = tuple((m, n // 2, k) for m, n, k in problem.groups)
    return replace(problem, op=Op.GROUP_DUAL_GEMM, n=problem.n // 2, groups=groups)


@dataclass(frozen=True)
class _Subject:
    """Something to time, before its calls are made."""

    name: str
    role: str
    detail: str
    prepare: Prepare


@dataclass(frozen=True)
class _Reader:
    """A read floor, ready to be timed."""

    name: str
    detail: str
    calls: list[Call]
    verdict: str


def _backend_subjects(problem: Problem, env: Environment, names: tuple[str, ...] | None) -> Iterator[_Subject | str]:
    """A subject for each backend that takes the problem; ``name: reasons`` for the others."""
    for name in backends.installed() if names is None else names:
        backend = backends.get(name)
        reasons = backend.refuse(env.capability, problem)
        if reasons:
            yield f"nvfp4/{name}: {'; '.join(reasons)}"
            continue
        plan = backend.plan(env.capability, problem)
        make: Any = getattr(backend, "prepare", None)
        run = make(plan, problem) if make is not None else functools.partial(backend.run, plan, problem)

        def prepare(operands: Operands, run: Callable[[Operands], object] = run) -> Call:
            return functools.partial(run, operands)

        yield _Subject(f"nvfp4/{name}", "nvfp4", plan.describe(), prepare)


def _peer_subjects(problem: Problem, env: Environment, names: tuple[str, ...] | None) -> Iterator[_Subject | str]:
    chosen = peers_module.peers() if names is None else tuple(peers_module.peer(name) for name in names)
    for peer in chosen:
        reasons = peer.refuse(env.capability, problem)
        if reasons:
            yield f"{peer.name}: {'; '.join(reasons)}"
        else:
            role = "peer" if peer.same else "other"
            yield _Subject(peer.name, role, peer.about, functools.partial(peer.prepare, problem))


def _floor_calls(problem: Problem, env: Environment, count: int, alone: bool) -> Iterator[_Reader]:
    """The read floors on buffers of the operands' size, which they share."""
    size = floor.read_bytes(problem)
    generator = torch.Generator(device=env.device).manual_seed(7)
    buffers = [
        torch.randint(0, 256, (size,), dtype=torch.uint8, device=env.device, generator=generator) for _ in range(count)
    ]
    for name, plan in floor.plans(env.capability, alone=alone).items():
        made = floor.calls(plan, buffers, env.capability.arch)
        buffer, partials = made[0]()
        right = floor.combine(partials) == floor.checksum(buffer)
        yield _Reader(name, plan.describe(), list(made), "bit-equal" if right else "wrong: it did not read every byte")


def _memory(problem: Problem, subjects: list[_Subject], with_floor: bool) -> int:
    """Bytes of one set of inputs for all subjects together, with what peers decode, roughly but not too little."""
    decoded = inputs.elements(problem)
    total = 2 * problem.bytes if with_floor else problem.bytes
    for subject in subjects:
        if subject.role in ("peer", "other"):
            total += 2 * decoded if "16" in subject.name else decoded
    return total


def _settle(env: Environment) -> None:
    if env.device.type == "cuda":
        torch.cuda.synchronize(env.device)


def _reason(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:300]


def run(problem: Problem, settings: Settings, env: Environment, progress: Progress | None = None) -> Record:
    """Time one problem.

    Raises:
        InputError: Nothing could be timed, or the inputs do not fit into memory.
    """

    def tell(step: str, fraction: float) -> None:
        if progress is not None:
            progress(problem, step, fraction)

    protocol = timing.protocol(settings.protocol, problem.op, max_samples=settings.max_samples, calls=settings.calls)
    refusals: dict[str, str] = {}
    subjects: list[_Subject] = []
    for found in (
        *_backend_subjects(problem, env, settings.backends),
        *_peer_subjects(problem, env, settings.peers),
    ):
        if isinstance(found, str):
            name, _, reason = found.partition(": ")
            refusals[name] = reason
        else:
            subjects.append(found)
    one = _memory(problem, subjects, settings.floor)
    # With one call between the events, inputs are still rotated, so that no call finds its own data in the cache.
    wanted = max(protocol.calls, 4)
    count = timing.input_count(one, wanted, env.l2_bytes, env.free_bytes)
    tell("inputs", 0.0)
    sets = [inputs.make(problem, seed=settings.seed + 42 * i, device=env.device) for i in range(count)]
    calls: dict[str, list[Call]] = {}
    verdicts: dict[str, str] = {}
    for index, subject in enumerate(subjects):
        tell(f"prepare {subject.name}", index / len(subjects))
        try:
            made = [subject.prepare(operands) for operands in sets]
            verdicts[subject.name] = _first_call(problem, subject, sets[0], made[0], env)
            calls[subject.name] = made
        except Exception as error:  # what a peer or a kernel raises is its refusal
            refusals[subject.name] = _reason(error)
    details = {subject.name: (subject.role, subject.detail) for subject in subjects}
    if settings.floor:
        try:
            for reader in _floor_calls(problem, env, count, protocol.calls == 1):
                calls[reader.name], verdicts[reader.name] = reader.calls, reader.verdict
                details[reader.name] = ("floor", reader.detail)
        except Exception as error:
            refusals["read-floor"] = _reason(error)
    if not calls:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refusals.items())
        raise InputError("bench", "subjects", "something that runs", reasons, "Ask for other backends or peers.")
    ready = Ready(calls, details, verdicts, refusals, count)
    return measure(problem, ready, protocol, env, commit=settings.commit, tell=tell)


@dataclass(frozen=True)
class Ready:
    """Subjects whose calls are made.

    Attributes:
        calls: The calls of each subject.
        details: Its role (`records.ROLES`), and what it is in one line.
        verdicts: What a check of its answer said.
        refusals: Subjects that could not run, with the reason.
        inputs: Distinct sets of inputs.
    """

    calls: dict[str, list[Call]]
    details: dict[str, tuple[str, str]]
    verdicts: dict[str, str]
    refusals: dict[str, str]
    inputs: int


def measure(
    problem: Problem,
    ready: Ready,
    protocol: Protocol,
    env: Environment,
    *,
    commit: str | None = None,
    workload: Workload | None = None,
    tell: Callable[[str, float], None] | None = None,
) -> Record:
    """Time subjects that are ready, interleaved, and put everything into a record.

    Args:
        problem: What they compute.
        ready: The subjects.
        protocol: How they are timed.
        env: Where.
        commit: What the record names as the commit; None to ask git.
        workload: The mixture of experts that the groups of the problem are from.
        tell: Told what is done now, and the fraction of it that is done.
    """
    before = provenance.clocks(env.device) if env.device.type == "cuda" else {}
    taken = timing.compare(
        ready.calls, protocol, env.timer, None if tell is None else lambda done, most: tell("samples", done / most)
    )
    after = provenance.clocks(env.device) if env.device.type == "cuda" else {}
    described = provenance.describe_device(env.device) if env.device.type == "cuda" else _described(env.capability)
    conditions = records.Conditions(described, (before, after), protocol, ready.inputs, env.limits, commit, workload)
    entries = (
        Entry.of(name, *ready.details[name], samples, ready.verdicts.get(name, records.NOT_CHECKED))
        for name, samples in taken.items()
    )
    return records.made(problem, entries, conditions, ready.refusals)


def _described(what: Capability) -> dict[str, Any]:
    return {"name": what.name, "arch": what.arch, "sms": what.sms}


def judged(problem: Problem, operands: Operands, prepare: Prepare) -> str:
    """Run one call into poisoned outputs, and judge them against the exact reference."""
    from nvfp4.check.run import poison_outputs
    from nvfp4.check.verdict import judge

    poisoned, outputs = poison_outputs(operands)
    prepare(poisoned)()
    if operands.out[0].device.type == "cuda":
        torch.cuda.synchronize(operands.out[0].device)
    verdict = judge(problem, poisoned, outputs)
    return verdict.summary if verdict.ok else f"wrong: {verdict.summary}"


PEER_ERROR = 0.05
"""Largest error, over the largest element, that a peer which computes the same may show: its 16-bit results and inputs
round, a mistake in handing over its weights shows far more."""


def compared(problem: Problem, operands: Operands, result: object, same: bool) -> str:
    """How far a peer is from the exact reference: enough to see that it was given the right weights, no judgement."""
    from nvfp4.check.verdict import expected

    results = list(result) if isinstance(result, list | tuple) else [result]
    got = torch.cat([x.flatten() for x in results if isinstance(x, torch.Tensor)]).double()
    want = torch.cat([x.value.flatten() for x in expected(problem, operands)]).to(got.device)
    if got.numel() != want.numel():
        return f"wrong: {got.numel()} elements instead of {want.numel()}" if same else records.NOT_CHECKED
    error = float((got - want).abs().max() / want.abs().max().clamp_min(1e-300))
    text = f"largest error {error:.1e} of the largest element"
    return f"wrong: {text}" if same and not error <= PEER_ERROR else text


def _first_call(problem: Problem, subject: _Subject, operands: Operands, call: Call, env: Environment) -> str:
    """Run a subject once, so that errors come here and compilation is over, and check its answer."""
    result = call()
    _settle(env)
    if env.check is None:
        return records.NOT_CHECKED
    if subject.role == "nvfp4":
        return env.check(problem, operands, subject.prepare)
    return compared(problem, operands, result, subject.role == "peer")


def bench(
    problems: Iterable[Problem],
    settings: Settings | None = None,
    env: Environment | None = None,
    *,
    progress: Progress | None = None,
    path: Path | str | None = None,
) -> Iterator[Record]:
    """Time problems one after another, and yield the record of each as it is done.

    Args:
        problems: What to time, such as ``benchmark_problems("gemm")``.
        settings: What to compare; everything there is when None.
        env: Where; the GPU of this machine when None.
        progress: Told what is going on.
        path: A JSONL file that records are added to as they are done.

    Raises:
        InputError: There is no GPU, or nothing can be timed for a problem.
    """
    settings = settings or Settings()
    env = env or Environment.here()
    for problem in problems:
        record = run(problem, settings, env, progress)
        if path is not None:
            records.append(path, [record])
        yield record
        if env.device.type == "cuda":
            with contextlib.suppress(RuntimeError):
                torch.cuda.empty_cache()
