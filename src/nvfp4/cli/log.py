"""`nvfp4 log`: every recorded run, with what it changed against the best before it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from nvfp4.bench.log import Run, runs
from nvfp4.bench.records import load
from nvfp4.bench.tables import shape_text
from nvfp4.cli import output
from nvfp4.errors import InputError


def log(
    source: Annotated[Path, typer.Argument(help="A JSONL file of records, or a directory of them.")] = Path(
        "benchmarks/results"
    ),
    op: Annotated[list[str] | None, typer.Option(help="Operation(s); all by default.")] = None,
    subject: Annotated[str, typer.Option(help="Only subjects whose name contains this, such as sm90.")] = "",
    best: Annotated[bool, typer.Option("--best", help="Only runs that were the fastest so far.")] = False,
    shapes: Annotated[bool, typer.Option("--shapes", help="Name each shape and its plan.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The optimisation log: commit, device, times, fraction of the speed of light, change since the best."""
    if not source.exists():
        remedy = "Write records with `nvfp4 bench --record FILE`, or pass where they are."
        raise InputError("nvfp4 log", "source", "a file or directory of records", str(source), remedy)
    wanted = [str(what) for what in output.operations(op)]
    found = [run for run in runs(load(source)) if run.op in wanted and subject in run.subject]
    found = [run for run in found if run.best or not best]
    if as_json:
        output.emit([_json(run) for run in found])
        return
    table = Table(title=f"{len(found)} runs")
    times = "microseconds a shape"
    columns = ["time", "commit", "device", "subject", "operation", times, "geomean", "speed of light", "change"]
    for name in columns:
        right = name in ("geomean", "speed of light", "change")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for run in found:
        table.add_row(*_cells(run, shapes), style="red" if run.wrong else "green" if run.best else None)
    output.console.print(table)


def _cells(run: Run, shapes: bool) -> list[str]:
    change = "wrong" if run.wrong else "" if run.change is None else f"{run.change:+.1%}"
    return [
        run.time.replace("T", " ").rstrip("Z"),
        run.commit.partition("+")[0][:9] + ("+" if run.commit.endswith("+changes") else ""),
        run.device,
        run.subject,
        f"{run.op}\n[dim]{run.formats}, {run.protocol}[/]" if shapes else f"{run.what} ({run.protocol})",
        _each(run) if shapes else run.brief,
        output.duration(run.geomean_us * 1e-6),
        f"{run.fraction:.0%}",
        change + (" best" if run.best and run.change is not None else ""),
    ]


def _each(run: Run) -> str:
    """Each shape's time, and below it the plan, or the submission's file."""
    lines = (
        f"{shape_text(shape.problem)}: {shape.median_us:.2f}\n[dim]{escape(shape.detail)}[/]" for shape in run.shapes
    )
    return "\n".join(lines)


def _json(run: Run) -> dict[str, object]:
    return {
        "time": run.time,
        "commit": run.commit,
        "device": run.device,
        "subject": run.subject,
        "op": run.op,
        "protocol": run.protocol,
        "formats": run.formats,
        "shapes": [
            {"problem": str(s.problem), "median_us": s.median_us, "fraction": s.fraction, "plan": s.detail}
            for s in run.shapes
        ],
        "contest": run.complete,
        "geomean_us": run.geomean_us,
        "fraction": run.fraction,
        "change": run.change,
        "best": run.best,
        "wrong": run.wrong,
    }
