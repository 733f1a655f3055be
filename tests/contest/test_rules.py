"""The contest's rules on the text of submissions."""

import pytest

from nvfp4.contest.lint import check, check_file
from nvfp4.contest.tasks import GEMM, GROUP_GEMM
from nvfp4.errors import InputError

GOOD = """#!POPCORN leaderboard nvfp4_gemm
#!POPCORN gpu B200
import torch


def custom_kernel(data):
    return data[-1]
"""


def errors(text, task=None):
    return [str(finding) for finding in check(text, task) if finding.error]


def test_a_good_submission_has_no_findings():
    assert check(GOOD) == ()
    assert check(GOOD, GEMM) == ()


@pytest.mark.parametrize("line", ["# a stream", "CUstream = 0", "x = torch.cuda.current_Stream()", "t = 'STREAMS'"])
def test_the_forbidden_word_is_found_anywhere(line):
    assert [f.line for f in check(GOOD + line + "\n") if f.error] == [8]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + "import nvfp4\n", "nvfp4 is not installed there"),
        (GOOD.replace("(data)", "(a, b)"), "one argument"),
        (GOOD.replace("custom_kernel", "kernel"), "no custom_kernel"),
        (GOOD + "def f(:\n", "no Python"),
        (GOOD + "x = 'POPCORN_FD'\n", "belong to the evaluator"),
        (GOOD + "torch.cuda.Event.elapsed_time = None\n", "replaces torch.cuda.Event.elapsed_time"),
        (GOOD + "getattr(torch.cuda, 'current_str' + 'eam')\n", "builds the forbidden word"),
        (GOOD + "#" * 1_000_000, "the limit is"),
        (GOOD + "\0", "no Python"),
    ],
)
def test_broken_rules(text, said):
    assert any(said in error for error in errors(text)), errors(text)


def test_the_group_task_wants_no_triton():
    text = GOOD + "import triton\n"
    assert not errors(text)
    group = text.replace("nvfp4_gemm", "nvfp4_group_gemm")
    assert any("no Triton" in error for error in errors(group))
    assert any("no Triton" in error for error in errors(group, GROUP_GEMM))


def test_another_tasks_submission_is_an_error():
    assert errors(GOOD, GROUP_GEMM) == ["error: is for nvfp4_gemm, not nvfp4_group_gemm"]


def test_missing_headers_and_unknown_packages_are_warnings():
    found = check("import somepackage\ncustom_kernel = None\n")
    assert not any(finding.error for finding in found)
    assert {finding.line for finding in found} == {0, 1}
    assert any("somepackage" in finding.message for finding in found)


def test_other_assignments_are_no_findings():
    assert check(GOOD + "self = type('T', (), {})()\nself.time = 1\n") == ()


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="a text file"):
        check_file(tmp_path / "none.py")
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="a text file"):
        check_file(tmp_path / "binary.py")
