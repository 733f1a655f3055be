"""`nvfp4 solve`: compute all operations at the contest's benchmark sizes, and check every element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from nvfp4 import backends
from nvfp4.bench.run import benchmark_problems
from nvfp4.check.run import Case, Outcome, Target, run_case
from nvfp4.cli import output
from nvfp4.device import capability
from nvfp4.errors import InputError
from nvfp4.problem import Op, Problem

# Whose kernels the emulator runs by default: those that dispatch would choose on the GPU that most users have.
_EMULATED_ARCH = "sm_90a"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        target: What ran.
        outcome: What became of it.
        seconds: GPU time of one call with cold inputs, or wall time on a CPU; None when nothing ran.
        light: Fraction of the speed of light; None without a GPU.
    """

    target: Target
    outcome: Outcome
    seconds: float | None
    light: float | None

    def to_json(self) -> dict[str, Any]:
        """The row as plain data."""
        outcome = self.outcome
        return {
            "op": str(outcome.case.problem.op),
            "shape": output.shape(outcome.case.problem),
            "backend": outcome.backend,
            "target": str(self.target),
            "ok": outcome.ok,
            "verdict": outcome.verdict.summary if outcome.verdict else outcome.refusal,
            "seconds": self.seconds,
            "fraction_of_speed_of_light": self.light,
        }


def _problems(ops: list[str] | None, shapes: list[str] | None) -> list[Problem]:
    chosen = output.operations(ops)
    if shapes:
        if len(chosen) != 1:
            raise InputError("nvfp4 solve", "--shape", "one --op", f"{len(chosen)} operations", "Name one with --op.")
        return [output.parse_shape(chosen[0], text) for text in shapes]
    return [problem for op in chosen for problem in benchmark_problems(op)]


def _emulated(problems: list[Problem]) -> list[Problem]:
    """The problem of each operation with the fewest FLOPs: full size, and seconds of emulation rather than minutes."""
    by_op: dict[Op, Problem] = {}
    for problem in problems:
        smallest = by_op.setdefault(problem.op, problem)
        by_op[problem.op] = min(smallest, problem, key=lambda p: p.flops)
    return list(by_op.values())


def _targets(device: str, names: list[str], arch: str | None) -> list[Target]:
    if arch:
        return [Target("cpu", name, arch) for name in names] or [Target("cpu", None, arch)]
    return [Target(device, name) for name in names] or [Target(device)]


def _time(problem: Problem, backend: str) -> tuple[float | None, float | None]:
    """Cold GPU time of one call by the contest's protocol, and its fraction of the speed of light."""
    from nvfp4.bench.run import Environment, Settings, run

    settings = Settings(backends=(backend,), peers=(), floor=False, protocol="back-to-back", max_samples=5, calls=10)
    record = run(problem, settings, Environment.here())
    entry = record.best("nvfp4")
    if entry is None:
        return None, None
    seconds = entry.median_us * 1e-6
    return seconds, record.light.fraction(seconds)


def _row(case: Case, target: Target) -> Row:
    outcome = run_case(case, target)
    if outcome.verdict is None:
        return Row(target, outcome, None, None)
    if target.device == "cuda" and outcome.backend:
        seconds, light = _time(case.problem, outcome.backend)
        return Row(target, outcome, seconds, light)
    return Row(target, outcome, outcome.seconds, None)


def solve(
    op: Annotated[list[str] | None, typer.Option(help="Operation(s); all by default.")] = None,
    shape: Annotated[
        list[str] | None, typer.Option(help="Sizes, such as 128x7168x16384; the benchmarks' by default.")
    ] = None,
    backend: Annotated[list[str] | None, typer.Option(help="Backend(s), or 'all'; the best one by default.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    emulate: Annotated[
        str, typer.Option(help="Run the kernels of this architecture in the emulator, such as sm_90a.")
    ] = "",
    activations: Annotated[str, typer.Option(help="nvfp4, fp16 or bf16.")] = "nvfp4",
    scale_layout: Annotated[str, typer.Option(help="linear or tiled.")] = "linear",
    out: Annotated[str, typer.Option(help="Type of the results: fp16, bf16 or fp32.")] = "fp16",
    data: Annotated[str, typer.Option(help="Distribution of the inputs; see nvfp4 check --help.")] = "contest",
    seed: Annotated[int, typer.Option(help="Seed of the inputs.")] = 1111,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compute all operations and check every element against the exact reference.

    With a GPU it is used, and times are of cold inputs. Without one, everything runs on the CPU at full size, and the
    CUDA kernels for Hopper run in the emulator for one full-size shape of each operation; --emulate runs all of them.
    """
    if device == "auto":
        device = "cpu" if emulate or not torch.cuda.is_available() else "cuda"
    problems = _problems(op, shape)
    names = output.split(backend)
    if names == ["all"]:
        names = list(backends.installed())
    targets = _targets(device, names, emulate or None)
    work = [(problem, target) for target in targets for problem in problems]
    if device == "cpu" and not (emulate or names or shape):
        work += [(problem, Target("cpu", None, _EMULATED_ARCH)) for problem in _emulated(problems)]
    rows: list[Row] = []
    where = capability(device)
    with output.Steps("solve", len(work)) as steps:
        for problem, target in work:
            case = Case(output.formats(problem, activations, scale_layout, out), data, seed)
            steps.now(f"{problem.op} {output.shape(problem)} {target}")
            rows.append(_row(case, target))
            steps.advance()
    right = all(row.outcome.ok or _declined(row) for row in rows) and any(row.outcome.ok for row in rows)
    if as_json:
        output.emit({"device": where.name, "ok": right, "rows": [row.to_json() for row in rows]})
    else:
        output.console.print(_table(rows, where.name))
        _advise(rows)
    raise typer.Exit(0 if right else 1)


def _declined(row: Row) -> bool:
    """Refused among others, when several backends were asked for: no failure of the whole."""
    return row.outcome.verdict is None


def _table(rows: list[Row], device: str) -> Table:
    table = Table(title=f"nvfp4 solve on {device}")
    for name in ("operation", "shape", "backend", "where", "verdict"):
        table.add_column(name, overflow="fold")
    table.add_column("time", justify="right")
    gpu = any(row.light is not None for row in rows)
    if gpu:
        table.add_column("speed of light", justify="right")
    for row in rows:
        verdict = row.outcome.verdict
        text = verdict.summary if verdict else f"declined: {(row.outcome.refusal or '').splitlines()[-1].strip(' -')}"
        style = "green" if row.outcome.ok else "yellow" if verdict is None else "bold red"
        cells = [
            str(row.outcome.case.problem.op),
            output.shape(row.outcome.case.problem),
            row.outcome.backend or "none",
            f"emulated {row.target.arch}" if row.target.arch else row.target.device,
            f"[{style}]{text}[/]",
            output.duration(row.seconds) if row.seconds is not None else "",
        ]
        table.add_row(*cells, *([f"{row.light:.0%}" if row.light else ""] if gpu else []))
    return table


def _advise(rows: list[Row]) -> None:
    """Details of what went wrong, below the table."""
    for row in rows:
        if row.outcome.verdict is not None and not row.outcome.ok:
            output.console.print(f"[bold red]{row.outcome.case}[/]\n  {row.outcome.verdict}", highlight=False)
