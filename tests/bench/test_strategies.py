"""Strategies without a GPU: every answer is judged, nothing is timed, and what cannot run says why."""

import pytest
import torch
from typer.testing import CliRunner

from nvfp4.bench import strategies
from nvfp4.cli import app
from nvfp4.cli.output import parse_shape
from nvfp4.device import known
from nvfp4.errors import InputError
from nvfp4.problem import Op

SHAPES = {
    Op.GEMV: "128x256x2",
    Op.GEMM: "64x32x256",
    Op.DUAL_GEMM: "64x32x256",
    Op.GROUP_GEMM: "40x64x256+72x32x512",
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="what runs without a GPU")
@pytest.mark.parametrize("op", SHAPES)
def test_every_strategy_is_judged_or_says_why_not(op):
    found = strategies.compare(parse_shape(op, SHAPES[op]), emulate="sm_80")
    assert found.record is None
    assert "no FP4 matrix units" in found.product
    ran = [row for row in found.rows if row.verdict]
    assert len(ran) >= 4
    assert ran[-1].strategy is found.rows[-1].strategy, "the fused one ran in the emulator"
    assert "emulated sm_80" in ran[-1].verdict
    for row in found.rows:
        assert not row.wrong
        assert bool(row.verdict) != bool(row.refusal)
        assert row.samples is None


def test_a_wrong_strategy_is_found(monkeypatch):
    def half(problem, products, right=strategies.finish):
        return right(problem, [0.5 * x for x in products])

    monkeypatch.setattr(strategies, "finish", half)
    found = strategies.compare(parse_shape(Op.GEMM, "64x32x256"), names=["pre-tiled"])
    assert found.rows[0].wrong


def test_rules_are_marked():
    for op in SHAPES:
        inside = [x.name for x in strategies.strategies(op) if not x.rules]
        assert inside[-1] in ("fused", "one launch")
        assert not {"parallel queues", "cached conversion"} & set(inside)
    assert [x.name for x in strategies.strategies(Op.GROUP_GEMM) if not x.rules] == ["one launch"]


def test_products_are_named_by_the_device():
    assert "decoded before the clock" in strategies.product_of(known("sm_90a"))
    assert strategies.product_of(known("sm_100a")) == "cuBLAS NVFP4 (torch._scaled_mm)"


def test_what_is_not_compared():
    with pytest.raises(InputError, match="another operation"):
        strategies.strategies(Op.GROUP_DUAL_GEMM)
    with pytest.raises(InputError, match="magic"):
        strategies.compare(parse_shape(Op.GEMM, "64x32x256"), names=["magic"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="what the command prints without a GPU")
def test_the_command_prints_one_table():
    result = CliRunner().invoke(app, ["bench", "gemm", "--strategies", "--shape", "64x32x256"])
    assert result.exit_code == 0
    assert "needs a GPU, or an architecture to emulate" in " ".join(result.stdout.replace("│", " ").split())
    assert "outside the rules" in result.stdout


@pytest.mark.gpu
@pytest.mark.parametrize("op", [Op.GEMV, Op.DUAL_GEMM])
def test_strategies_are_timed_on_a_gpu(op):
    found = strategies.compare(parse_shape(op, SHAPES[op]), max_samples=3, names=["pre-tiled", "CUDA graph", "fused"])
    assert all(row.samples is not None and not row.wrong for row in found.rows), found.rows
    assert found.record is not None
    assert found.record.protocol.name == strategies.PROTOCOL
