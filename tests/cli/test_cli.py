"""The command line as a user meets it: tables, JSON, exit codes, and errors that say what to do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from nvfp4.check import run as check_run
from nvfp4.cli import app, main, output
from nvfp4.errors import InputError
from nvfp4.problem import Op, Problem

runner = CliRunner()


def _json(*arguments: str, code: int = 0):
    result = runner.invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def _shell(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from nvfp4.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})


@pytest.fixture
def ended(monkeypatch, capsys):
    """The command in this process, to its end: exit code and standard error."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["nvfp4", *arguments])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        ("gemv", "96x128"),
        ("gemv", "96x128x2"),
        ("gemm", "40x24x64"),
        ("dual_gemm", "40x24x64"),
        ("group_gemm", "16x24x64+40x24x64"),
    ],
)
def test_solve_one_shape(op, shape):
    data = _json("solve", "--op", op, "--shape", shape, "--backend", "torch_ops", "--device", "cpu")
    (row,) = data["rows"]
    assert data["ok"]
    assert row["ok"]
    assert row["op"] == op
    assert row["backend"] == "torch_ops"
    assert row["verdict"] == "bit-equal" or op == "dual_gemm"


def test_solve_prints_a_table():
    result = _shell("solve", "--op", "gemm", "--shape", "16x16x32", "--backend", "torch_ops", "--device", "cpu")
    assert result.returncode == 0, result.stderr
    assert "16x16x32" in result.stdout
    assert "bit-equal" in result.stdout


def test_solve_fails_when_a_result_is_wrong(monkeypatch):
    real = check_run._call_public

    def faulty(problem, operands, backend):
        real(problem, operands, backend)
        operands.out[0].view(-1)[0] += 1

    monkeypatch.setattr(check_run, "_call_public", faulty)
    data = _json("solve", "--op", "gemm", "--shape", "16x16x32", "--backend", "torch_ops", "--device", "cpu", code=1)
    assert not data["ok"]
    assert data["rows"][0]["verdict"].startswith("1 of 256 wrong")


def test_check_reports_counts_and_is_reproducible():
    arguments = (
        "check",
        "--op",
        "gemm,gemv",
        "--seeds",
        "3",
        "--backend",
        "torch_ops",
        "--size",
        "48,96",
        "--device",
        "cpu",
    )
    data = _json(*arguments)
    assert [row["right"] for row in data["summary"]] == [3, 3]
    assert data == _json(*arguments)


def test_check_in_worker_processes(ended):
    arguments = ("check", "--op", "gemv", "--seeds", "3", "--backend", "torch_ops", "--size", "48,96")
    done = _shell(*arguments, "--device", "cpu", "--jobs", "2", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["summary"]
    assert (row["right"], row["wrong"]) == (3, 0)
    assert ended(*arguments, "--jobs", "0")[0] == 2


def test_check_prints_the_command_that_repeats_a_failure(monkeypatch):
    def faulty(problem, operands, backend):
        operands.out[0].zero_()

    monkeypatch.setattr(check_run, "_call_public", faulty)
    arguments = [
        "check",
        "--op",
        "gemm",
        "--seed",
        "3",
        "--data",
        "integers",
        "--backend",
        "torch_ops",
        "--size",
        "48,96",
    ]
    data = _json(*arguments, "--device", "cpu", code=1)
    (failure,) = data["failed"]
    again = failure["command"].split()[1:]
    assert again[0] == "check"
    assert {"--seed", "3", "--data", "integers", "--op", "gemm"} <= set(again)
    assert _json(*again, code=1)["failed"][0]["case"] == failure["case"]


def test_check_that_runs_nothing_fails():
    data = _json("check", "--op", "gemm", "--seeds", "1", "--backend", "sm80", "--device", "cpu", code=1)
    assert data["summary"][0]["declined"] == 1
    assert "compute capability 8.0" in data["summary"][0]["reasons"][0]


def test_explain_names_a_plan_and_every_refusal():
    data = _json("explain", "gemm", "--m", "128", "--n", "7168", "--k", "16384", "--arch", "sm_80")
    assert data["choice"]["backend"] == "sm80"
    data = _json("explain", "gemm", "--m", "128", "--n", "7168", "--k", "16384", "--arch", "cpu")
    assert data["choice"]["backend"] == "torch_ops"
    assert data["refusals"]["sm80"]
    assert all(data["refusals"].values())


def test_gate_and_up_of_experts_from_the_command_line():
    data = _json("check", "--op", "group_dual_gemm", "--seeds", "2", "--size", "40,96")
    assert data["ok"] is True
    data = _json(
        "explain", "group_dual_gemm", "--m", "64", "--n", "2048", "--k", "7168", "--groups", "8", "--arch", "sm_80"
    )
    assert data["choice"]["backend"] == "sm80"
    assert {"sm90", "sm100"} <= set(data["refusals"])
    data = _json("explain", "group_gemm", "--m", "64", "--groups", "8", "--tokens", "16", "--arch", "sm_80")
    assert data["choice"]["plan"]["describe"].startswith("rows gathered first")
    assert "rows of 16 by index" in data["problem"]
    data = _json("solve", "--op", "group_dual_gemm", "--shape", "3x16x32+5x24x48", "--device", "cpu")
    assert data["ok"] is True


def test_doctor_finds_this_machine_in_order():
    data = _json("doctor")
    status = {finding["name"]: finding["status"] for finding in data["findings"]}
    assert "broken" not in status.values()
    assert status["compiler (NVRTC)"] == "ok"
    assert set(data["used"]) == {op.value for op in Op}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("solve", "--op", "gem"), "gemv, gemm, dual_gemm, group_gemm"),
        (("solve", "--op", "gemm", "--shape", "12x"), "MxNxK"),
        (("solve", "--shape", "1x16x16"), "one --op"),
        (("solve", "--op", "gemm", "--shape", "1x16x24"), "multiple of 16"),
        (("solve", "--op", "gemm", "--shape", "1x16x32", "--data", "nice"), "contest"),
        (("explain", "gemm", "--arch", "sm_1"), "sm_90a"),
        (("explain", "gemm", "--tokens", "16"), "stacked groups"),
        (("check", "--backend", "cublas"), "torch_ops"),
        (("check", "--size", "big"), "384,2048"),
    ],
)
def test_bad_input_ends_with_one_message_and_code_2(arguments, said, ended):
    code, errors = ended(*arguments)
    assert code == 2
    assert "Traceback" not in errors
    assert said in " ".join(errors.split())


def test_bad_input_ends_a_process_likewise():
    result = _shell("solve", "--op", "gem")
    assert result.returncode == 2, result.stderr + result.stdout
    assert "Traceback" not in result.stderr
    assert "gemv, gemm, dual_gemm, group_gemm" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("op", "text", "problem"),
    [
        (Op.GEMV, "7168x16384", Problem(Op.GEMV, 7168, 1, 16384)),
        (Op.GEMV, "4096x7168x8", Problem(Op.GEMV, 4096, 1, 7168, 8)),
        (Op.GEMM, "128x7168x2048x3", Problem(Op.GEMM, 128, 7168, 2048, 3)),
        (Op.GROUP_GEMM, "8x16x32+24x16x48", Problem(Op.GROUP_GEMM, 32, 16, 48, groups=((8, 16, 32), (24, 16, 48)))),
    ],
)
def test_shapes_are_read_as_they_are_printed(op, text, problem):
    assert output.parse_shape(op, text) == problem
    assert output.shape(problem) == text


def test_options_may_repeat_and_hold_commas():
    assert output.operations(["gemm,gemv", "dual_gemm"]) == (Op.GEMM, Op.GEMV, Op.DUAL_GEMM)
    with pytest.raises(InputError, match="Name an operation"):
        output.operations(["gem"])


KERNEL = """
extern "C" __global__ void scale(const float* x, float* y, float a, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = a * x[i];
}
"""


@pytest.fixture(scope="module")
def ptx(tmp_path_factory):
    """A file of PTX from plain CUDA, as a user has it."""
    from cuda.bindings import nvrtc

    _, program = nvrtc.nvrtcCreateProgram(KERNEL.encode(), b"scale.cu", 0, [], [])
    options = [b"--gpu-architecture=compute_90", b"-lineinfo"]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    assert int(status) == 0
    _, size = nvrtc.nvrtcGetPTXSize(program)
    text = b" " * size
    nvrtc.nvrtcGetPTX(program, text)
    path = tmp_path_factory.mktemp("ptx") / "scale.ptx"
    path.write_bytes(text.rstrip(b"\0"))
    return path


def test_emulate_runs_a_file_and_saves_its_buffers(ptx, tmp_path):
    saved = tmp_path / "out.npz"
    arguments = [
        "--grid",
        "4",
        "--block",
        "64",
        "--arg",
        "f32[200]=arange",
        "--arg",
        "f32[200]",
        "--arg",
        "2.0f",
        "--arg",
        "200",
    ]
    data = _json("emulate", str(ptx), *arguments, "--save", str(saved))
    assert data["findings"] == []
    with np.load(saved) as buffers:
        assert np.array_equal(buffers["arg1"], 2 * np.arange(200, dtype=np.float32))


def test_emulate_reports_what_is_out_of_bounds_with_its_line(ptx):
    arguments = [
        "--grid",
        "4",
        "--block",
        "64",
        "--arg",
        "f32[200]=rand",
        "--arg",
        "f32[200]",
        "--arg",
        "2.0f",
        "--arg",
        "201",
    ]
    result = _shell("emulate", str(ptx), *arguments)
    assert result.returncode == 1
    assert "out-of-bounds" in result.stderr
    assert "scale.cu:4" in result.stderr
    assert "Traceback" not in result.stderr


def test_emulate_lists_kernels_and_refuses_malformed_files(ptx, tmp_path, ended):
    assert _json("emulate", str(ptx), "--list") == {"entries": ["scale"], "unsupported": []}
    broken = tmp_path / "broken.ptx"
    broken.write_text(ptx.read_text().replace("ret;", "frobnicate.b32;"))
    code, errors = ended("emulate", str(broken), "--arg", "1")
    assert code == 1
    assert "frobnicate" in errors


def test_emulate_a_triton_nvfp4_gemm_for_blackwell(tmp_path, monkeypatch):
    pytest.importorskip("triton", reason="needs the extra nvfp4[triton]")
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "emulator")
    import triton_programs as tp

    rng = np.random.default_rng(0)
    m, n, k = 128, 256, 256
    values = {}
    buffers = {"c": np.zeros((m, n), np.float32)}
    table = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    for name, rows in (("a", m), ("b", n)):
        codes = buffers[name] = rng.integers(0, 256, (rows, k // 2), dtype=np.uint8)
        exponents = rng.integers(4, 10, (rows, k // 16))  # scales are powers of two: every sum is exact
        buffers["s" + name] = (exponents << 3).astype(np.uint8)
        decoded = np.stack([table[codes & 15], table[codes >> 4]], -1).reshape(rows, k)
        values[name] = decoded * np.repeat(2.0 ** (exponents - 7), 16, 1)
    scaled = {"sa": (buffers["sa"], "*fp8e4nv"), "sb": (buffers["sb"], "*fp8e4nv")}
    kernel_arguments = {"a": buffers["a"], "sa": scaled["sa"], "b": buffers["b"], "sb": scaled["sb"], "c": buffers["c"]}
    constants = {"BM": 128, "BN": 128, "BK": 128}
    compiled = tp.compile_kernel(
        tp.nvfp4_gemm, {**kernel_arguments, "N": n, "K": k}, constants, 100, num_warps=4, num_stages=3
    )
    assert "kind::mxf4nvf4.block_scale" in compiled.ptx
    (tmp_path / "gemm.ptx").write_text(compiled.ptx)
    options = ["--grid", "1,2", "--block", str(32 * compiled.warps), "--shared", str(compiled.shared)]
    for name in ("a", "sa", "b", "sb"):
        np.save(tmp_path / f"{name}.npy", buffers[name])
        rows, columns = buffers[name].shape
        options += ["--arg", f"u8[{rows}x{columns}]={tmp_path / name}.npy"]
    # N and K, then Triton's two scratch pointers, which this kernel does not use.
    options += ["--arg", f"f32[{m}x{n}]", "--arg", str(n), "--arg", str(k), "--arg", "0", "--arg", "0"]
    result = runner.invoke(app, ["emulate", str(tmp_path / "gemm.ptx"), *options, "--save", str(tmp_path / "out.npz")])
    assert result.exit_code == 0, result.output
    assert "clean" in result.output
    with np.load(tmp_path / "out.npz") as saved:
        assert np.array_equal(saved["arg4"], values["a"] @ values["b"].T)


def test_files_that_cannot_be_written_are_named(tmp_path, ended):
    nowhere = tmp_path / "none" / "file"
    for command in (
        ("contest", "bundle", "nvfp4_gemv", "--strategy", "sm80", "-o"),
        ("ladder", "gemv", "--emulate", "--shape", "30x1024", "--counters"),
    ):
        code, errors = ended(*command, str(nowhere))
        assert code == 2
        assert errors.count("error:") == 1
        assert str(nowhere) in errors.replace("\n", "")
        assert "Traceback" not in errors


def test_brackets_in_errors_are_shown(capsys):
    output.show_error("expected [rows, k], got nvfp4[linear]")
    assert capsys.readouterr().err == "error: expected [rows, k], got nvfp4[linear]\n"
