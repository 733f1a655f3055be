"""Tables of the GEMV, which reads every weight once: beside each time the read floor of the same run, and the rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from nvfp4.bench import tables
from nvfp4.bench.records import Entry, Record
from nvfp4.bench.timing import paired_ratio
from nvfp4.contest.tasks import case_of
from nvfp4.problem import Op


def floor_table(records: Iterable[Record], device: str, protocol: str) -> str:
    """The contest's GEMV shapes."""
    chosen = tables.select(records, device, Op.GEMV, protocol)
    found = [r for r in chosen if case_of(r.problem) is not None and r.problem.b.kind == "nvfp4"]
    return _table(["shape"], lambda record: [tables.shape_text(record.problem)], found)


def rows_table(records: Iterable[Record], device: str, protocol: str) -> str:
    """Vectors of 16 bits: a row for each type, number of vectors and weight."""
    chosen = tables.select(records, device, Op.GEMV, protocol)
    found = [record for record in chosen if record.problem.b.kind != "nvfp4" and record.problem.l == 1]
    found.sort(key=lambda record: (record.problem.b.kind != "fp16", record.problem.n, record.problem.flops))

    def left(record: Record) -> list[str]:
        problem = record.problem
        return [f"{problem.m} x {problem.k}", str(problem.n), problem.b.kind]

    return _table(["weights", "vectors", "type"], left, found)


def _table(head: Sequence[str], left: Callable[[Record], list[str]], records: Sequence[Record]) -> str:
    if not records:
        return tables.NONE
    families = list(dict.fromkeys(_family(e) for record in records for e in record.entries if e.role == "peer"))
    rate = f"of {records[0].limits.bandwidth / 1e12:.1f} TB/s"
    columns = [*head, "ours", "read floor", "ours / floor", *families]
    columns += ["ours / best peer"] if families else []
    columns += ["GB/s", rate]
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(head) + " ---: |" * (len(columns) - len(head))]
    for record in records:
        cells = [*left(record), *_cells(record, families)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n" + tables.caption(records, tables.FASTER if families else "", brackets=False)


def _family(entry: Entry) -> str:
    """cuBLAS in one type of activations and in another share a column: a row has one type."""
    return entry.name.partition("-")[0]


def _cells(record: Record, families: Sequence[str]) -> list[str]:
    ours, reader, peer = record.best("nvfp4"), record.best("floor"), record.best("peer")
    if ours is None:
        return [""] * (5 + len(families) + bool(families))
    seconds = ours.samples.median
    fault = " FAULT" if record.light.is_fault(seconds) else ""
    cells = [_time(ours, bold=peer is not None and ours.median_us < peer.median_us) + fault]
    cells += [_time(reader), f"{paired_ratio(ours.samples, reader.samples):.2f}"] if reader is not None else ["", ""]
    for family in families:
        of_family = [entry for entry in record.entries if entry.role == "peer" and _family(entry) == family]
        entry = min(of_family, key=lambda each: each.median_us, default=None)
        cells.append("" if entry is None else _time(entry, bold=entry is peer and entry.median_us < ours.median_us))
    if families:
        cells.append(f"{paired_ratio(ours.samples, peer.samples):.2f}" if peer is not None else "")
    moved = record.bytes / seconds
    return [*cells, f"{moved / 1e9:.0f}", f"{moved / record.limits.bandwidth:.0%}"]


def _time(entry: Entry, *, bold: bool = False) -> str:
    text = f"{entry.median_us:.1f}" if entry.median_us >= 10 else f"{entry.median_us:.2f}"
    return (f"**{text}**" if bold else text) + (" WRONG" if entry.wrong else "")
