"""`nvfp4 contest`: evaluate, bundle and lint submissions for the GPU MODE NVFP4 contest."""

from __future__ import annotations

import base64
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from nvfp4 import config
from nvfp4.bench import provenance
from nvfp4.bench.records import append
from nvfp4.cli import output
from nvfp4.contest import cases as case_files
from nvfp4.contest import lint as rules
from nvfp4.contest import official
from nvfp4.contest.bundle import Bundle
from nvfp4.contest.bundle import bundle as make_bundle
from nvfp4.contest.evaluate import MODES, Evaluation, Options, evaluate
from nvfp4.contest.record import records
from nvfp4.contest.report import ExitCode, Report
from nvfp4.contest.tasks import Case, Task, task_of
from nvfp4.errors import InputError

app = typer.Typer(help="The GPU MODE NVFP4 contest: evaluate, bundle and lint submissions.", no_args_is_help=True)

_EMULATED_HARD = 2_000_000_000
"""`Case.work` up to which a case is emulated on harder data, too: references of those take longer than kernels."""
_LIMIT, _EMULATED_LIMIT = 300.0, 3600.0
"""Seconds for a step of a submission, and of one in the emulator."""

TaskOption = Annotated[str, typer.Option("--task", help="nvfp4_gemv, nvfp4_gemm, nvfp4_dual_gemm, nvfp4_group_gemm.")]


def _chosen(task: Task, mode: str, path: Path | None, *, emulate: bool) -> tuple[Case, ...]:
    """The cases to evaluate; none twice in the emulator, which takes its time."""
    if path is not None:
        return case_files.load(task, path)
    every = task.tests if mode == "test" else task.benchmarks
    return tuple(dict.fromkeys(every)) if emulate else every


def evaluate_command(
    submission: Annotated[Path, typer.Argument(help="The submission.py.")],
    task: TaskOption = "",
    mode: Annotated[str, typer.Option(help="test, benchmark, leaderboard or profile.")] = "test",
    cases: Annotated[Path | None, typer.Option(help="Case file instead of the task's own cases.")] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Run the evaluator of this checkout of gpu-mode/reference-kernels instead.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    emulate: Annotated[bool, typer.Option("--emulate", help="Run the tests of a bundle of ours in the emulator.")] = (
        False
    ),
    official_only: Annotated[
        bool, typer.Option("--official-only", help="Only the contest's own data and tolerance decide.")
    ] = False,
    repeats: Annotated[int, typer.Option(help="Most samples of a benchmark; 0 for the task's own number.")] = 0,
    seed: Annotated[int | None, typer.Option(help="Seed of the run, as POPCORN_SEED.")] = None,
    limit: Annotated[
        float, typer.Option(help=f"Seconds for one step; 0 for {_LIMIT:.0f}, in the emulator {_EMULATED_LIMIT:.0f}.")
    ] = 0.0,
    record: Annotated[Path | None, typer.Option(help="Append times of right benchmarks to this JSONL file.")] = None,
    commit: Annotated[str, typer.Option(help="What the records name as the commit; git is asked by default.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Judge a submission as the contest would, and more strictly; the exit code is the contest's.

    The report goes to the descriptor in POPCORN_FD, if that is set. Exit codes: 0 all right, 110 crash, 111 POPCORN_FD
    cannot be written, 112 wrong, 113 bad case file, 114 time limit.
    """
    chosen = _task(task, submission)
    if mode not in MODES:
        raise InputError("contest eval", "--mode", "one of " + ", ".join(MODES), repr(mode), "Name one of them.")
    seed = config.popcorn_seed() if seed is None else seed
    limit = limit or (_EMULATED_LIMIT if emulate else _LIMIT)
    try:
        lines = _chosen(chosen, mode, cases, emulate=emulate)
    except InputError as error:
        output.show_error(str(error))
        raise typer.Exit(int(ExitCode.BAD_CASES)) from None
    if reference is not None:
        for line in official.missing():
            output.error_console.print(f"[yellow]{line}[/]", highlight=False)
        code, text = official.run_official(reference, submission, chosen, mode, lines, seed=seed, limit=limit)
        print(text)
        raise typer.Exit(code)
    if device == "auto":
        device = "cpu" if emulate else "cuda"
    if record is not None and (device != "cuda" or mode not in ("benchmark", "leaderboard")):
        remedy = "Use --mode benchmark or leaderboard on a GPU."
        raise InputError("contest eval", "--record", "benchmarks on a GPU", f"{mode} on {device}", remedy)
    if record is not None:
        output.file_for_results("--record", record)
    broken = _broken_rules(submission, chosen)
    options = Options(
        device=device,
        mode=mode,
        cases=lines,
        seed=seed,
        limit=limit,
        strict=not official_only,
        most_hard=_EMULATED_HARD if emulate else None,
        emulate=emulate,
        repeats=repeats or None,
    )
    report = Report(config.popcorn_descriptor())
    before = provenance.clocks() if record is not None else {}
    with output.Steps("contest", 1) as steps:
        result = evaluate(submission, chosen, options, report=report, progress=steps.now)
    if record is not None and result.ok:
        readings = (before, provenance.clocks())
        described = provenance.describe_device(device)
        append(record, records(result, submission, described, readings, commit or None))
    if as_json:
        output.emit(_json(result, broken))
    else:
        _show(result)
        for finding in broken:
            output.error_console.print(f"the contest would reject it: {finding}", style="yellow", markup=False)
    if report.broken is not None:
        output.show_error(f"POPCORN_FD: {report.broken}")
        raise typer.Exit(int(ExitCode.NO_CHANNEL))
    raise typer.Exit(int(result.exit_code))


def _broken_rules(submission: Path, task: Task) -> list[rules.Finding]:
    """Rules that the file breaks; none where there is no file, which the evaluator says better."""
    try:
        return [finding for finding in rules.check_file(submission, task) if finding.error]
    except InputError as error:
        return [rules.Finding(0, True, str(error))] if submission.is_file() else []


def _task(name: str, submission: Path) -> Task:
    if name:
        return task_of(name)
    if submission.is_file():
        for line in submission.read_text(encoding="utf-8", errors="replace").splitlines()[:20]:
            words = line.split()
            if words[:1] == ["#!POPCORN"] and words[1:2] in (["leaderboard"], ["leaderboards"]) and len(words) > 2:
                return task_of(words[2])
    raise InputError("contest eval", "--task", "a task", "none", "Pass --task, or add a #!POPCORN leaderboard line.")


def _json(result: Evaluation, broken: list[rules.Finding]) -> dict[str, object]:
    return {
        "ok": result.ok,
        "exit_code": int(result.exit_code),
        "score_us": result.score * 1e6 if result.score is not None else None,
        "failure": result.failure.error if result.failure is not None else None,
        "report": [f"{key}: {value}" for key, value in result.report.lines],
        "rules": [str(finding) for finding in broken],
        "notes": sorted({note for outcome in result.outcomes for note in outcome.notes}),
    }


def _show(result: Evaluation) -> None:
    timed = result.mode in ("benchmark", "leaderboard")
    table = Table(title=f"{result.task.name}, {result.mode}")
    for name in ("case", "verdict", *(("mean", "error", "speed of light", "runs") if timed else ()), "judged"):
        table.add_column(name, overflow="fold", justify="left" if name in ("case", "verdict") else "right")
    for outcome in result.outcomes:
        right = "profiled, not judged" if result.mode == "profile" else "right"
        # Text: what a submission says is shown as it is, never taken for markup.
        cells: list[str | Text] = [
            result.task.line(outcome.case),
            Text(outcome.error or "; ".join((right, *outcome.notes))),
        ]
        if timed and outcome.stats is not None:
            mean = outcome.stats.mean * 1e-9
            part = f"{outcome.light / mean:.0%}" if outcome.light else ""
            relative = f"{outcome.stats.err / outcome.stats.mean:.2%}"
            cells += [output.duration(mean), relative, part, str(outcome.stats.runs)]
        elif timed:
            cells += [""] * 4
        table.add_row(*cells, str(outcome.checked), style="red" if outcome.error else "green")
    output.console.print(table)
    for outcome in result.failed[:3]:
        if outcome is result.failure:
            output.console.print(outcome.error, style="red", highlight=False, markup=False)
        if outcome.trace:
            output.console.print(outcome.trace, highlight=False, markup=False)
    for outcome in result.outcomes:
        if outcome.report:
            output.console.print(base64.b64decode(outcome.report).decode(), highlight=False, markup=False)
    if result.score is not None and timed:
        output.console.print(f"score: {output.duration(result.score)} (geometric mean of the means)")
    output.console.print("[green]pass[/]" if result.ok else f"[red]fail[/] (exit code {int(result.exit_code)})")


def bundle_command(
    task: Annotated[str, typer.Argument(help="The task, such as nvfp4_gemm.")],
    arch: Annotated[str, typer.Option(help="sm_100a, sm_90a, or another that a backend has kernels for.")] = "sm_100a",
    strategy: Annotated[str, typer.Option(help="auto, or the backend whose kernels to take: sm80, sm90, sm100.")] = (
        "auto"
    ),
    target: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to write it; else it is printed.")
    ] = None,
    cases: Annotated[Path | None, typer.Option(help="Case file: only for these sizes.")] = None,
) -> None:
    """Write a self-contained submission.py."""
    chosen = task_of(task)
    chosen_cases = ["--cases", str(cases)] if cases is not None else []
    words = ["nvfp4", "contest", "bundle", chosen.name, "--arch", arch, "--strategy", strategy, *chosen_cases]
    command = shlex.join(words)
    lines = case_files.load(chosen, cases) if cases is not None else None
    made = make_bundle(chosen, arch, strategy=strategy, cases=lines, command=command)
    found = rules.check(made.text, chosen)
    for finding in found:
        output.error_console.print(str(finding), highlight=False, markup=False)
    if target is None:
        sys.stdout.write(made.text)
    else:
        target.write_text(made.text, encoding="utf-8")
        output.error_console.print(_summary(made, target), highlight=False)
    raise typer.Exit(1 if any(finding.error for finding in found) else 0)


def _summary(made: Bundle, target: Path) -> str:
    backends = sorted({backend for _, backend, _ in made.plans})
    text = f"{target}: {made.task.name} for {made.arch}, {len(made.plans)} sizes, {len(made.text.encode())} bytes"
    return f"{text}, kernels of {', '.join(backends)}, {made.launches} launched by a call"


def lint_command(
    file: Annotated[Path, typer.Argument(help="The submission.py.")],
    task: TaskOption = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a submission against the contest's rules; exit code 1 when it breaks one."""
    found = rules.check_file(file, task_of(task) if task else None)
    errors = sum(finding.error for finding in found)
    if as_json:
        output.emit([asdict(finding) for finding in found])
    else:
        for finding in found:
            output.console.print(str(finding), highlight=False, markup=False)
        output.console.print(f"{errors} errors, {len(found) - errors} warnings")
    raise typer.Exit(1 if errors else 0)


def cases_command(
    task: Annotated[str, typer.Argument(help="The task.")],
    mode: Annotated[str, typer.Option(help="test or benchmark.")] = "test",
) -> None:
    """Print a task's case file."""
    chosen = task_of(task)
    seed = config.popcorn_seed()
    for case in chosen.tests if mode == "test" else chosen.benchmarks:
        print(chosen.line(case_files.with_seed(case, seed)))


app.command("eval")(evaluate_command)
app.command("bundle")(bundle_command)
app.command("lint")(lint_command)
app.command("cases")(cases_command)
