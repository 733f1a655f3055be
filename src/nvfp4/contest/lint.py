"""The contest's rules, checked on the text of a submission: what would be rejected, and what is likely a mistake."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nvfp4.contest.bundle import FORBIDDEN, MAX_BYTES
from nvfp4.contest.tasks import Task, task_of
from nvfp4.errors import InputError
from nvfp4.problem import Op

_MEASUREMENT = re.compile(
    r"^(torch\.cuda\.(Event|synchronize|current_\w+)|torch\.cuda\.Event\.\w+|time\.\w+|torch\.(equal|allclose|isclose)"
    r"|torch\.Tensor\.\w+|torch\.testing\.\w+|builtins\.\w+|sys\.(stdout|stderr|modules)|os\.(write|environ))$"
)
_AVAILABLE = {"torch", "triton", "numpy", "cutlass", "cuda", "cupy", "ninja", "pybind11"}
"""Packages that the contest's machines are known to have, beside the standard library."""
_OURS_NEEDED = {"task", "utils", "reference"}
"""Modules that the contest puts beside a submission."""


@dataclass(frozen=True)
class Finding:
    """Something about a submission.

    Attributes:
        line: Where, from 1 on; 0 for the whole file.
        error: Whether it breaks a rule; else it is a warning.
        message: What, and what to do.
    """

    line: int
    error: bool
    message: str

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{'error' if self.error else 'warning'}: {where}{self.message}"


def _text_findings(text: str) -> Iterator[Finding]:
    size = len(text.encode())
    if size >= MAX_BYTES:
        yield Finding(0, True, f"{size} bytes; the limit is {MAX_BYTES}")
    for number, line in enumerate(text.splitlines(), 1):
        if FORBIDDEN in line.lower():
            message = f"the word '{FORBIDDEN}' is rejected anywhere, in comments and names too; use the default queue"
            yield Finding(number, True, message)
        if "POPCORN_" in line:
            yield Finding(number, True, "the result channel and the seed belong to the evaluator")


def _header_findings(text: str, task: Task | None) -> Iterator[Finding]:
    named = re.search(r"^#!POPCORN\s+leaderboards?\s+(\S+)", text, re.MULTILINE)
    if named is None:
        yield Finding(0, False, "no line '#!POPCORN leaderboard NAME': pass --leaderboard to popcorn-cli")
    elif task is not None and named.group(1) != task.name:
        yield Finding(0, True, f"is for {named.group(1)}, not {task.name}")
    if re.search(r"^#!POPCORN\s+gpus?\s+", text, re.MULTILINE) is None:
        yield Finding(0, False, "no line '#!POPCORN gpu B200': pass --gpu to popcorn-cli")


def _imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, node.module or ""


def _entry_findings(tree: ast.Module) -> Iterator[Finding]:
    found = False
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "custom_kernel":
            found = True
            if len(node.args.posonlyargs + node.args.args) != 1 or node.args.kwonlyargs:
                yield Finding(node.lineno, True, "custom_kernel takes one argument, the tuple of tensors")
        elif isinstance(node, ast.Assign):
            found |= any(isinstance(target, ast.Name) and target.id == "custom_kernel" for target in node.targets)
        elif isinstance(node, ast.ImportFrom):
            found |= any((alias.asname or alias.name) == "custom_kernel" for alias in node.names)
    if not found:
        yield Finding(0, True, "defines no custom_kernel(data)")


def _tree_findings(tree: ast.Module, task: Task | None) -> Iterator[Finding]:
    yield from _entry_findings(tree)
    for line, name in _imports(tree):
        root = name.partition(".")[0]
        if root == "nvfp4":
            yield Finding(line, True, "nvfp4 is not installed there; use `nvfp4 contest bundle`")
        elif root == "triton" and task is not None and task.op is Op.GROUP_GEMM:
            yield Finding(line, True, "this task wants raw CUDA: no Triton")
        elif root not in _AVAILABLE | _OURS_NEEDED and root not in sys.stdlib_module_names:
            yield Finding(line, False, f"imports {root}, which may be missing there")
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [ast.unparse(target) for target in targets if isinstance(target, ast.Attribute)]
            hits = [name for name in names if _MEASUREMENT.match(name)]
            yield from (Finding(node.lineno, True, f"replaces {name}, which measures or checks") for name in hits)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr"):
            if len(node.args) > 1 and isinstance(node.args[1], (ast.BinOp, ast.JoinedStr)):
                text = ast.unparse(node.args[1])
                if _spells(node.args[1]):
                    yield Finding(node.lineno, True, f"builds the forbidden word at run time: {text}")
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and _spells(node):
            yield Finding(node.lineno, False, "joins parts of the forbidden word; reviewers dislike that")


def _spells(node: ast.expr) -> bool:
    """Whether joined constants of an expression contain the forbidden word."""
    parts = [x.value for x in ast.walk(node) if isinstance(x, ast.Constant) and isinstance(x.value, str)]
    # ast.walk goes breadth first: a chain of additions comes out in another order, hence both.
    joined = ("".join(parts).lower(), "".join(reversed(parts)).lower())
    return any(FORBIDDEN in text for text in joined)


def check(text: str, task: Task | None = None) -> tuple[Finding, ...]:
    """What the rules say about the text of a submission, by line.

    Args:
        text: The file.
        task: For which task; that of its ``#!POPCORN leaderboard`` line when None, if it has one.
    """
    found = [*_text_findings(text), *_header_findings(text, task)]
    if task is None:
        named = re.search(r"^#!POPCORN\s+leaderboards?\s+(\S+)", text, re.MULTILINE)
        try:
            task = task_of(named.group(1)) if named else None
        except InputError as error:
            found.append(Finding(0, False, str(error)))
    try:
        found += _tree_findings(ast.parse(text), task)
    except SyntaxError as error:
        found.append(Finding(error.lineno or 0, True, f"is no Python: {error.msg}"))
    except ValueError as error:
        found.append(Finding(0, True, f"is no Python: {error}"))
    return tuple(sorted(found, key=lambda finding: (finding.line, finding.message)))


def check_file(path: Path, task: Task | None = None) -> tuple[Finding, ...]:
    """`check` of a file.

    Raises:
        InputError: It cannot be read as text.
    """
    try:
        return check(path.read_text(encoding="utf-8"), task)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("contest lint", "file", "a text file", str(path), str(error)) from None
