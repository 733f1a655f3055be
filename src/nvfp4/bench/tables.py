"""Markdown tables made from records, put between markers in the documentation.

A marker names what it shows, and everything up to its end is generated::

    <!-- table:nvidia-h200/gemm -->
    <!-- /table -->

The name is ``DEVICE/TABLE[/PROTOCOL]``: the device as its driver calls it, in lower case with dashes; an operation,
``summary`` for those of the contest, ``gemv-floor`` and ``gemv-rows`` for GEMV beside the read floor,
``strategies-OPERATION``, ``sweep`` for M from 32 to 8192, or ``mixtures`` of experts; one of the timing protocols
(``back-to-back`` when left out). Rendering is idempotent, and a test compares what is committed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from nvfp4.bench import sweep
from nvfp4.bench.records import Entry, Record, newest
from nvfp4.bench.timing import PROTOCOLS, geomean, paired_ratio
from nvfp4.contest.tasks import benchmarks_of, case_of
from nvfp4.errors import InputError
from nvfp4.problem import Op, Problem

_MARKER = re.compile(r"(<!-- table:(?P<name>\S+) -->\n)(?P<body>.*?)(<!-- /table -->)", re.DOTALL)
NONE = "No records yet.\n"
"""Instead of a table without rows."""
_ROLE_ORDER = {"nvfp4": 0, "peer": 1, "other": 2, "floor": 3}


def slug(device: str) -> str:
    """A device's name as table names write it: ``NVIDIA H200`` is ``nvidia-h200``."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def shape_text(problem: Problem) -> str:
    """The sizes of a problem, short enough for a table."""
    if problem.groups:
        rows = [m for m, _, _ in problem.groups]
        columns = {(n, k) for _, n, k in problem.groups}
        n, k = (problem.n, problem.k) if len(columns) > 1 else columns.pop()
        listed = f"({', '.join(map(str, rows))})" if len(rows) <= 2 else f"{len(rows)} x ({min(rows)}..{max(rows)})"
        return f"{listed} x {n} x {k}"
    text = f"{problem.m} x {problem.k}" if problem.op is Op.GEMV else f"{problem.m} x {problem.n} x {problem.k}"
    if problem.op is Op.GEMV and problem.n > 1:
        text += f", {problem.n} vectors"
    if problem.l > 1:
        text += f", batch {problem.l}"
    return text + (f", {problem.stacked} groups" if problem.stacked else "")


def _formats(problem: Problem) -> str:
    weights, activations = (problem.a, problem.b) if problem.op is Op.GEMV else (problem.b, problem.a)
    return weights.kind if weights.kind == activations.kind else f"{weights.kind} weights, {activations.kind}"


def _order(record: Record) -> tuple[object, ...]:
    """Contest shapes in the contest's order, then the others by work."""
    problem = record.problem
    cases = benchmarks_of(problem.op)
    case = case_of(problem)
    return (cases.index(case) if case is not None else len(cases), problem.flops, str(problem))


def _cell(entry: Entry | None, record: Record, fastest: Entry | None) -> str:
    if entry is None:
        return ""
    text = f"{entry.median_us:.1f}" if entry.median_us >= 10 else f"{entry.median_us:.2f}"
    text = f"**{text}**" if entry is fastest else text
    if entry.role == "nvfp4":
        text += f" ({record.light.fraction(entry.samples.median):.0%})"
    if record.light.is_fault(entry.samples.median) and entry.role in ("nvfp4", "peer"):
        text += " FAULT"
    return text + (" WRONG" if entry.wrong else "")


def select(records: Iterable[Record], device: str, op: Op, protocol: str) -> tuple[Record, ...]:
    """The newest record of every problem of an operation on a device, in the order of a table.

    The sweep over M and mixtures of experts have tables of their own (`model_tables`).
    """
    found = [
        record
        for record in newest(records)
        if slug(str(record.device["name"])) == device
        and record.problem.op is op
        and record.protocol.name == protocol
        and record.workload is None
        and not sweep.belongs(record.problem)
    ]
    return tuple(sorted(found, key=_order))


def markdown(records: Sequence[Record]) -> str:
    """One table of microseconds: a row for each record, a column for each subject that any of them timed."""
    if not records:
        return NONE
    roles: dict[str, str] = {}
    for record in records:
        for entry in record.entries:
            roles.setdefault(entry.name, entry.role)
    names = sorted(roles, key=lambda name: _ROLE_ORDER[roles[name]])
    head = ["shape", "operands", "speed of light", *names, "best peer / ours"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * 2 + " ---: |" * (len(head) - 2)]
    ratios = []
    for record in records:
        ours, peer = record.best("nvfp4"), record.best("peer")
        candidates = [entry for entry in (ours, peer) if entry is not None]
        fastest = min(candidates, key=lambda entry: entry.median_us, default=None)
        ratio = ""
        if ours is not None and peer is not None:
            ratios.append(paired_ratio(peer.samples, ours.samples))
            ratio = f"{ratios[-1]:.2f}"
        cells = [_cell(record.entry(name), record, fastest) for name in names]
        light = f"{record.light.seconds * 1e6:.1f} ({record.light.bound})"
        lines.append(
            "| " + " | ".join([shape_text(record.problem), _formats(record.problem), light, *cells, ratio]) + " |"
        )
    text = "\n".join(lines) + "\n"
    if len(ratios) == len(records) > 1:
        text += f"\nGeometric mean of best peer / ours: {geomean(ratios):.2f}.\n"
    return text + "\n" + caption(records)


def summary(records: Iterable[Record], device: str, protocol: str) -> str:
    """One row for each operation: our best against the best peer and the speed of light, over the contest's shapes.

    Of each shape the newest record with NVFP4 on both sides that has one of ours and a peer.
    """
    both = [
        record
        for record in records
        if record.problem.a.kind == record.problem.b.kind == "nvfp4" and record.best("nvfp4") and record.best("peer")
    ]
    head = ["operation", "backend", "microseconds a shape", "of the speed of light", "best peer", "its microseconds"]
    head.append("best peer / ours")
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    shown: list[Record] = []
    for op in Op:
        chosen = [record for record in select(both, device, op, protocol) if case_of(record.problem) is not None]
        pairs = [(record, record.best("nvfp4"), record.best("peer")) for record in chosen]
        complete = [(record, ours, peer) for record, ours, peer in pairs if ours is not None and peer is not None]
        if not complete:
            continue
        shown += [record for record, _, _ in complete]
        names = [
            " ".join(sorted({entry.name.removeprefix("nvfp4/") for entry in column}))
            for column in ([ours for _, ours, _ in complete], [peer for _, _, peer in complete])
        ]
        light = geomean([record.light.fraction(ours.samples.median) for record, ours, _ in complete])
        ratio = geomean([paired_ratio(peer.samples, ours.samples) for _, ours, peer in complete])
        times = [
            " / ".join(f"{entry.median_us:.3g}" for entry in column)
            for column in ([ours for _, ours, _ in complete], [peer for _, _, peer in complete])
        ]
        cells = [str(op), names[0], times[0], f"{light:.0%}", names[1], times[1], f"**{ratio:.2f}**"]
        lines.append("| " + " | ".join(cells) + " |")
    if not shown:
        return NONE
    note = "Speed of light and ratio are geometric means over the contest's benchmark shapes.\n"
    return "\n".join(lines) + "\n\n" + note + caption(shown)


def lines(record: Record) -> list[str]:
    """A record as lines for a terminal: one for each subject, timed or not."""
    found = []
    for entry in record.entries:
        fraction = record.light.fraction(entry.samples.median)
        found.append(
            f"{record.problem} | {entry.name:22} {entry.median_us:9.2f} us {fraction:6.1%} "
            f"spread {entry.samples.spread:5.1%} host {entry.host_us:6.1f} us {entry.verdict}"
        )
    return found + [f"{record.problem} | {name:22} {reason}" for name, reason in record.refusals.items()]


FASTER = "bold: the faster of our best and the best peer that computes the same"


def caption(records: Sequence[Record], bold: str = FASTER, *, brackets: bool = True) -> str:
    """What the figures of a table are, and where and when they were taken.

    Args:
        records: Those of the table.
        bold: What bold figures are.
        brackets: Whether fractions of the speed of light stand in brackets.
    """
    first = records[0]
    days = sorted({record.time[:10] for record in records})
    commits = sorted({_short(record.commit) for record in records})
    protocol = first.protocol
    chain = f"{protocol.calls} distinct inputs back to back, cold L2"
    how = {
        "back-to-back": chain,
        "strategies": chain,
        "graph": f"{protocol.calls} distinct inputs in a CUDA graph, cold L2",
        "event-pair": "one call between two events, cold L2",
    }[protocol.name]
    driver = f", driver {first.device['driver']}" if "driver" in first.device else ""
    versions = ", ".join(f"{name} {first.versions[name]}" for name in ("torch", "cuda") if name in first.versions)
    notes = ["in brackets the fraction of the speed of light"] * brackets + [bold] * bool(bold)
    return (
        f"{'; '.join([f'Microseconds per call, median ({how})', *notes])}. {first.device['name']}{driver}, {versions}; "
        f"{', '.join(days)}, commit {', '.join(commits)}.\n"
    )


def _short(commit: str) -> str:
    name, plus, rest = commit.partition("+")
    return name[:10] + plus + rest


def generate(name: str, records: Iterable[Record]) -> str:
    """The table that a marker names.

    Raises:
        InputError: The name is not ``DEVICE/TABLE[/PROTOCOL]``.
    """
    from nvfp4.bench import gemv_tables, model_tables, strategy_tables

    parts = name.split("/")
    operations = {op.value: op for op in Op}
    others: dict[str, Callable[[Iterable[Record], str, str], str]] = {
        "summary": summary,
        "gemv-floor": gemv_tables.floor_table,
        "gemv-rows": gemv_tables.rows_table,
        "sweep": model_tables.sweep_table,
        "mixtures": model_tables.mixture_table,
    }
    for op in operations.values():
        others[f"strategies-{op}"] = functools.partial(strategy_tables.strategies_table, op)
    known = (*operations, *others)
    if len(parts) not in (2, 3) or parts[1] not in known or (len(parts) == 3 and parts[2] not in PROTOCOLS):
        expected = f"DEVICE/TABLE[/PROTOCOL], table one of {', '.join(known)}"
        raise InputError("tables", "marker", expected, repr(name), "Correct the marker in the document.")
    protocol = parts[2] if len(parts) == 3 else "back-to-back"
    if parts[1] in others:
        return others[parts[1]](records, parts[0], protocol)
    return markdown(select(records, parts[0], operations[parts[1]], protocol))


def render(text: str, records: Sequence[Record]) -> str:
    """A document with everything between its markers generated anew."""
    return _MARKER.sub(lambda found: found[1] + generate(found["name"], records) + found[4], text)


def documents(root: Path) -> tuple[Path, ...]:
    """The Markdown files of a checkout that have markers."""
    candidates = [*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("benchmarks/**/*.md")]
    return tuple(sorted(path for path in candidates if _MARKER.search(path.read_text(encoding="utf-8"))))


def update(root: Path, records: Sequence[Record]) -> tuple[Path, ...]:
    """Generate all tables of a checkout; returns the files that changed."""
    changed = []
    for path in documents(root):
        before = path.read_text(encoding="utf-8")
        after = render(before, records)
        if after != before:
            path.write_text(after, encoding="utf-8")
            changed.append(path)
    return tuple(changed)
