"""`nvfp4 bench --all` on a B200, with a faked capability: our kernels in the emulator beside cuBLAS' NVFP4."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from nvfp4 import backends, layouts
from nvfp4.bench import records, roofline
from nvfp4.bench import run as bench_run
from nvfp4.bench.run import Environment, Settings, bench
from nvfp4.bench.tables import generate
from nvfp4.cli import app
from nvfp4.device import known
from nvfp4.problem import Format, Op, Problem
from nvfp4.tensor import NVFP4Tensor

TILED = Format("nvfp4", "tiled")
SMALL = {
    Op.GEMV: Problem(Op.GEMV, 130, 1, 192, 1, TILED, TILED),
    Op.GEMM: Problem(Op.GEMM, 40, 64, 192, 1, TILED, TILED),
    Op.DUAL_GEMM: Problem(Op.DUAL_GEMM, 40, 64, 192, 1, TILED, TILED),
    Op.GROUP_GEMM: Problem(Op.GROUP_GEMM, 50, 64, 192, 1, TILED, TILED, groups=((10, 64, 192), (40, 64, 192))),
}


class Clock:
    """Every call takes a hundredth of a second."""

    def __init__(self) -> None:
        self.wall = 0.0

    def sample(self, run):
        run()
        self.wall += 0.02
        return 0.01, 1e-6

    def capture(self, calls):
        return lambda: [call() for call in calls]

    def now(self):
        return self.wall


def scaled_mm(left, right, *, scale_a, scale_b, out_dtype):
    """`torch._scaled_mm` on two NVFP4 operands with flat tiled scales, which a CPU does not have."""

    def decoded(codes, scales):
        rows, k = codes.shape[0], 2 * codes.shape[1]
        tiles = scales.view(layouts.by_name("tiled").pack(torch.zeros(rows, k // 16, dtype=torch.uint8)).shape)
        return NVFP4Tensor(codes.view(torch.uint8), tiles, scale_layout="tiled").dequantize()

    return (decoded(left, scale_a) @ decoded(right.t(), scale_b).t()).to(out_dtype)


@pytest.fixture
def b200(monkeypatch: pytest.MonkeyPatch) -> Environment:
    monkeypatch.setattr(torch, "_scaled_mm", scaled_mm)
    limits = roofline.limits_of("NVIDIA B200")
    what = replace(known("sm_100a"), name="NVIDIA B200")
    return Environment(torch.device("cpu"), what, Clock(), limits, 1 << 20, 1 << 30, bench_run.judged)


@pytest.mark.parametrize("op", list(SMALL), ids=str)
def test_ours_stand_beside_cublas(b200: Environment, op: Op, tmp_path) -> None:
    path = tmp_path / "nvidia-b200.jsonl"
    settings = Settings(backends=("sm100",), peers=("cublas-nvfp4",), floor=False, max_samples=2, calls=2)
    (record,) = bench([SMALL[op]], settings, b200, path=path)
    ours = record.entry("nvfp4/sm100")
    assert ours is not None, record.refusals
    assert ours.right
    assert "sm_100a" in ours.detail
    peer = record.entry("cublas-nvfp4")
    if op is Op.GEMV:
        assert "cublas-nvfp4" in record.refusals
    else:
        assert peer is not None, record.refusals
        assert peer.role == "peer"
        assert "wrong" not in peer.verdict
    table = generate(f"nvidia-b200/{op}", records.load(path))
    assert "nvfp4/sm100" in table
    assert ("cublas-nvfp4" in table) == (op is not Op.GEMV)


def test_the_command_says_that_ours_were_not_timed_before(b200: Environment, monkeypatch, tmp_path) -> None:
    import nvfp4.cli.bench as command

    monkeypatch.setattr(Environment, "here", classmethod(lambda cls: b200))
    monkeypatch.setattr(command, "benchmark_problems", lambda op: (SMALL[Op(op)],) if Op(op) in SMALL else ())
    path = tmp_path / "b200.jsonl"
    arguments = ["bench", "--all", "--backend", "sm100", "--peer", "cublas-nvfp4", "--samples", "2"]
    arguments += ["--protocol", "event-pair"]  # one call a sample
    result = CliRunner().invoke(app, [*arguments, "--scale-layout", "tiled", "--record", str(path)])
    assert result.exit_code == 0, result.output
    assert result.output.count("nvfp4/sm100") >= len(SMALL)
    assert "cublas-nvfp4" in result.output
    assert "not yet timed on silicon" in " ".join(result.output.split())
    assert len(records.load(path)) == len(SMALL)


def test_the_note_is_of_the_blackwell_backend_only() -> None:
    notes = {name: getattr(backends.get(name), "note", "") for name in backends.installed()}
    assert [name for name, note in notes.items() if note] == ["sm100"]
