"""Case files of the contest's evaluator: one case a line, ``k: v; k: v``, and how a run's seed enters."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

from nvfp4.contest.tasks import Case, Sizes, Task
from nvfp4.errors import InputError
from nvfp4.problem import Op

_REMEDY = "Write one case a line, such as 'm: 128; n: 256; k: 256; l: 1; seed: 1111'."


def combine(seed: int, run: int) -> int:
    """The seed of a case in a run that has a seed of its own (``POPCORN_SEED``): Cantor's pairing of the two."""
    return seed + (seed + run) * (seed + run + 1) // 2


def with_seed(case: Case, run: int | None) -> Case:
    """`case` as it is in a run with the seed `run`; unchanged in a run without one."""
    return case if run is None else replace(case, seed=combine(case.seed, run))


def parse_line(task: Task, line: str) -> Case:
    """The case that a line describes.

    Raises:
        InputError: The line cannot be read, lacks a size, or has one that the task does not allow.
    """
    op = "contest case"
    values: dict[str, Sizes] = {}
    for part in line.split(";"):
        if not part.strip():
            continue
        name, colon, text = part.partition(":")
        try:
            value = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError):
            value = None
        value = tuple(value) if isinstance(value, (list, tuple)) else value
        numbers = value if isinstance(value, tuple) else (value,)
        if not colon or not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise InputError(op, "line", "k: v; k: v with integers or lists of them", repr(line), _REMEDY)
        values[name.strip()] = value
    grouped = task.op is Op.GROUP_GEMM
    needed = ("m", "k") if task.op is Op.GEMV else ("m", "n", "k")
    kind = tuple if grouped else int
    for name in needed:
        if not isinstance(values.get(name), kind):
            expected = f"{name} as {'a list' if grouped else 'an integer'}"
            raise InputError(op, "line", expected, repr(line), _REMEDY)
    batch, seed = values.get("l", 1), values.get("seed", 1111)
    if not (isinstance(batch, int) and isinstance(seed, int)):
        raise InputError(op, "line", "l and seed as integers", repr(line), _REMEDY)
    case = Case(values["m"], values.get("n", 1), values["k"], batch, seed)
    _check(case, line, grouped)
    return case


def _check(case: Case, line: str, grouped: bool) -> None:
    if grouped and len({len(size) for size in (case.m, case.n, case.k) if isinstance(size, tuple)}) != 1:
        raise InputError("contest case", "line", "m, n and k for each group", repr(line), _REMEDY)
    if case.l < 1 or any(min(sizes) < 1 or sizes[2] % 64 for sizes in case.groups):
        raise InputError("contest case", "line", "sizes of at least 1, K a multiple of 64", repr(line), _REMEDY)


def parse(task: Task, text: str) -> tuple[Case, ...]:
    """The cases of a case file.

    Raises:
        InputError: A line cannot be read, or there is none.
    """
    found = tuple(parse_line(task, line) for line in text.splitlines() if line.strip())
    if not found:
        raise InputError("contest case", "file", "at least one case", "none", _REMEDY)
    return found


def load(task: Task, path: Path) -> tuple[Case, ...]:
    """The cases of the file `path`; see `parse`."""
    try:
        return parse(task, path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError("contest", "cases", "a readable case file", str(path), str(error.strerror)) from None
