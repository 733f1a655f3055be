"""The table of an operation's strategies (`bench.strategies`): each against the plainest, shape by shape."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nvfp4.bench import strategies, tables
from nvfp4.bench.records import Entry, Record
from nvfp4.bench.timing import geomean, paired_ratio
from nvfp4.contest.tasks import benchmarks_of, case_of
from nvfp4.device import known
from nvfp4.problem import Op


def strategies_table(op: Op, records: Iterable[Record], device: str, protocol: str) -> str:
    """A row for each strategy, a column for each of the contest's shapes, and the mean speed-up over the first row.

    Args:
        op: The operation.
        records: All records.
        device: The `tables.slug` of a device.
        protocol: Ignored: strategies are timed by a protocol of their own.
    """
    cases = benchmarks_of(op)
    found = {
        case_of(record.problem): record
        for record in strategies.newest(list(records))
        if tables.slug(str(record.device["name"])) == device and record.problem.op is op
    }
    chosen = [found[case] for case in cases if case in found]
    if not chosen:
        return tables.NONE
    head = ["strategy", "what a call does", *(tables.shape_text(record.problem) for record in chosen), "speed-up"]
    lines = ["| " + " | ".join(head) + " |", "| --- | --- |" + " ---: |" * (len(head) - 2)]
    every = strategies.strategies(op)
    for strategy in every:
        about = strategy.about + (f"; *{strategy.rules}*" if strategy.rules else "")
        times = [_time(record, record.entry(strategy.name)) for record in chosen]
        cells = [strategy.name, about, *times, _speed_up(chosen, strategy.name, every[0].name)]
        lines.append("| " + " | ".join(cells) + " |")
    product = strategies.product_of(known(str(chosen[0].device["arch"])))
    note = f"Speed-up: geometric mean over the shapes. {product[0].upper()}{product[1:]}.\n"
    return "\n".join(lines) + "\n\n" + note + tables.caption(chosen, "bold: the fastest", brackets=False)


def _time(record: Record, entry: Entry | None) -> str:
    if entry is None:
        return ""
    text = f"{entry.median_us:.1f}" if entry.median_us >= 10 else f"{entry.median_us:.2f}"
    if entry.wrong:
        return text + " WRONG"
    return f"**{text}**" if entry is record.best("other") else text


def _speed_up(chosen: Sequence[Record], name: str, first: str) -> str:
    pairs = [(record.entry(first), record.entry(name)) for record in chosen]
    ratios = [paired_ratio(one.samples, other.samples) for one, other in pairs if one is not None and other is not None]
    return f"{geomean(ratios):.2f}" if len(ratios) == len(chosen) else ""
