"""Reports, statistics, stop rules, case files and messages."""

import os

import pytest

from nvfp4.contest import cases
from nvfp4.contest.channel import ChannelError, Closed, Receiver, Sender, Timeout
from nvfp4.contest.fingerprint import fingerprint
from nvfp4.contest.report import Report, enough, read, stats
from nvfp4.contest.tasks import GEMM, GEMV, GROUP_GEMM, TASKS, Case
from nvfp4.errors import InputError


def test_statistics():
    found = stats([1.0, 2.0, 3.0, 6.0])
    assert (found.runs, found.mean, found.best, found.worst) == (4, 3.0, 1.0, 6.0)
    assert found.std == pytest.approx(14**0.5 / 3**0.5)
    assert found.err == pytest.approx(found.std / 2)


def test_stop_rule():
    steady, shaky = [1000.0] * 3, [500.0, 1500.0, 1000.0]
    assert not enough(steady[:2], 1.0, ranked=False, most=200)
    assert not enough(steady, 0.05, ranked=False, most=200)
    assert enough(steady, 0.2, ranked=False, most=200)
    assert not enough(shaky, 0.2, ranked=False, most=200)
    assert enough(shaky, 121.0, ranked=False, most=200)
    assert enough(shaky, 0.0, ranked=False, most=3)
    long = [x * 4e6 for x in shaky]  # 12 seconds in all
    assert enough(long, 0.2, ranked=False, most=200)
    assert not enough(long, 0.2, ranked=True, most=200)


def test_lines_go_to_the_descriptor_and_cannot_be_forged_by_line_breaks():
    reader, writer = os.pipe()
    report = Report(writer)
    report.log("test-count", 1)
    report.log("test.0.error", "bad\ncheck: pass")
    os.close(writer)
    with os.fdopen(reader) as file:
        assert read(file) == [("test-count", "1"), ("test.0.error", "bad check: pass")] == report.lines
    assert report["test-count"] == "1"
    assert "check" not in report


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_case_files_round_trip(task):
    every = (*task.tests, *task.benchmarks)
    parsed = cases.parse(task, "\n".join(task.line(case) for case in every) + "\n\n")
    assert [(c.m, c.n, c.k, c.l, c.seed) for c in parsed] == [(c.m, c.n, c.k, c.l, c.seed) for c in every]


@pytest.mark.parametrize(
    "line",
    [
        "m: 128; n: 128", "m: 128; n: x; k: 256", "m 128; n: 128; k: 256", "m: 128; n: 128; k: 100",
        "m: 0; n: 1; k: 64",
        "m: [1]; n: 128; k: 256", "m: 128; n: 128; k: 256; seed: 1.5", "m: __import__('os'); n: 128; k: 256",
        "m: 128; n: 128; k: 256; l: [2]", "m: -128; n: 128; k: 256", "m: 128; n: 128; k: 256; l: 0",
    ],
)  # fmt: skip
def test_bad_case_lines(line):
    with pytest.raises(InputError):
        cases.parse_line(GEMM, line)


def test_more_bad_case_files():
    with pytest.raises(InputError, match="for each group"):
        cases.parse_line(GROUP_GEMM, "m: [1, 2]; n: [3]; k: [64, 64]")
    with pytest.raises(InputError, match="as a list"):
        cases.parse_line(GROUP_GEMM, "m: 1; n: 3; k: 64")
    with pytest.raises(InputError, match="at least one case"):
        cases.parse(GEMV, " \n")


def test_seeds_of_runs():
    # Cantor's pairing is a bijection: no two (case, run) share a seed.
    assert cases.combine(1111, 0) == 1111 + 1111 * 1112 // 2
    assert len({cases.combine(a, b) for a in range(40) for b in range(40)}) == 1600
    case = Case(1, 1, 64, seed=7)
    assert cases.with_seed(case, None) is case
    assert cases.with_seed(case, 3).seed == 7 + 10 * 11 // 2


def channel():
    reader, writer = os.pipe()
    return reader, writer, Sender(writer, b"k" * 32), Receiver(reader, b"k" * 32)


def test_messages():
    reader, writer, sender, receiver = channel()
    sender.send({"a": 1})
    sender.send({"b": [1, "x\ny"]})
    assert receiver.receive(1) == {"a": 1}
    assert receiver.receive(1) == {"b": [1, "x\ny"]}
    with pytest.raises(Timeout):
        receiver.receive(0.01)
    os.close(writer)
    with pytest.raises(Closed):
        receiver.receive(1)
    os.close(reader)


@pytest.mark.parametrize("forgery", [b'{"digests":[]}\n', b"0" * 64 + b' {"a":1}\n', b"\n"])
def test_forged_messages(forgery):
    _, writer, _, receiver = channel()
    os.write(writer, forgery)
    with pytest.raises(ChannelError):
        receiver.receive(1)


def test_a_repeated_message_is_a_forgery():
    reader, _, sender, _ = channel()
    sender.send({"ok": True})
    line = os.read(reader, 4096)
    _, writer, _, receiver = channel()
    os.write(writer, line + line)
    assert receiver.receive(1) == {"ok": True}
    with pytest.raises(ChannelError):
        receiver.receive(1)


def test_fingerprints_see_every_byte_and_its_place():
    import torch

    x = torch.arange(1000, dtype=torch.int16).view(10, 100)
    same = fingerprint(x)
    assert fingerprint(x.clone()) == same
    assert fingerprint(x.t().contiguous().t()) == same
    for index in (0, 7, 999):
        y = x.clone()
        y.view(-1)[index] ^= 1
        assert fingerprint(y) != same
    assert fingerprint(x.flip(0)) != same
    assert fingerprint(x.roll(4, 1)) != same
    assert fingerprint(torch.zeros(3, dtype=torch.uint8)) == fingerprint(torch.zeros(0, dtype=torch.float16)) == 0
