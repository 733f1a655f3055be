"""The contest's own evaluator, from a made-up checkout, and what stands in for what a machine lacks."""

import pytest
import torch

from nvfp4.contest import inputs, stand_ins
from nvfp4.contest.cases import parse_line
from nvfp4.contest.official import run_official
from nvfp4.contest.tasks import GEMM, task_of
from nvfp4.errors import InputError


def test_official_checkouts_are_run_as_they_are(tmp_path):
    problem = tmp_path / "checkout" / "problems" / "nvidia" / "nvfp4_gemm"
    problem.mkdir(parents=True)
    (problem / "task.yml").write_text(
        'files:\n  - {"name": "submission.py", "source": "@SUBMISSION@"}\n'
        '  - {"name": "task.py", "source": "task.py"}\n  - {"name": "eval.py", "source": "../evaluator.py"}\n'
    )
    (problem / "task.py").write_text("VALUE = 5\n")
    (problem.parent / "evaluator.py").write_text(
        "import os, sys, task, submission\n"
        "lines = open(sys.argv[2]).read().split(chr(10))\n"
        "text = f'check: {sys.argv[1]} {task.VALUE} {submission.X} {lines[0]}\\n'\n"
        "os.write(int(os.environ['POPCORN_FD']), text.encode())\n"
        "print('seed', os.environ.get('POPCORN_SEED'))\nsys.exit(112)\n"
    )
    submission = tmp_path / "mine.py"
    submission.write_text("X = 7\n")
    code, text = run_official(tmp_path / "checkout", submission, GEMM, "test", GEMM.tests[:1], seed=3)
    assert code == 112
    assert text == "check: test 5 7 m: 128; n: 256; k: 256; l: 1; seed: 1111\nseed 3\n"
    with pytest.raises(InputError, match=r"task\.yml"):
        run_official(tmp_path / "checkout", submission, task_of("gemv"), "test", GEMM.tests[:1])


def test_the_evaluator_finds_the_exception_that_it_imports(tmp_path):
    problem = tmp_path / "problems" / "nvfp4_gemm"
    problem.mkdir(parents=True)
    (problem / "task.yml").write_text(
        '  - {"name": "submission.py", "source": "@SUBMISSION@"}\n  - {"name": "eval.py", "source": "eval.py"}\n'
    )
    (problem / "eval.py").write_text(
        "from cutlass.cute.nvgpu.common import OpError\nfrom cutlass._mlir.ir import MLIRError\n"
        "print(issubclass(OpError, Exception) and not issubclass(MLIRError, OpError))\n"
    )
    submission = tmp_path / "mine.py"
    submission.write_text("")
    code, text = run_official(tmp_path, submission, GEMM, "test", GEMM.tests[:1])
    assert (code, text) == (0, "True\n")


@pytest.mark.parametrize("line", ["m: 128; n: 256; k: 256; l: 1", "m: 40; n: 24; k: 128; l: 1"])
def test_products_of_decoded_operands_stand_in_for_fp4_matrix_units(monkeypatch, line):
    data = inputs.generate(GEMM, parse_line(GEMM, line))
    a, b, _, _, sfa, sfb, _ = data
    monkeypatch.setattr(torch, "_scaled_mm", torch._scaled_mm)
    stand_ins.provide_scaled_mm()

    def flat(scales):
        return inputs.as_storage(scales).contiguous().view(torch.float8_e4m3fn).flatten()

    got = torch._scaled_mm(
        a[:, :, 0], b[:, :, 0].transpose(0, 1), flat(sfa), flat(sfb), bias=None, out_dtype=torch.float16
    )
    operands = inputs.operands(GEMM, data)
    left, right = (x[0].dequantize(torch.float64)[0] for x in (operands.a, operands.b))
    assert torch.equal(got, (left @ right.t()).half())


def test_stand_ins_leave_other_modules_alone():
    finder = stand_ins._Exceptions()
    assert finder.find_spec("cutlassy") is None
    assert finder.find_spec("torch.cutlass") is None
    assert finder.find_spec("cutlass.cute") is not None
