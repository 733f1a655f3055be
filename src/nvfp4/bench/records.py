"""Results as records: one line of JSON for each problem that was timed, with everything needed to doubt it.

A record holds what was computed, on what, with which software and protocol, and an entry for each subject of the same
interleaved run: our backends, peers, and the read floor. What follows from the samples (median, fractions, faults) is
stored for readers of the file, and checked against the samples whenever a record is loaded.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nvfp4.bench import provenance
from nvfp4.bench.roofline import Light, Limits, limits_of, official_light
from nvfp4.bench.roofline import light as speed_of_light
from nvfp4.bench.timing import Protocol, Samples
from nvfp4.errors import NVFP4Error
from nvfp4.problem import Format, Op, Problem

SCHEMA = 1
"""Version of the layout of a line."""

ROLES = ("nvfp4", "peer", "other", "floor")
"""Ours; what computes the same; what computes something easier or less exact; the read floor."""
NOT_CHECKED = "not checked"


class RecordError(NVFP4Error, ValueError):
    """A record contradicts itself or lacks something; the message says where and what."""


@dataclass(frozen=True)
class Entry:
    """One subject of a run.

    Attributes:
        name: Such as ``"nvfp4/sm90"``, ``"cublas-fp16"`` or ``"read-floor"``.
        role: One of `ROLES`.
        detail: The plan, or what exactly a peer computes.
        samples_us: Microseconds per call of each sample.
        host_us: Median microseconds that the host took to queue one call.
        verdict: What a check of the answer said (``"bit-equal"``, the error over its bound, or ``"wrong: ..."``), or
            ``"not checked"``.
    """

    name: str
    role: str
    detail: str
    samples_us: tuple[float, ...]
    host_us: float = 0.0
    verdict: str = NOT_CHECKED

    @classmethod
    def of(cls, name: str, role: str, detail: str, taken: Samples, verdict: str = NOT_CHECKED) -> Entry:
        """The entry of samples that were just taken, rounded to what a clock can tell."""
        samples = tuple(round(seconds * 1e6, 4) for seconds in taken.seconds)
        return cls(name, role, detail, samples, round(taken.host_median * 1e6, 3), verdict)

    @property
    def samples(self) -> Samples:
        """The samples in seconds."""
        return Samples(tuple(us * 1e-6 for us in self.samples_us))

    @property
    def median_us(self) -> float:
        """Median microseconds per call."""
        return self.samples.median * 1e6

    @property
    def right(self) -> bool:
        """Whether the answer was checked and found bit-equal or within the bound."""
        return self.verdict != NOT_CHECKED and not self.wrong

    @property
    def wrong(self) -> bool:
        """Whether the answer was checked and found wrong."""
        return self.verdict.startswith("wrong")


@dataclass(frozen=True)
class Workload:
    """What a `Problem` does not say of its groups: whose they are, and how many have rows.

    Attributes:
        layer: Of which model, and which projection, such as ``"DeepSeek-V3 down"``.
        tokens, top_k: Tokens of the call, and experts that each goes to.
        routing: How the experts were drawn: ``"uniform"`` or ``"skewed"``.
        active: Groups that have rows, whose weights must be read.
    """

    layer: str
    tokens: int
    top_k: int
    routing: str
    active: int


@dataclass(frozen=True)
class Record:
    """One problem, timed.

    Attributes:
        problem: What was computed.
        device: ``name``, ``arch``, ``sms``, ``driver`` and what else identifies the device.
        clocks: Readings before and after the samples, each with ``sm_mhz``, ``memory_mhz``, ``power_w``,
            ``temperature_c`` as far as the driver tells.
        versions: Versions of python, torch, cuda, triton, nvfp4 and the peers.
        commit: The commit of nvfp4, with ``+changes`` if the checkout had any.
        time: When, in UTC, ISO 8601.
        protocol: How it was timed.
        inputs: Distinct sets of inputs.
        limits: The limits that the speed of light is taken from.
        light: The speed of light.
        entries: The subjects; none twice.
        official_us: The contest's speed of light on a B200 in microseconds, for its benchmark shapes.
        refusals: Subjects that were asked for and could not run, with the reason.
        workload: The mixture of experts that the groups are from; None elsewhere.
    """

    problem: Problem
    device: dict[str, Any]
    clocks: tuple[dict[str, Any], ...]
    versions: dict[str, str]
    commit: str
    time: str
    protocol: Protocol
    inputs: int
    limits: Limits
    light: Light
    entries: tuple[Entry, ...]
    official_us: float | None = None
    refusals: dict[str, str] = field(default_factory=dict)
    workload: Workload | None = None

    @property
    def bytes(self) -> int:
        """Bytes that must be moved: those of the problem without the weights of groups that have no rows."""
        return self.problem.bytes if self.workload is None else self.problem.bytes_of(self.workload.active)

    def entry(self, name: str) -> Entry | None:
        """The subject of that name, if it was timed."""
        return next((entry for entry in self.entries if entry.name == name), None)

    def best(self, role: str) -> Entry | None:
        """The fastest subject of a role that is not known to be wrong, by median."""
        candidates = [entry for entry in self.entries if entry.role == role and not entry.wrong]
        return min(candidates, key=lambda entry: entry.median_us, default=None)


@dataclass(frozen=True)
class Conditions:
    """What a record says of a run beside its subjects.

    Attributes:
        device, clocks, protocol, inputs, workload: As in `Record`.
        limits: Where the speed of light is taken from; None for the datasheet of the device.
        commit: None to ask git.
    """

    device: dict[str, Any]
    clocks: tuple[dict[str, Any], ...]
    protocol: Protocol
    inputs: int
    limits: Limits | None = None
    commit: str | None = None
    workload: Workload | None = None


def made(
    problem: Problem, entries: Iterable[Entry], conditions: Conditions, refusals: dict[str, str] | None = None
) -> Record:
    """The record of a run that has just ended.

    Raises:
        InputError: The limits of the device are not known.
    """
    workload = conditions.workload
    limits = conditions.limits or limits_of(str(conditions.device["name"]))
    official = None if workload is not None else official_light(problem)
    return Record(
        problem=problem,
        device=dict(conditions.device),
        clocks=conditions.clocks,
        versions=provenance.versions(),
        commit=conditions.commit or provenance.commit(),
        time=provenance.now(),
        protocol=conditions.protocol,
        inputs=conditions.inputs,
        limits=limits,
        light=speed_of_light(problem, limits, None if workload is None else workload.active),
        entries=tuple(entries),
        official_us=None if official is None else round(official * 1e6, 6),
        refusals=refusals or {},
        workload=workload,
    )


def _derived(entry: Entry, light: Light) -> dict[str, Any]:
    samples = entry.samples
    return {
        "median_us": round(samples.median * 1e6, 4),
        "mean_us": round(samples.mean * 1e6, 4),
        "spread": round(samples.spread, 5),
        "fraction": round(light.fraction(samples.median), 5),
        "fault": light.is_fault(samples.median),
    }


def to_json(record: Record) -> dict[str, Any]:
    """A record as what `json.dumps` takes, derived figures included."""
    problem = dataclasses.asdict(record.problem)
    problem["op"] = record.problem.op.value
    return {
        "schema": SCHEMA,
        "time": record.time,
        "problem": problem,
        "title": str(record.problem),
        "bytes": record.bytes,
        "flops": record.problem.flops,
        "light_us": round(record.light.seconds * 1e6, 5),
        "bound": record.light.bound,
        "official_us": record.official_us,
        "limits": dataclasses.asdict(record.limits),
        "device": record.device,
        "clocks": list(record.clocks),
        "versions": record.versions,
        "commit": record.commit,
        "protocol": dataclasses.asdict(record.protocol),
        "inputs": record.inputs,
        "entries": [{**dataclasses.asdict(entry), **_derived(entry, record.light)} for entry in record.entries],
        "refusals": record.refusals,
        "workload": None if record.workload is None else dataclasses.asdict(record.workload),
    }


def _problem(data: dict[str, Any]) -> Problem:
    fields = dict(data)
    fields["op"] = Op(fields["op"])
    fields["a"], fields["b"] = Format(**fields["a"]), Format(**fields["b"])
    fields["groups"] = tuple(tuple(group) for group in fields["groups"])
    return Problem(**fields)


def from_json(data: dict[str, Any]) -> Record:
    """A record of what `to_json` made.

    Raises:
        RecordError: Something is missing, of the wrong kind, or contradicts something else in it.
    """
    if data.get("schema") != SCHEMA:
        raise RecordError(f"record: schema: expected {SCHEMA}, got {data.get('schema')!r}")
    try:
        problem = _problem(data["problem"])
        limits = Limits(**data["limits"])
        # Records of before there were workloads have none.
        workload = Workload(**data["workload"]) if data.get("workload") else None
        light = speed_of_light(problem, limits, None if workload is None else workload.active)
        kept = [field.name for field in dataclasses.fields(Entry)]
        entries = tuple(
            Entry(**{**{name: entry[name] for name in kept}, "samples_us": tuple(entry["samples_us"])})
            for entry in data["entries"]
        )
        record = Record(
            problem=problem,
            device=dict(data["device"]),
            clocks=tuple(data["clocks"]),
            versions=dict(data["versions"]),
            commit=str(data["commit"]),
            time=str(data["time"]),
            protocol=Protocol(**data["protocol"]),
            inputs=int(data["inputs"]),
            limits=limits,
            light=light,
            entries=entries,
            official_us=data["official_us"],
            refusals=dict(data["refusals"]),
            workload=workload,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"record: cannot be read: {type(error).__name__}: {error}") from error
    _validate(record, data)
    return record


def _validate(record: Record, data: dict[str, Any]) -> None:
    wrong: list[str] = []

    def expect(what: str, stored: object, true: object) -> None:
        close = isinstance(stored, float) and isinstance(true, float) and math.isclose(stored, true, rel_tol=1e-6)
        if stored != true and not close:
            wrong.append(f"{what}: stored {stored!r}, but it is {true!r}")

    expect("bytes", data["bytes"], record.bytes)
    expect("flops", data["flops"], record.problem.flops)
    expect("light_us", data["light_us"], round(record.light.seconds * 1e6, 5))
    names = [entry.name for entry in record.entries]
    if not names or len(set(names)) != len(names):
        wrong.append(f"entries: names must be there and differ, got {names}")
    if len({len(entry.samples_us) for entry in record.entries}) > 1:
        wrong.append("entries: subjects of one interleaved run must have the same number of samples")
    wrong += [f"device: {name} is missing" for name in ("name", "arch") if not record.device.get(name)]
    for entry, stored in zip(record.entries, data["entries"], strict=True):
        if entry.role not in ROLES:
            wrong.append(f"{entry.name}: role: expected one of {ROLES}, got {entry.role!r}")
        if not entry.samples_us or min(entry.samples_us) <= 0:
            wrong.append(f"{entry.name}: samples must be there and positive")
            continue
        for what, true in _derived(entry, record.light).items():
            expect(f"{entry.name}: {what}", stored.get(what), true)
    if wrong:
        raise RecordError("record: " + "; ".join(wrong))


def append(path: Path | str, records: Iterable[Record]) -> None:
    """Add records to a JSONL file, which is made if it is not there."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(to_json(record), separators=(",", ":")) + "\n" for record in records)
    with target.open("a", encoding="utf-8") as file:
        file.write(lines)


def load(path: Path | str) -> tuple[Record, ...]:
    """The records of a JSONL file, or of all ``*.jsonl`` files of a directory in the order of their names.

    Raises:
        RecordError: A line is no valid record; the message names file and line.
    """
    source = Path(path)
    files = sorted(source.glob("*.jsonl")) if source.is_dir() else [source]
    found = []
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            try:
                found.append(from_json(json.loads(line)))
            except (RecordError, json.JSONDecodeError) as error:
                raise RecordError(f"{file.name}:{number}: {error}") from error
    return tuple(found)


def newest(records: Iterable[Record]) -> tuple[Record, ...]:
    """The latest record of each problem or workload, device and protocol.

    A workload says what is wanted; what a kernel is asked for it may change: tokens by index, or rows.
    """
    latest: dict[tuple[Problem | Workload, str, str], Record] = {}
    for record in records:
        key = (record.workload or record.problem, str(record.device["name"]), record.protocol.name)
        if key not in latest or record.time >= latest[key].time:
            latest[key] = record
    return tuple(latest.values())
