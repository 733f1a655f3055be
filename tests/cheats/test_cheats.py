"""Every submission that cheats is caught, for the reason it should be; what is honest passes. All on CPU tensors.

The submissions lie in ``submissions/``. A comment in each says for which task it is, in which mode it is evaluated, and
what the verdict must be; ``official: passes`` marks those that the contest's own data and tolerance let through.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nvfp4.contest.cases import parse_line
from nvfp4.contest.evaluate import Evaluation, Options, evaluate
from nvfp4.contest.tasks import TASKS, task_of

SUBMISSIONS = Path(__file__).parent / "submissions"
HONEST = ("honest", "own_memory")
CHEATS = sorted(path.stem for path in SUBMISSIONS.glob("*.py") if path.stem not in HONEST)
LINES = {
    "nvfp4_gemv": "m: 128; k: 256; l: 2",
    "nvfp4_gemm": "m: 128; n: 128; k: 256; l: 1",
    "nvfp4_dual_gemm": "m: 128; n: 128; k: 256; l: 1",
    "nvfp4_group_gemm": "m: [40, 72]; n: [128, 128]; k: [256, 512]; g: 2",
}


def declared(name: str) -> dict[str, str]:
    text = (SUBMISSIONS / f"{name}.py").read_text()
    line = re.search(r"^# (task: .*)$", text, re.MULTILINE)
    assert line is not None, f"{name} does not say what it is"
    return dict(re.findall(r"(\w+): (.*?)(?=  \w+: |$)", line.group(1)))


def run(name: str, task: str, mode: str, *, strict: bool = True, device: str = "cpu") -> Evaluation:
    chosen = task_of(task)
    options = Options(
        device=device,
        mode=mode,
        cases=(parse_line(chosen, LINES[task]),),
        limit=60,
        strict=strict,
        repeats=8,
        threads=1,
        as_program=False,
    )
    return evaluate(SUBMISSIONS / f"{name}.py", chosen, options)


@pytest.mark.parametrize("name", [name for name in CHEATS if not name.startswith("gpu_")])
def test_cheats_are_caught(name: str) -> None:
    _check(name, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("name", CHEATS)
def test_cheats_are_caught_on_a_gpu(name: str) -> None:
    _check(name, "cuda")


def _check(name: str, device: str) -> None:
    said = declared(name)
    assert said.get("device") == "cuda" if name.startswith("gpu_") else "device" not in said
    result = run(name, said["task"], said["mode"], device=device)
    assert not result.ok
    assert result.exit_code == 112
    (failed,) = result.failed
    assert failed.kind == said["expect"], failed.error
    assert re.search(said["message"], failed.error or "", re.DOTALL), failed.error
    assert result.report["check"] == "fail"
    assert result.score is None


@pytest.mark.parametrize("name", [name for name in CHEATS if "official" in declared(name)])
def test_what_the_contest_itself_lets_through(name: str) -> None:
    said = declared(name)
    result = run(name, said["task"], said["mode"], strict=False)
    assert result.ok, result.failed


@pytest.mark.parametrize("task", [task.name for task in TASKS])
def test_the_honest_pass(task: str) -> None:
    result = run("honest", task, "test")
    assert result.ok, result.failed
    assert result.exit_code == 0
    assert result.outcomes[0].checked == 9


@pytest.mark.parametrize("name", HONEST)
def test_the_honest_are_timed(name: str) -> None:
    result = run(name, "nvfp4_gemm", "leaderboard")
    assert result.ok, result.failed
    found = result.outcomes[0].stats
    assert found is not None
    assert found.runs <= 8
    assert result.score == pytest.approx(found.mean * 1e-9)
    assert result.outcomes[0].checked >= found.runs


def test_every_honest_submission_exists() -> None:
    assert all((SUBMISSIONS / f"{name}.py").is_file() for name in HONEST)
    assert len(CHEATS) >= 20
