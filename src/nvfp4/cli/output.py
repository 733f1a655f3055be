"""What every command shares: consoles, JSON, progress, and the parsing of shapes and operations."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from nvfp4.errors import InputError
from nvfp4.problem import Format, Op, Problem

# A pipe has no width: tables there are as wide as they need rather than folded at 80 columns.
console = Console() if sys.stdout.isatty() else Console(width=200)
error_console = Console(stderr=True) if sys.stderr.isatty() else Console(stderr=True, width=140)


SECONDS_BETWEEN_LINES = 15.0


class Steps:
    """Progress on the error output: a bar on a terminal, elsewhere a line now and then, so that logs show life."""

    def __init__(self, name: str, total: int) -> None:
        self._name, self._total, self._done = name, total, 0
        self._begin = self._said = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        terminal = error_console.is_terminal
        self._bar = Progress(*columns, console=error_console, transient=True, disable=not terminal)
        self._task = self._bar.add_task(name, total=total)

    def __enter__(self) -> Steps:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def now(self, what: str, fraction: float = 0.0) -> None:
        """Say what is being done; `fraction` of this step is over."""
        self._bar.update(self._task, description=what, completed=self._done + fraction)
        if self._bar.disable and time.monotonic() - self._said >= SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            passed = self._said - self._begin
            print(f"{self._name}: {self._done} of {self._total}, {passed:.0f} s, {what}", file=sys.stderr, flush=True)

    def advance(self) -> None:
        """One step is over."""
        self._done += 1
        self._bar.update(self._task, completed=self._done)


def show_error(text: str) -> None:
    """Print an error as it is: what stands in brackets is no markup."""
    error_console.print("[bold red]error:[/]", escape(text), highlight=False)


def file_for_results(option: str, path: Path) -> Path:
    """`path`, if a file can be put there: asked before work whose results would be lost.

    Raises:
        InputError: Its directory is not there.
    """
    if not path.parent.is_dir():
        raise InputError("nvfp4", option, "a file in a directory that exists", str(path), f"Make {path.parent} first.")
    return path


def emit(data: Any) -> None:
    """Print `data` as JSON."""
    print(json.dumps(data, indent=2))


def split(values: Iterable[str] | None) -> list[str]:
    """The values of an option that may be repeated and may hold commas."""
    return [part for value in values or () for part in value.split(",") if part]


def operations(values: Iterable[str] | None) -> tuple[Op, ...]:
    """Operations by name; all when none is named."""
    names = split(values)
    known = [op.value for op in Op]
    for name in names:
        if name not in known:
            raise InputError("nvfp4", "--op", "some of " + ", ".join(known), repr(name), "Name an operation.")
    return tuple(Op(name) for name in names) or tuple(Op)


def parse_shape(op: Op, text: str) -> Problem:
    """The problem that ``--shape`` describes.

    gemv: ``MxK`` or ``MxKxL``; gemm: ``MxNxK`` or ``MxNxKxL``; dual_gemm: ``MxNxK``; group_gemm and group_dual_gemm:
    groups joined by ``+``, as ``80x4096x7168+176x4096x7168``.
    """

    def numbers(part: str, allowed: tuple[int, ...], form: str) -> list[int]:
        fields = part.lower().split("x")
        if len(fields) not in allowed or not all(field.isdigit() for field in fields):
            raise InputError(f"nvfp4 {op}", "--shape", form, repr(text), "Write the sizes with an x between them.")
        return [int(field) for field in fields]

    if op.grouped:
        groups = tuple((m, n, k) for m, n, k in (numbers(p, (3,), "MxNxK+MxNxK+...") for p in text.split("+")))
        m, n, k = sum(g[0] for g in groups), max(g[1] for g in groups), max(g[2] for g in groups)
        return Problem(op, m, n, k, groups=groups)
    if op is Op.GEMV:
        m, k, *rest = numbers(text, (2, 3), "MxK or MxKxL")
        return Problem(op, m, 1, k, rest[0] if rest else 1)
    if op is Op.DUAL_GEMM:
        m, n, k = numbers(text, (3,), "MxNxK")
        return Problem(op, m, n, k)
    m, n, k, *rest = numbers(text, (3, 4), "MxNxK or MxNxKxL")
    return Problem(op, m, n, k, rest[0] if rest else 1)


def shape(problem: Problem) -> str:
    """The sizes of a problem for a table, as `parse_shape` reads them; long lists of groups are summarised."""
    if problem.groups:
        if len(problem.groups) > 3:
            m = [group[0] for group in problem.groups]
            return f"{len(m)} groups, {min(m)}..{max(m)} x {problem.n} x {problem.k}"
        return "+".join("x".join(map(str, group)) for group in problem.groups)
    if problem.stacked:
        index = f" of {problem.tokens}" if problem.tokens else ""
        return f"{problem.m}{index}x{problem.n}x{problem.k} in {problem.stacked}"
    sizes = [problem.m, problem.k] if problem.op is Op.GEMV and problem.n == 1 else [problem.m, problem.n, problem.k]
    return "x".join(map(str, sizes)) + (f"x{problem.l}" if problem.l != 1 else "")


def formats(problem: Problem, activations: str, scale_layout: str, out: str) -> Problem:
    """The same problem with other formats: of the activations, of all scales, and of the result."""
    from dataclasses import replace

    if activations not in ("nvfp4", "fp16", "bf16"):
        raise InputError("nvfp4", "--activations", "nvfp4, fp16 or bf16", activations, "Name one of them.")
    if scale_layout not in ("linear", "tiled"):
        raise InputError("nvfp4", "--scale-layout", "linear or tiled", scale_layout, "Name one of them.")
    if out not in ("fp16", "bf16", "fp32"):
        raise InputError("nvfp4", "--out", "fp16, bf16 or fp32", out, "Name one of them.")
    weights = Format("nvfp4", scale_layout)
    other = weights if activations == "nvfp4" else Format(activations, "")
    a, b = (weights, other) if problem.op is Op.GEMV else (other, weights)
    return replace(problem, a=a, b=b, out_dtype=out)


def duration(seconds: float) -> str:
    """A time with a unit that fits it."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.2f} us"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
