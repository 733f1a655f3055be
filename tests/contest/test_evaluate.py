"""Bad submissions get a clear verdict, and the evaluator never fails; the report has the contest's keys."""

from pathlib import Path

import pytest

import nvfp4.contest.evaluate as module
from nvfp4.bench.roofline import Limits
from nvfp4.contest.cases import parse_line
from nvfp4.contest.evaluate import Options, evaluate
from nvfp4.contest.process import Failure
from nvfp4.contest.report import ExitCode, Report
from nvfp4.contest.tasks import GEMM, GEMV
from nvfp4.errors import InputError

SUBMISSIONS = Path(__file__).parent.parent / "cheats" / "submissions"
SMALL = (parse_line(GEMM, "m: 128; n: 128; k: 256; l: 1"), parse_line(GEMM, "m: 72; n: 64; k: 256; l: 2"))


def run(path, **changes):
    options = {"device": "cpu", "cases": SMALL, "limit": 60.0, "threads": 1, "as_program": False, **changes}
    return evaluate(path, GEMM, Options(**options))


BAD = {
    "raises": ("def custom_kernel(data):\n    raise ValueError('oh')\n", "crash", "ValueError: oh", ExitCode.WRONG),
    "no_entry": ("x = 1\n", "missing", "no function custom_kernel", ExitCode.CRASH),
    "syntax": ("def custom_kernel(:\n", "crash", "SyntaxError", ExitCode.CRASH),
    "package": ("import no_such_package_at_all\n", "missing", "no_such_package_at_all", ExitCode.CRASH),
    "segfault": (
        "import os, signal\ndef custom_kernel(data):\n    os.kill(os.getpid(), signal.SIGSEGV)\n",
        "crash",
        "signal SIGSEGV",
        ExitCode.WRONG,
    ),
    "exit": ("import os\ndef custom_kernel(data):\n    os._exit(0)\n", "crash", "exit status 0", ExitCode.WRONG),
    "system_exit": ("import sys\nsys.exit(0)\n", "crash", "SystemExit", ExitCode.CRASH),
    "unreadable": (
        "class E(Exception):\n    def __str__(self):\n        raise OSError\ndef custom_kernel(data):\n    raise E\n",
        "crash",
        "E: (its message cannot be had: OSError)",
        ExitCode.WRONG,
    ),
    "no_character": (
        "def custom_kernel(data):\n    raise ValueError('\\ud800 \\x1b[31m')\n",
        "crash",
        r"ValueError: \ud800 \x1b[31m",
        ExitCode.WRONG,
    ),
    "nothing": ("def custom_kernel(data):\n    pass\n", "type", "returned NoneType", ExitCode.WRONG),
    "closes": (
        "import os\ndef custom_kernel(data):\n    os.closerange(3, 4096)\n",
        "crash",
        "ended the process",
        ExitCode.WRONG,
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_submissions(tmp_path, name):
    text, kind, said, code = BAD[name]
    path = tmp_path / "submission.py"
    path.write_text(text)
    result = run(path, cases=SMALL[:1])
    assert not result.ok
    (failed,) = result.failed
    assert failed.kind == kind
    assert said in failed.error
    assert result.exit_code == code
    assert result.report["check"] == "fail"
    assert result.report["test.0.status"] == "fail"


def test_a_message_of_megabytes_is_cut_before_it_is_sent(tmp_path):
    path = tmp_path / "submission.py"
    path.write_text("def custom_kernel(data):\n    raise ValueError('z' * 50_000_000)\n")
    (failed,) = run(path, cases=SMALL[:1], limit=8.0).failed
    assert failed.kind == "crash"
    assert failed.error.startswith("ValueError: zzz")
    assert len(failed.error) < 5000
    assert len(failed.trace) < 40_000


def test_a_hanging_submission_meets_the_time_limit(tmp_path):
    path = tmp_path / "submission.py"
    path.write_text("import time\ndef custom_kernel(data):\n    time.sleep(600)\n")
    result = run(path, limit=4.0)
    assert result.exit_code == ExitCode.TIMEOUT
    assert "did not come back" in result.failed[0].error
    # The second case is not tried again, but reported.
    assert result.report["test.1.error"].startswith("not run: ")


def test_a_program_that_fails_is_reported_with_its_output(tmp_path):
    path = tmp_path / "submission.py"
    path.write_text("print('hello')\nraise RuntimeError('not today')\n")
    result = run(path, as_program=True)
    assert result.exit_code == ExitCode.CRASH
    assert "not today" in result.failed[0].error
    assert "hello" in result.failed[0].trace
    path.write_text("import time\ntime.sleep(60)\n")
    assert run(path, as_program=True, limit=0.5).exit_code == ExitCode.TIMEOUT


def test_one_wrong_case_does_not_hide_the_others(tmp_path):
    path = tmp_path / "submission.py"
    honest = (SUBMISSIONS / "honest.py").read_text()
    path.write_text(
        honest.replace(
            "def custom_kernel(data):",
            "def custom_kernel(data):\n    if data[0].shape[2] > 1:\n        return data[-1]\n",
        )
    )
    result = run(path)
    assert [outcome.error is None for outcome in result.outcomes] == [True, False]
    assert result.report["test.0.status"] == "pass"
    assert result.report["test.1.status"] == "fail"
    assert result.exit_code == ExitCode.WRONG


def test_keys_of_reports():
    result = run(SUBMISSIONS / "own_memory.py")
    keys = [key for key, _ in result.report.lines]
    cases = [f"test.{i}.{name}" for i in range(2) for name in ("spec", "status", "message")]
    assert keys == ["test-count", *cases, "check"]
    assert result.report["test.1.spec"] == "m: 72; n: 64; k: 256; l: 2; seed: 1111"
    assert "strides of the result" in result.report["test.1.message"]
    timed = run(SUBMISSIONS / "honest.py", mode="benchmark", repeats=5)
    keys = [key for key, _ in timed.report.lines]
    fields = ("spec", "runs", "mean", "std", "err", "best", "worst")
    assert keys == ["benchmark-count", *(f"benchmark.{i}.{name}" for i in range(2) for name in fields), "check"]
    assert float(timed.report["benchmark.0.best"]) <= float(timed.report["benchmark.0.mean"])


def test_a_profile_is_a_report():
    import base64

    result = run(SUBMISSIONS / "honest.py", mode="profile", cases=SMALL[:1])
    assert "aten::" in base64.b64decode(result.report["benchmark.0.report"]).decode()


def test_what_cannot_be_evaluated(tmp_path):
    with pytest.raises(InputError, match="a file"):
        run(tmp_path / "none.py")
    with pytest.raises(InputError, match="one of test"):
        run(SUBMISSIONS / "honest.py", mode="nothing")
    with pytest.raises(InputError, match="test with --emulate"):
        run(SUBMISSIONS / "honest.py", mode="leaderboard", emulate=True)


def test_emulation_wants_a_bundle():
    options = Options(cases=(parse_line(GEMV, "m: 128; k: 256; l: 1"),), emulate=True, limit=60.0)
    result = evaluate(SUBMISSIONS / "honest.py", GEMV, options)
    assert not result.ok
    assert "a bundle of ours" in result.failed[0].error


def test_large_cases_can_be_spared_the_harder_data():
    assert [case.work for case in SMALL] == [128 * 128 * 256, 72 * 64 * 256 * 2]
    result = run(SUBMISSIONS / "honest.py", most_hard=SMALL[1].work)
    assert [outcome.checked for outcome in result.outcomes] == [1, 9]


def test_a_mean_under_the_speed_of_light_is_a_fault(monkeypatch):
    slow = Limits("a device of one megabyte a second", "made up", 1e6, 1e15)
    monkeypatch.setattr(module, "_sheet", lambda device: slow)
    result = run(SUBMISSIONS / "honest.py", mode="benchmark", repeats=3, cases=SMALL[:1])
    (failed,) = result.failed
    assert failed.kind == "cheat"
    assert "under the speed of light" in failed.error
    assert result.score is None
    assert result.report["benchmark.0.status"] == "fail"


class Busy:
    """A worker whose device takes so long for samples, and goes on working after everything that was due."""

    def __init__(self, tail=0.0, times=()):
        self.tail, self.times = tail, iter(times)

    def command(self, name, **arguments):
        assert name == "sample"
        return {"digests": [], "notes": [], "ns": next(self.times, 1e3), "wall": 1e-3, "tail": self.tail}


def series_of(worker, monkeypatch):
    options = Options(device="cpu", mode="leaderboard", cases=SMALL[:1], seed=1)
    under_way = module._Run(SUBMISSIONS / "honest.py", GEMM, options, Report(), lambda text: None)
    monkeypatch.setattr(under_way, "worker", lambda: worker)
    series = module._Series(under_way, SMALL[0], [1, 2], 1)
    monkeypatch.setattr(series, "_judge", lambda *arguments: None)
    return series


@pytest.mark.parametrize(
    ("known", "new", "caught"),
    [
        ((1e3, 1e3, 1e3, 1e3), (3e3, 3e3, 3e3), True),
        ((1e3, 1e3, 1e3, 2e4), (3e3, 3e3, 3e3), True),  # a busy machine: the mean is twice as long as new inputs
        ((1e3, 1e3, 1e3, 1e3), (3e3, 1.2e3, 3e3), False),  # and here it was busy later
    ],
)
def test_who_is_slower_with_new_inputs_remembers_results(monkeypatch, known, new, caught):
    series = series_of(Busy(times=known + new), monkeypatch)
    for _ in known:
        series.take(probe=False)
    said = series.remembers()
    assert (said is not None) == caught
    assert not caught or "3.00 us when all inputs are new, 1.00 us" in said


@pytest.mark.parametrize(("tail", "caught"), [(1e-3, True), (1e-5, False)])
def test_work_on_the_side_is_noticed_when_it_repeats(monkeypatch, tail, caught):
    series = series_of(Busy(tail), monkeypatch)
    for _ in range(2):
        series.take(probe=False)
    if caught:
        with pytest.raises(Failure, match="work on the side"):
            series.take(probe=False)
    else:
        series.take(probe=False)
        assert series.times == [1e3] * 3


@pytest.mark.gpu
def test_a_gpu_under_the_evaluator():
    for name, ok in (("honest", True), ("constant", False)):
        result = run(SUBMISSIONS / f"{name}.py", device="cuda", mode="leaderboard", repeats=10)
        assert result.ok == ok, result.failed
