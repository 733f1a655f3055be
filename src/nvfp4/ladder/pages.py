"""A ladder for readers: its rows and bars from records and counters, and the Markdown pages of ``docs/ladder``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from nvfp4.bench.records import Entry, Record
from nvfp4.bench.tables import shape_text
from nvfp4.errors import InputError
from nvfp4.ladder.run import PROTOCOL, Step
from nvfp4.ladder.rungs import LADDERS, Ladder
from nvfp4.report import charts

Counted = dict[str, dict[str, int]]
"""Counters of each rung by its name."""

COUNTERS = "ladder-counters.json"
"""Beside the records: what the emulator counts, by ladder and rung."""


def newest(ladder: Ladder, records: Sequence[Record]) -> Record | None:
    """The latest record of a ladder, on a device that it is for: the naive rung is on more than one."""
    names = {rung.name for rung in ladder.rungs}
    of_ladders = [r for r in records if r.protocol.name == PROTOCOL and r.device["arch"] == ladder.arch]
    found = [r for r in of_ladders if names & {entry.name for entry in r.entries}]
    return max(found, key=lambda record: record.time, default=None)


def load_counters(directory: Path) -> dict[str, Counted]:
    """The counters beside the records; empty when there are none."""
    path = directory / COUNTERS
    found: dict[str, Counted] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def save_counters(path: Path, ladder: Ladder, steps: Sequence[Step]) -> None:
    """Put the counters of a ladder into a file that may hold those of others.

    Raises:
        InputError: A rung has none, because it could not run or was wrong.
    """
    bad = [step.rung.name for step in steps if not step.ok or step.counters is None]
    if bad:
        raise InputError("nvfp4 ladder", "--counters", "rungs that are right", ", ".join(bad), "Mend them first.")
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known[ladder.name] = {step.rung.name: step.counters for step in steps}
    text = json.dumps(dict(sorted(known.items())), indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def bars(ladder: Ladder, record: Record) -> list[charts.Bar]:
    """The bars of a ladder's chart."""
    titles = {rung.name: rung.title for rung in ladder.rungs}
    return [
        charts.Bar(entry.name, titles.get(entry.name, entry.detail), entry.samples.median, entry.name not in titles)
        for entry in record.entries
    ]


def _time(us: float) -> str:
    return f"{us / 1000:.1f} ms" if us >= 1000 else f"{us:.1f} us" if us < 100 else f"{us:.0f} us"


COUNTED = ("warp instructions", "MB from memory", "sectors", "shared wavefronts", "waits at barriers")
"""What `counts` gives."""


def counts(of: dict[str, int]) -> list[str]:
    """What the emulator counted for a rung (`Step.counters`), for people."""
    moved = (of["global_load_bytes"] + of["async_copy_bytes"]) / 1e6
    waits = of["mbarrier_waits"] + of["barrier_waits"]
    others = (of["global_sectors"], of["shared_wavefronts"], waits)
    return [f"{of['steps']:,}", f"{moved:.2f}", *(f"{number:,}" for number in others)]


Rows = tuple[list[str], list[list[str]], tuple[int, ...]]
"""Head, rows, and the columns that are numbers."""


def rung_rows(ladder: Ladder, record: Record | None) -> Rows:
    """What changed at each rung and why; with a record, what was expected and measured."""
    head = ["rung", "step", "why", "predicted"]
    if record is not None:
        head += ["measured", "speed of light"]
    rows = []
    for rung in ladder.rungs:
        row = [rung.name, rung.title, rung.why, rung.predicted]
        rows.append(row if record is None else row + _measured(record, record.entry(rung.name)))
    if record is not None:
        own = next((x for x in record.entries if x.name not in {rung.name for rung in ladder.rungs}), None)
        if own is not None:
            rows.append([own.name, "the package's own kernel", "", "", *_measured(record, own)])
    return head, rows, tuple(range(4, len(head)))


def counter_rows(ladder: Ladder, counted: Counted) -> Rows:
    """What the emulator counted for each rung."""
    head = ["rung", *COUNTED]
    rows = [[rung.name, *counts(counted[rung.name])] for rung in ladder.rungs if rung.name in counted]
    return head, rows, tuple(range(1, len(head)))


def counted_where(ladder: Ladder) -> str:
    """What the counters are of."""
    m, n, k = ladder.small
    size = f"{m} x {k}" if ladder.name == "gemv" else f"{m} x {n} x {k}"
    return f"Counters of the emulator, {ladder.arch}, {size}, all checks on; every rung bit-equal."


def _measured(record: Record, entry: Entry | None) -> list[str]:
    if entry is None:
        return ["", ""]
    return [_time(entry.median_us), f"{record.light.fraction(entry.samples.median):.0%}"]


def _markdown(found: Rows, names: set[str]) -> str:
    head, rows, numbers = found
    source = "../../src/nvfp4/csrc/kernels/ladder"
    rules = " | ".join("---:" if i in numbers else "---" for i in range(len(head)))
    lines = ["| " + " | ".join(head) + " |", f"| {rules} |"]
    for name, *cells in rows:
        link = f"[{name}]({source}/{name}.cu)" if name in names else name
        lines.append("| " + " | ".join([link, *cells]) + " |")
    return "\n".join(lines) + "\n"


def markdown(ladder: Ladder, records: Sequence[Record], counted: Counted | None) -> str:
    """The generated part of a ladder's page."""
    record = newest(ladder, records)
    names = {rung.name for rung in ladder.rungs}
    text = _markdown(rung_rows(ladder, record), names)
    if record is not None:
        driver = f", driver {record.device['driver']}" if "driver" in record.device else ""
        text += (
            f"\n{shape_text(record.problem)}, {record.protocol.calls} distinct inputs back to back, cold, median; "
            f"{record.device['name']}{driver}; {record.time[:10]}, commit {record.commit[:10]}.\n"
        )
    if counted:
        text += f"\n{_markdown(counter_rows(ladder, counted), set())}\n{counted_where(ladder)}\n"
    return text


def update(root: Path, records: Sequence[Record], counters: dict[str, Counted]) -> tuple[Path, ...]:
    """Write the generated parts of ``docs/ladder`` and its charts; returns the files."""
    written = []
    for ladder in LADDERS:
        page = root / "docs" / "ladder" / f"{ladder.name}.md"
        text = page.read_text(encoding="utf-8")
        begin, end = "<!-- ladder -->\n", "<!-- /ladder -->"
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        page.write_text(
            head + begin + markdown(ladder, records, counters.get(ladder.name)) + end + tail, encoding="utf-8"
        )
        written.append(page)
        record = newest(ladder, records)
        if record is not None:
            label = f"Ladder {ladder.name}: microseconds of each rung against the speed of light"
            chart = charts.ladder(bars(ladder, record), record.light.seconds, label)
            target = root / "docs" / "images" / f"ladder-{ladder.name}.svg"
            target.write_text(charts.standalone(chart), encoding="utf-8")
            written.append(target)
    return tuple(written)
