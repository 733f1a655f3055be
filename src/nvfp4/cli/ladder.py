"""`nvfp4 ladder gemv|matmul`: a product in one kernel after another, from naive to final, checked and timed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table

from nvfp4.bench.records import Record, append
from nvfp4.cli import output
from nvfp4.device import capability
from nvfp4.errors import InputError
from nvfp4.jit import source
from nvfp4.ladder import pages, run, rungs


def ladder(
    what: Annotated[str, typer.Argument(help="gemv or matmul.")],
    arch: Annotated[str, typer.Option(help="Of the matmul: sm_90a or sm_100a.")] = "sm_90a",
    emulate: Annotated[
        bool, typer.Option("--emulate", help="In the emulator, at a small size, with counters; so without its GPU.")
    ] = False,
    shape: Annotated[str, typer.Option(help="MxNxK (GEMV: MxK); the ladder's own by default.")] = "",
    show: Annotated[str, typer.Option(help="Print the source of a rung, such as gemv_3, and stop.")] = "",
    counters: Annotated[
        Path | None,
        typer.Option(help="With --emulate: keep the counters in this JSON file."),
    ] = None,
    record: Annotated[Path | None, typer.Option(help="Append the times to this JSONL file.")] = None,
    commit: Annotated[str, typer.Option(help="What the record names as the commit; git is asked by default.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Climb a ladder: what changed at each rung, why, what was expected, and what came of it."""
    chosen = rungs.ladder(what, arch)
    if show:
        names = [rung.name for rung in chosen.rungs]
        if show not in names:
            raise InputError("nvfp4 ladder", "--show", "one of " + ", ".join(names), repr(show), "Name a rung.")
        print(source.read(f"kernels/ladder/{show}.cu"))
        return
    sizes = _shape(shape)
    found: Record | None = None
    if not emulate and not _gpu_of(chosen):
        if record is not None:
            remedy = "Only times are recorded; --counters keeps what the emulator counts."
            raise InputError("nvfp4 ladder", "--record", f"a GPU of {chosen.arch}", "none", remedy)
        emulate = True
        note = f"there is no {chosen.arch} GPU here: in the emulator, at a small size"
        output.error_console.print(f"[yellow]{note}[/]", highlight=False)
    for option, path in (("--record", record), ("--counters", counters)):
        if path is not None:
            output.file_for_results(option, path)
    if emulate:
        steps = run.emulate(chosen, sizes)
        if counters is not None:
            pages.save_counters(counters, chosen, steps)
    else:
        with output.Steps("ladder", 1) as progress:
            steps, found = run.time(chosen, sizes, commit=commit or None, progress=progress.now)
    if record is not None and found is not None:
        append(record, [found])
    if as_json:
        output.emit([_json(step) for step in steps])
    else:
        output.console.print(_table(chosen, sizes, steps, found))
    raise typer.Exit(0 if all(step.ok for step in steps) else 1)


def _gpu_of(chosen: rungs.Ladder) -> bool:
    """Whether the GPU at hand is one that the ladder is for."""
    return torch.cuda.is_available() and capability("cuda").arch == chosen.arch


def _shape(text: str) -> tuple[int, int, int] | None:
    if not text:
        return None
    parts = text.lower().split("x")
    if len(parts) not in (2, 3) or not all(part.isdigit() for part in parts):
        raise InputError(
            "nvfp4 ladder", "--shape", "MxNxK or MxK", repr(text), "Write the sizes with an x between them."
        )
    numbers = [int(part) for part in parts]
    return (numbers[0], 1, numbers[1]) if len(numbers) == 2 else (numbers[0], numbers[1], numbers[2])


def _table(
    chosen: rungs.Ladder, sizes: tuple[int, int, int] | None, steps: tuple[run.Step, ...], found: Record | None
) -> Table:
    emulated = found is None
    problem = chosen.problem(sizes or (chosen.small if emulated else chosen.shape))
    table = Table(title=f"{chosen.name}, {output.shape(problem)}, {chosen.arch}" + (" emulated" if emulated else ""))
    numbers = pages.COUNTED if emulated else ("median", "speed of light")
    for name in ("rung", "step", *numbers, *(() if emulated else ("expected",)), "verdict"):
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for step in steps:
        cells = _counted(step) if emulated else _timed(step, found)
        verdict = step.failure.split("\n")[0][:200] or step.verdict
        table.add_row(step.rung.name, step.rung.title, *cells, verdict, style=None if step.ok else "red")
    if found is not None:
        own = found.entries[-1]
        light = f"{found.light.fraction(own.samples.median):.0%}"
        table.add_row(own.name, own.detail, output.duration(own.samples.median), light, "", "")
    return table


def _counted(step: run.Step) -> list[str]:
    return pages.counts(step.counters) if step.counters is not None else [""] * len(pages.COUNTED)


def _timed(step: run.Step, found: Record | None) -> list[str]:
    if step.samples is None or found is None:
        return ["", "", step.rung.predicted]
    return [
        output.duration(step.samples.median),
        f"{found.light.fraction(step.samples.median):.0%}",
        step.rung.predicted,
    ]


def _json(step: run.Step) -> dict[str, object]:
    return {
        "rung": step.rung.name,
        "title": step.rung.title,
        "why": step.rung.why,
        "predicted": step.rung.predicted,
        "verdict": step.verdict,
        "failure": step.failure,
        "median_us": step.samples.median * 1e6 if step.samples else None,
        "counters": step.counters,
    }
