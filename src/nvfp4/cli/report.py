"""`nvfp4 report`: everything that was recorded on one page of HTML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nvfp4.bench.records import load
from nvfp4.cli import output
from nvfp4.errors import InputError
from nvfp4.ladder.pages import load_counters
from nvfp4.report.page import build


def report(
    source: Annotated[Path, typer.Argument(help="A JSONL file of records, or a directory of them.")] = Path(
        "benchmarks/results"
    ),
    target: Annotated[Path, typer.Option("-o", "--output", help="The HTML file.")] = Path("report.html"),
) -> None:
    """Write one self-contained HTML page: tables, roofline, strategies, ladders, log."""
    if not source.exists():
        remedy = "Write records with `nvfp4 bench --record FILE`, or pass where they are."
        raise InputError("nvfp4 report", "source", "a file or directory of records", str(source), remedy)
    records = load(source)
    page = build(records, load_counters(source if source.is_dir() else source.parent))
    target.write_text(page, encoding="utf-8")
    output.console.print(f"{target}: {len(records)} records, {len(page.encode()) // 1024} KB", highlight=False)
