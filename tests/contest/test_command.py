"""`nvfp4 contest ...` as a user runs it: output, exit codes, and the platform's descriptor."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nvfp4.cli import app
from nvfp4.contest.tasks import GEMM
from nvfp4.errors import InputError

SUBMISSIONS = Path(__file__).parent.parent / "cheats" / "submissions"
RUNNER = CliRunner()


def nvfp4(*arguments):
    return RUNNER.invoke(app, ["contest", *map(str, arguments)])


@pytest.fixture
def cases(tmp_path):
    path = tmp_path / "cases.txt"
    path.write_text("m: 64; n: 64; k: 256; l: 1; seed: 5\n")
    return path


def test_bundle_lint_and_emulate(tmp_path, cases):
    target = tmp_path / "submission.py"
    made = nvfp4("bundle", "gemm", "--arch", "sm_90a", "--strategy", "sm80", "--cases", cases, "-o", target)
    assert made.exit_code == 0, made.output
    assert target.read_text().startswith("#!POPCORN leaderboard nvfp4_gemm\n#!POPCORN gpu B200\n")
    assert nvfp4("lint", target).exit_code == 0
    result = nvfp4("eval", target, "--emulate", "--cases", cases, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["ok"] is True
    assert found["report"][-1] == "check: pass"
    assert found["rules"] == []


def test_a_bundle_without_a_file_is_printed():
    printed = nvfp4("bundle", "nvfp4_gemv", "--arch", "sm_90a", "--strategy", "sm80")
    assert printed.exit_code == 0
    assert "def custom_kernel(" in printed.stdout


def test_lint_tells_what_is_wrong(tmp_path):
    path = tmp_path / "s.py"
    path.write_text("import nvfp4  # stream\n")
    result = nvfp4("lint", path)
    assert result.exit_code == 1
    assert "line 1" in result.output
    assert "3 errors" in result.output
    found = json.loads(nvfp4("lint", path, "--json").output)
    assert sum(finding["error"] for finding in found) == 3
    assert {finding["line"] for finding in found} == {0, 1}


def test_exit_codes_are_the_contests(tmp_path, cases):
    wrong = nvfp4("eval", SUBMISSIONS / "constant.py", "--task", "gemm", "--device", "cpu", "--cases", cases)
    assert wrong.exit_code == 112
    assert "fail" in wrong.output
    cases.write_text("m: many\n")
    bad = nvfp4("eval", SUBMISSIONS / "constant.py", "--task", "gemm", "--device", "cpu", "--cases", cases)
    assert bad.exit_code == 113


def test_the_platforms_descriptor_gets_the_report(cases):
    reader, writer = os.pipe()
    command = ["from nvfp4.cli import main; main()", "contest", "eval", str(SUBMISSIONS / "honest.py")]
    command += ["--task", "nvfp4_gemm", "--device", "cpu", "--cases", str(cases), "--official-only"]
    environment = {**os.environ, "POPCORN_FD": str(writer), "POPCORN_SEED": "3"}
    done = subprocess.run([sys.executable, "-c", *command], env=environment, pass_fds=(writer,), capture_output=True)
    os.close(writer)
    with os.fdopen(reader) as file:
        lines = file.read().splitlines()
    assert done.returncode == 0, done.stderr
    assert lines == [
        "test-count: 1",
        f"test.0.spec: m: 64; n: 64; k: 256; l: 1; seed: {5 + 8 * 9 // 2}",
        "test.0.status: pass",
        "test.0.message: 1 results judged",
        "check: pass",
    ]


def test_what_a_submission_says_is_no_markup(tmp_path, cases):
    path = tmp_path / "s.py"
    path.write_text("def custom_kernel(data):\n    raise ValueError('[red]one[/nope]')\n")
    result = nvfp4("eval", path, "--task", "gemm", "--device", "cpu", "--cases", cases)
    assert result.exit_code == 112, result.exception
    assert "ValueError: [red]one[/nope]" in result.output


def test_a_file_that_is_no_text_gets_a_verdict(tmp_path, cases):
    path = tmp_path / "s.py"
    path.write_bytes(b"\xff\xfe")
    result = nvfp4("eval", path, "--task", "gemm", "--device", "cpu", "--cases", cases)
    assert result.exit_code == 110
    assert "SyntaxError" in result.output


def test_a_descriptor_that_cannot_be_written(monkeypatch, cases):
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setenv("POPCORN_FD", str(writer))
    result = nvfp4("eval", SUBMISSIONS / "constant.py", "--task", "gemm", "--device", "cpu", "--cases", cases)
    os.close(writer)
    assert result.exit_code == 111
    assert "Broken pipe" in result.output


def test_profiles_are_shown(cases):
    command = ("eval", SUBMISSIONS / "honest.py", "--task", "gemm", "--device", "cpu", "--cases", cases)
    result = nvfp4(*command, "--mode", "profile")
    assert result.exit_code == 0
    assert "profiled, not judged" in result.output
    assert "aten::" in result.output


@pytest.mark.parametrize(
    ("changes", "said"), [({"--device": "tpu"}, "cuda or cpu"), ({"--mode": "quick"}, "one of test")]
)
def test_options_that_do_not_exist(cases, changes, said):
    options = {"--task": "gemm", "--device": "cpu", "--cases": cases, **changes}
    result = nvfp4("eval", SUBMISSIONS / "honest.py", *(word for pair in options.items() for word in pair))
    assert isinstance(result.exception, InputError)
    assert said in str(result.exception)


def test_case_files_are_printed():
    result = nvfp4("cases", "nvfp4_gemm", "--mode", "benchmark")
    assert result.output.splitlines() == [GEMM.line(case) for case in GEMM.benchmarks]


def test_a_task_is_needed(tmp_path):
    path = tmp_path / "s.py"
    path.write_text("x = 1\n")
    result = nvfp4("eval", path, "--device", "cpu")
    assert result.exit_code != 0
    assert "--task" in str(result.exception)
