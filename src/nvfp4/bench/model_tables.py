"""Tables of what models compute: the sweep over M (`bench.sweep`) and mixtures of experts (`bench.mixture`).

They say how many times longer a peer takes, for each peer, where the tables of the contest's shapes name the best one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from nvfp4.bench import sweep, tables
from nvfp4.bench.records import Entry, Record, newest
from nvfp4.bench.timing import geomean, paired_ratio


def sweep_table(records: Iterable[Record], device: str, protocol: str) -> str:
    """Rows of every weight and M: time, rate and ratios."""
    found = [
        record for record in _newest(records, device, protocol) if not record.workload and sweep.belongs(record.problem)
    ]
    found.sort(key=lambda record: (sweep.WEIGHTS.index((record.problem.n, record.problem.k)), record.problem.m))

    def left(record: Record) -> list[str]:
        problem = record.problem
        return [f"{problem.n} x {problem.k}", str(problem.m), problem.a.kind]

    return _table(["weights N x K", "M", "activations"], left, found)


def mixture_table(records: Iterable[Record], device: str, protocol: str) -> str:
    """Rows of every layer, routing and number of tokens."""
    found = [record for record in _newest(records, device, protocol) if record.workload]

    def order(record: Record) -> tuple[object, ...]:
        workload, problem = record.workload, record.problem
        assert workload is not None
        return problem.stacked, workload.layer, workload.routing != "uniform", workload.top_k, workload.tokens

    def left(record: Record) -> list[str]:
        workload, problem = record.workload, record.problem
        assert workload is not None
        experts = f"{workload.active} of {problem.stacked}"
        sizes = f"{problem.op.matrices * problem.n} x {problem.k}"
        return [workload.layer, sizes, str(workload.tokens), str(workload.top_k), workload.routing, experts]

    head = ["layer", "weights N x K", "tokens", "top", "routing", "experts with tokens"]
    return _table(head, left, sorted(found, key=order))


def _newest(records: Iterable[Record], device: str, protocol: str) -> list[Record]:
    return [
        record
        for record in newest(records)
        if tables.slug(str(record.device["name"])) == device and record.protocol.name == protocol
    ]


def _table(head: Sequence[str], left: Callable[[Record], list[str]], records: Sequence[Record]) -> str:
    if not records:
        return tables.NONE
    seen = Counter(entry.name for record in records for entry in record.entries if entry.role == "peer")
    peers = [name for name, rows in seen.items() if 2 * rows >= len(records)]  # others would be mostly empty columns
    others = list(dict.fromkeys(entry.name for record in records for entry in record.entries if entry.role == "other"))
    columns = [
        *head,
        "speed of light",
        "ours",
        "TFLOP/s",
        "TB/s",
        *peers,
        *others,
        *(f"{name} / ours" for name in peers),
    ]
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(head) + " ---: |" * (len(columns) - len(head))]
    ratios: dict[str, list[float]] = {name: [] for name in peers}
    for record in records:
        ours = record.best("nvfp4")
        cells = [*left(record), f"{record.light.seconds * 1e6:.1f} ({record.light.bound})", *_ours(record, ours)]
        cells += [_time(record.entry(name)) for name in (*peers, *others)]
        for name in peers:
            entry = record.entry(name)
            known = ours is not None and entry is not None and not entry.wrong
            if known:
                assert ours is not None
                assert entry is not None
                ratios[name].append(paired_ratio(entry.samples, ours.samples))
            cells.append(_bold(ratios[name][-1]) if known else "")
        lines.append("| " + " | ".join(cells) + " |")
    means = [f"{name} {geomean(values):.2f} ({len(values)} rows)" for name, values in ratios.items() if values]
    text = "\n".join(lines) + "\n"
    if means:
        text += f"\nGeometric mean of the ratios: {', '.join(means)}.\n"
    return text + "\n" + tables.caption(records, "bold: how many times longer a peer takes, where ours is the faster")


def _ours(record: Record, entry: Entry | None) -> list[str]:
    if entry is None:
        return ["", "", ""]
    seconds = entry.samples.median
    fault = " FAULT" if record.light.is_fault(seconds) else ""
    rates = [f"{record.problem.flops / seconds / 1e12:.0f}", f"{record.bytes / seconds / 1e12:.2f}"]
    return [f"{_time(entry)} ({record.light.fraction(seconds):.0%}){fault}", *rates]


def _time(entry: Entry | None) -> str:
    if entry is None:
        return ""
    text = f"{entry.median_us:.1f}" if entry.median_us >= 10 else f"{entry.median_us:.2f}"
    return text + (" WRONG" if entry.wrong else "")


def _bold(ratio: float) -> str:
    return f"**{ratio:.2f}**" if ratio > 1 else f"{ratio:.2f}"
