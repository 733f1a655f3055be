"""The contest's own evaluator, run from a user's checkout of gpu-mode/reference-kernels; no part of nvfp4.

It runs as it is. What it takes for granted and the machine lacks, `stand_ins` provides.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from nvfp4 import config
from nvfp4.contest import stand_ins
from nvfp4.contest.report import ExitCode
from nvfp4.contest.tasks import Case, Task
from nvfp4.errors import InputError

_ENTRY = re.compile(r"""name["']?\s*:\s*["']?([^"',}\s]+)["']?\s*,\s*["']?source["']?\s*:\s*["']?([^"',}\s]+)""")
"""One entry of the list of files in a task description: ``{"name": "eval.py", "source": "../eval.py"}``."""


def find_problem(checkout: Path, task: Task) -> Path:
    """The directory of a task in a checkout.

    Raises:
        InputError: It is not there.
    """
    found = sorted(checkout.glob(f"**/{task.name}/task.yml"))
    if not found:
        remedy = "Pass a checkout of https://github.com/gpu-mode/reference-kernels."
        raise InputError("contest eval", "--reference", f"a directory with {task.name}/task.yml", checkout, remedy)
    return found[0].parent


def stage(problem: Path, submission: Path, target: Path) -> None:
    """Copy the files that the task description names, and the submission, to `target`.

    Raises:
        InputError: The description names no evaluator.
    """
    entries = _ENTRY.findall((problem / "task.yml").read_text(encoding="utf-8"))
    for name, origin in entries:
        source = submission if origin == "@SUBMISSION@" else problem / origin
        shutil.copyfile(source, target / Path(name).name)
    if not (target / "eval.py").is_file() or not (target / "submission.py").is_file():
        raise InputError(
            "contest eval", "--reference", "a task.yml that lists eval.py", problem, "Update the checkout."
        )


def missing() -> tuple[str, ...]:
    """What stands in for something on this machine, one line each; empty where the evaluator has all that it needs."""
    found = []
    if stand_ins.lacks_cutlass():
        found.append("nvidia-cutlass-dsl is not installed: plain exceptions stand in for those that it defines")
    if stand_ins.lacks_fp4():
        found.append("no FP4 matrix units: the reference's products are those of decoded operands in float64")
    return tuple(found)


def run_official(
    checkout: Path,
    submission: Path,
    task: Task,
    mode: str,
    cases: Sequence[Case],
    *,
    seed: int | None = None,
    limit: float = 900.0,
) -> tuple[int, str]:
    """Run the checkout's evaluator on a submission.

    Args:
        checkout: The checkout.
        submission: The file.
        task, mode, cases, seed: What to evaluate.
        limit: Seconds for the whole run.

    Returns:
        Its exit code, and its report followed by the end of what it printed.

    Raises:
        InputError: The checkout lacks the task.
    """
    problem = find_problem(checkout.resolve(), task)
    with tempfile.TemporaryDirectory(prefix="nvfp4-official-") as name:
        directory = Path(name)
        stage(problem, submission.resolve(), directory)
        (directory / "cases.txt").write_text("\n".join(map(task.line, cases)) + "\n", encoding="utf-8")
        reader, writer = os.pipe()
        changes: dict[str, str | None] = {"POPCORN_FD": str(writer)}
        changes["POPCORN_SEED"] = None if seed is None else str(seed)
        if missing():
            shutil.copyfile(str(stand_ins.__file__), directory / "sitecustomize.py")
            changes["PYTHONPATH"] = config.python_path(directory)
        lines: list[bytes] = []
        with (directory / "output.txt").open("w+b") as log:
            process = subprocess.Popen(
                [sys.executable, "eval.py", mode, "cases.txt"],
                cwd=directory,
                env=config.child_environment(changes),
                stdout=log,
                stderr=log,
                pass_fds=(writer,),
                start_new_session=True,
            )
            os.close(writer)
            collector = threading.Thread(target=lambda: lines.extend(os.fdopen(reader, "rb")), daemon=True)
            collector.start()
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()
                code = int(ExitCode.TIMEOUT)
            collector.join(5)
            log.seek(0)
            printed = log.read()[-4000:].decode(errors="replace")
    return code, b"".join(lines).decode(errors="replace") + printed
