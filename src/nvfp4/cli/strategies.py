"""`nvfp4 bench OP --strategies`: the ways to put an operation together, compared in one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer
from rich.table import Table

from nvfp4.bench.records import append, to_json
from nvfp4.bench.strategies import Comparison, Row, compare
from nvfp4.cli import output
from nvfp4.problem import Problem


def show(
    problems: Sequence[Problem],
    *,
    emulate: str | None,
    samples: int | None,
    commit: str | None,
    record: Path | None,
    as_json: bool,
) -> None:
    """Compare the strategies of each problem; exit code 1 when one of them gives a wrong answer."""
    if record is not None:
        output.file_for_results("--record", record)
    found: list[Comparison] = []
    with output.Steps("strategies", len(problems)) as steps:
        for problem in problems:
            steps.now(str(problem.op))
            one = compare(problem, emulate=emulate, max_samples=samples, commit=commit)
            found.append(one)
            steps.advance()
            if record is not None and one.record is not None:
                append(record, [one.record])
            if not as_json:
                output.console.print(table(one))
                output.console.print(f"[dim]{one.product}[/]", highlight=False)
    if as_json:
        output.emit([_json(one) for one in found])
    raise typer.Exit(1 if any(row.wrong for one in found for row in one.rows) else 0)


def table(comparison: Comparison) -> Table:
    """The strategies, plainest first, each against the first one that was timed."""
    title = f"{comparison.problem.op} {output.shape(comparison.problem)}: strategies"
    made = Table(title=title)
    for name in ("strategy", "what a call does", "median", "speed-up", "host", "verdict"):
        right = name in ("median", "speed-up", "host")
        made.add_column(name, justify="right" if right else "left", overflow="fold")
    first = next((row.samples for row in comparison.rows if row.samples is not None), None)
    for row in comparison.rows:
        about = row.strategy.about + (f"\n[yellow]{row.strategy.rules}[/]" if row.strategy.rules else "")
        style = "red" if row.wrong else "dim" if row.refusal else None
        speed = f"{first.median / row.samples.median:.2f}x" if first and row.samples else ""
        made.add_row(row.strategy.name, about, *_times(row), speed, *_rest(row), style=style)
    return made


def _times(row: Row) -> tuple[str]:
    return (output.duration(row.samples.median) if row.samples else "",)


def _rest(row: Row) -> tuple[str, str]:
    host = output.duration(row.samples.host_median) if row.samples else ""
    return host, row.refusal or row.verdict


def _json(comparison: Comparison) -> dict[str, object]:
    return {
        "problem": str(comparison.problem),
        "product": comparison.product,
        "strategies": [
            {
                "name": row.strategy.name,
                "about": row.strategy.about,
                "rules": row.strategy.rules,
                "verdict": row.verdict,
                "refusal": row.refusal,
                "median_us": row.samples.median * 1e6 if row.samples else None,
            }
            for row in comparison.rows
        ],
        "record": to_json(comparison.record) if comparison.record else None,
    }
