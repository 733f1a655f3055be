"""The page: sections from records, tied together with a style for light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from nvfp4.bench import roofline, strategies, tables
from nvfp4.bench.log import runs
from nvfp4.bench.records import Entry, Record
from nvfp4.bench.timing import geomean, paired_ratio
from nvfp4.contest.tasks import case_of
from nvfp4.device import known
from nvfp4.errors import InputError
from nvfp4.ladder.pages import Counted, Rows, bars, counted_where, counter_rows, newest, rung_rows
from nvfp4.ladder.rungs import LADDERS, Ladder
from nvfp4.problem import Op
from nvfp4.report import charts

_MARKS = {
    Op.GEMV: "circle", Op.GEMM: "square", Op.DUAL_GEMM: "diamond", Op.GROUP_GEMM: "triangle",
    Op.GROUP_DUAL_GEMM: "wedge",
}  # fmt: skip
_PROTOCOL = "back-to-back"


@dataclass(frozen=True)
class Section:
    """A part of the page: an anchor, a title, and HTML."""

    anchor: str
    title: str
    body: str


def _cell(text: object, kind: str = "") -> str:
    return f'<td class="{kind}">{text}</td>' if kind else f"<td>{text}</td>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[int] = ()) -> str:
    """A table of cells that are HTML already; columns in `numbers` are flush right."""
    titles = "".join(f'<th class="{"n" if i in numbers else ""}">{escape(name)}</th>' for i, name in enumerate(head))
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _us(seconds: float) -> str:
    us = seconds * 1e6
    return f"{us:,.0f}" if us >= 1000 else f"{us:.1f}" if us >= 10 else f"{us:.2f}"


def _part(fraction: float) -> str:
    """A share as a number with a little bar."""
    width = max(0.0, min(1.0, fraction)) * 100
    return f'<span class="part"><i style="width:{width:.1f}%"></i></span>{fraction:.0%}'


# ---- summary ---------------------------------------------------------------------------------------------------------


def _is_contest(record: Record) -> bool:
    """Whether it is a benchmark of the contest, NVFP4 on both sides."""
    problem = record.problem
    return problem.a.kind == problem.b.kind == "nvfp4" and case_of(problem) is not None


def _summary(records: Sequence[Record], device: str) -> str:
    cards = []
    both = [record for record in records if _is_contest(record) and record.best("nvfp4") and record.best("peer")]
    for op in Op:
        chosen = tables.select(both, device, op, _PROTOCOL)
        pairs = [(record, record.best("nvfp4"), record.best("peer")) for record in chosen]
        complete = [(record, ours, peer) for record, ours, peer in pairs if ours is not None and peer is not None]
        if not complete:
            continue
        ratio = geomean([paired_ratio(peer.samples, ours.samples) for _, ours, peer in complete])
        light = geomean([record.light.fraction(ours.samples.median) for record, ours, _ in complete])
        kind = "good" if ratio >= 1 else "bad"
        count = f"{len(complete)} shape{'s' if len(complete) > 1 else ''} of the contest"
        cards.append(
            f'<div class="card"><h3>{op}</h3><p class="big {kind}">{ratio:.2f}</p><p>best peer / ours</p>'
            f"<p>{_part(light)} of the speed of light<br><small>{count}</small></p></div>"
        )
    return f'<div class="cards">{"".join(cards)}</div>' if cards else "<p>Nothing to compare yet.</p>"


# ---- operations ------------------------------------------------------------------------------------------------------


def _operation(records: Sequence[Record]) -> str:
    roles: dict[str, str] = {}
    for record in records:
        for entry in record.entries:
            roles.setdefault(entry.name, entry.role)
    order = {"nvfp4": 0, "peer": 1, "other": 2, "floor": 3}
    names = sorted(roles, key=lambda name: order[roles[name]])
    rows = []
    for record in sorted(records, key=lambda record: not _is_contest(record)):
        ours, peer = record.best("nvfp4"), record.best("peer")
        fastest = min((x for x in (ours, peer) if x), key=lambda entry: entry.median_us, default=None)
        ratio = f"{paired_ratio(peer.samples, ours.samples):.2f}" if ours and peer else ""
        light = f"{_us(record.light.seconds)} <small>{record.light.bound}</small>"
        weights, other = (record.problem.a, record.problem.b)
        if record.problem.op is not Op.GEMV:
            weights, other = other, weights
        kind = "" if weights.kind == other.kind else f"<br><small>{other.kind} activations</small>"
        rows.append(
            [
                _cell(escape(tables.shape_text(record.problem)) + kind, "shape"),
                _cell(light, "n"),
                *(_timed(record.entry(name), record, fastest) for name in names),
                _cell(ratio, "n"),
            ]
        )
    head = ["shape", "speed of light", *names, "best peer / ours"]
    return _table(head, rows, numbers=range(1, len(head)))


def _timed(entry: Entry | None, record: Record, fastest: Entry | None) -> str:
    if entry is None:
        return _cell("", "n")
    text = _us(entry.samples.median)
    if entry.role == "nvfp4":
        text += f"<br><small>{record.light.fraction(entry.samples.median):.0%}</small>"
    kind = "n wrong" if entry.wrong else "n best" if entry is fastest else "n"
    return f'<td class="{kind}" title="{escape(entry.detail + "; " + entry.verdict, quote=True)}">{text}</td>'


def _roofline(records: Sequence[Record]) -> str:
    limits = records[0].limits
    points = []
    for record in records:
        for role, colour in (("peer", "peer"), ("nvfp4", "ours")):
            entry = record.best(role)
            if entry is None:
                continue
            reached = record.problem.flops / entry.samples.median / 1e12
            shape = tables.shape_text(record.problem)
            title = f"{record.problem.op} {shape}: {entry.name}, {_us(entry.samples.median)} us, {reached:.0f} TFLOP/s"
            mark = _MARKS[record.problem.op]
            points.append(charts.Point(roofline.intensity(record.problem), reached, title, colour, mark))
    rate = max(limits.rate(record.problem) for record in records)
    label = f"Roofline of {limits.name}: {len(points)} results"
    return charts.roofline(points, limits.bandwidth / 1e12, rate / 1e12, label)


# ---- strategies, ladder, log -----------------------------------------------------------------------------------------


def _strategies(record: Record) -> str:
    entries = sorted(record.entries, key=lambda entry: entry.median_us)
    slowest = max(entry.median_us for entry in entries)
    rules = {strategy.name: strategy.rules for strategy in strategies.strategies(record.problem.op)}
    order = list(rules)
    rows = []
    for entry in sorted(record.entries, key=lambda entry: order.index(entry.name) if entry.name in order else 99):
        width = 100 * entry.median_us / slowest
        bar = f'<span class="bar"><i style="width:{width:.1f}%"></i></span>'
        note = f"<br><small>{escape(rules.get(entry.name, ''))}</small>" if rules.get(entry.name) else ""
        kind = "n best" if entry is entries[0] else "n"
        cells = [_cell(escape(entry.name) + note), _cell(bar), _cell(_us(entry.samples.median), kind)]
        cells += [_cell(_us(entry.host_us * 1e-6), "n"), _cell(escape(entry.verdict))]
        rows.append(cells)
    for name, reason in record.refusals.items():
        rows.append([_cell(escape(name)), _cell(""), _cell(""), _cell(""), _cell(f"<small>{escape(reason)}</small>")])
    title = f"<h3>{record.problem.op} {escape(tables.shape_text(record.problem))}</h3>"
    product = strategies.product_of(known(str(record.device["arch"])))
    title += f'<p class="dim">{escape(str(record.device["name"]))}; {escape(product)}</p>'
    return title + _table(["strategy", "", "microseconds", "host", "answer"], rows, numbers=(2, 3))


def _rows(found: Rows) -> str:
    head, rows, numbers = found
    cells = [[_cell(escape(x), "n" if i in numbers else "") for i, x in enumerate(row)] for row in rows]
    return _table(head, cells, numbers=numbers)


def _ladder(ladder: Ladder, records: Sequence[Record], counted: Counted | None) -> str:
    record = newest(ladder, records)
    body = f"<h3>{escape(ladder.name)}</h3><p>{escape(ladder.about)}."
    if record is not None:
        shape = tables.shape_text(record.problem)
        body += f" {escape(shape)} on {escape(str(record.device['name']))}, medians of cold calls.</p>"
        label = f"Ladder {ladder.name}: microseconds of each rung against the speed of light"
        body += f"<figure>{charts.ladder(bars(ladder, record), record.light.seconds, label)}</figure>"
    else:
        body += " Not timed: counted in the emulator.</p>"
    body += _rows(rung_rows(ladder, record))
    if counted:
        body += f'<p class="dim">{escape(counted_where(ladder))}</p>{_rows(counter_rows(ladder, counted))}'
    return body


def _log(records: Sequence[Record]) -> str:
    rows = []
    for run in reversed(runs(records)):
        change = "" if run.change is None else f"{run.change:+.1%}"
        kind = "n wrong" if run.wrong else "n good" if run.best and run.change is not None else "n"
        rows.append(
            [
                _cell(run.time.replace("T", " ").rstrip("Z")),
                _cell(f"<code>{escape(run.commit.partition('+')[0][:9])}</code>"),
                _cell(f"{escape(run.subject)}<br><small>{escape(run.device)}</small>"),
                _cell(f"{escape(run.what)}<br><small>{escape(run.protocol)}</small>", "whole"),
                f'<td title="{escape(run.times, quote=True)}">{escape(run.brief)}</td>',
                _cell(_us(run.geomean_us * 1e-6), "n"),
                _cell(_part(run.fraction), "n"),
                _cell("wrong" if run.wrong else change, kind),
            ]
        )
    head = ["time (UTC)", "commit", "subject", "operation", "us a shape", "geomean, us", "speed of light", "change"]
    return _table(head, rows, numbers=(5, 6, 7))


# ---- the page --------------------------------------------------------------------------------------------------------

_STYLE = """
:root{color-scheme:light;%(light)s}
@media(prefers-color-scheme:dark){:root:not([data-theme=light]){color-scheme:dark;%(dark)s}}
:root[data-theme=dark]{color-scheme:dark;%(dark)s}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main,header,nav{max-width:1180px;margin:0 auto;padding:0 24px}
header{padding-top:36px;display:flex;justify-content:space-between;gap:24px;align-items:start}
h1{font-size:30px;margin:0 0 4px;letter-spacing:-.01em}
h2{font-size:21px;margin:44px 0 10px;padding-top:14px;border-top:1px solid var(--line)}
h3{font-size:15px;margin:26px 0 8px;font-weight:600}.card h3{margin:0;font-size:14px;color:var(--dim)}
section>h3:first-of-type{margin-top:6px}
p{margin:6px 0 12px}small,.dim{color:var(--dim);font-size:12.5px}
td{min-width:64px}nav{position:sticky;top:0;background:var(--paper);padding-top:10px;padding-bottom:10px;z-index:1;
 border-bottom:1px solid var(--line);overflow-x:auto;white-space:nowrap}
nav a{color:var(--dim);text-decoration:none;margin-right:18px}nav a:hover{color:var(--ours)}
td.whole{white-space:nowrap}section{scroll-margin-top:48px}
button{font:inherit;font-size:13px;color:var(--ink);background:none;border:1px solid var(--line);border-radius:6px;
 padding:5px 12px;cursor:pointer;white-space:nowrap}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(190px,1fr));gap:14px}
.card{border:1px solid var(--line);border-radius:10px;padding:14px 16px}
.card p{margin:4px 0 0}.big{font-size:32px;font-weight:650;line-height:1.15}
.good{color:var(--good)}.bad{color:var(--peer)}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:10px}
table{border-collapse:collapse;width:100%%;font-variant-numeric:tabular-nums;font-size:13.5px}
th,td{padding:7px 11px;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
tr:last-child td{border-bottom:0}th{color:var(--dim);font-weight:600;white-space:nowrap}
td.n,th.n{text-align:right}td.n,th.n,td.shape{white-space:nowrap}td.best{color:var(--ours);font-weight:650}
td.wrong{color:var(--bad)}td.good{color:var(--good)}
.part,.bar{display:inline-block;height:8px;border-radius:4px;background:var(--line);overflow:hidden;vertical-align:middle}
.part{width:64px;margin-right:8px}.bar{width:220px}
.part i,.bar i{display:block;height:100%%;background:var(--ours);border-radius:4px}
figure{margin:12px 0;border:1px solid var(--line);border-radius:10px;padding:12px;overflow-x:auto}
svg{display:block;width:100%%;min-width:720px;height:auto}code{font:12.5px ui-monospace,monospace}
footer{max-width:1180px;margin:48px auto 40px;padding:0 24px;color:var(--dim);font-size:13px}
"""
_SCRIPT = """
const root=document.documentElement,button=document.getElementById('theme');
button.onclick=()=>{const dark=root.dataset.theme?root.dataset.theme==='dark':
matchMedia('(prefers-color-scheme:dark)').matches;root.dataset.theme=dark?'light':'dark'};
"""


def sections(records: Sequence[Record], counted: dict[str, Counted] | None = None) -> list[Section]:
    """The parts of the page.

    Args:
        records: All records.
        counted: What the emulator counted for ladders, by name.
    """
    found: list[Section] = []
    devices = sorted({tables.slug(str(record.device["name"])) for record in records})
    for device in devices:
        name = next(str(r.device["name"]) for r in records if tables.slug(str(r.device["name"])) == device)
        shown = [record for op in Op for record in tables.select(records, device, op, _PROTOCOL)]
        where = f", {name}" if len(devices) > 1 else ""
        found.append(Section(f"summary-{device}", name, _summary(records, device)))
        # Where the newest record of a shape has no peer, an older one may show where ours stands.
        both = [record for record in records if record.best("nvfp4") and record.best("peer")]
        placed = [record for op in Op for record in tables.select(both, device, op, _PROTOCOL)]
        beside = {record.problem for record in placed}
        placed += [record for record in shown if record.problem not in beside and record.best("nvfp4")]
        contest = [record for record in placed if _is_contest(record)]
        if contest:
            found.append(Section(f"roofline-{device}", f"Roofline{where}", f"<figure>{_roofline(contest)}</figure>"))
        for op in Op:
            chosen = tables.select(records, device, op, _PROTOCOL)
            if chosen:
                found.append(Section(f"{op}-{device}", f"{op}{where}", _operation(chosen)))
    compared = strategies.newest(records)
    if compared:
        found.append(Section("strategies", "Strategies", "".join(map(_strategies, compared))))
    counts = counted or {}
    climbed = "".join(_ladder(ladder, records, counts.get(ladder.name)) for ladder in LADDERS)
    found.append(Section("ladders", "Ladders", climbed))
    found.append(Section("log", "Optimisation log", _log(records)))
    return found


def build(records: Sequence[Record], counted: dict[str, Counted] | None = None) -> str:
    """The page as HTML text.

    Args:
        records: All records.
        counted: What the emulator counted for ladders, by name.

    Raises:
        InputError: There are none.
    """
    if not records:
        raise InputError("nvfp4 report", "records", "some", "none", "Write records with `nvfp4 bench --record FILE`.")
    parts = sections(records, counted)
    days = sorted({record.time[:10] for record in records})
    span = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    style = _STYLE % {"light": charts.variables(charts.LIGHT), "dark": charts.variables(charts.DARK)}
    links = "".join(f'<a href="#{part.anchor}">{escape(part.title)}</a>' for part in parts)
    body = "".join(f'<section id="{part.anchor}"><h2>{escape(part.title)}</h2>{part.body}</section>' for part in parts)
    about = (
        "Microseconds per call, medians; distinct inputs, cold caches, subjects interleaved in one process. "
        "Percentages are parts of the speed of light, from bytes, FLOPs and the datasheet of the device."
    )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>nvfp4 report</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{style}</style></head><body><header><div><h1>nvfp4</h1>"
        f'<p class="dim">{len(records)} records, {span}. {about}</p></div>'
        '<button id="theme" type="button">light / dark</button></header>'
        f"<nav>{links}</nav><main>{body}</main>"
        "<footer>Made by <code>nvfp4 report</code> from the records in <code>benchmarks/results</code>.</footer>"
        f"<script>{_SCRIPT}</script></body></html>\n"
    )
