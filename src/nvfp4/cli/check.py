"""`nvfp4 check`: shapes, formats and data, fuzzed or of models, against the exact reference."""

from __future__ import annotations

from typing import Annotated

import torch
import typer
from rich.table import Table

from nvfp4 import backends
from nvfp4.check.inputs import NAMES
from nvfp4.check.pool import run_cases
from nvfp4.check.run import Case, Outcome, Target, fuzz, of_models
from nvfp4.cli import output
from nvfp4.contest.tasks import benchmarks_of, task_of
from nvfp4.errors import InputError

_TABLE = "official"
_DRAWN = ("fuzz", "models")  # by seeds


def _cases(
    ops: list[str] | None, seeds: int, seed: int | None, shapes: str, data: list[str], size: tuple[int, int]
) -> list[Case]:
    chosen = output.operations(ops)
    if shapes in _DRAWN:
        wanted = range(seeds) if seed is None else range(seed, seed + 1)
        drawn = [(op, s) for s in wanted for op in chosen]
        if shapes == "fuzz":
            cases = [fuzz(op, s, largest=size[0], largest_k=size[1]) for op, s in drawn]
        else:
            cases = [of_models(op, s) for op, s in drawn]
        if data:
            cases = [Case(case.problem, name, case.seed) for case in cases for name in data]
        return cases
    if shapes not in ("tests", "benchmarks", _TABLE):
        wanted_shapes = "fuzz, models, tests, benchmarks or official"
        raise InputError("nvfp4 check", "--shapes", wanted_shapes, shapes, "Name one of them.")
    cases = []
    for op in chosen:
        if not benchmarks_of(op):
            continue  # not in the contest
        task = task_of(op)
        lines = (*task.tests, *task.benchmarks) if shapes == _TABLE else getattr(task, shapes)
        for line in dict.fromkeys(lines):
            for layout in ("linear", "tiled"):
                cases += [
                    Case(task.problem(line, scale_layout=layout), name, line.seed) for name in data or ["contest"]
                ]
    return cases


def _command(outcome: Outcome, target: Target, size: tuple[int, int], shapes: str) -> str:
    """The command that repeats one case."""
    parts = ["nvfp4 check", f"--op {outcome.case.problem.op}", f"--data {outcome.case.distribution}"]
    parts += [f"--backend {outcome.backend}"] if outcome.backend else []
    parts += [f"--emulate {target.arch}"] if target.arch else [f"--device {target.device}"]
    if shapes == "fuzz":
        parts += [f"--seed {outcome.case.seed}", f"--size {size[0]},{size[1]}"]
    elif shapes == "models":
        parts += [f"--seed {outcome.case.seed}", "--shapes models"]
    else:
        parts += [f"--shapes {_TABLE}"]
    return " ".join(parts)


def check(
    op: Annotated[list[str] | None, typer.Option(help="Operation(s); all by default.")] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help="Backend(s), or 'all'; dispatch chooses by default.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="How many fuzzed cases of each operation.")] = 20,
    seed: Annotated[int | None, typer.Option(help="Only this fuzzed case.")] = None,
    shapes: Annotated[
        str,
        typer.Option(help="fuzz, models (layers: for a GPU), or the contest's: tests, benchmarks, official (both)."),
    ] = "fuzz",
    data: Annotated[list[str] | None, typer.Option(help=f"Data: 'all', or some of {', '.join(NAMES)}.")] = None,
    size: Annotated[str, typer.Option(help="Largest M and N, and largest K, of fuzzed cases.")] = "384,2048",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    emulate: Annotated[str, typer.Option(help="Run the kernels of this architecture in the emulator.")] = "",
    jobs: Annotated[int, typer.Option(min=1, help="Worker processes; the GPU, if there is one, is shared.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check operations on fuzzed or official shapes: bit for bit where sums are exact, else within a derived bound.

    Outputs are poisoned and stand between guard zones. A wrong result is diagnosed, and the command that repeats it is
    printed. Exit code 1 when anything is wrong, or when nothing ran.
    """
    if device == "auto":
        device = "cpu" if emulate or not torch.cuda.is_available() else "cuda"
    names = output.split(backend)
    names = list(backends.installed()) if names == ["all"] else names
    distributions = list(NAMES) if output.split(data) == ["all"] else output.split(data)
    m, _, k = size.partition(",")
    if not (m.isdigit() and k.isdigit() and int(m) and int(k) >= 16):
        raise InputError("nvfp4 check", "--size", "two numbers, such as 384,2048", size, "Write M,K with K >= 16.")
    bounds = (int(m), int(k))
    targets = [Target(device, name, emulate or None) for name in names] or [Target(device, None, emulate or None)]
    cases = _cases(op, seeds, seed, shapes, distributions, bounds)
    outcomes: list[tuple[Target, Outcome]] = []
    with output.Steps("check", len(cases) * len(targets)) as steps:

        def tell(case: Case, target: Target) -> None:
            steps.now(f"{case.problem.op} {target}")

        for target, outcome in run_cases(cases, targets, jobs, tell):
            outcomes.append((target, outcome))
            steps.advance()
            if outcome.verdict is not None and not outcome.ok and not as_json:
                output.error_console.print(f"[bold red]{outcome.case}[/]\n  {outcome.verdict}", highlight=False)
    ran = [outcome for _, outcome in outcomes if outcome.verdict is not None]
    right = bool(ran) and all(outcome.ok for outcome in ran)
    failed = [
        {
            "case": str(outcome.case),
            "verdict": str(outcome.verdict),
            "command": _command(outcome, target, bounds, shapes),
        }
        for target, outcome in outcomes
        if outcome.verdict is not None and not outcome.ok
    ]
    if as_json:
        output.emit({"ok": right, "summary": _summary(outcomes), "failed": failed})
    else:
        output.console.print(_table(outcomes))
        for failure in failed[:10]:
            output.console.print(f"again: {failure['command']}", highlight=False)
    raise typer.Exit(0 if right else 1)


def _summary(outcomes: list[tuple[Target, Outcome]]) -> list[dict[str, object]]:
    rows: dict[tuple[str, str], list[Outcome]] = {}
    for target, outcome in outcomes:
        rows.setdefault((str(outcome.case.problem.op), str(target)), []).append(outcome)
    table: list[dict[str, object]] = []
    for (op, where), members in rows.items():
        ran = [member for member in members if member.verdict is not None]
        declined = sorted({member.refusal or "" for member in members if member.verdict is None})
        table.append(
            {
                "op": op,
                "target": where,
                "cases": len(members),
                "right": sum(member.ok for member in ran),
                "wrong": sum(not member.ok for member in ran),
                "declined": len(members) - len(ran),
                "bit_equal": sum(member.verdict.summary == "bit-equal" for member in ran if member.verdict),
                "worst_error_over_bound": max((member.verdict.worst for member in ran if member.verdict), default=0.0),
                "reasons": declined[:3],
            }
        )
    return table


def _table(outcomes: list[tuple[Target, Outcome]]) -> Table:
    table = Table(title="nvfp4 check")
    columns = ("operation", "target", "cases", "right", "wrong", "declined", "bit-equal", "worst error / bound")
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index < 2 else "right")
    for row in _summary(outcomes):
        style = "red" if row["wrong"] else "green" if row["right"] else "yellow"
        cells = [row[key] for key in ("op", "target", "cases", "right", "wrong", "declined", "bit_equal")]
        table.add_row(*map(str, cells), f"{row['worst_error_over_bound']:.3f}", style=style)
    return table
